"""Time of a fine-tuning step of UniLM, against transformers' BERT of the same shape.

    python benchmarks/bert_step.py
    python benchmarks/bert_step.py --dim 384 --layers 6 --heads 12 --vocab 30522 --batch 16

Both read the same 16 rows of a source and a target, whose lengths vary from half of the longest on.
genlab's batch holds rows of similar length, padded to the longest, and its head sees only target
tokens. transformers does what its own loop does: rows as they come, padded to --length, the head on
every position, labels -100 where nothing is learned. Both have the same mask (transformers as its
4-D mask), AdamW and float32, without dropout.
"""

import argparse
import warnings
from collections.abc import Callable

import timing
import torch
from torch.nn import functional as F

from genlab.models.seq2seq.bert import BERT
from genlab.nn.masks import unilm


def rows(a, seed: int, num: int) -> list[tuple[int, int]]:
    """(source length, target length) of `num` rows."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(a.length // 2, a.length - a.target + 1, (num,), generator=draw)
    targets = torch.randint(a.target // 4, a.target + 1, (num,), generator=draw)
    return list(zip(lengths.tolist(), targets.tolist(), strict=True))


def batch(
    a, sizes: list[tuple[int, int]], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, segments, real) (B, width)."""
    ids = torch.randint(5, a.vocab, (len(sizes), width))
    place = torch.arange(width)
    source = torch.tensor([s for s, _ in sizes])[:, None]
    end = torch.tensor([s + t for s, t in sizes])[:, None]
    return ids, ((place >= source) & (place < end)).long(), place < end


def by_genlab(a, batches: list[list[tuple[int, int]]]) -> Callable[[], None]:
    torch.manual_seed(0)
    net = BERT(
        a.vocab,
        a.dim,
        a.layers,
        a.heads,
        4 * a.dim,
        max(512, a.length),
        dropout=0.0,
        attention_dropout=0.0,
    ).to(a.device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-5, fused=True)
    held = [
        [t.to(a.device) for t in batch(a, sizes, max(s + t for s, t in sizes))] for sizes in batches
    ]

    def step() -> None:
        for ids, segments, real in held:
            hidden = net(ids, segments, unilm(segments, real))
            predicted = segments[:, 1:] == 1
            loss = F.cross_entropy(net.logits(hidden[:, :-1][predicted]), ids[:, 1:][predicted])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def by_transformers(a, batches: list[list[tuple[int, int]]]) -> Callable[[], None]:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=a.vocab,
        hidden_size=a.dim,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        intermediate_size=4 * a.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    net = BertForMaskedLM(config).to(a.device).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-5)
    held = [[t.to(a.device) for t in batch(a, sizes, a.length)] for sizes in batches]

    def step() -> None:
        for ids, segments, real in held:
            mask = unilm(segments, real).view(len(ids), 1, a.length, a.length)
            labels = ids[:, 1:].masked_fill(segments[:, 1:] == 0, -100)
            logits = net(ids, attention_mask=mask, token_type_ids=segments).logits
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "dim": 384,
        "layers": 6,
        "heads": 12,
        "vocab": 30522,
        "batch": 16,
        "length": 256,
        "target": 32,
        "batches": 4,
    }
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = timing.arguments(parser, rounds=3)
    warnings.filterwarnings("ignore")
    drawn = rows(a, 0, a.batch * a.batches)
    bucketed = sorted(drawn, key=sum)
    starts = range(0, len(drawn), a.batch)
    drawn_batches = [drawn[i : i + a.batch] for i in starts]
    bucketed_batches = [bucketed[i : i + a.batch] for i in starts]
    steps = {
        "transformers": by_transformers(a, drawn_batches),
        "genlab": by_genlab(a, bucketed_batches),
        "genlab, not bucketed": by_genlab(a, drawn_batches),
    }
    times = timing.medians(steps, a.rounds, a.device, warmup=1)
    times = {case: ms / a.batches for case, ms in times.items()}
    print(f"{timing.machine(a.device)}; {vars(a)}")
    for case, ms in times.items():
        speed = 1e3 * a.batch / ms
        ratio = times["transformers"] / ms
        print(f"{case:<22}{ms:9.1f} ms a step  {speed:7.1f} texts/s  ratio {ratio:5.2f}")
    timing.save(a.json, {"bert step": {"baseline": "transformers", "ms": times}})


if __name__ == "__main__":
    main()

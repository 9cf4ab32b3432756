"""Tokens a second of BERT's decoding with a cache, against decoding without, and transformers.

    python benchmarks/decode.py
    python benchmarks/decode.py --preset bert_base --device cuda
    python benchmarks/decode.py --dim 256 --layers 4 --heads 4 --batch 16 --prefix 256

Decoding is greedy, every text has full length (its end is banned) and weights are random; rounds
are interleaved and their median counts. The ratio is against `again`, the same network and decoder
without a cache, which reads the whole row again for each token. --preset bert_base: 64 sources of
256 tokens, 64 tokens written to each, bfloat16.

On CUDA, `cached` replays a CUDA graph for each token, `first` is a call that has to capture it,
`eager` has the cache without a graph, `plain` has the graph without genlab's kernels, and `prefill`
is reading the sources, which all of these times include.

transformers writes with its BertLMHeadModel of the same shape and its DynamicCache. Its prefix is
masked causally, since generate() has no prefix mask: the work is the same. bert4torch writes with
its UNILM and beam search as its examples do, source by source and without a cache. Each is measured
if it is installed.
"""

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import timing
import torch
from recomputed import RecomputedScorer

from genlab.models.seq2seq import captured_steps
from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import CachedScorer, Decoding, write
from genlab.nn import decoder_step as decode

END = 3
PRESETS = {
    "small": {
        "dim": 256,
        "layers": 4,
        "heads": 4,
        "vocab": 8000,
        "batch": 16,
        "prefix": 256,
        "answer": 32,
    },
    "bert_base": {
        "dim": 768,
        "layers": 12,
        "heads": 12,
        "vocab": 21128,
        "batch": 64,
        "prefix": 256,
        "answer": 64,
    },
}
PRESETS["bert_base"]["dtype"] = "bfloat16"


def by_genlab(options) -> dict[str, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    sizes = (
        options.vocab,
        options.dim,
        options.layers,
        options.heads,
        4 * options.dim,
        options.prefix + options.answer,
    )
    net = (
        BERT(*sizes).to(options.device, getattr(torch, options.dtype)).eval().requires_grad_(False)
    )
    ids = torch.randint(5, options.vocab, (options.batch, options.prefix), device=options.device)
    lengths = torch.full((options.batch,), options.prefix, device=options.device)
    rows = (ids, torch.zeros_like(ids), lengths)
    least = options.answer - 1
    how = Decoding("greedy") if options.beams == 1 else Decoding("beam", beams=options.beams)
    how = Decoding(how.method, beams=how.beams, min_length=least)

    def by(scorer, net=net) -> torch.Tensor:
        return write(net, rows, how, end=END, max_length=options.answer, scorer=scorer).tokens

    def first() -> torch.Tensor:
        captured_steps.IDLE.pop(net, None)
        return by(CachedScorer)

    def plain(other: BERT) -> torch.Tensor:
        with patch.object(decode, "TRITON", False):
            return by(CachedScorer, other)

    runs = {"again": partial(by, RecomputedScorer), "cached": partial(by, CachedScorer)}
    if torch.device(options.device).type == "cuda":
        start = torch.no_grad()(
            lambda: CachedScorer(net, *rows, options.beams, options.answer, 1).start()
        )
        # `first` after `cached`, whose captured step it takes away and makes anew.
        runs |= {
            "eager": partial(by, partial(CachedScorer, graph=False)),
            "first": first,
            "prefill": start,
        }
        runs |= {"plain": partial(plain, copy.deepcopy(net))}  # whose captured step is its own
    return runs


def by_transformers(options) -> Callable[[], torch.Tensor] | None:
    try:
        from transformers import BertConfig, BertLMHeadModel
    except ImportError:
        return None
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=options.vocab,
        hidden_size=options.dim,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.dim,
        max_position_embeddings=options.prefix + options.answer,
        is_decoder=True,
    )
    net = (
        BertLMHeadModel(config)
        .to(options.device, getattr(torch, options.dtype))
        .eval()
        .requires_grad_(False)
    )
    ids = torch.randint(5, options.vocab, (options.batch, options.prefix), device=options.device)
    given = {
        "max_new_tokens": options.answer,
        "min_new_tokens": options.answer,
        "do_sample": False,
        "pad_token_id": 0,
    }
    given |= {
        "num_beams": options.beams,
        "eos_token_id": END,
        "attention_mask": torch.ones_like(ids),
    }
    return lambda: net.generate(ids, **given)


def by_bert4torch(options) -> Callable[[], list] | None:
    try:
        from bert4torch.generation import AutoRegressiveDecoder
        from bert4torch.models import build_transformer_model
    except ImportError:
        return None
    sizes = {
        "vocab_size": options.vocab,
        "hidden_size": options.dim,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": 4 * options.dim,
        "max_position_embeddings": options.prefix + options.answer,
        "hidden_act": "gelu",
        "return_dict": False,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(sizes, file)
        file.flush()
        net = build_transformer_model(
            config_path=file.name, model="bert", application="unilm", with_mlm=True, **sizes
        )
    net = net.to(options.device, getattr(torch, options.dtype)).eval()

    class Writer(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps(default_rtype="logits")
        def predict(self, inputs, output_ids, states):
            ids, segments = inputs
            ids, segments = (
                torch.cat([ids, output_ids], 1),
                torch.cat([segments, torch.ones_like(output_ids)], 1),
            )
            return net([ids, segments])[-1][:, -1]

    how = Writer(
        eos_token_id=-1,
        max_new_tokens=options.answer,
        min_new_tokens=options.answer,
        device=options.device,
    )
    sources = torch.randint(5, options.vocab, (options.batch, options.prefix)).tolist()
    return lambda: [how.beam_search([ids, [0] * len(ids)], top_k=options.beams) for ids in sources]


def main() -> None:
    preset = argparse.ArgumentParser(add_help=False)
    preset.add_argument(
        "--preset",
        choices=PRESETS,
        default="small",
        help="defaults of the sizes and the dtype",
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[preset])
    for name in PRESETS["small"]:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.set_defaults(**PRESETS[preset.parse_known_args()[0].preset])
    options = timing.arguments(parser, rounds=3)
    warnings.filterwarnings("ignore")
    runs = by_genlab(options)
    others = {"transformers": by_transformers(options), "bert4torch": by_bert4torch(options)}
    runs |= {name: run for name, run in others.items() if run is not None}
    same = torch.equal(runs["again"](), runs["cached"]())
    times = timing.medians(runs, options.rounds, options.device, warmup=1)
    print(f"{timing.machine(options.device)}; {vars(options)}")
    print(f"the texts of again and cached are {'the same' if same else 'different, by rounding'}")
    for name, ms in times.items():
        rate = 1000 * options.batch * options.answer / ms
        print(f"{name:<14}{ms:9.1f} ms  {rate:9.0f} tokens/s  ratio {times['again'] / ms:5.2f}")
    timing.save(options.json, {f"beams {options.beams}": {"baseline": "again", "ms": times}})


if __name__ == "__main__":
    main()

"""Tokens a second of pretraining: the loader alone, the step, and `transformers`' Trainer with the same model and rows.

    python benchmarks/pretrain.py [--net 256x4] [--length 128] [--batch 16] [--steps 10] [--precision bf16] [--no-peer]

One process, on the GPU where there is one. The step is masking, forward, backward, AdamW. The peer reads the same rows,
masks them by its own collator, and applies its head to every token, as its model does (pip install accelerate). Each is
timed after two steps of warm-up.
"""

import argparse
import tempfile
import time

import numpy as np
import torch

from genlab.data.codec import Codec
from genlab.data.corpus import RowDraw, Rows, RowSampler
from genlab.data.tokenizer import Tokenizer
from genlab.models.seq2seq.bert import BERT
from genlab.systems.pretraining import Pretraining
from genlab.weights.huggingface import config_of

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(13_500))]


class Stream:
    """Random documents of 500 tokens on disk, as a prepared corpus has them."""

    def __init__(self, count: int, file):
        ids = np.random.RandomState(0).randint(5, len(VOCAB), count)
        ids[::500], ids[499::500] = 2, 3
        (2 * ids + 1).astype("<u2").tofile(file.name)
        self.tokens = np.memmap(file.name, "<u2", "r")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.tokens[part]


def seconds(steps: int, call, device: str) -> float:
    """A step's, on average, after two that are not counted."""
    for i in range(steps + 2):
        if i == 2:
            torch.cuda.synchronize() if device == "cuda" else None
            start = time.perf_counter()
        call()
    torch.cuda.synchronize() if device == "cuda" else None
    return (time.perf_counter() - start) / steps


def peer(net, rows: Rows, options, device: str) -> float:
    """Seconds a step of `transformers`' Trainer."""
    from transformers import BertConfig, BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                self.start = time.perf_counter()
            self.end = time.perf_counter()

    def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.stack([example["ids"] for example in examples])
        labels, chosen = ids.clone(), (torch.rand(ids.shape) < 0.15) & (ids > 4)
        labels[~chosen] = -100
        draw = torch.rand(ids.shape)
        ids = torch.where(chosen & (draw < 0.8), 4, ids)
        ids = torch.where(chosen & (draw > 0.9), torch.randint(len(VOCAB), ids.shape), ids)
        return {"input_ids": ids, "labels": labels}

    class Table(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            return {"ids": rows[RowDraw(torch.tensor([i]))]["ids"][0]}

    config = {name: value for name, value in config_of(net).items() if name != "model_type"}
    with tempfile.TemporaryDirectory() as out:
        settings = {"per_device_train_batch_size": options.batch, "max_steps": options.steps + 2, "save_strategy": "no"}
        settings |= {"bf16": options.precision == "bf16", "use_cpu": device == "cpu", "report_to": [], "disable_tqdm": True}
        arguments = TrainingArguments(out, **settings, remove_unused_columns=False, logging_strategy="no")
        clock = Clock()
        Trainer(BertForMaskedLM(BertConfig(**config)), arguments, collate, Table(), callbacks=[clock]).train()
    return (clock.end - clock.start) / options.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="256x4", help="width x layers")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    dim, layers = map(int, options.net.split("x"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    codec, tokenizer = Codec(options.length, 32, 0), Tokenizer(VOCAB)
    codec.use(tokenizer)
    net = BERT(len(VOCAB), dim, layers, max(1, dim // 64), 4 * dim, 512)
    system = Pretraining(net, codec, torch.optim.AdamW).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    tokens = options.batch * options.length
    with tempfile.NamedTemporaryFile() as file:
        rows = Rows(Stream(4_000_000, file), options.length, tokenizer, False, 1, None)
        draws = iter(RowSampler(len(rows), options.batch, 1))
        results = {"loader alone": tokens / seconds(options.steps, lambda: rows[next(draws)], "cpu")}
        draws = iter(RowSampler(len(rows), options.batch, 2))

        def step() -> None:
            batch = {name: value.to(device, non_blocking=True) for name, value in rows[next(draws)].items()}
            with torch.autocast(device, torch.bfloat16, options.precision == "bf16"):
                loss = system(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        results["step"] = tokens / seconds(options.steps, step, device)
        if not options.no_peer:
            results["transformers' Trainer"] = tokens / peer(net, rows, options, device)
    about = f"{options.batch} x {options.length}, {options.precision}, {device}, {torch.get_num_threads()} threads"
    print(f"{options.net}, {about}")
    for name, rate in results.items():
        print(f"{name:<22} {rate:12,.0f} tokens/s   {rate / results['step']:.2f} of the step")


if __name__ == "__main__":
    main()

"""Masked language modelling: the loader in tokens a second, and the step against `transformers`
with the same model.

    python benchmarks/pretrain.py [--net 256x4 --length 128 --batch 16] [--parts loader eager ...]
    python benchmarks/pretrain.py --device cuda

On CUDA it is BERT-base, 64 x 512, bf16; also compiled, and as one CUDA graph. All parts: loader,
eager, transformers, trainer.

The step is masking, forward, backward and AdamW (fused on GPUs) on rows that lie on the device.
genlab's masks words and applies its head where something is asked; transformers' gets masked rows
and applies its head to every token, as its model does. compiled: --compile layers, one by one in
place, or net, as a whole. trainer: transformers' Trainer and genlab's loop, each reading the same
rows, take turns step by step (pip install accelerate). On a GPU each case has it to itself.
"""

import argparse
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import timing
import torch
from torch import Tensor, nn

from genlab.data.corpus.corpus import RowDraw, Rows, RowSampler
from genlab.data.text.codec import Codec
from genlab.data.text.tokenizer import Tokenizer
from genlab.models.seq2seq.bert import BERT
from genlab.systems.text.pretraining import Pretraining
from genlab.weights.huggingface import make_config

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHAPES = {  # what the device is measured on by default
    "cpu": {"net": "256x4", "length": 128, "batch": 16, "vocab": 13_505, "precision": "fp32"},
    "cuda": {"net": "768x12", "length": 512, "batch": 64, "vocab": 21_128, "precision": "bf16"},
}
OURS, THEIRS = (
    ("eager", "compiled", "graph", "compiled_graph"),
    ("transformers", "transformers_compiled"),
)
PARTS = {"cpu": ("loader", "eager", "transformers", "trainer"), "cuda": ("loader", *OURS, *THEIRS)}


class Stream:
    """Random documents of 500 tokens on disk, as a prepared corpus has them."""

    def __init__(self, count: int, vocab: int, file):
        ids = np.random.RandomState(0).randint(5, vocab, count)
        ids[::500], ids[499::500] = 2, 3
        (2 * ids + 1).astype("<u2").tofile(file.name)
        self.tokens = np.memmap(file.name, "<u2", "r")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.tokens[part]


class Bench:
    """The rows, and the steps on them."""

    def __init__(self, a: argparse.Namespace, file):
        self.a, self.codec = a, Codec(a.length, 32, 0)
        self.codec.use(Tokenizer([*SPECIALS, *(f"w{i}" for i in range(a.vocab - len(SPECIALS)))]))
        self.rows = Rows(
            Stream(4_000_000, a.vocab, file), a.length, self.codec.tokenizer, False, 1, None
        )
        self.draws = iter(RowSampler(len(self.rows), a.batch, 1))
        full = (batch for batch in map(self.rows.__getitem__, self.draws) if "lengths" not in batch)
        self.held = [self.moved(batch) for batch in itertools.islice(full, 4)]

    def moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.a.device, non_blocking=True) for name, value in batch.items()}

    def net(self) -> BERT:
        torch.manual_seed(0)
        with torch.device(self.a.device):
            return BERT(self.a.vocab, *self.sizes(), 512)

    def update(
        self, net: nn.Module, loss: Callable[[dict], Tensor], **options
    ) -> Callable[[dict], None]:
        """A step on a batch."""
        cuda = self.a.device == "cuda"
        optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=cuda or None, **options)

        def step(batch: dict[str, Tensor]) -> None:
            with torch.autocast(self.a.device, torch.bfloat16, self.a.precision == "bf16"):
                value = loss(batch)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def over(self, step: Callable[[dict], None], held: list[dict]) -> Callable[[], None]:
        """The step on one batch after the other."""
        batches = itertools.cycle(held)
        return lambda: step(next(batches))

    def ours(self, compiled: bool = False, graph: bool = False) -> Callable[[], None]:
        net = self.net()
        system = Pretraining(net, self.codec, torch.optim.AdamW).to(self.a.device).train()
        system.static = compiled or graph
        if compiled:
            [part.compile() for part in (net.layers if self.a.compile == "layers" else [net])]
        step = self.update(net, system, **({"capturable": True} if graph else {}))
        return self.over(captured(step, self.held[0]) if graph else step, self.held)

    def theirs(self, compiled: bool = False) -> Callable[[], None]:
        net = self.peer()
        if compiled:
            [
                part.compile()
                for part in (net.bert.encoder.layer if self.a.compile == "layers" else [net])
            ]
        held = [self.moved(self.masked(batch["ids"].cpu())) for batch in self.held]
        return self.over(self.update(net, lambda batch: net(**batch).loss), held)

    def peer(self) -> nn.Module:
        """transformers' model."""
        from transformers import BertConfig, BertForMaskedLM

        with torch.device("meta"):
            config = make_config(BERT(self.a.vocab, *self.sizes(), 512))
        with torch.device(self.a.device):
            return BertForMaskedLM(
                BertConfig(**{k: v for k, v in config.items() if k != "model_type"})
            ).train()

    def sizes(self) -> tuple[int, int, int, int]:
        dim, layers = map(int, self.a.net.split("x"))
        return dim, layers, max(1, dim // 64), 4 * dim

    def masked(self, ids: Tensor) -> dict[str, Tensor]:
        """As transformers' own collator masks."""
        labels, chosen = ids.clone(), (torch.rand(ids.shape) < 0.15) & (ids > 4)
        labels[~chosen] = -100
        draw = torch.rand(ids.shape)
        ids = torch.where(chosen & (draw < 0.8), 4, ids)
        ids = torch.where(chosen & (draw > 0.9), torch.randint(self.a.vocab, ids.shape), ids)
        return {"input_ids": ids, "labels": labels}

    def trainer(self) -> dict[str, float]:
        """Median milliseconds of a step of transformers' Trainer and of genlab's loop, both from
        rows on disk.
        """
        from transformers import Trainer, TrainerCallback, TrainingArguments

        net = self.net()
        rows = self.rows
        a = self.a
        times = ([], [])
        step = self.update(
            net, Pretraining(net, self.codec, torch.optim.AdamW).to(a.device).train()
        )

        class Turns(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                timing.synchronize(a.device)
                ends = [time.perf_counter()]
                step(bench.moved(rows[next(bench.draws)]))
                timing.synchronize(a.device)
                ends.append(time.perf_counter())
                if state.global_step > 2:
                    times[0].append(1e3 * (ends[0] - self.start))
                    times[1].append(1e3 * (ends[1] - ends[0]))
                self.start = ends[1]

        class Table(torch.utils.data.Dataset):
            def __len__(self):
                return len(rows)

            def __getitem__(self, i):
                return rows[RowDraw(torch.tensor([i]))]["ids"][0]

        bench = self
        with tempfile.TemporaryDirectory() as out:
            settings = {
                "per_device_train_batch_size": a.batch,
                "max_steps": a.rounds + 2,
                "save_strategy": "no",
            }
            settings |= {
                "bf16": a.precision == "bf16",
                "use_cpu": a.device == "cpu",
                "report_to": [],
                "disable_tqdm": True,
            }
            arguments = TrainingArguments(
                out, **settings, remove_unused_columns=False, logging_strategy="no"
            )
            collate = lambda ids: self.masked(torch.stack(ids))  # noqa: E731
            Trainer(self.peer(), arguments, collate, Table(), callbacks=[Turns()]).train()
        return {
            "transformers' Trainer": statistics.median(times[0]),
            "genlab beside it": statistics.median(times[1]),
        }


def captured(step: Callable[[dict], None], batch: dict[str, Tensor]) -> Callable[[dict], None]:
    """The step as one CUDA graph."""
    static = {name: value.clone() for name, value in batch.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static)

    def replay(batch: dict[str, Tensor]) -> None:
        for name, value in batch.items():
            static[name].copy_(value)
        graph.replay()

    return replay


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", help="width x layers")
    for name in ("length", "batch", "vocab"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--compile", choices=("layers", "net"), default="layers")
    parser.add_argument("--parts", nargs="+", choices=("loader", *OURS, *THEIRS, "trainer"))
    a = timing.arguments(parser, rounds=5)
    for name, value in (SHAPES[a.device] | {"parts": PARTS[a.device]}).items():
        setattr(a, name, getattr(a, name) or value)
    tokens = a.batch * a.length
    print(
        f"{timing.machine(a.device)}; {a.net}, {a.batch} x {a.length}, vocabulary {a.vocab}, "
        f"{a.precision}",
        flush=True,
    )
    with tempfile.NamedTemporaryFile() as file:
        bench = Bench(a, file)
        if "loader" in a.parts:
            (ms,) = timing.medians(
                {"": lambda: bench.rows[next(bench.draws)]}, 4 * a.rounds
            ).values()
            print(
                f"loader alone, one process: {1e3 * tokens / ms:,.0f} tokens/s (target 600,000)",
                flush=True,
            )
        make = {name: lambda n=name: bench.ours("compiled" in n, "graph" in n) for name in OURS}
        make |= {name: lambda n=name: bench.theirs("compiled" in n) for name in THEIRS}
        chosen = [part for part in make if part in a.parts]
        if a.device == "cpu":
            times = timing.medians({part: make[part]() for part in chosen}, a.rounds, warmup=1)
        else:
            times = {}
            for part in chosen:
                start = time.perf_counter()
                times |= timing.medians({part: make[part]()}, a.rounds, a.device, warmup=3)
                print(
                    f"{part}: {times[part]:.1f} ms ({time.perf_counter() - start:.0f} s in all)",
                    flush=True,
                )
                gc.collect()
                torch.cuda.empty_cache()
        if "trainer" in a.parts:
            times |= bench.trainer()
    against = {
        name: "transformers' Trainer" if name == "genlab beside it" else "transformers"
        for name in times
    }
    for name, ms in times.items():
        ratio = (
            f"{times[against[name]] / ms:5.2f} times as fast as {against[name]}"
            if against[name] in times
            else ""
        )
        print(f"{name:<24}{ms:9.1f} ms {1e3 * tokens / ms:12,.0f} tokens/s   {ratio}")
    baseline = "transformers' Trainer" if "trainer" in a.parts else "transformers"
    timing.save(a.json, {"pretrain": {"baseline": baseline, "ms": times}})


if __name__ == "__main__":
    main()

"""Time of a training step on a GPU, eager and as one CUDA graph, with all that surrounds it.

    python benchmarks/graph_step.py
    python benchmarks/graph_step.py ogan128 glow
    python benchmarks/graph_step.py ogan32 --cases graph

The first measures every work in WORKS, the second some of them, the third one case of a work and
its baseline.

Each case is a run of genlab's trainer on random images that are on the GPU. Logging, the average of
the weights, the divergence guard and the progress line are on; validation, images and checkpoints
are off. The first steps do not count. The baselines are the forms that most code has: `reference`
is Su's (one loss, three passes of the discriminator, float32), `alternating` has two steps a batch
with TF32, `eager` is the model's own float32, `fed` reads one image at a time by a DataLoader of 8
workers.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import timing
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback, LightningDataModule
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from genlab import config, runs
from genlab.commands import train
from genlab.commands.job import Job, Record
from genlab.data.images.arrays import Arrays
from genlab.data.images.module import Content, ImageDataModule

BF16 = "trainer.precision=bf16-mixed"
GRAPH = "trainer.graph=true"
COMPILE = "trainer.compile=true"
ALTERNATING = ["model.update=alternating", "tf32"]
CASES = {"eager bf16": [BF16], "graph": [BF16, GRAPH], "graph, compiled": [BF16, GRAPH, COMPILE]}
OGAN = ["model=ogan", "data.batch_size=64"]
WORKS = {  # name -> (overrides, baseline, {case: more overrides})
    "ogan128": (
        [
            *OGAN,
            "data.image_size=128",
            "data.channels=3",
            "model.latent_dim=128",
            "net.generator.hidden_dim=64",
        ]
        + ["net.generator.kernel_size=5"],
        "reference",
        {
            "reference": ["model.update=single", "model.channels_last=false"],
            "alternating": ALTERNATING,
        }
        | CASES,
    ),
    "ogan32": (
        [*OGAN, "data.image_size=32", "model.latent_dim=128", "net.generator.hidden_dim=64"],
        "fed",
        {"fed": [*ALTERNATING, "fed"], "alternating": ALTERNATING} | CASES,
    ),
    "sngan64": (
        [
            "model=sngan",
            "data.image_size=64",
            "data.channels=3",
            "net.generator.hidden_dim=64",
            "data.batch_size=64",
        ],
        "alternating",
        {"alternating": ALTERNATING} | CASES,
    ),
    "biggan64": (
        [
            "model=biggan",
            "data.image_size=64",
            "data.channels=3",
            "net.generator.hidden_dim=64",
            "data.batch_size=64",
        ],
        "alternating",
        {"alternating": ALTERNATING} | CASES,
    ),
    "glo": (["model=glo", "data.image_size=32"], "eager", {"eager": []} | CASES),
    "glow": (
        [
            "model=glow",
            "data=mnist5k",
            "data.image_size=32",
            "data.batch_size=64",
            "net.num_steps=16",
            "net.hidden_dim=128",
        ],
        "eager",
        {"eager": [], "graph": [GRAPH], "graph, compiled": [GRAPH, COMPILE]},
    ),
    "iresnet": (
        [
            "model=iresnet",
            "data=mnist5k",
            "data.image_size=28",
            "data.batch_size=64",
            "net.num_blocks=8",
            "net.hidden_dim=128",
        ],
        "eager",
        {"eager": [], "graph": [GRAPH]},
    ),
}
ALWAYS = [
    "trainer=gpu",
    "trainer.precision=32-true",
    "optimizer=adam",
    "name=benchmark",
    "trainer.log_every_n_steps=50",
]
ALWAYS += ["trainer.limit_val_batches=0", "trainer.val_check_interval=null", "callbacks.grids=null"]
ALWAYS += ["callbacks.checkpoint=null", "callbacks.progress.every_seconds=1e9"]


class RandomImages(ImageDataModule):
    """60,000 images of noise."""

    name = "noise"

    def _read(self) -> Content:
        shape = (
            60_000 if self.image_size < 128 else 10_000,
            self.channels,
            self.image_size,
            self.image_size,
        )
        images = torch.randint(256, shape, dtype=torch.uint8, device="cuda").cpu()
        rows = np.arange(len(images))
        return Content(
            Arrays(images), {"train": rows[64:], "val": rows[:32], "test": rows[32:64]}, "random"
        )


class Single(Dataset):
    """Images one at a time, as a plain Dataset has them."""

    def __init__(self, images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[i].float().div(127.5).sub(1)}


class Fed(LightningDataModule):
    """The images of a data module, by a DataLoader of 8 workers."""

    def __init__(self, data: ImageDataModule):
        super().__init__()
        self.data = data
        self.num_classes = None
        self.name = "noise"

    def train_dataloader(self) -> DataLoader:
        options = {
            "num_workers": 8,
            "pin_memory": True,
            "persistent_workers": True,
            "drop_last": True,
        }
        return DataLoader(
            Single(self.data.arrays("train").images), self.data.batch_size, shuffle=True, **options
        )


class Clock(Callback):
    """Milliseconds a step, from step `start` on."""

    def __init__(self, start: int, end: int):
        self.start = start
        self.end = end
        self.ms = float("nan")

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.start:
            torch.cuda.synchronize()
            self.begun = time.perf_counter()
        elif trainer.global_step == self.end:
            torch.cuda.synchronize()
            self.ms = 1e3 * (time.perf_counter() - self.begun) / (self.end - self.start)


def measure(overrides: list[str], num_steps: int, run_dir: Path) -> tuple[float, float]:
    """(milliseconds a step, GiB of GPU memory at the peak)"""
    words = [word for word in (*ALWAYS, *overrides) if "=" in word]
    # These models have no optimiser to choose.
    if any("glo" in word or "iresnet" in word for word in overrides):
        words.remove("optimizer=adam")
    if not any(word.startswith(("model=glow", "model=iresnet")) for word in overrides):
        words.append("callbacks.quality=null")
    if any("update=alternating" in word for word in overrides):
        words.append("trainer.benchmark=true")
    tf32 = not any(word == "trainer.precision=32-true" for word in overrides) and (
        "tf32" in overrides or BF16 in overrides
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    config.from_run("train", [])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        settings = config.resolve(compose("train", words))
    torch.manual_seed(0)
    options = {name: settings["data"][name] for name in ("image_size", "channels", "batch_size")}
    data = RandomImages(**options)
    if "num_bins" in settings["model"]:
        settings["model"]["num_bins"] = 256
    system = config.build_system(settings)
    settings["trainer"]["max_steps"] = num_steps
    job = Job(run_dir, settings, runs.Manifest(run_dir, {}, writes=False))
    trainer = train.build_trainer(job, Record(job))
    start = min(30, num_steps // 2)
    clock = Clock(start, num_steps)
    trainer.callbacks.append(clock)
    torch.cuda.reset_peak_memory_stats()
    trainer.fit(system, datamodule=Fed(data) if "fed" in overrides else data)
    return clock.ms, torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "works", nargs="*", help=f"some of {', '.join(WORKS)}; all if none is named"
    )
    parser.add_argument("--cases", nargs="*", help="some of a work's cases beside its baseline")
    parser.add_argument("--steps", type=int, default=230)
    arguments = timing.arguments(parser, rounds=1)
    train.silence_lightning()
    console, results = Console(width=100), {}
    print(f"{timing.machine(arguments.device)}, {arguments.steps - 30} steps a case\n")
    for work in arguments.works or WORKS:
        overrides, baseline, cases = WORKS[work]
        times, memory = {}, {}
        table = Table(title=work, title_justify="left", box=None)
        for name in ("case", "ms a step", "times as fast", "peak GiB"):
            table.add_column(name, justify="left" if name == "case" else "right")
        for case, more in cases.items():
            if arguments.cases and case not in (baseline, *arguments.cases):
                continue
            with tempfile.TemporaryDirectory() as directory:
                try:
                    times[case], memory[case] = measure(
                        [*overrides, *more], arguments.steps, Path(directory)
                    )
                except Exception as error:  # a case that fails must not take the others along
                    console.print(
                        f"  {work}, {case}: {type(error).__name__}: {error}"[:400], highlight=False
                    )
                    continue
            ratio = f"{times[baseline] / times[case]:.2f}" if baseline in times else ""
            table.add_row(case, f"{times[case]:.2f}", ratio, f"{memory[case]:.1f}")
        console.print(table)
        console.print()
        results[work] = {
            "baseline": baseline,
            "ms": times,
            "mib": {case: 1024 * gib for case, gib in memory.items()},
        }
    timing.save(arguments.json, results)


if __name__ == "__main__":
    main()

"""Lightning's trainer, with some ways to make a step faster."""

import ctypes
import platform
from typing import Any, Literal, TypedDict, Unpack

import lightning.pytorch
import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator
from lightning.pytorch.profilers import Profiler

from genlab.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from genlab.training.graph import GraphStrategy
from genlab.training.steps import EpochLoop, StepLogs

__all__ = ["Compile", "Trainer"]


class Options(TypedDict, total=False):
    """The arguments of Lightning's Trainer that have a range, which its own annotations do not say."""

    devices: PositiveInt | Literal[-1, "auto"] | list[NonNegativeInt] | str
    num_nodes: PositiveInt
    max_steps: PositiveInt | Literal[-1]
    max_epochs: PositiveInt | Literal[-1] | None
    min_steps: NonNegativeInt | None
    min_epochs: NonNegativeInt | None
    limit_train_batches: PositiveInt | PositiveFraction | None
    limit_val_batches: NonNegativeInt | Fraction | None
    overfit_batches: NonNegativeInt | Fraction
    fast_dev_run: bool | NonNegativeInt
    val_check_interval: PositiveInt | PositiveFraction | str | None
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: NonNegativeInt | Literal[-1] | None
    log_every_n_steps: PositiveInt | None
    accumulate_grad_batches: PositiveInt
    gradient_clip_val: PositiveFloat | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | Profiler | None
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] | Accelerator
    reload_dataloaders_every_n_epochs: NonNegativeInt


class Trainer(lightning.pytorch.Trainer):
    """Lightning's Trainer and its arguments, with steps that end as a whole
    (genlab.training.steps), and besides:

    graph: a training step is one CUDA graph (genlab.training.graph), which a small model gains most
    by: one CUDA GPU, and a model whose steps can be captured. compile: the networks are compiled
    for training (torch.compile). Both can be had together. Raises ValueError where a graph cannot
    be had. On a CPU freed memory stays with the process.
    """

    def __init__(
        self, *args: Any, graph: bool = False, compile: bool = False, **options: Unpack[Options]
    ):
        if graph:
            options["strategy"] = _graph_strategy(options)
        if compile:
            options["callbacks"] = [Compile(), *(options.get("callbacks") or [])]
        super().__init__(*args, **options)
        self.fit_loop.epoch_loop = EpochLoop(self, self.min_steps, self.max_steps)
        self._logger_connector = StepLogs(self)
        if isinstance(self.accelerator, CPUAccelerator):
            keep_freed_memory()


def keep_freed_memory() -> None:
    """Has glibc keep what is freed: each step asks for the same blocks again, and pages that come
    anew from the kernel cost a residual flow a tenth of its step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3  # of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


class Compile(Callback):
    """Compiles the forward and backward of each network of the system by torch.compile
    (trainer.compile=true).

    In training steps alone: validation and pictures, whose batches have other sizes, run as ever.
    State and its names stay what they are.
    """

    def on_fit_start(self, trainer, system) -> None:
        self.networks = [
            module
            for module in system.children()
            if any(p.requires_grad for p in module.parameters())
        ]
        for network in self.networks:
            network.compile()
        torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        torch.compiler.set_stance("default")

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer, system, stage: str) -> None:
        torch.compiler.set_stance("default")
        for network in getattr(self, "networks", []):
            network._compiled_call_impl = None


def _graph_strategy(options: dict[str, Any]) -> GraphStrategy:
    strategy, devices = options.get("strategy", "auto"), options.get("devices", 1)
    if strategy != "auto":
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ValueError(
            f"trainer.graph=true: is a strategy itself and replaces {name}; use trainer=gpu"
        )
    if (
        options.get("accelerator", "auto") not in ("auto", "gpu", "cuda")
        or not torch.cuda.is_available()
    ):
        raise ValueError(
            "trainer.graph=true: needs a CUDA GPU, and none is there or asked for; leave it out"
        )
    chosen = devices if isinstance(devices, list) else [0] if devices in (1, "auto", "1") else None
    if chosen is None or len(chosen) != 1:
        raise ValueError(
            f"trainer.graph=true: trainer.devices={devices}, expected one, as 1 or [its number]"
        )
    return GraphStrategy(torch.device("cuda", chosen[0]))

"""Lightning's trainer with CUDA graphs, compiled networks and an exact end of each step."""

import ctypes
import platform
from typing import Any, Literal, TypedDict, Unpack

import lightning.pytorch
import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator
from lightning.pytorch.profilers import Profiler
from torch import nn

from genlab.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from genlab.training.graph import GraphStrategy
from genlab.training.steps import EpochLoop, StepLogs

__all__ = ["Compile", "Trainer"]

# Of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


class Options(TypedDict, total=False):
    """Ranges and choices of the arguments of Lightning's Trainer, which its annotations lack."""

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
    """Lightning's Trainer, whose steps end as genlab.training.steps describes.

    On the CPU freed memory stays with the process, which is faster.

    Args:
        args: As of Lightning's Trainer.
        graph: Run a training step as one CUDA graph (genlab.training.graph), on one CUDA GPU. Small
            models gain most.
        compile: Compile the networks for training with torch.compile; may be combined with `graph`.
        options: As of Lightning's Trainer.

    Raises:
        ValueError: `graph` is combined with a strategy, other devices or a system that does not
            allow it.
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
    """Makes glibc keep freed memory, because each step allocates the same blocks again.

    New pages from the kernel would cost a residual flow a tenth of its step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


class Compile(Callback):
    """Compiles each trained network of the system with torch.compile (trainer.compile=true).

    Only training steps are compiled. Validation and pictures, whose batches have other sizes, run
    eagerly. The state and its names do not change.
    """

    def __init__(self):
        self.networks: list[nn.Module] = []

    def on_fit_start(self, trainer, system) -> None:
        self.networks = [network for network in system.children() if _is_trained(network)]
        for network in self.networks:
            network.compile()
        torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        torch.compiler.set_stance("default")

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer, system, stage: str) -> None:
        torch.compiler.set_stance("default")
        for network in self.networks:
            network._compiled_call_impl = None


def _is_trained(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _graph_strategy(options: dict[str, Any]) -> GraphStrategy:
    strategy = options.get("strategy", "auto")
    accelerator = options.get("accelerator", "auto")
    devices = options.get("devices", 1)
    if strategy != "auto":
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ValueError(
            f"trainer.graph=true: cannot be combined with the strategy {name}; use trainer=gpu"
        )
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        raise ValueError(
            f"trainer.graph=true: needs a CUDA GPU (trainer.accelerator={accelerator}, CUDA "
            f"available: {torch.cuda.is_available()}); use trainer.graph=false"
        )
    if devices in (1, "1", "auto"):
        return GraphStrategy(torch.device("cuda", 0))
    if isinstance(devices, list) and len(devices) == 1:
        return GraphStrategy(torch.device("cuda", devices[0]))
    raise ValueError(
        f"trainer.graph=true: trainer.devices={devices}: expected one device, 1 or [its number]"
    )

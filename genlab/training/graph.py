"""Runs a whole training step as one CUDA graph, captured once for each kind of step."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from genlab.nn.cuda_graph import record, run_on
from genlab.systems.base import Captured, ChecksCapture

__all__ = ["GraphStrategy", "Step", "refuse_checkpointing"]

# Steps of a kind that run eagerly before it is captured; libraries choose their kernels in them.
NUM_WARMUP = 2
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass
class Step:
    """A captured step and the memory that it reads and writes at each replay."""

    batch: dict[str, Any]  # where it reads its batch
    replay: Callable[[], None]
    loss: Tensor
    logs: dict[str, tuple[Any, dict]]  # {name: (value, options of system.log)}

    def feed(self, batch: dict[str, Any]) -> None:
        """Copies the tensors of `batch` to where the graph reads them."""
        names = [name for name, value in self.batch.items() if isinstance(value, Tensor)]
        torch._foreach_copy_([self.batch[name] for name in names], [batch[name] for name in names])


class GraphStrategy(SingleDeviceStrategy):
    """Runs forward, backward, clipping and the optimiser's step as one graph on one CUDA device.

    It is chosen by trainer.graph=true. The kind of a step is `system.graph_key()` with the shapes
    of its batch. The first NUM_WARMUP steps of a kind run eagerly, then the kind is captured.

    Between steps nothing differs from eager training. Weights, moments and buffers keep their
    places in memory, so checkpoints, validation and averaged weights need no change. Learning rates
    remain numbers of the parameter groups and are copied to the graph when they change. Logged
    values are read at logging steps only, so that other steps need not wait for the device.

    A system must be `Captured`; one that is `ChecksCapture` is checked once. Its attribute `static`
    is set to True, which asks for steps of fixed shapes.

    Args:
        device: The CUDA device.

    Raises:
        ValueError: The system or a setting of the trainer rules out capture.
    """

    strategy_name = "graph"

    def __init__(self, device: torch.device | str = "cuda:0"):
        super().__init__(device=device)
        self.steps: dict[Hashable, Step] = {}
        self.seen: Counter[Hashable] = Counter()
        self.rates: list[Tensor] = []
        self.known_rates: list[float] = []
        self.recording: tuple[dict[str, Any], dict] | None = None
        self.logged: dict[str, tuple[Any, dict]] = {}
        self.pool = None  # the memory that all graphs share
        self.stream = None  # that steps are captured on

    def setup(self, trainer) -> None:
        system = self.lightning_module
        if not isinstance(system, Captured):
            raise ValueError(
                f"trainer.graph=true: steps of {type(system).__name__} cannot be captured; "
                "use trainer.graph=false"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "trainer.graph=true: cannot be combined with trainer.accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches}; raise data.batch_size instead"
            )
        if trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.graph=true: trainer.precision={trainer.precision} reads gradients on the "
                "host; use bf16-mixed"
            )
        if trainer._detect_anomaly:
            raise ValueError(
                "trainer.graph=true: trainer.detect_anomaly=true reads every value on the host; "
                "use one of the two"
            )
        if isinstance(system, ChecksCapture):
            system.check_graph()
        system.static = True
        super().setup(trainer)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.batch = batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The system's training step; while it is captured, the graph's batch and logs are used."""
        if self.recording is None:
            return super().training_step(batch, batch_idx)
        static, logs = self.recording
        system = self.lightning_module
        system.log = lambda name, value, **options: logs.update({name: (value, options)})
        try:
            return super().training_step(static, batch_idx)
        finally:
            del system.log

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable, model: Any = None, **kwargs: Any
    ) -> Any:
        """Makes one step: eagerly, or by a replay that leaves the closure's result as usual."""
        system = self.lightning_module
        key = (system.graph_key(), *map(_kind, self.batch.items()))
        if not self.rates:
            self.make_capturable(optimizer)
        self.update_rates(optimizer)
        if key not in self.steps:
            self.seen[key] += 1
            if self.seen[key] <= NUM_WARMUP:
                eager = super().optimizer_step
                return self.run_on(lambda: eager(optimizer, closure, model, **kwargs))
            self.steps[key] = self.capture(optimizer, closure, model)
        step = self.steps[key]
        step.feed(self.batch)
        step.replay()
        if len(self.steps) == 1:
            self.logged |= step.logs
        else:
            # Graphs share memory: a step of another kind may overwrite the values of this one.
            self.logged |= {name: (_copy(value), o) for name, (value, o) in step.logs.items()}
        closure._result = ClosureResult(step.loss)
        trainer = system.trainer
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self._log(system)
        return closure._result.loss

    def _log(self, system) -> None:
        """Logs what all kinds of steps have logged since the last logging step."""
        hook = system._current_fx_name
        system._current_fx_name = "training_step"
        for name, (value, options) in self.logged.items():
            system.log(name, value, **options)
        self.logged = {}
        system._current_fx_name = hook

    # --- capturing --------------------------------------------------------------------------------

    def make_capturable(self, optimizer: Optimizer) -> None:
        """Makes the optimiser count its steps on the device, which capture needs."""
        if "capturable" not in optimizer.defaults:
            name = type(optimizer).__name__
            raise ValueError(
                f"trainer.graph=true: the optimiser {name} cannot be captured; use one with the "
                "option `capturable`, such as optimizer=adam"
            )
        for group in optimizer.param_groups:
            group["capturable"] = True
        for state in optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).to(self.root_device, torch.float32)

    def update_rates(self, optimizer: Optimizer) -> None:
        """Copies changed learning rates to where the graphs read them."""
        if not self.rates:
            self.rates = [torch.zeros((), device=self.root_device) for _ in optimizer.param_groups]
            self.known_rates = [float("nan")] * len(self.rates)
        for i, group in enumerate(optimizer.param_groups):
            if group["lr"] != self.known_rates[i]:
                self.known_rates[i] = group["lr"]
                self.rates[i].fill_(group["lr"])

    def capture(self, optimizer: Optimizer, closure: Callable, model: Any) -> Step:
        """Captures the step that `closure` and the optimiser make, without running it."""
        static = {name: _copy(value) for name, value in self.batch.items()}
        logs: dict[str, tuple[Any, dict]] = {}
        numbers = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.recording = (static, logs)
        eager = super().optimizer_step
        try:
            replay = self.record(lambda: eager(optimizer, closure, model))
        except RuntimeError as error:
            raise RuntimeError(
                "trainer.graph=true: this step cannot be captured; use trainer.graph=false "
                f"({error})"
            ) from error
        finally:
            self.recording = None
            for group, number in zip(optimizer.param_groups, numbers, strict=True):
                group["lr"] = number
        loss = closure.consume_result().closure_loss.detach()
        return Step(static, replay, loss, logs)

    def record(self, function: Callable[[], Any]) -> Callable[[], None]:
        """Captures what `function` launches; returns its replay.

        All graphs share one memory pool, because they run one at a time.
        """
        graph, _ = record(function, self._stream(), self.pool)
        self.pool = self.pool or graph.pool()
        return graph.replay

    def run_on(self, function: Callable[[], Any]) -> Any:
        """Runs `function` on the stream that steps are captured on."""
        return run_on(self._stream(), function)

    def _stream(self) -> torch.cuda.Stream:
        self.stream = self.stream or torch.cuda.Stream()
        return self.stream

    # --- checkpoints ------------------------------------------------------------------------------

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as it would be without graphs, so it resumes on any device."""
        state = super().optimizer_state(optimizer)
        groups = [
            group | ({"capturable": False} if "capturable" in group else {})
            for group in state["param_groups"]
        ]
        return state | {"param_groups": groups}

    def teardown(self) -> None:
        self.steps.clear()
        self.pool = None
        self.stream = None
        super().teardown()


def refuse_checkpointing(net) -> None:
    """Raises ValueError for a network that recomputes its layers in the backward pass."""
    if net.checkpointing:
        raise ValueError(
            "trainer.graph=true: net.checkpointing=true saves the random state on the host; use "
            "net.checkpointing=false"
        )


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _kind(item: tuple[str, Any]) -> Hashable:
    """The part of a batch's entry that decides which kernels a step launches."""
    name, value = item
    return (name, value.shape, value.dtype) if isinstance(value, Tensor) else (name, value)

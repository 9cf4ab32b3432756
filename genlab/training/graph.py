"""A whole training step as one CUDA graph: captured once for each kind of step, then replayed."""

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

__all__ = ["GraphStrategy", "Step", "refuse_checkpointing"]

# steps of a kind that run eagerly before it is captured: libraries choose their kernels in them
NUM_WARMUP = 2
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass
class Step:
    """A captured step: where it reads its batch, and where it leaves its loss and what it logs."""

    batch: dict[str, Any]
    replay: Callable[[], None]
    loss: Tensor
    logs: dict[str, tuple[Any, dict]]

    def feed(self, batch: dict[str, Any]) -> None:
        names = [name for name, value in self.batch.items() if isinstance(value, Tensor)]
        torch._foreach_copy_([self.batch[name] for name in names], [batch[name] for name in names])


class GraphStrategy(SingleDeviceStrategy):
    """One CUDA device, on which forward, backward, clipping and the optimiser's step are one graph
    (trainer.graph=true).

    A step's kind is system.graph_key() with the shapes of its batch: the first NUM_WARMUP of a kind
    run eagerly, then it is captured. Between steps everything is as ever: weights, moments and
    buffers stay where they are, so checkpoints, validation and averages of weights see no
    difference; learning rates stay numbers of the param groups, and are handed to the graph when
    they change. What a step logs is read at logging steps alone, so that no step waits for the
    device.

    A system says by graph_key() what else decides which kernels a step launches, with ValueError
    for an option under which a step cannot be captured; one without it is refused. It is asked at
    each step: what takes a look at the whole network is for check_graph(), once. The attribute
    `static` asks for steps of fixed shapes.
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
        self.pool = self.stream = None

    def setup(self, trainer) -> None:
        name = type(self.lightning_module).__name__
        if not hasattr(self.lightning_module, "graph_key"):
            raise ValueError(
                f"trainer.graph=true: {name} makes steps that cannot be captured; leave it out"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.graph=true: trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} cannot be captured; "
                "raise data.batch_size instead"
            )
        if trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.graph=true: trainer.precision={trainer.precision} looks at gradients on the host; use bf16-mixed"
            )
        if trainer._detect_anomaly:
            raise ValueError(
                "trainer.graph=true: trainer.detect_anomaly=true looks at every value on the host"
            )
        getattr(self.lightning_module, "check_graph", lambda: None)()
        self.lightning_module.static = True
        super().setup(trainer)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.batch = batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The system's own, which while it is captured reads the graph's batch and hands its logs
        to the graph.
        """
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
        """One step of the system: eager, or a replay that leaves its results where the closure
        would have.
        """
        key = (self.lightning_module.graph_key(), *map(_kind, self.batch.items()))
        if not self.rates:
            self.make_capturable(optimizer)
        self.hand_rates(optimizer)
        if key not in self.steps:
            self.seen[key] += 1
            if self.seen[key] <= NUM_WARMUP:
                return self.aside(
                    lambda: super(GraphStrategy, self).optimizer_step(
                        optimizer, closure, model, **kwargs
                    )
                )
            self.steps[key] = self.capture(optimizer, closure, model)
        step = self.steps[key]
        step.feed(self.batch)
        step.replay()
        alone = (
            len(self.steps) == 1
        )  # else the next step, of another kind, may write over what this one leaves
        self.logged |= (
            step.logs
            if alone
            else {name: (_kept(value), o) for name, (value, o) in step.logs.items()}
        )
        closure._result = ClosureResult(step.loss)
        trainer, system = self.lightning_module.trainer, self.lightning_module
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            hook, system._current_fx_name = system._current_fx_name, "training_step"
            for name, (
                value,
                options,
            ) in self.logged.items():  # what another kind of step has logged since, too
                system.log(name, value, **options)
            self.logged = {}
            system._current_fx_name = hook
        return closure._result.loss

    # --- capturing --------------------------------------------------------------------------------

    def make_capturable(self, optimizer: Optimizer) -> None:
        """The optimiser as it can be captured: it counts its steps on the device."""
        if "capturable" not in optimizer.defaults:
            name = type(optimizer).__name__
            raise ValueError(
                f"trainer.graph=true: {name} cannot be captured; use one that is `capturable`: optimizer=adam"
            )
        for group in optimizer.param_groups:
            group["capturable"] = True
        for state in optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).to(self.root_device, torch.float32)

    def hand_rates(self, optimizer: Optimizer) -> None:
        """Brings the graph's learning rates up to date."""
        if not self.rates:
            self.rates = [torch.zeros((), device=self.root_device) for _ in optimizer.param_groups]
            self.known_rates = [float("nan")] * len(self.rates)
        for i, group in enumerate(optimizer.param_groups):
            if group["lr"] != self.known_rates[i]:
                self.known_rates[i] = group["lr"]
                self.rates[i].fill_(group["lr"])

    def capture(self, optimizer: Optimizer, closure: Callable, model: Any) -> Step:
        """Records the step that `closure` and the optimiser make, which runs none of it."""
        static = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in self.batch.items()
        }
        logs: dict[str, tuple[Any, dict]] = {}
        numbers = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.recording = (static, logs)
        losses = []
        try:
            replay = self.record(
                lambda: losses.append(
                    super(GraphStrategy, self).optimizer_step(optimizer, closure, model)
                )
            )
        except RuntimeError as error:
            raise RuntimeError(
                f"trainer.graph=true: this step cannot be captured; leave it out ({error})"
            ) from error
        finally:
            self.recording = None
            for group, number in zip(optimizer.param_groups, numbers, strict=True):
                group["lr"] = number
        return Step(static, replay, closure.consume_result().closure_loss.detach(), logs)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Captures what `function` launches; returns its replay. Graphs run one at a time and share
        their memory.
        """
        graph, _ = record(function, self._stream(), self.pool)
        self.pool = self.pool or graph.pool()
        return graph.replay

    def aside(self, function: Callable[[], Any]) -> Any:
        """Runs `function` on the stream that steps are captured on."""
        return run_on(self._stream(), function)

    def _stream(self) -> torch.cuda.Stream:
        self.stream = self.stream or torch.cuda.Stream()
        return self.stream

    # --- checkpoints ------------------------------------------------------------------------------

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as it is without graphs, which a resume on any device takes."""
        state = super().optimizer_state(optimizer)
        groups = [
            group | ({"capturable": False} if "capturable" in group else {})
            for group in state["param_groups"]
        ]
        return state | {"param_groups": groups}

    def teardown(self) -> None:
        self.steps.clear()
        self.pool = self.stream = None
        super().teardown()


def refuse_checkpointing(net) -> None:
    """ValueError for a network that recomputes its layers in the backward pass."""
    if net.checkpointing:
        raise ValueError(
            "trainer.graph=true: net.checkpointing=true saves the random state on the host; leave it out"
        )


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _kind(item: tuple[str, Any]) -> Hashable:
    """What of an entry of a batch decides how a step on it looks."""
    name, value = item
    return (name, value.shape, value.dtype) if isinstance(value, Tensor) else (name, value)

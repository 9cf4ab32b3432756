"""A torchmetrics.Metric, of a library or your own, as a metric of `genlab eval`.

The node says what the metric is fed with; the metric knows nothing of genlab:

    # my/metrics/psnr.yaml, for genlab eval run=<dir> metrics=[standard,psnr] --config-dir my
    psnr:
      _target_: genlab.evaluation.feed.Feed
      of: reconstructions
      metric:
        _target_: torchmetrics.image.PeakSignalNoiseRatio
        data_range: 2.0
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torchmetrics
from torch import Tensor, nn

from genlab.errors import ConfigError
from genlab.evaluation.base import Measured, Settings, not_measured_over
from genlab.evaluation.passes import decode_in_batches, reconstruct_split
from genlab.evaluation.text import comparable, write_texts
from genlab.systems.base import (
    Classifies,
    Decodes,
    Generates,
    HasConditions,
    HasLikelihood,
    Pretrained,
    Samples,
    reconstructs,
)

__all__ = ["Feed", "Metric"]

Batch = tuple[int, tuple[Any, ...]]  # how many inputs, and the arguments of `update`


@runtime_checkable
class Metric(Protocol):
    """What a metric has to have; every torchmetrics.Metric has it."""

    higher_is_better: bool | None

    def update(self, *batch: Any) -> None:
        """Takes a batch in."""
        ...

    def compute(self) -> Any:
        """The value of all batches: a number, or numbers by name."""
        ...


class Feed:
    """One metric, and what it is fed with.

    Args:
        of: What `metric.update` is called with, a batch at a time, on the system's device:

            - samples: (inputs, real), num= samples of the system with real=False, then the train
              split with real=True; a metric without `real` gets (inputs,), the samples alone
            - reconstructions: (reconstructions, originals) of the held-out split
            - texts: (texts, accepted), lists of what the model writes to the examples of the
              held-out split and of the list of texts that are right for each
            - logits: (logits (N, K), labels (N,)) of the held-out split
            - log_probs: (log p (N,) in nats,) of the held-out split

            Images are (N, C, H, W) in [-1, 1], points (N, D).
        metric: A torchmetrics.Metric, or whatever has `update`, `compute` and `higher_is_better`.
            Where `compute` returns a mapping, each of its numbers is one metric, <node>_<key>.
    """

    def __init__(
        self,
        of: Literal["samples", "reconstructions", "texts", "logits", "log_probs"],
        metric: Metric,
    ):
        if not isinstance(metric, Metric):
            raise ValueError(
                f"metric: {type(metric).__name__} is no metric; expected update, compute and "
                "higher_is_better (true, false or null), as torchmetrics.Metric has"
            )
        self.of = of
        self.metric = metric

    def fits(self, system: Any) -> bool:
        """True, or ValueError where `system` lacks what the metric is fed with."""
        source = SOURCES[self.of]
        if not source.fits(system):
            raise ValueError(
                f"of={self.of} needs {source.needs}, and this run is a {type(system).__name__}; "
                "leave the metric out or choose another"
            )
        return True

    @torch.no_grad()
    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """The metric's value, or values by key, beside what it was measured on."""
        metric = self.metric
        if isinstance(metric, nn.Module):
            metric = metric.to(system.device)
        if isinstance(metric, torchmetrics.Metric):
            metric.sync_on_compute = False  # one process measures, also after training by several
        source = SOURCES[self.of]
        compares = self.of == "samples" and "real" in inspect.signature(metric.update).parameters
        count = 0
        for num, batch in source.batches(system, data, settings):
            metric.update(*batch, **({"real": False} if compares else {}))
            count += num
        if compares:
            for real in _inputs(system, data, "train", settings):
                metric.update(real, real=True)
        entry = {
            "split": None if self.of == "samples" else settings.split,
            "count": count,
            **not_measured_over(settings.seed),
            "reference": "train" if compares else None,
            "metric": f"{type(metric).__module__}.{type(metric).__qualname__}",
            "higher_is_better": metric.higher_is_better,
        }
        value = metric.compute()
        if isinstance(value, Mapping):
            values = {f"{name}_{key}": one for key, one in value.items()}
        else:
            values = {name: value}
        results = {key: {"value": _number(name, one), **entry} for key, one in values.items()}
        return Measured(results, {})


def _number(name: str, value: Any) -> float:
    """What `compute` returned, as a float; ConfigError where it is not one number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"metrics.{name}: its compute() returned {type(value).__name__}; expected a number, "
            "or a mapping of numbers"
        ) from None


# --- what a metric can be fed with ----------------------------------------------------------------


class Source(NamedTuple):
    """fits: whether a system has it. needs: that in words. batches: of what `update` is called
    with.
    """

    fits: Callable[[Any], bool]
    needs: str
    batches: Callable[[Any, Any, Settings], Iterator[Batch]]


def _inputs(system: Any, data: Any, split: str, settings: Settings) -> Iterator[Tensor]:
    """The inputs of a split, a batch at a time, on the system's device."""
    loader = data.loader(split, settings.batch_size)
    for done, batch in enumerate(loader, 1):
        yield batch[system.modality].to(system.device)
        settings.progress(f"inputs of the {split} split", done, len(loader))


def _samples(system: Any, data: Any, settings: Settings) -> Iterator[Batch]:
    scaled = {} if settings.temperature is None else {"temperature": settings.temperature}
    codes = system.prior(settings.num, seed=settings.seed, **scaled)
    for _, samples in decode_in_batches(system, codes, settings.batch_size, settings.progress):
        yield len(samples), (samples,)


def _reconstructions(system: Any, data: Any, settings: Settings) -> Iterator[Batch]:
    chosen = (settings.split, settings.batch_size, settings.progress)
    for inputs, again in reconstruct_split(system, data, *chosen):
        yield len(inputs), (again, inputs)


def _texts(system: Any, data: Any, settings: Settings) -> Iterator[Batch]:
    examples = data.examples(settings.split)[: settings.num]
    rows = [i for i, example in enumerate(examples) if example.accepted]
    examples = [examples[i] for i in rows]
    given = {}
    if isinstance(system, HasConditions):
        conditions = data.given(settings.split)
        given = {"given": {name: values[torch.tensor(rows)] for name, values in conditions.items()}}
    texts = write_texts(system, settings, examples, "texts", **given)
    yield len(examples), (texts, comparable(system.codec.tokenizer, examples))


def _logits(system: Any, data: Any, settings: Settings) -> Iterator[Batch]:
    loader = data.loader(settings.split, settings.batch_size)
    for done, batch in enumerate(loader, 1):
        labels = batch["label"].to(system.device)
        yield len(labels), (system.classify(batch["image"]), labels)
        settings.progress("logits", done, len(loader))


def _log_probs(system: Any, data: Any, settings: Settings) -> Iterator[Batch]:
    loader = data.loader(settings.split, settings.batch_size)
    for done, batch in enumerate(loader, 1):
        log_prob = system.log_prob(batch[system.modality], seed=settings.seed + done)
        yield len(log_prob), (log_prob,)
        settings.progress("log p", done, len(loader))


def _draws(system: Any) -> bool:
    return isinstance(system, Samples) and isinstance(system, Decodes)


def _writes(system: Any) -> bool:
    return isinstance(system, Generates) and not isinstance(system, Pretrained)


SOURCES = {
    "samples": Source(_draws, "a model that samples images or points", _samples),
    "reconstructions": Source(reconstructs, "a model that reconstructs", _reconstructions),
    "texts": Source(_writes, "a model that was trained to write texts", _texts),
    "logits": Source(lambda system: isinstance(system, Classifies), "a classifier", _logits),
    "log_probs": Source(
        lambda system: isinstance(system, HasLikelihood), "a model with a likelihood", _log_probs
    ),
}

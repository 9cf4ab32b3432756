"""What a metric in `metrics=[...]` is, and how all that are chosen measure one system.

A node of the config group `metrics` is an Evaluator. The standard set has one for images, for
densities, for classifiers and for each kind of text model; each takes all its numbers from one pass
over the data. A metric of your own is a torchmetrics.Metric in a node of
`genlab.evaluation.feed.Feed`, or an Evaluator where that is not enough.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch.nn import Module

from genlab.errors import ConfigError
from genlab.metrics.directions import HIGHER_IS_BETTER, higher_is_better

__all__ = [
    "Evaluator",
    "Measured",
    "Progress",
    "Results",
    "Settings",
    "check_metrics",
    "evaluate",
    "not_measured_over",
]

Results = dict[str, dict[str, Any]]  # {metric: {value, split, count, reference, features, ...}}
Progress = Callable[[str, int, int], None]  # called with (description, done, total)


class Measured(NamedTuple):
    """What an Evaluator found.

    Attributes:
        results: By metric, an entry with `value` (float), `split` (None of samples) and `count`
            (how many were measured). It may have more: `seed`, `reference` (what they were compared
            with), `features` (the network or tool that they were compared by), `standard_error`,
            `higher_is_better` and keys of its own.
        files: By name, a function that writes that file below <run>/eval, given its path.
    """

    results: Results
    files: Mapping[str, Callable[[Path], Any]]


def _silent(description: str, done: int, total: int) -> None:
    """Shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user chose for an evaluation.

    Attributes:
        split: The held-out split: train, val or test.
        num: Samples of images and points; of text models, examples at most (None: all).
        batch_size: Images or points at a time.
        seed: Of samples, noise and subsets.
        temperature: Scales the latent vectors of the samples; None for the model's own.
        own_data: Whether the system was trained on the data, so that codes which it stored for them
            are measured too; None where the run does not say.
        ood: Other data, which a likelihood has to tell from the system's own.
        features: Builds the feature network (genlab.metrics.features) that images are compared by.
        decoding: A genlab.systems.text.writing.Decoding; None for the model's own.
        measure: Of answers: squad, cmrc or sogou; None for cmrc where they are Chinese, else squad.
        progress: Is called with (description, done, total).
    """

    split: str = "test"
    num: int | None = 10_000
    batch_size: int = 256
    seed: int = 0
    temperature: float | None = None
    own_data: bool | None = False
    ood: Any = None
    features: Callable[[], Module] | None = None
    decoding: Any = None
    measure: str | None = None
    progress: Progress = field(default=_silent, repr=False)


@runtime_checkable
class Evaluator(Protocol):
    """Measures systems of one kind."""

    def fits(self, system: Any) -> bool:
        """Whether `system` is of that kind, by the Protocols of genlab.systems.base.

        Raises:
            ValueError: It is not, and the user chose this evaluator for this system.
        """
        ...

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """The numbers of `system` on `data`.

        Args:
            name: The key of this evaluator in the config group `metrics`, which is what a single
                number is called.
            system: In eval mode.
            data: Set up.
            settings: What the user chose.
        """
        ...


def evaluate(system: Any, data: Any, metrics: Mapping[str, Any], settings: Settings) -> Measured:
    """The results of all `metrics` that fit `system`, and the files that go beside them.

    Args:
        system: A trained system.
        data: Its data, set up.
        metrics: Evaluators by their names in the config group `metrics`.
        settings: What the user chose.

    Returns:
        Results whose entries all say `higher_is_better`, and files.

    Raises:
        ConfigError: A metric is no Evaluator, or needs what the system does not have.
        ValueError: What an evaluator says of its settings or the data.
    """
    check_metrics(metrics, system)
    system.eval()
    results: Results = {}
    files: dict[str, Callable[[Path], Any]] = {}
    for name, evaluator in metrics.items():
        if not evaluator.fits(system):
            continue
        found = evaluator.measure(name, system, data, settings)
        for metric, entry in found.results.items():
            if missing := {"value", "split", "count"} - entry.keys():
                raise ConfigError(f"metrics.{name}: its {metric} does not say {min(missing)}")
            defaults = {
                "reference": None,
                "features": None,
                "seed": settings.seed,
                "higher_is_better": higher_is_better(metric),
            }
            results[metric] = defaults | entry
        files |= found.files
    return Measured(results, files)


def check_metrics(metrics: Mapping[str, Any], system: Any) -> None:
    """Raises ConfigError, naming its key, for a metric that `system` cannot be measured by."""
    if not metrics:
        raise ConfigError("metrics: nothing to measure; leave it out for the standard set")
    for name, evaluator in metrics.items():
        if name in HIGHER_IS_BETTER:
            raise ConfigError(f"metrics.{name}: genlab has a metric of this name; choose another")
        if not isinstance(evaluator, Evaluator):
            raise ConfigError(
                f"metrics.{name}: expected an evaluator, with the methods fits and measure, and "
                f"{type(evaluator).__name__} is none; a torchmetrics.Metric goes into a node "
                "{_target_: genlab.evaluation.feed.Feed, of: samples, metric: {...}}"
            )
        try:
            evaluator.fits(system)
        except ValueError as error:
            raise ConfigError(f"metrics.{name}: {error}") from None


def not_measured_over(seed: int) -> dict[str, Any]:
    """The keys of an entry that is measured without a reference and without a feature network."""
    plain = dict.fromkeys(("reference", "features", "features_hash", "comparable"))
    return plain | {"seed": seed}

"""The numbers of a classifier, and of an invertible one whether it is invertible."""

import math
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from genlab.evaluation.base import (
    Measured,
    Progress,
    Results,
    Settings,
    not_measured_over,
)
from genlab.evaluation.density import (
    certificate_files,
    certificate_results,
    inversion,
)
from genlab.nn.bijection import Certified
from genlab.systems.base import Bijective, Classifies, HasLikelihood, reconstructs

__all__ = ["Classification", "ClassificationEvaluation", "evaluate_classifier"]


class Classification:
    """Accuracy and cross-entropy on the held-out split; of an invertible network also the errors of
    its inverse.

    Writes certificate.json (of a network that has one).
    """

    def fits(self, system: Any) -> bool:
        """Whether `system` predicts classes."""
        return isinstance(system, Classifies)

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_classifier`."""
        found = evaluate_classifier(
            system,
            data,
            split=settings.split,
            batch_size=settings.batch_size,
            seed=settings.seed,
            progress=settings.progress,
        )
        return Measured(found.results, certificate_files(found.certificate))


class ClassificationEvaluation(NamedTuple):
    """What `evaluate_classifier` found.

    Attributes:
        results: {metric: {value, split, count, ...}}.
        certificate: Of the network; None if nothing bounds its norms.
    """

    results: Results
    certificate: dict[str, Any] | None


def evaluate_classifier(
    system: Any,
    data: Any,
    *,
    split: str = "test",
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress = lambda description, done, total: None,
) -> ClassificationEvaluation:
    """Accuracy in [0, 1] and cross-entropy in nats on the held-out `split`.

    Of a bijection without a likelihood also the errors of its inverse and its certificate; with a
    likelihood `evaluate_density` has these.
    """
    system.eval()
    plain = not_measured_over(seed)
    hits, losses = [], []
    loader = data.loader(split, batch_size)
    for done, batch in enumerate(loader, 1):
        logits = system.classify(batch["image"]).cpu()
        y = batch["label"].cpu()
        hits.append((logits.argmax(1) == y).double())
        losses.append(cross_entropy(logits, y, reduction="none").double())
        progress(f"classes of the {split} split", done, len(loader))
    count = sum(map(len, hits))
    entry = {"split": split, "count": count, **plain}
    results = {}
    for name, values in (("accuracy", torch.cat(hits)), ("cross_entropy", torch.cat(losses))):
        error = values.std().item() / math.sqrt(count)
        results[name] = {"value": values.mean().item(), "standard_error": error} | entry
    has_inverse = isinstance(system, Bijective) and reconstructs(system)
    if isinstance(system, HasLikelihood) or not has_inverse:
        return ClassificationEvaluation(results, None)
    certificate = None
    if isinstance(system.net, Certified):
        certificate = system.net.certificate()
        results |= certificate_results(certificate, plain)
    results |= inversion(system, data, split, batch_size, entry, progress)
    return ClassificationEvaluation(results, certificate)

"""The numbers of a likelihood: how high it is, whether it is one, whether the inverse is one, and
whether it tells other data from its own.

Shapes: N inputs; D numbers of an input; S cells of a side of the grid over the plane.
"""

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genlab.console import console
from genlab.data.base import HasDensity
from genlab.evaluation.base import (
    Measured,
    Progress,
    Results,
    Settings,
    not_measured_over,
)
from genlab.files import write_text
from genlab.nn.bijection import Certified
from genlab.report.points import save_histograms, save_points, window
from genlab.report.tables import certificate_table
from genlab.systems.base import Bijective, HasLikelihood, Samples

__all__ = ["Density", "DensityEvaluation", "density_on_grid", "evaluate_density", "inversion"]

MAX_INVERTED = 1000  # inputs that are encoded and decoded again
MAX_TYPICAL = 2000  # training inputs whose mean log p is called typical
GRID_SIDE = 600  # cells of a side of the grid over the plane
BINS = 30  # of a side of the histogram of samples over the same plane


class Density:
    """The likelihood of held-out data; of one bijection also the errors of its inverse; of points
    in the plane also whether the density and the samples agree.

    Writes density.png (points in the plane), ood.png (log-probabilities of both data sets, with
    ood=) and certificate.json (of a network that has one).
    """

    def fits(self, system: Any) -> bool:
        """Whether `system` has a likelihood."""
        return isinstance(system, HasLikelihood)

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_density`."""
        view = None if system.modality == "image" else window(data.arrays("train"))
        split = settings.split
        found = evaluate_density(
            system,
            data,
            split=split,
            num_samples=settings.num,
            batch_size=settings.batch_size,
            seed=settings.seed,
            ood=settings.ood,
            view=view,
            progress=settings.progress,
        )
        files = certificate_files(found.certificate)
        if found.density is not None:
            panels = {
                f"{split} split": data.arrays(split),
                "samples": found.samples,
                "density": found.density,
            }
            files["density.png"] = partial(save_points, panels, view=view)
        if found.scores:
            scaled = {name: system.scaled(values) for name, values in found.scores.items()}
            files["ood.png"] = partial(save_histograms, scaled, label=system.measure)
        return Measured(found.results, files)


class DensityEvaluation(NamedTuple):
    """What `evaluate_density` found.

    Attributes:
        results: {metric: {value, split, count, seed, ...}}.
        scores: log p (N,) by data set, where there are two.
        certificate: All that the network certifies, with the bounds of each layer; its numbers are
            in `results` as well.
        density: p (S, S) over the view, rows of constant y; for points in the plane alone.
        samples: (N, 2); for points in the plane alone.
    """

    results: Results
    scores: dict[str, Tensor]
    certificate: dict[str, Any] | None
    density: Tensor | None
    samples: Tensor | None


def evaluate_density(
    system: Any,
    data: Any,
    *,
    split: str = "test",
    num_samples: int = 10_000,
    batch_size: int = 256,
    seed: int = 0,
    ood: Any = None,
    view: tuple[float, float, float, float] | None = None,
    progress: Progress = lambda description, done, total: None,
) -> DensityEvaluation:
    """Measures a system with a log-probability on the held-out `split` of `data`.

    Args:
        system: HasLikelihood of genlab.systems.base.
        data: Images or points, set up.
        split: Held-out inputs: test or val.
        num_samples: How many points to draw.
        batch_size: Inputs at a time.
        seed: Of noise and samples.
        ood: Other data; the system should tell their `split` from that of `data`.
        view: (left, right, bottom, top) of the window of the plane, for points.
        progress: Is called with (description, done, total).
    """
    system.eval()
    plain = not_measured_over(seed)

    def log_probs(name: str, source: Any) -> Tensor:
        found = []
        loader = source.loader(name, batch_size)
        for done, batch in enumerate(loader, 1):
            found.append(system.log_prob(batch[system.modality], seed=seed + done).double().cpu())
            progress(f"log p of {source.name}, {name}", done, len(loader))
        return torch.cat(found)

    held_out = log_probs(split, data)
    entry = {"split": split, "count": len(held_out), **plain}
    dims = data.pick(split, 1, seed)[system.modality][0].numel()
    counted = {"dims": dims}
    bijective = isinstance(system, Bijective)
    if bijective and system.modality == "image":
        counted["levels"] = int(system.pixels.levels)
    results = {system.measure: mean_of(system.scaled(held_out)) | entry | counted}
    own = data.log_density(data.arrays(split)) if isinstance(data, HasDensity) else None
    if own is not None:  # no model of these data is expected to have less
        results[f"{system.measure}_floor"] = mean_of(-own.double()) | entry
    certificate = None
    if bijective:
        results |= inversion(system, data, split, batch_size, entry, progress)
        if isinstance(system.net, Certified):
            certificate = system.net.certificate()
            results |= certificate_results(certificate, plain)
    scores = {}
    if ood is not None:
        scores = {data.name: held_out, ood.name: log_probs(split, ood)}
        some = data.pick("train", MAX_TYPICAL, seed)[system.modality]
        typical = system.log_prob(some, seed=seed).double().mean().cpu()
        results |= compare_scores(system, scores, typical, entry)
    if system.modality != "point" or dims != 2 or not isinstance(system, Samples):
        return DensityEvaluation(results, scores, certificate, None, None)
    density = density_on_grid(system, view, GRID_SIDE, progress)
    samples = system.sample(num_samples, seed=seed).double().cpu()
    cell = (view[1] - view[0]) * (view[3] - view[2]) / GRID_SIDE**2
    results["integral"] = {
        "value": density.sum().item() * cell,
        "split": "the grid's cells",
        "count": GRID_SIDE**2,
        **plain,
    }
    distance, floor = histogram_distance(density, samples, view, seed)
    of_samples = {"split": None, "count": num_samples, **plain}
    results["histogram_distance"] = {"value": distance} | of_samples
    results["histogram_floor"] = {"value": floor} | of_samples
    return DensityEvaluation(results, scores, certificate, density, samples)


def mean_of(values: Tensor) -> dict[str, float]:
    """The mean of values (N,) and its standard error."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"value": values.mean().item(), "standard_error": error}


# --- one bijection --------------------------------------------------------------------------------


def certificate_results(certificate: dict[str, Any], plain: dict[str, Any]) -> Results:
    """The numbers of a certificate, as certificate_<name>."""
    entry = {"split": "the weights", "count": 1} | plain
    return {
        f"certificate_{name}": {"value": value} | entry
        for name, value in certificate.items()
        if isinstance(value, int | float)
    }


def certificate_files(
    certificate: dict[str, Any] | None,
) -> dict[str, Callable[[Path], Any]]:
    """certificate.json, which is also printed as a table; nothing without a certificate."""
    if certificate is None:
        return {}

    def write(path: Path) -> None:
        write_text(path, json.dumps(certificate, indent=2) + "\n")
        console(sys.stdout).print(certificate_table(certificate))

    return {"certificate.json": write}


def inversion(
    system: Any,
    data: Any,
    split: str,
    batch_size: int,
    entry: dict[str, Any],
    progress: Progress,
) -> Results:
    """How far x is from F^-1(F(x)): the largest error of any number.

    On the held-out split and on noise, which the network sees standard normal; of images also the
    fraction of the pixels that decode(encode(image)) changes.
    """
    errors, noise_errors, changed = [], [], []
    count = 0
    generator = torch.Generator().manual_seed(entry["seed"])
    loader = data.loader(split, min(batch_size, MAX_INVERTED))
    total = min(MAX_INVERTED, len(data.arrays(split)))
    for batch in loader:
        inputs = batch[system.modality][: MAX_INVERTED - count].to(system.device, system.dtype)
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        errors.append(round_trip(system, system.prepare(inputs)[0]))
        noise_errors.append(round_trip(system, noise))
        if system.modality == "image":
            before = system.pixels.values(inputs)
            after = system.pixels.values(system.reconstruct(inputs))
            changed.append((after != before).double().mean((1, 2, 3)))
        count += len(inputs)
        progress("inverse", count, total)
        if count >= MAX_INVERTED:
            break
    entry = entry | {"count": count}
    largest, of_noise = (torch.cat(found).max().item() for found in (errors, noise_errors))
    results = {
        "reconstruction_error": {"value": largest} | entry,
        "reconstruction_error_noise": {"value": of_noise} | entry | {"split": None},
    }
    if isinstance(system.net, Certified):
        for name, value in system.net.inversions().items():
            results[f"inverse_{name}"] = {"value": float(value)} | entry
    if changed:
        results["pixels_changed"] = {"value": torch.cat(changed).mean().item()} | entry
    return results


@torch.no_grad()
def round_trip(system: Any, x: Tensor) -> Tensor:
    """The largest |x - F^-1(F(x))| (N,) of each input x (N, ...) of the network."""
    return (system.net.inverse(system.net(x)[0]) - x).abs().flatten(1).amax(1)


# --- other data -----------------------------------------------------------------------------------


def compare_scores(
    system: Any, scores: dict[str, Tensor], typical: Tensor, entry: dict[str, Any]
) -> Results:
    """How well log p tells the second data set from the first.

    ood_auroc is how often log p ranks an input of the first above one of the second,
    ood_auroc_typicality how often the distance of log p from its mean on the training set does:
    flows give other, plainer data high likelihoods (arXiv 1810.09136, 1906.02994).
    """
    (_, own), (name, other) = scores.items()
    about = {"split": f"{name}, {entry['split']}", "count": len(other), "reference": None}
    both = entry | {"reference": name, "count": len(own) + len(other)}
    distances = [-(values - typical).abs() for values in (own, other)]
    return {
        "ood_auroc": {"value": area_under_roc(own, other)} | both,
        "ood_auroc_typicality": {"value": area_under_roc(*distances)} | both,
        f"ood_{system.measure}": mean_of(system.scaled(other)) | both | about,
    }


def area_under_roc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a score (N,) of the first set is above one (M,) of the second; ties
    count half.

    Not torchmetrics' binary_auroc: it takes scores outside [0, 1] for logits, and their sigmoid
    makes the log-probabilities of images, hundreds of nats, all equal.
    """
    negative = negative.sort().values
    below = torch.searchsorted(negative, positive)
    below_or_equal = torch.searchsorted(negative, positive, right=True)
    return ((below + below_or_equal).double() / 2).mean().item() / len(negative)


# --- points in the plane --------------------------------------------------------------------------


def density_on_grid(
    system: Any,
    view: tuple[float, float, float, float],
    side: int,
    progress: Progress = lambda description, done, total: None,
) -> Tensor:
    """p (side, side) at the centres of the cells of `view` (left, right, bottom, top); rows of
    constant y.
    """
    left, right, bottom, top = view
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    across, up = left + (right - left) * centres, bottom + (top - bottom) * centres
    y, x = torch.meshgrid(up, across, indexing="ij")
    parts = torch.stack([x, y], -1).view(-1, 2).split(16 * side)
    found = []
    for done, part in enumerate(parts, 1):
        found.append(system.log_prob(part).double().cpu().exp())
        progress("density on a grid", done, len(parts))
    return torch.cat(found).view(side, side)


def histogram_distance(
    density: Tensor, samples: Tensor, view: tuple[float, float, float, float], seed: int
) -> tuple[float, float]:
    """Total variation between the histogram of samples (N, 2) and the density on a grid.

    Args:
        density: (S, S) over `view`, rows of constant y.
        samples: Those outside of `view` count as one more cell.
        view: (left, right, bottom, top).
        seed: Of the draws from the grid.

    Returns:
        The distance in [0, 1], and the same of as many draws from the grid itself, which is what
        chance alone gives.
    """
    left, right, bottom, top = view
    side = len(density) // BINS
    cells = density.unflatten(0, (BINS, side)).unflatten(2, (BINS, side)).mean((1, 3)).flatten()
    cells = cells * (right - left) * (top - bottom) / BINS**2
    expected = torch.cat([cells, (1 - cells.sum()).clamp(min=0)[None]])
    low = torch.tensor([left, bottom])
    size = torch.tensor([right - left, top - bottom])
    place = ((samples - low) / size * BINS).floor().long()
    inside = ((place >= 0) & (place < BINS)).all(1)
    index = torch.where(inside, place[:, 1] * BINS + place[:, 0], BINS**2)

    def distance(index: Tensor) -> float:
        found = torch.bincount(index, minlength=BINS**2 + 1) / len(index)
        return 0.5 * (found - expected / expected.sum()).abs().sum().item()

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(expected, len(samples), replacement=True, generator=generator)
    return distance(index), distance(drawn)

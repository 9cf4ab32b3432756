"""Every number about a likelihood: how high it is, whether it is one, whether its inverse is, and
what it tells apart.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["DensityEvaluation", "area_under_roc", "density_on_grid", "evaluate_density"]

MAX_INVERTED = 1000  # inputs that are taken there and back
MAX_TYPICAL = 2000  # training inputs whose mean log p is what is typical
GRID_SIDE, BINS = 600, 30  # of the grid over the plane, and of the histogram of samples on it
Results = dict[str, dict[str, Any]]
Progress = Callable[[str, int, int], None]


class DensityEvaluation(NamedTuple):
    """results: {metric: {value, split, count, seed, ...}}. scores: log-probabilities by data set,
    where there are two.
    certificate: all that the network can certify, bounds of each layer included; its numbers are in
    results as well.

    density: (S, S) over `view` (left, right, bottom, top), rows of constant y, and samples (N, 2);
    for points alone.
    """

    results: Results
    scores: dict[str, Tensor]
    certificate: dict[str, Any] | None
    density: Tensor | None
    samples: Tensor | None


def evaluate_density(
    system,
    data,
    *,
    split: str = "test",
    num_samples: int = 10_000,
    batch_size: int = 256,
    seed: int = 0,
    ood=None,
    view: tuple[float, float, float, float] | None = None,
    progress: Progress = lambda description, done, total: None,
) -> DensityEvaluation:
    """What can be measured of a system with a log-probability on the held-out `split` of `data`.

    ood: another data set, whose `split` is to be told from that of `data`. view: the window of the
    plane, for points.
    progress: called with (description, done, total).
    """
    system.eval()
    plain = dict.fromkeys(("reference", "features", "features_hash", "comparable")) | {"seed": seed}

    def log_probs(name: str, source) -> Tensor:
        found = []
        loader = source.loader(name, batch_size)
        for done, batch in enumerate(loader, 1):
            found.append(system.log_prob(batch[system.modality], seed=seed + done).double().cpu())
            progress(f"log p of {source.name}, {name}", done, len(loader))
        return torch.cat(found)

    held_out = log_probs(split, data)
    entry = {"split": split, "count": len(held_out), **plain}
    counted = {"dims": system.latent_dim}
    if system.modality == "image":
        counted |= {"levels": int(system.pixels.levels)}
    results = {system.measure: mean_of(system.scaled(held_out)) | entry | counted}
    if (own := getattr(data, "log_density", lambda points: None)(data.arrays(split))) is not None:
        results[f"{system.measure}_floor"] = (
            mean_of(-own.double()) | entry
        )  # what the density of the data itself has
    results |= inversion(system, data, split, batch_size, entry, progress)
    certificate = system.net.certificate() if hasattr(system.net, "certificate") else None
    for name, value in (certificate or {}).items():
        if isinstance(value, int | float):
            results[f"certificate_{name}"] = {
                "value": value,
                "split": "the weights",
                "count": 1,
            } | plain
    scores = {}
    if ood is not None:
        scores = {data.name: held_out, ood.name: log_probs(split, ood)}
        typical = (
            system.log_prob(data.pick("train", MAX_TYPICAL, seed)[system.modality], seed=seed)
            .double()
            .mean()
            .cpu()
        )
        results |= told_apart(system, scores, typical, entry)
    if system.modality != "point" or system.latent_dim != 2:
        return DensityEvaluation(results, scores, certificate, None, None)
    density = density_on_grid(system, view, GRID_SIDE, progress)
    samples = system.sample(num_samples, seed=seed).double().cpu()
    of_samples = {"split": None, "count": num_samples, **plain}
    cell = (view[1] - view[0]) * (view[3] - view[2]) / GRID_SIDE**2
    results["integral"] = {
        "value": density.sum().item() * cell,
        "split": "the grid's cells",
        "count": GRID_SIDE**2,
        **plain,
    }
    distance, floor = histogram_distance(density, samples, view, seed)
    results |= {
        "histogram_distance": {"value": distance} | of_samples,
        "histogram_floor": {"value": floor} | of_samples,
    }
    return DensityEvaluation(results, scores, certificate, density, samples)


def mean_of(values: Tensor) -> dict[str, float]:
    """The mean of values (N,) and its standard error."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"value": values.mean().item(), "standard_error": error}


def inversion(
    system, data, split: str, batch_size: int, entry: dict[str, Any], progress: Progress
) -> Results:
    """How far x is from F^-1(F(x)): the largest error of any number, on the held-out split and on
    noise, which the network sees standard normal; and the part of the pixels that
    decode(encode(image)) changes.
    """
    errors, noise_errors, changed, count = [], [], [], 0
    generator = torch.Generator().manual_seed(entry["seed"])
    loader = data.loader(split, min(batch_size, MAX_INVERTED))
    total = min(MAX_INVERTED, len(data.arrays(split)))
    for batch in loader:
        inputs = batch[system.modality][: MAX_INVERTED - count].to(system.device, system.dtype)
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        errors.append(round_trip(system, system.prepare(inputs)[0]))
        noise_errors.append(round_trip(system, noise))
        if system.modality == "image":
            again = system.reconstruct(inputs)
            changed.append(
                (system.pixels.values(again) != system.pixels.values(inputs))
                .double()
                .mean((1, 2, 3))
            )
        count += len(inputs)
        progress("inverse", count, total)
        if count >= MAX_INVERTED:
            break
    entry = entry | {"count": count}
    results = {
        "reconstruction_error": {"value": torch.cat(errors).max().item()} | entry,
        "reconstruction_error_noise": {"value": torch.cat(noise_errors).max().item()}
        | entry
        | {"split": None},
    }
    if hasattr(system.net, "inversions"):
        results |= {
            f"inverse_{name}": {"value": float(value)} | entry
            for name, value in system.net.inversions().items()
        }
    if changed:
        results["pixels_changed"] = {"value": torch.cat(changed).mean().item()} | entry
    return results


@torch.no_grad()
def round_trip(system, x: Tensor) -> Tensor:
    """The largest |x - F^-1(F(x))| of each input (N,) of the network."""
    return (system.net.inverse(system.net(x)[0]) - x).abs().flatten(1).amax(1)


def told_apart(
    system, scores: dict[str, Tensor], typical: Tensor, entry: dict[str, Any]
) -> Results:
    """How often log p ranks an input of the first set above one of the second, and how often its
    distance from the mean of the training set ("typicality") does: flows give plain other data high
    likelihoods (arXiv 1810.09136, 1906.02994).
    """
    (_, own), (name, other) = scores.items()
    about = {"split": f"{name}, {entry['split']}", "count": len(other)}
    entry = entry | {"reference": name, "count": len(own) + len(other)}
    distances = [-(values - typical).abs() for values in (own, other)]
    return {
        "ood_auroc": {"value": area_under_roc(own, other)} | entry,
        "ood_auroc_typicality": {"value": area_under_roc(*distances)} | entry,
        f"ood_{system.measure}": mean_of(system.scaled(other))
        | entry
        | about
        | {"reference": None},
    }


def area_under_roc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a score (N,) of the first set is above one (M,) of the second, ties
    counting half.
    """
    negative = negative.sort().values
    below = torch.searchsorted(negative, positive) + torch.searchsorted(
        negative, positive, right=True
    )
    return (below.double() / 2).mean().item() / len(negative)


def density_on_grid(
    system,
    view: tuple[float, float, float, float],
    side: int,
    progress: Progress = lambda *about: None,
) -> Tensor:
    """p (side, side) at the centres of the cells of `view` (left, right, bottom, top); rows of
    constant y.
    """
    left, right, bottom, top = view
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y, x = torch.meshgrid(
        bottom + (top - bottom) * centres, left + (right - left) * centres, indexing="ij"
    )
    parts = torch.stack([x, y], -1).view(-1, 2).split(16 * side)
    found = []
    for done, part in enumerate(parts, 1):
        found.append(system.log_prob(part).double().cpu().exp())
        progress("density on a grid", done, len(parts))
    return torch.cat(found).view(side, side)


def histogram_distance(density: Tensor, samples: Tensor, view, seed: int) -> tuple[float, float]:
    """Total variation between the histogram of samples (N, 2) and the density on a grid over
    `view`, what lies outside counting as one more cell; and the same of as many draws from the grid
    itself, which is what chance alone gives.
    """
    left, right, bottom, top = view
    side = len(density) // BINS
    cells = density.unflatten(0, (BINS, side)).unflatten(2, (BINS, side)).mean((1, 3)).flatten()
    cells = cells * (right - left) * (top - bottom) / BINS**2
    expected = torch.cat([cells, (1 - cells.sum()).clamp(min=0)[None]])
    low, size = torch.tensor([left, bottom]), torch.tensor([right - left, top - bottom])
    place = ((samples - low) / size * BINS).floor().long()
    inside = ((place >= 0) & (place < BINS)).all(1)
    index = torch.where(inside, place[:, 1] * BINS + place[:, 0], BINS**2)

    def distance(index: Tensor) -> float:
        found = torch.bincount(index, minlength=BINS**2 + 1) / len(index)
        return 0.5 * (found - expected / expected.sum()).abs().sum().item()

    drawn = torch.multinomial(
        expected, len(samples), replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    return distance(index), distance(drawn)

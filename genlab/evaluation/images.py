"""The numbers of an image model, each beside what it was measured with.

Shapes: N images; Z numbers of a code; C, H, W of an image; D of the feature network.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from genlab.data.images.arrays import normalize
from genlab.evaluation.base import (
    Measured,
    Progress,
    Results,
    Settings,
    not_measured_over,
)
from genlab.evaluation.passes import decode_in_batches, reconstruct_split
from genlab.losses.code import pearson
from genlab.metrics.features import FeatureNetwork, classifier
from genlab.metrics.frechet import Gaussian, Moments, frechet_distance
from genlab.metrics.neighbours import (
    density_coverage,
    kernel_distance,
    nearest,
    precision_recall,
    spread,
)
from genlab.metrics.prd import f_beta, prd_curve
from genlab.metrics.store import load_or_make
from genlab.report.images import save_rows
from genlab.report.plots import save_prd
from genlab.systems.base import (
    Adversarial,
    Decodes,
    Encodes,
    HasSamplers,
    HasStoredCodes,
    Samples,
    num_classes,
    reconstructs,
)

__all__ = ["ImageEvaluation", "Images", "evaluate_images"]

MAX_CLOUD = 10_000  # features a side for the measures that compare all pairs
NUM_SHOWN = 10  # samples that are shown beside their nearest training images,
NUM_NEAREST = 5  # and how many of these each


class Images:
    """Samples compared with the train split over a feature network, and reconstructions.

    Writes neighbours.png (a sample a row, then the training images that are nearest to it) and
    prd.png (the precision-recall curve).
    """

    def fits(self, system: Any) -> bool:
        """Whether `system` draws images."""
        drawn = isinstance(system, Samples) and isinstance(system, Decodes)
        return system.modality == "image" and drawn

    def measure(self, name: str, system: Any, data: Any, settings: Settings) -> Measured:
        """See `evaluate_images`."""
        found = evaluate_images(
            system,
            data,
            settings.features().to(system.device),
            split=settings.split,
            num_samples=settings.num,
            batch_size=settings.batch_size,
            seed=settings.seed,
            temperature=settings.temperature,
            own_data=bool(settings.own_data),
            progress=settings.progress,
        )
        files = {
            "neighbours.png": partial(save_rows, found.neighbours),
            "prd.png": partial(save_prd, *found.prd),
        }
        return Measured(found.results, files)


class ImageEvaluation(NamedTuple):
    """What `evaluate_images` found.

    Attributes:
        results: {metric: {value, split, count, reference, features, features_hash, comparable,
            seed}}.
        prd: (precision, recall) of the curve, each (1001,) in [0, 1].
        neighbours: Images (10, 6, C, H, W): a sample a row, then the training images that are
            nearest to it over the features.
    """

    results: Results
    prd: tuple[Tensor, Tensor]
    neighbours: Tensor


def evaluate_images(
    system: Any,
    data: Any,
    features: FeatureNetwork,
    *,
    split: str = "test",
    num_samples: int = 10_000,
    batch_size: int = 256,
    seed: int = 0,
    temperature: float | None = None,
    own_data: bool = False,
    progress: Progress = lambda description, done, total: None,
) -> ImageEvaluation:
    """Compares samples and the held-out `split` with the train split over `features`, and `split`
    with its reconstructions where the system encodes.

    Args:
        system: Draws images: Samples and Decodes of genlab.systems.base.
        data: Image data, set up.
        features: What images are compared by, on the system's device.
        split: Held-out images: test or val.
        num_samples: How many to draw.
        batch_size: Images at a time.
        seed: Of samples and subsets.
        temperature: Scales the codes of the samples, for a system that takes it; below 1 truncates.
        own_data: Whether the system was trained on `data`, so that the codes that it stored for the
            train split are measured too.
        progress: Is called with (description, done, total).

    Raises:
        ValueError: `split` has fewer than two images.
    """
    system.eval()
    count = len(data.arrays(split))
    if count < 2:
        raise ValueError(
            f"split={split}: {data.name} has {count} images there; choose another split"
        )
    # Of an O-GAN the discriminator is the encoder: its outputs on samples are compared with codes.
    encodes = isinstance(system, Encodes) and isinstance(system, Adversarial)
    # Equally many of both kinds: precision and recall depend on the numbers.
    keep = min(MAX_CLOUD, num_samples, len(data.arrays("train")))
    device = system.device
    real = real_cloud(features, data, "train", keep, seed, batch_size, device, progress)
    most = min(MAX_CLOUD, count)
    held_out = real_cloud(features, data, split, most, seed, batch_size, device, progress)
    samples = Cloud(features, num_samples, keep, seed)
    correlations = []
    scaled = {} if temperature is None else {"temperature": temperature}
    draw = partial(system.prior, num_samples, seed=seed, **scaled)
    codes = draw()  # (N, Z)
    labels = system.labels(num_samples) if num_classes(system) else None
    for part, images in decode_in_batches(system, codes, batch_size, progress):
        samples.add(images)
        if encodes:
            correlations.append(pearson(part, system.outputs(images)))

    entry = {
        "reference": "train",
        "split": None,
        "count": num_samples,
        "seed": seed,
        "features": features.name,
        "features_hash": features.hash,
        "comparable": features.comparable,
    }
    trained, sampled = real.points(), samples.points()  # (keep, D) each
    precision, recall = precision_recall(trained, sampled)
    density, coverage = density_coverage(trained, sampled)
    curve = prd_curve(trained, sampled, seed=seed)
    values = {
        "fid": samples.distance_to(real),
        "kid": kernel_distance(trained, sampled, seed=seed),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "prd_precision": f_beta(*curve, 1 / 8),
        "prd_recall": f_beta(*curve, 8),
        "diversity": spread(sampled) / max(spread(trained), 1e-12),
        # small for copies of training images
        "nearest_train": nearest(sampled, trained).distances.mean().item(),
        # large for a mode that is missing
        "nearest_sample": nearest(trained, sampled).distances.mean().item(),
    }
    if features.head is not None:
        name = "inception_score" if features.comparable else "class_score"
        values[name] = class_score(features.head(sampled.to(device)))
    results = {name: {"value": value, **entry} for name, value in values.items()}
    # What real images score that the model has not seen
    floor = {"value": held_out.distance_to(real), **entry, "split": split, "count": count}
    results["fid_floor"] = floor
    distances = nearest(held_out.points(), trained).distances
    results["nearest_train_floor"] = floor | {"value": distances.mean().item()}
    plain = not_measured_over(seed)
    if correlations:
        value = torch.cat(correlations).double().mean().item()
        results["code_correlation"] = {"value": value, "split": None, "count": num_samples, **plain}
    if reconstructs(system):
        results |= reconstruction(system, data, split, batch_size, plain, progress)
    if isinstance(system, HasStoredCodes):
        if isinstance(system, HasSamplers):
            results |= other_samplers(system, real, entry, draw, batch_size)
        if own_data:
            results |= own_reconstructions(system, data, real, entry, plain, batch_size, progress)

    rows = samples.kept.nonzero()[:NUM_SHOWN, 0]
    given = () if labels is None else (labels[rows.to(labels.device)],)
    images = system.decode(codes[rows.to(codes.device)], *given).cpu()
    kept = real.kept.nonzero()[:, 0]
    beside = kept[nearest(sampled[:NUM_SHOWN], trained, NUM_NEAREST).rows]
    pixels = data.arrays("train").images[beside.flatten()].cpu()
    found = normalize(pixels).unflatten(0, beside.shape)
    return ImageEvaluation(results, curve, torch.cat([images[:, None], found], 1))


def class_score(logits: Tensor, num_splits: int = 10) -> float:
    """exp of the mean KL of p(y|x) from p(y), a mean over splits: the Inception Score where
    `logits` (N, K) are Inception's.

    "Improved Techniques for Training GANs", Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(num_splits):
        marginal = part.exp().mean(0, keepdim=True).log()
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()


# --- features -------------------------------------------------------------------------------------


def real_cloud(
    features: FeatureNetwork,
    data: Any,
    split: str,
    keep: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> "Cloud":
    """The features of a split, computed once for these images and this network and kept under
    $GENLAB_DATA/features.
    """
    cloud = Cloud(features, len(data.arrays(split)), keep, seed)

    def make() -> dict[str, Any]:
        for batch in _batches(data, split, batch_size, f"features of the {split} split", progress):
            cloud.add(batch["image"].to(device))
        mean, covariance = cloud.gaussian()
        return {"points": cloud.points(), "mean": mean, "covariance": covariance}

    key = f"{data.fingerprint()} {split} {features.name} {features.hash} {keep} {seed}"

    def use(content: dict[str, Any]) -> None:
        points = content["points"]
        mean = content["mean"]
        covariance = content["covariance"]
        dim = features.dim
        wanted = ((int(cloud.kept.sum()), dim), (dim,), (dim, dim))
        if (points.shape, mean.shape, covariance.shape) != wanted:
            raise ValueError(f"expected shapes {wanted}")
        cloud.rows = [points]
        cloud.known = (mean, covariance)

    load_or_make(f"real-{data.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt", make, use)
    return cloud


class Cloud:
    """Features of one set of images: the moments of all, and some of them at random as points.

    Args:
        features: The network.
        count: How many images there will be.
        keep: How many of them are kept as points.
        seed: Of that choice.
    """

    def __init__(self, features: FeatureNetwork, count: int, keep: int, seed: int):
        self.features = features
        self.moments = Moments(features.dim)
        self.rows: list[Tensor] = []
        self.seen = 0
        self.known: Gaussian | None = None  # mean and covariance, where they were stored
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.kept = torch.zeros(count, dtype=torch.bool)
        self.kept[order[:keep]] = True

    def add(self, images: Tensor) -> None:
        """Takes in images (N, C, H, W) in [-1, 1]."""
        found = self.features(images).cpu()
        self.moments.update(found)
        self.rows.append(found[self.kept[self.seen : self.seen + len(found)]])
        self.seen += len(found)

    def points(self) -> Tensor:
        """(keep, D)."""
        return torch.cat(self.rows)

    def gaussian(self) -> Gaussian:
        """(mean, covariance) of all."""
        return self.moments.compute() if self.known is None else self.known

    def distance_to(self, other: "Cloud") -> float:
        """The Frechet distance."""
        return frechet_distance(self.gaussian(), other.gaussian()).item()


# --- codes ----------------------------------------------------------------------------------------


def reconstruction(
    system: Any,
    data: Any,
    split: str,
    batch_size: int,
    plain: dict[str, Any],
    progress: Progress,
) -> Results:
    """MSE, SSIM and class agreement of the reconstructions of real images, and of an O-GAN the mean
    and standard deviation of their codes.
    """
    labelled = data.arrays(split).labels is not None
    network = classifier(data).to(system.device) if labelled else None
    sums: dict[str, float] = {}
    count = 0
    for x, again in reconstruct_split(system, data, split, batch_size, progress):
        values: dict[str, Tensor] = {}
        if isinstance(system, Adversarial):
            outputs = system.outputs(x)
            values = {"code_mean": outputs.mean(1), "code_std": outputs.std(1, correction=0)}
        values["reconstruction_mse"] = (x - again).square().mean((1, 2, 3))
        values["reconstruction_ssim"] = structural_similarity_index_measure(
            again, x, data_range=2.0, reduction="none"
        )
        if network is not None:
            before, after = (network.network.logits(images).argmax(1) for images in (x, again))
            values["class_agreement"] = (before == after).double()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.double().sum().item()
        count += len(x)
    results = {
        name: {"value": total / count, "split": split, "count": count, **plain}
        for name, total in sums.items()
    }
    if network is not None:
        results["class_agreement"] |= {
            "features": f"{network.name} ({network.accuracy:.1%} right)",
            "features_hash": network.hash,
            "comparable": False,
        }
    return results


def other_samplers(
    system: Any,
    real: Cloud,
    entry: dict[str, Any],
    draw: Callable[[], Tensor],
    batch_size: int,
) -> Results:
    """The FID of each sampler of the system, as fid_<sampler>."""
    results = {}
    used = system.sampler
    for name in system.samplers:
        system.sampler = name
        cloud = Cloud(real.features, entry["count"], 0, entry["seed"])
        for codes in draw().split(batch_size):
            cloud.add(system.decode(codes))
        results[f"fid_{name}"] = entry | {"value": cloud.distance_to(real)}
    system.sampler = used
    return results


def own_reconstructions(
    system: Any,
    data: Any,
    real: Cloud,
    entry: dict[str, Any],
    plain: dict[str, Any],
    batch_size: int,
    progress: Progress,
) -> Results:
    """FID and error of the training images decoded from the codes stored for them, which no sampler
    is much better than.
    """
    codes = system.stored_codes()
    count = len(data.arrays("train"))
    total = 0.0
    cloud = Cloud(real.features, count, 0, 0)
    description = "reconstructions of the train split"
    batches = _batches(data, "train", batch_size, description, progress)
    for part, batch in zip(codes.split(batch_size), batches, strict=True):
        again = system.decode(part)
        cloud.add(again)
        total += (again.cpu() - batch["image"]).double().square().mean((1, 2, 3)).sum().item()
    own = {"split": "train", "count": count}
    return {
        "fid_reconstructions": entry | own | {"value": cloud.distance_to(real)},
        "train_reconstruction_mse": {"value": total / count, **own, **plain},
    }


def _batches(
    data: Any, split: str, batch_size: int, description: str, progress: Progress
) -> Iterator[dict[str, Tensor]]:
    total = math.ceil(len(data.arrays(split)) / batch_size)
    for done, batch in enumerate(data.loader(split, batch_size), 1):
        yield batch
        progress(description, done, total)

"""Every number about an image model, each beside what it was measured with."""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from genlab.data.images.arrays import normalize
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
from genlab.metrics.store import cached

__all__ = ["Evaluation", "evaluate_images"]

MAX_CLOUD = 10_000  # features a side for the measures that compare all pairs
NUM_SHOWN, NUM_NEAREST = 10, 5  # samples beside their nearest training images
MAX_SEARCHED = 256  # held-out images whose codes are searched for, where there is no encoder
Results = dict[str, dict[str, Any]]
Progress = Callable[[str, int, int], None]


class Evaluation(NamedTuple):
    """results: {metric: {value, split, count, reference, features, features_hash, comparable,
    seed}}.

    prd: (precision, recall), each (1001,). neighbours (10, 6, C, H, W): a sample a row, then the
    training images that lie nearest to it over the features.
    """

    results: Results
    prd: tuple[Tensor, Tensor]
    neighbours: Tensor


def evaluate_images(
    system,
    data,
    features: FeatureNetwork,
    *,
    split: str = "test",
    num_samples: int = 10_000,
    batch_size: int = 256,
    seed: int = 0,
    temperature: float | None = None,
    own_data: bool = False,
    progress: Progress = lambda description, done, total: None,
) -> Evaluation:
    """What can be measured of an image system: samples and the held-out `split` compared with the
    train split over `features`, and the reconstructions of `split` where it encodes. own_data:
    whether it was trained on `data`, so that codes stored for the train split are measured too.
    temperature: of the samples' prior, for a system that takes one; below 1 truncates.
    progress: called with (description, done, total).
    """
    system.eval()
    count = len(data.arrays(split))
    if count < 2:
        raise ValueError(
            f"split={split}: {data.name} has {count} images there; choose another split"
        )
    encodes = hasattr(system, "encode") and hasattr(
        system, "outputs"
    )  # O-GAN: the discriminator is the encoder
    keep = min(
        MAX_CLOUD, num_samples, len(data.arrays("train"))
    )  # equally many, or precision and recall lean
    real = real_cloud(features, data, "train", keep, seed, batch_size, system.device, progress)
    held_out = real_cloud(
        features, data, split, min(MAX_CLOUD, count), seed, batch_size, system.device, progress
    )
    samples, correlations = Cloud(features, num_samples, keep, seed), []
    spread_by = {} if temperature is None else {"temperature": temperature}
    draw = partial(system.prior, num_samples, seed=seed, **spread_by)
    z = draw()
    labels = system.labels(num_samples) if getattr(system, "num_classes", 0) else None
    for done, part in enumerate(z.split(batch_size), 1):
        given = () if labels is None else (labels[(done - 1) * batch_size :][: len(part)],)
        images = system.decode(part, *given)
        samples.add(images)
        if encodes:
            correlations.append(pearson(part, system.outputs(images)))
        progress("samples", min(done * batch_size, num_samples), num_samples)

    entry = {"reference": "train", "split": None, "count": num_samples, "seed": seed}
    entry |= {
        "features": features.name,
        "features_hash": features.hash,
        "comparable": features.comparable,
    }
    trained, sampled = real.points(), samples.points()
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
        "nearest_train": nearest(sampled, trained).distances.mean().item(),  # small for copies
        "nearest_sample": nearest(trained, sampled)
        .distances.mean()
        .item(),  # large for a mode that is missing
    }
    if features.head is not None:
        values["inception_score" if features.comparable else "class_score"] = class_score(
            features.head(sampled.to(system.device))
        )
    results = {name: {"value": value, **entry} for name, value in values.items()}
    floor = {"value": held_out.distance_to(real), **entry, "split": split, "count": count}
    results["fid_floor"] = floor  # what real images that the model has not seen score
    results["nearest_train_floor"] = floor | {
        "value": nearest(held_out.points(), trained).distances.mean().item()
    }
    plain = dict.fromkeys(("reference", "features", "features_hash", "comparable")) | {"seed": seed}
    if correlations:
        correlation = torch.cat(correlations).double().mean().item()
        results["code_correlation"] = {
            "value": correlation,
            "split": None,
            "count": num_samples,
            **plain,
        }
    if hasattr(system, "encode"):
        results |= reconstruction(system, data, split, batch_size, plain, progress)
    if hasattr(system, "stored_codes"):
        results |= stages(system, data, real, entry, draw, plain, batch_size, own_data, progress)
    rows = samples.kept.nonzero()[:NUM_SHOWN, 0]
    images = system.decode(
        z[rows.to(z.device)], *(() if labels is None else (labels[rows.to(labels.device)],))
    ).cpu()
    beside = real.kept.nonzero()[:, 0][nearest(sampled[:NUM_SHOWN], trained, NUM_NEAREST).rows]
    found = normalize(data.arrays("train").images[beside.flatten()].cpu()).unflatten(
        0, beside.shape
    )
    return Evaluation(results, curve, torch.cat([images[:, None], found], 1))


def class_score(logits: Tensor, num_splits: int = 10) -> float:
    """exp of the mean KL of p(y|x) from p(y), a mean over splits: the Inception Score where logits
    (N, K) are Inception's.

    "Improved Techniques for Training GANs", Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(num_splits):
        marginal = part.exp().mean(0, keepdim=True).log()
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()


def real_cloud(
    features: FeatureNetwork,
    data,
    split: str,
    keep: int,
    seed: int,
    batch_size: int,
    device,
    progress: Progress,
) -> "Cloud":
    """The features of a split, taken once for these images and this network and kept in
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
        points, mean, covariance = content["points"], content["mean"], content["covariance"]
        wanted = (
            (int(cloud.kept.sum()), features.dim),
            (features.dim,),
            (features.dim, features.dim),
        )
        if (points.shape, mean.shape, covariance.shape) != wanted:
            raise ValueError(f"expected shapes {wanted}")
        cloud.rows, cloud.known = [points], (mean, covariance)

    cached(f"real-{data.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt", make, use)
    return cloud


class Cloud:
    """Features of one set of `count` images: the moments of all, and `keep` of them at random as
    points.
    """

    def __init__(self, features: FeatureNetwork, count: int, keep: int, seed: int):
        self.features, self.moments, self.rows, self.seen = features, Moments(features.dim), [], 0
        self.known: Gaussian | None = None  # mean and covariance, where they were kept
        self.kept = torch.zeros(count, dtype=torch.bool)
        self.kept[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:keep]] = (
            True
        )

    def add(self, images: Tensor) -> None:
        found = self.features(images).cpu()
        self.moments.update(found)
        self.rows.append(found[self.kept[self.seen : self.seen + len(found)]])
        self.seen += len(found)

    def points(self) -> Tensor:
        return torch.cat(self.rows)

    def gaussian(self) -> Gaussian:
        return self.moments.compute() if self.known is None else self.known

    def distance_to(self, other: "Cloud") -> float:
        return frechet_distance(self.gaussian(), other.gaussian()).item()


def reconstruction(
    system, data, split: str, batch_size: int, plain: dict[str, Any], progress: Progress
) -> Results:
    """The code's mean and std on real images; MSE, SSIM and class agreement of their
    reconstructions.
    """
    labelled, limit = (
        data.arrays(split).labels is not None,
        MAX_SEARCHED if hasattr(system, "stored_codes") else None,
    )
    network = classifier(data).to(system.device) if labelled else None
    sums: dict[str, float] = {}
    count = 0
    for batch in _batches(
        data, split, batch_size, f"reconstructions of the {split} split", progress
    ):
        x = batch["image"].to(system.device)[: None if limit is None else limit - count]
        if not len(x):
            break
        labels = {"labels": batch["label"]} if getattr(system, "num_classes", 0) else {}
        again, values = system.reconstruct(x, **labels), {}
        if hasattr(system, "outputs"):
            outputs = system.outputs(x)
            values = {"code_mean": outputs.mean(1), "code_std": outputs.std(1, correction=0)}
        values |= {
            "reconstruction_mse": (x - again).square().mean((1, 2, 3)),
            "reconstruction_ssim": structural_similarity_index_measure(
                again, x, data_range=2.0, reduction="none"
            ),
        }
        if network is not None:
            same = [network.network.logits(images).argmax(1) for images in (x, again)]
            values["class_agreement"] = (same[0] == same[1]).double()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.double().sum().item()
        count += len(x)
    results = {
        name: {"value": total / count, "split": split, "count": count, **plain}
        for name, total in sums.items()
    }
    if network is not None:
        used = {
            "features": f"{network.name} ({network.accuracy:.1%} right)",
            "features_hash": network.hash,
        }
        results["class_agreement"] |= used | {"comparable": False}
    return results


def stages(
    system,
    data,
    real: Cloud,
    entry,
    draw,
    plain,
    batch_size: int,
    own_data: bool,
    progress: Progress,
) -> Results:
    """What each stage of a model with stored codes comes to: the FID of its other samplers and, of
    the images that it was trained on, the FID and the error of their reconstructions from their own
    codes, which no sampler can go below by much.
    """
    results, used = {}, system.sampler
    for name in system.samplers:
        system.sampler = name
        cloud = Cloud(real.features, entry["count"], 0, entry["seed"])
        for z in draw().split(batch_size):
            cloud.add(system.decode(z))
        results[f"fid_{name}"] = entry | {"value": cloud.distance_to(real)}
    system.sampler = used
    if own_data:
        codes, count, total = system.stored_codes(), len(data.arrays("train")), 0.0
        cloud = Cloud(real.features, count, 0, 0)
        batches = _batches(
            data, "train", batch_size, "reconstructions of the train split", progress
        )
        for z, batch in zip(codes.split(batch_size), batches, strict=True):
            again = system.decode(z)
            cloud.add(again)
            total += (again.cpu() - batch["image"]).double().square().mean((1, 2, 3)).sum().item()
        own = {"split": "train", "count": count}
        results["fid_reconstructions"] = entry | own | {"value": cloud.distance_to(real)}
        results["train_reconstruction_mse"] = {"value": total / count, **own, **plain}
    return results


def _batches(
    data, split: str, batch_size: int, description: str, progress: Progress
) -> Iterator[dict[str, Tensor]]:
    total = math.ceil(len(data.arrays(split)) / batch_size)
    for done, batch in enumerate(data.loader(split, batch_size), 1):
        yield batch
        progress(description, done, total)

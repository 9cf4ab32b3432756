"""explorer.html: a page that decodes codes in the browser.

Codes are moved by sliders, on the way between two codes, and by the picture that a user drops.

Shapes: N images or codes; codes (N, Z); images (N, C, H, W) in [-1, 1]; K directions (K, Z).
"""

import base64
import math
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from genlab import runs
from genlab.export.images import Verb, graphs
from genlab.export.program import program
from genlab.report.html import page
from genlab.systems.base import (
    Encodes,
    HasClassNames,
    HasCodeScale,
    HasPriorName,
    HasStoredCodes,
    num_classes,
)
from genlab.systems.latent.codes import principal_directions

__all__ = ["MAX_BYTES", "explore", "first_line", "known_of_data", "write_explorer"]

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
MAX_PAGE_BYTES = 200_000_000  # of a page that is read
MAX_BYTES = 32_000_000  # of float16 weights in a page that a run writes by itself
NUM_DIRECTIONS = 10
NUM_IMAGES = 1000  # training images whose codes give the directions
NUM_SHOWN = 12  # held-out pictures
NUM_DRAWN = 200  # codes of a prior that has no formula
# Of the measured derivative of a generator
NUM_CODES = 256  # of the prior, for its deviation
NUM_BASES = 4  # of these, at which the derivative is measured
STEP = 0.1


def explore(run_dir: Path, data, allow=()) -> str | None:
    """Writes <run_dir>/explorer.html with the averaged weights.

    Args:
        run_dir: A run whose training is done.
        data: The run's data module, set up. Training images give the directions of an encoder's
            codes, held-out ones are shown.
        allow: Packages that the run's config may name.

    Returns:
        None, or in one line why there is no page.
    """
    (run_dir / "explorer.html").unlink(missing_ok=True)
    try:
        system = runs.load(run_dir, allow=allow)
        held_out = data.pick("val", NUM_SHOWN)
        shape = (data.channels, data.image_size, data.image_size)
        images = data.pick("train", NUM_IMAGES)["image"]
        write_explorer(system, run_dir, run_dir, shape, images, held_out, MAX_BYTES)
    except Exception as error:  # training is done, and a page must not make the run fail
        return first_line(error)
    return None


class HeldOut(BaseModel):
    """The held-out pictures of a page."""

    pixels: Base64
    codes: Base64
    labels: list[int] | None


class Known(BaseModel):
    """The parts of a page that need the data."""

    mean: Base64
    directions: Base64
    deviations: list[float]
    shares: list[float]
    about: Annotated[str, Field(max_length=100)]
    held_out: HeldOut | None


def known_of_data(path: Path, system) -> dict[str, Any] | None:
    """The directions and held-out pictures in a run's page, as plain data.

    Nothing else of the page is used, because it may come from somebody else.

    Args:
        path: The page.
        system: The run's model, whose codes they must fit.

    Returns:
        The content of `Known`, or None where the page is missing or holds something else.
    """
    if not path.is_file() or path.stat().st_size > MAX_PAGE_BYTES:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    content = text.partition('id="data">')[2].partition("</script>")[0]
    try:
        known = Known.model_validate_json(content)
        len_mean = len(base64.b64decode(known.mean)) // 2  # float16 has two bytes
        len_directions = len(base64.b64decode(known.directions)) // 2
    except ValueError:
        return None
    count = len(known.shares)
    lengths = (len_mean, len_directions, len(known.deviations))
    fits = lengths == (system.latent_dim, count * system.latent_dim, count)
    return known.model_dump() if fits else None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def write_explorer(
    system,
    run_dir: Path,
    folder: Path,
    shape: tuple[int, int, int],
    images: Tensor | None = None,
    held_out: dict[str, Tensor] | None = None,
    max_bytes: int | None = None,
    known: dict[str, Any] | None = None,
) -> Path:
    """Writes <folder>/explorer.html; returns its path.

    Args:
        system: The model of `run_dir`.
        run_dir: The run, whose manifest gives the title.
        folder: Where the page goes.
        shape: (C, H, W).
        images: Training images (N, C, H, W) for the directions.
        held_out: {"image": (N, C, H, W), "label": (N,) where there are labels} to start from.
        max_bytes: The most that the weights may take in float16; None: any size.
        known: What `known_of_data` found, in place of `images` and `held_out`.

    Raises:
        ValueError: The model does not decode in one pass, the page lacks one of its operations, or
            its weights are larger than `max_bytes`.
    """
    verbs = graphs(system, shape)
    if "decode" not in verbs:
        raise ValueError(f"{type(system).__name__} does not decode in one pass of tensors")
    if system.latent_dim == math.prod(shape):
        verbs.pop("encode", None)  # a flow would only return the dropped picture itself
    size = sum(2 * value.numel() for verb in verbs.values() for value in verb.network.parameters())
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"the weights take {size / 1e6:.0f} MB in float16, more than {max_bytes / 1e6:.0f}; "
            "write the page with `genlab export run=<dir> out=<dir> format=explorer`"
        )
    encodes = isinstance(system, Encodes) and not isinstance(system, HasStoredCodes)
    scale = system.code_scale if isinstance(system, HasCodeScale) else 1.0
    content: dict[str, Any] = known or directions(
        system, verbs["decode"], images if encodes else None, scale
    )
    content |= {
        "shape": list(shape),
        "num_classes": num_classes(system),
        "code_scale": scale,
        "classes": system.classes if isinstance(system, HasClassNames) else None,
        "prior": system.prior_name if isinstance(system, HasPriorName) else "normal",
        "drawn": None,
        "held_out": content.get("held_out"),
    }
    if isinstance(system, HasStoredCodes):
        # Its prior has no formula, so the page chooses among codes drawn here.
        content |= {"prior": None, "drawn": halves(system.prior(NUM_DRAWN, seed=0))}
    if held_out is not None and len(held_out["image"]) and encodes:
        content["held_out"] = _shown(system, held_out, scale)
    content |= {"encode": None} | {verb: program(module) for verb, module in verbs.items()}
    manifest = runs.Manifest.read(run_dir).content
    text = page("explorer.html.j2", manifest=manifest, content=content, linked=folder == run_dir)
    return runs.write_text(folder / "explorer.html", text)


def _shown(system, held_out: dict[str, Tensor], scale: float) -> dict[str, Any]:
    """The first held-out pictures with their codes, as `HeldOut`."""
    images = held_out["image"][:NUM_SHOWN]
    pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return {
        "pixels": base64.b64encode(pixels.numpy().tobytes()).decode(),
        "labels": held_out["label"][:NUM_SHOWN].tolist() if "label" in held_out else None,
        "codes": halves(scale * system.encode(images)),
    }


def halves(values: Tensor) -> str:
    """Numbers as base64 of little-endian float16."""
    numbers = values.detach().cpu().to(torch.float16).numpy().astype("<f2")
    return base64.b64encode(numbers.tobytes()).decode()


def directions(system, decode: Verb, images: Tensor | None, scale: float) -> dict[str, Any]:
    """The directions of codes that the sliders move along, the most important ones first.

    With codes of training images, stored or encoded, these are their principal components. Without,
    they are the directions in which pictures change most (see `measured_directions`).

    Args:
        system: The model.
        decode: Its decoder.
        images: Training images (N, C, H, W) to encode; None where the system has no encoder.
        scale: Factor on the codes of images.

    Returns:
        {"mean", "directions", "deviations", "shares", "about"} of `Known`.
    """
    if isinstance(system, HasStoredCodes):
        codes = system.stored_codes()
        about = "the codes of the training images"
    elif images is not None:
        codes = torch.cat([scale * system.encode(batch) for batch in images.split(100)])
        about = f"the codes of {len(images):,} training images"
    else:
        codes = system.prior(NUM_CODES, seed=0)
        mean = torch.zeros_like(codes[0])
        return measured_directions(decode, codes) | {"mean": halves(mean)}
    codes = codes.double()
    values, vectors = principal_directions(codes, min(NUM_DIRECTIONS, *codes.shape))
    variances = values.square() / max(1, len(codes) - 1)
    return {
        "mean": halves(codes.mean(0)),
        "deviations": variances.sqrt().tolist(),
        "shares": (variances / codes.var(0).sum()).tolist(),
        "directions": halves(with_sign(vectors.T)),
        "about": f"the principal directions of {about}",
    }


def measured_directions(decode: Verb, codes: Tensor) -> dict[str, Any]:
    """The directions in which pictures change most where the prior lies.

    These are the eigenvectors of E[J'J], where J is the generator's derivative at a code of the
    prior, measured by finite differences.

    Args:
        decode: The decoder.
        codes: Codes (N, Z) of the prior.

    Returns:
        {"directions", "deviations", "shares", "about"} of `Known`.
    """

    def labels(num: int, label: int) -> list[Tensor]:
        return [torch.full((num,), label % decode.num_classes)] if decode.num_classes else []

    dim = codes.shape[1]
    gram = 0.0
    with torch.no_grad():
        for i, base in enumerate(codes[:NUM_BASES]):
            moved = torch.cat([base[None], base + STEP * torch.eye(dim)])  # (1 + Z, Z)
            batches = [decode(batch, *labels(len(batch), i)) for batch in moved.split(32)]
            pictures = torch.cat(batches).flatten(1).double()  # (1 + Z, C H W)
            change = (pictures[1:] - pictures[:1]) / STEP
            gram = gram + change @ change.T  # (Z, Z)
    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp_min(0)
    vectors = vectors.flip(1)
    count = min(NUM_DIRECTIONS, dim)
    return {
        "deviations": [codes.std().item()] * count,
        "shares": (values[:count] / values.sum()).tolist(),
        "directions": halves(with_sign(vectors[:, :count].T)),
        "about": "the directions in which pictures change most where the prior lies",
    }


def with_sign(vectors: Tensor) -> Tensor:
    """Each row of (K, Z) with the sign that makes its largest number positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * largest.sign()

"""explorer.html: a page that decodes codes in the browser, by sliders, between two codes, and from
a dropped picture.
"""

import base64
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from genlab import runs
from genlab.export.images import Verb, graphs
from genlab.export.program import program
from genlab.report.html import page
from genlab.systems.latent.codes import principal_directions

__all__ = ["MAX_BYTES", "explore", "first_line", "known_of_data", "write_explorer"]

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
MAX_PAGE_BYTES = 200_000_000
MAX_BYTES = 32_000_000  # of float16 weights in a page that nobody asked for
NUM_DIRECTIONS, NUM_IMAGES, NUM_SHOWN, NUM_DRAWN = 10, 1000, 12, 200
NUM_BASES, STEP = 4, 0.1  # of the measured derivative


def explore(run_dir: Path, data, allow=()) -> str | None:
    """Writes <run_dir>/explorer.html of the averaged weights and returns None, or, in a line, why
    it cannot be.

    data: of the run, set up; its training images give the directions of an encoder's codes,
    held-out ones are shown.
    """
    (run_dir / "explorer.html").unlink(missing_ok=True)
    try:
        system, held_out = runs.load(run_dir, allow=allow), data.pick("val", NUM_SHOWN)
        shape = (data.channels, data.image_size, data.image_size)
        write_explorer(
            system,
            run_dir,
            run_dir,
            shape,
            data.pick("train", NUM_IMAGES)["image"],
            held_out,
            MAX_BYTES,
        )
    except Exception as error:  # the training is done, and a page must not make it fail
        return first_line(error)
    return None


class HeldOut(BaseModel):
    """The held-out pictures of a page."""

    pixels: Base64
    codes: Base64
    labels: list[int] | None


class Known(BaseModel):
    """What a page holds that only the data tell."""

    mean: Base64
    directions: Base64
    deviations: list[float]
    shares: list[float]
    about: Annotated[str, Field(max_length=100)]
    held_out: HeldOut | None


def known_of_data(path: Path, system) -> dict[str, Any] | None:
    """The directions and held-out pictures in the run's page `path`, as plain data; None where it
    holds no such.

    The page may be somebody else's, so nothing else of it is taken over.
    """
    if not path.is_file() or path.stat().st_size > MAX_PAGE_BYTES:
        return None
    text = (
        path.read_text(encoding="utf-8", errors="replace")
        .partition('id="data">')[2]
        .partition("</script>")[0]
    )
    try:
        known = Known.model_validate_json(text)
        mean, directions = (
            len(base64.b64decode(part)) // 2 for part in (known.mean, known.directions)
        )
    except ValueError:
        return None
    count = len(known.shares)
    fits = (mean, directions, len(known.deviations)) == (
        system.latent_dim,
        count * system.latent_dim,
        count,
    )
    return known.model_dump() if fits else None


def first_line(error: Exception) -> str:
    """The first line of its message, or its kind where it has none."""
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
    """Writes <folder>/explorer.html for `system`, loaded from `run_dir`; returns its path.

    images: (N, C, H, W) of training, for the directions. held_out: {"image": ..., "label": ... if
    any}, shown to start from.
    known: what `known_of_data` found, in place of both. ValueError where the model cannot decode in
    one pass, an operation is not known to the page, or its weights are larger than max_bytes.
    """
    verbs = graphs(system, shape)
    if "decode" not in verbs:
        raise ValueError(f"{type(system).__name__} cannot decode in one pass of tensors")
    if not hasattr(system, "discriminator"):
        verbs.pop("encode", None)  # a flow gives the very picture back
    size = sum(2 * value.numel() for verb in verbs.values() for value in verb.network.parameters())
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"its weights are {size / 1e6:.0f} MB in float16, over {max_bytes / 1e6:.0f}; "
            "`genlab export run=<dir> out=<dir> format=explorer` writes it all the same"
        )
    encodes = hasattr(system, "encode") and not hasattr(system, "stored_codes")
    scale = getattr(system, "code_scale", 1.0)
    content: dict[str, Any] = known or directions(
        system, verbs["decode"], images if encodes else None, scale
    )
    content |= {
        "shape": list(shape),
        "num_classes": getattr(system, "num_classes", 0),
        "code_scale": scale,
    }
    content["classes"] = getattr(system, "classes", None)
    content |= {
        "prior": getattr(system, "prior_name", "normal"),
        "drawn": None,
        "held_out": content.get("held_out"),
    }
    if hasattr(system, "stored_codes"):  # its prior is no formula
        content |= {"prior": None, "drawn": halves(system.prior(NUM_DRAWN, seed=0))}
    if held_out is not None and len(held_out["image"]) and encodes:
        x = held_out["image"][:NUM_SHOWN]
        pixels = x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        labels = held_out["label"][:NUM_SHOWN].tolist() if "label" in held_out else None
        content["held_out"] = {
            "pixels": base64.b64encode(pixels.numpy().tobytes()).decode(),
            "labels": labels,
        }
        content["held_out"]["codes"] = halves(scale * system.encode(x))
    content |= {"encode": None} | {verb: program(module) for verb, module in verbs.items()}
    manifest = runs.Manifest.read(run_dir).content
    text = page("explorer.html.j2", manifest=manifest, content=content, linked=folder == run_dir)
    return runs.write_text(folder / "explorer.html", text)


def halves(values: Tensor) -> str:
    """Numbers as base64 of float16 in little endian."""
    return base64.b64encode(
        values.detach().cpu().to(torch.float16).numpy().astype("<f2").tobytes()
    ).decode()


def directions(system, decode: Verb, images: Tensor | None, scale: float) -> dict[str, Any]:
    """{mean, directions, deviations, shares, about} of the codes that the sliders move along, the
    most telling ones first.

    Of the codes of training images, given or stored, their principal components; else the
    directions along which the pictures change most, the eigenvectors of E[J'J], J being the
    generator's derivative at codes of the prior.
    """
    if hasattr(system, "stored_codes"):
        codes, about = system.stored_codes(), "the codes of the training images"
    elif images is not None:
        codes = torch.cat([scale * system.encode(part) for part in images.split(100)])
        about = f"the codes of {len(images):,} training images"
    else:
        codes = system.prior(256, seed=0)
        return measured(decode, codes) | {"mean": halves(torch.zeros_like(codes[0]))}
    codes = codes.double()
    mean, count = codes.mean(0), min(NUM_DIRECTIONS, *codes.shape)
    values, vectors = principal_directions(codes, count)
    variances = values.square() / max(1, len(codes) - 1)
    found = {"mean": halves(mean), "deviations": variances.sqrt().tolist()}
    found["shares"] = (variances / codes.var(0).sum()).tolist()
    return found | {
        "directions": halves(signed(vectors.T)),
        "about": f"the principal directions of {about}",
    }


def measured(decode: Verb, codes: Tensor) -> dict[str, Any]:
    """The directions along which the pictures of `codes` change most, by finite differences."""

    def given(num: int, label: int) -> list[Tensor]:
        return [torch.full((num,), label % decode.num_classes)] if decode.num_classes else []

    dim, gram = codes.shape[1], 0.0
    with torch.no_grad():
        for i, base in enumerate(codes[:NUM_BASES]):
            moved = torch.cat([base[None], base + STEP * torch.eye(dim)])
            pictures = (
                torch.cat([decode(part, *given(len(part), i)) for part in moved.split(32)])
                .flatten(1)
                .double()
            )
            change = (pictures[1:] - pictures[:1]) / STEP
            gram = gram + change @ change.T
    values, vectors = torch.linalg.eigh(gram)
    count, values, vectors = min(NUM_DIRECTIONS, dim), values.flip(0).clamp_min(0), vectors.flip(1)
    found = {
        "deviations": [codes.std().item()] * count,
        "shares": (values[:count] / values.sum()).tolist(),
    }
    about = "the directions in which pictures change most where the prior lies"
    return found | {"directions": halves(signed(vectors[:, :count].T)), "about": about}


def signed(vectors: Tensor) -> Tensor:
    """Each row (K, D) with that sign that makes its largest number positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * largest.sign()

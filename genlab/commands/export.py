"""`genlab export run=<dir>`: a trained run as files that others can use, with a model card."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab import config, runs
from genlab.commands import options
from genlab.commands.common import load_system, require_run
from genlab.errors import ConfigError
from genlab.export import images
from genlab.export.card import model_card
from genlab.export.explorer import MAX_BYTES, first_line, known_of_data, write_explorer
from genlab.runs.schema import TrainedManifest
from genlab.systems.base import Encodes, Exports, Samples

__all__ = ["run"]

GRAPHS = {"torch_export": ("pt2", images.to_torch_export), "onnx": ("onnx", images.to_onnx)}
ABOUT = {
    "config.json": "the network, for `transformers`",
    "model.safetensors": "weights, float32",
    "vocab.txt": "the vocabulary, a token a line",
    "tokenizer.json": "how texts are split, for `transformers`",
    "tokenizer_config.json": "the tokenizer, for `transformers`",
}
CHATTY = ("onnx_ir", "onnxscript")  # loggers of the ONNX exporter

Shape = tuple[int, int, int]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes the run in format=, or in all formats that the model has, and a model card README.md.

    Prints the size of each file.
    """
    settings = options.read("export", cfg, overrides)
    run_path = require_run(settings, "export")
    # The card needs these two; damage in them is refused before what takes long.
    runs.read_manifest(run_path, TrainedManifest)
    runs.read_results(run_path)
    frozen = config.read_frozen(run_path)
    system = load_system({**settings, "device": "cpu"}, run_path)
    out = Path(settings["out"] or run_dir)
    formats = _formats(system, settings["format"])
    _require_unused(out)
    files: dict[str, str] = {}
    for name in formats:
        if name == "safetensors":
            images.to_safetensors(system, out, frozen)
            files["model.safetensors"] = f"weights ({settings['weights']}), float32"
            files["config.yaml"] = "the config that genlab builds the model from"
        elif name in GRAPHS:
            shape = _image_shape(frozen["data"])
            files |= _write_graphs(name, system, shape, out, must=settings["format"] is not None)
        elif name == "explorer":
            files |= _write_explorer(system, run_path, _image_shape(frozen["data"]), out, settings)
        else:
            files |= {file: ABOUT[file] for file in system.export(str(out), name)}
    use = _how_to_use(system, out, files)
    card = model_card(run_path, system, files, settings["licence"], use)
    runs.write_text(out / "README.md", card)
    sizes = {name: (out / name).stat().st_size for name in (*files, "README.md")}
    for name, size in sizes.items():
        print(f"{size / 1e6:9.3f} MB  {out / name}")
    print(f"{sum(sizes.values()) / 1e6:9.3f} MB  in all")


def _formats(system, wanted: str | None) -> list[str]:
    """The formats to write: format=, or else all of an image model and the first of a text model.

    Raises:
        ConfigError: If this model cannot be written in format=.
    """
    known = ["safetensors"]
    if isinstance(system, Exports):
        known = [*system.formats, *known]
    if system.modality == "image":
        known += [*GRAPHS, "explorer"]
    if wanted is None:
        return known[:1] if system.modality == "text" else known
    if wanted not in known:
        hint = config.closest(str(wanted), known)
        raise ConfigError(f"format={wanted}: expected {' or '.join(known)}.{hint}")
    return [wanted]


def _require_unused(out: Path) -> None:
    """ConfigError if `out` is a file or holds a model or a run."""
    taken = [name for name in ("config.json", "config.yaml", "README.md") if (out / name).exists()]
    if out.is_file():
        raise ConfigError(f"out={out}: is a file; name a new directory")
    if taken:
        raise ConfigError(f"out={out}: has a {taken[0]} already; name a new directory")


def _image_shape(data: Mapping[str, Any] | None) -> Shape:
    """(C, H, W) of a config's images."""
    if "image_size" not in (data or {}):
        raise ConfigError("data: the run's config has no image_size, which this format needs")
    return data["channels"], data["image_size"], data["image_size"]


def _write_explorer(
    system, run_path: Path, shape: Shape, out: Path, settings: Mapping[str, Any]
) -> dict[str, str]:
    """Writes explorer.html; returns {file: description}.

    The page in the run directory is of the last, averaged weights; for these, its pictures and
    directions are used again.
    """
    must = settings["format"] is not None
    same_weights = (settings["ckpt"], settings["weights"]) == ("last", "ema")
    try:
        known = known_of_data(run_path / "explorer.html", system) if same_weights else None
        limit = None if must else MAX_BYTES
        write_explorer(system, run_path, out, shape, max_bytes=limit, known=known)
    except OSError:
        raise
    except Exception as error:
        _leave_out(f"format=explorer: {first_line(error)}", must)
        return {}
    return {"explorer.html": "a page that decodes in the browser: open it"}


def _write_graphs(name: str, system, shape: Shape, out: Path, must: bool) -> dict[str, str]:
    """Writes a graph of each method that has one; returns {file: description}.

    Args:
        name: A format of GRAPHS.
        system: The loaded system.
        shape: (C, H, W) of its images.
        out: The directory.
        must: Whether the user asked for this format, so that a failure is an error and not a line.
    """
    suffix, write = GRAPHS[name]
    for logger in CHATTY:
        logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        verbs = images.graphs(system, shape)
    except ValueError as error:
        _leave_out(f"format={name}: {error}", must)
        return {}
    files: dict[str, str] = {}
    failed: dict[str, list[str]] = {}  # reason -> methods
    for verb, module in verbs.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporters warn about themselves
                write(module, out / f"{verb}.{suffix}")
        except OSError:
            raise
        except Exception as error:
            # Exporters fail in many ways, and the other graph may still be written.
            failed.setdefault(first_line(error), []).append(verb)
        else:
            codes = f"codes (N, {system.latent_dim})"
            pictures = f"images (N, {', '.join(map(str, shape))}) in [-1, 1]"
            labels = ", labels (N,) int64" if module.num_classes else ""
            decodes = f"{codes}{labels} -> {pictures}"
            about = decodes if verb == "decode" else f"{pictures} -> {codes}"
            files[f"{verb}.{suffix}"] = f"{about}, {name.replace('_', '.')}"
    for reason, names in failed.items():
        _leave_out(f"format={name}: {reason} ({', '.join(names)})", must)
    return files


def _leave_out(line: str, must: bool) -> None:
    """Prints what is not written, and why; ValueError where the user asked for it."""
    if must:
        raise ValueError(line)
    print(f"left out: {line}")


def _how_to_use(system, out: Path, files: Mapping[str, str]) -> list[str]:
    """Lines of Python for the card."""
    if "config.json" in files:
        name = json.loads((out / "config.json").read_text())["architectures"][0]
        return [
            f"from transformers import AutoTokenizer, {name}",
            "",
            f'model = {name}.from_pretrained(".")',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
        ]
    if "config.yaml" not in files:
        return []
    lines = ["import genlab", "", 'model = genlab.load(".")  # the directory of these files']
    if system.modality == "text":
        return [*lines, "# `genlab sample run=.` and the other commands take it, too"]
    inputs = f"{system.modality}s"
    if isinstance(system, Samples):
        lines.append(f"{inputs} = model.sample(16, seed=0)")
    if isinstance(system, Encodes):
        lines.append(f"codes = model.encode({inputs})")
    return lines

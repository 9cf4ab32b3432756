"""`genlab export run=<dir> out=<dir>`: a trained run as files that others can use, with a model
card.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from genlab import config, runs
from genlab.commands import options
from genlab.commands.eval import require_run
from genlab.export import images
from genlab.export.card import model_card
from genlab.export.explorer import MAX_BYTES, first_line, known_of_data, write_explorer
from genlab.runs.schema import TrainedManifest

__all__ = ["run"]

GRAPHS = {"torch_export": ("pt2", images.to_torch_export), "onnx": ("onnx", images.to_onnx)}


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes what `format` says, all that the model can be written as if null, and README.md;
    prints each file's size.
    """
    settings = options.read("export", cfg, overrides)
    run_path = require_run(settings, "export")
    runs.read_manifest(run_path, TrainedManifest)  # before what takes long: the card tells of it
    runs.read_results(run_path)
    frozen = config.read_frozen(run_path)
    system = runs.load(run_path, settings["ckpt"], settings["weights"], "cpu", settings["allow"])
    wanted = settings["format"]
    known = [*system.formats, "safetensors"] if system.modality == "text" else ["safetensors"]
    known += [*GRAPHS, "explorer"] if system.modality == "image" else []
    if wanted is not None and wanted not in known:
        raise config.ConfigError(
            f"format={wanted}: expected {' or '.join(known)}.{config.closest(str(wanted), known)}"
        )
    out = Path(settings["out"] or run_dir)
    if out.is_file() or any(
        (out / name).exists() for name in ("config.json", "config.yaml", "README.md")
    ):
        raise config.ConfigError(
            f"out={out}: there is a file, a model or a run there already; name another directory"
        )

    if wanted is None:
        formats = known[:1] if system.modality == "text" else known
    else:
        formats = [wanted]
    files: dict[str, str] = {}
    for name in formats:
        if name == "safetensors":
            images.to_safetensors(system, out, frozen)
            files["model.safetensors"] = f"weights ({settings['weights']}), float32"
            files["config.yaml"] = "what genlab builds the model from"
        elif name in GRAPHS:
            files |= write_graphs(
                name, system, shape_of(frozen["data"]), out, must=wanted is not None
            )
        elif name == "explorer":
            trained = (settings["ckpt"], settings["weights"]) == (
                "last",
                "ema",
            )  # as the page in the run is
            files |= explorer_page(
                system, run_path, shape_of(frozen["data"]), out, trained, must=wanted is not None
            )
        else:
            files |= {file: ABOUT[file] for file in system.export(str(out), name)}
    card = model_card(run_path, system, files, settings["licence"], how_to_use(system, out, files))
    runs.write_text(out / "README.md", card)
    sizes = {name: (out / name).stat().st_size for name in (*files, "README.md")}
    for name, size in sizes.items():
        print(f"{size / 1e6:9.3f} MB  {out / name}")
    print(f"{sum(sizes.values()) / 1e6:9.3f} MB  in all")


ABOUT = {
    "config.json": "the network, for `transformers`",
    "model.safetensors": "weights, float32",
    "vocab.txt": "the vocabulary, a token a line",
    "tokenizer.json": "how texts are split, for `transformers`",
    "tokenizer_config.json": "the tokenizer, for `transformers`",
}


def shape_of(data: dict[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of a config's images."""
    if "image_size" not in (data or {}):
        raise config.ConfigError(
            "data: the run's config has no images, whose size the model is exported for"
        )
    return data["channels"], data["image_size"], data["image_size"]


def explorer_page(
    system, run_path: Path, shape: tuple[int, int, int], out: Path, same: bool, must: bool
) -> dict[str, str]:
    """explorer.html, made anew; what the run's own page knows of the data is taken if it is of the
    `same` weights.
    """
    try:
        known = known_of_data(run_path / "explorer.html", system) if same else None
        write_explorer(
            system, run_path, out, shape, max_bytes=None if must else MAX_BYTES, known=known
        )
    except OSError:
        raise
    except Exception as error:
        leave_out(f"format=explorer: {first_line(error)}", must)
        return {}
    return {"explorer.html": "a page that decodes in the browser: open it"}


def leave_out(line: str, must: bool) -> None:
    """Says what is not written, and why; a ValueError if it must be."""
    if must:
        raise ValueError(line)
    print(f"left out: {line}")


def write_graphs(
    name: str, system, shape: tuple[int, int, int], out: Path, must: bool
) -> dict[str, str]:
    """{file: what it is} of each verb's graph in the format `name`; one that cannot be is said in a
    line, or, if it must be, is a ValueError.
    """
    suffix, write = GRAPHS[name]
    for chatty in ("onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    files: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    try:
        verbs = images.graphs(system, shape)
    except ValueError as error:
        verbs, errors[str(error)] = {}, []
    for verb, module in verbs.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporters, about themselves
                write(module, out / f"{verb}.{suffix}")
        except OSError:
            raise
        except Exception as error:  # exporters fail in many ways, and one graph that cannot be must not cost the others
            errors.setdefault(first_line(error), []).append(verb)
        else:
            codes, pictures = (
                f"codes (N, {system.latent_dim})",
                f"images (N, {', '.join(map(str, shape))}) in [-1, 1]",
            )
            given = f"{codes}{', labels (N,) int64' if module.num_classes else ''}"
            about = f"{given} -> {pictures}" if verb == "decode" else f"{pictures} -> {codes}"
            files[f"{verb}.{suffix}"] = f"{about}, {name.replace('_', '.')}"
    for error, of in errors.items():
        leave_out(f"format={name}: {error}{' (' + ', '.join(of) + ')' if of else ''}", must)
    return files


def how_to_use(system, out: Path, files: dict[str, str]) -> list[str]:
    """Lines of Python for the card."""
    if "config.json" in files:
        made = json.loads((out / "config.json").read_text())["architectures"][0]
        return [
            f"from transformers import AutoTokenizer, {made}",
            "",
            f'model, tokenizer = {made}.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
        ]
    if "config.yaml" not in files:
        return []
    lines = ["import genlab", "", 'model = genlab.load(".")  # the directory of these files']
    if system.modality == "text":
        return [*lines, "# `genlab sample run=.` and the other commands take it, too"]
    kind = f"{system.modality}s"
    if hasattr(system, "sample"):
        lines.append(f"{kind} = model.sample(16, seed=0)")
    if hasattr(system, "encode"):
        lines.append(f"codes = model.encode({kind})")
    return lines

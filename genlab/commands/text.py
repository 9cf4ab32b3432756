"""What sample, encode and eval do for a model of texts."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from genlab import config, runs
from genlab.commands import options
from genlab.console import console
from genlab.data.text.formats import check, format_of, json_rows, text_of
from genlab.data.text.records import Example, a_text
from genlab.systems.text.writing import Decoding
from genlab.tensors import save_arrays

__all__ = ["decoding_of", "encode_texts", "refuse", "sample_texts"]

FOR_IMAGES = {"sample": ("mode", "num", "scale", "steps", "label", "standing", "temperature", "sampler", "data"),
              "encode": ("method", "label", "seed", "tolerance", "log_prob"),
              "eval": ("standing", "batch_size", "features", "sampler", "scale", "ood")}  # fmt: skip
FOR_TEXTS = {"sample": ("source", "question", "passages", "decoding", "prompt"), "encode": ("pooling", "whiten", "field"),
             "eval": ("decoding", "measure")}  # fmt: skip
CONDITIONAL = {
    "sample": ("mode", "num", "steps", "label", "prompt", "data"),
    "encode": ("field",),
    "eval": (),
}  # of texts, theirs alone
PLAIN = {
    "sample": ("question", "passages"),
    "encode": ("pooling", "whiten"),
    "eval": ("measure",),
}  # of texts, not theirs
SHOWN = 20  # rows of a table


def refuse(command: str, system, overrides: Sequence[str]) -> None:
    """ConfigError for a setting on the command line that means nothing to this kind of model."""
    text, conditional = getattr(system, "modality", "image") == "text", hasattr(system, "condition")
    for key in sorted(options.given(overrides)):
        if conditional and key in CONDITIONAL[command]:
            continue
        if (
            text
            and key in (PLAIN if conditional else CONDITIONAL)[command]
            and key not in FOR_IMAGES[command]
        ):
            which = "with" if conditional else "without"
            raise config.ConfigError(
                f"{key}: has no meaning for a model of texts {which} a condition, as this run's is"
            )
        if key in (FOR_IMAGES if text else FOR_TEXTS)[command]:
            kinds = ("images", "texts") if text else ("texts", "images")
            raise config.ConfigError(
                f"{key}: is for models of {kinds[0]}, and this run's model is of {kinds[1]}"
            )


def decoding_of(settings: dict[str, Any]) -> Decoding:
    """The Decoding of `decoding.*`; ValueError for a name or value that it does not take."""
    return Decoding(
        **{
            name: value
            for name, value in (settings.get("decoding") or {}).items()
            if value is not None
        }
    )


# --- sample ---------------------------------------------------------------------------------------


def sample_texts(system, settings: dict[str, Any], run_dir: Path) -> None:
    """Writes <out> (JSON lines: id, question or source, texts, scores) and prints a table."""
    examples = asked(settings)
    decoding = decoding_of(settings)
    made = system.generate(examples, decoding, seed=settings["seed"])
    out = Path(settings["out"] or run_dir / "texts.jsonl")
    if out.suffix != ".jsonl":
        raise config.ConfigError(f"out={out}: expected a name that ends in .jsonl")
    rows = []
    for example, one in zip(examples, made, strict=True):
        given = (
            {"source": example.sources[0]}
            if example.question is None
            else {"question": example.question}
        )
        rows.append(
            {
                "id": example.id,
                **given,
                "texts": one.texts,
                "scores": [round(score, 4) for score in one.scores],
            }
        )
    write_rows(out, rows)
    table = Table(box=None, pad_edge=False)
    for name in ("question" if examples[0].question is not None else "source", "text", "score"):
        table.add_column(name)
    for row in rows[:SHOWN]:
        for text, score in zip(row["texts"], row["scores"], strict=True):
            given = row.get("question") or row["source"]
            table.add_row(shortened(given), text or "(no answer)", f"{score:.3g}")
    console(sys.stdout).print(table)
    print(
        f"texts    {out}  {len(rows)}" + (f", the first {SHOWN} above" if len(rows) > SHOWN else "")
    )


def asked(settings: dict[str, Any]) -> list[Example]:
    """The examples of source=, of question= with passages=, or of input=."""
    source, question, passages = (settings[name] for name in ("source", "question", "passages"))
    if sum(given is not None for given in (source, question, settings["input"])) != 1:
        raise config.ConfigError(
            'give one of source="a text", question="..." with passages=["...", "..."], and input=file.jsonl'
        )
    if (question is None) != (passages is None):
        raise config.ConfigError("question= and passages=[...] go together")
    if settings["input"] is not None:
        return read_input(Path(settings["input"]))
    given = [passages if question is not None else source]
    texts = given[0] if isinstance(given[0], list) else given
    try:
        texts = [check(str(text)) for text in texts]
        check(str(question))
    except ValueError as error:
        raise config.ConfigError(f"source=, question= or passages=: {error}") from None
    if question is not None:
        return [Example("0", tuple(texts), ((),) * len(texts), str(question))]
    return [Example(str(i), (text,), ((),)) for i, text in enumerate(texts)]


def read_input(path: Path) -> list[Example]:
    """Records of {"source"}, of {"question", "passages"} or of {"question", "context"}, each with
    an "id" if it likes.

    ConfigError names the line; see json_rows for the files.
    """
    examples = []
    for number, (place, get) in enumerate(json_rows(path), 1):
        try:
            examples.append(example_of(get(), place if place.isdigit() else str(number)))
        except ValueError as error:
            raise config.ConfigError(f"{path}:{place}: {error}") from None
    if not examples:
        raise config.ConfigError(f"input={path}: there is nothing in it")
    return examples


def example_of(row: dict, number: str) -> Example:
    """What one record asks for."""
    if not {"source", "question"} & row.keys():
        raise ValueError('expected an object with "source", or with "question" and "passages"')
    question = a_text(row["question"], "question") if "question" in row else None
    given = [row["source"]] if question is None else row.get("passages", [row.get("context")])
    if not isinstance(given, list) or given in ([], [None]):
        raise ValueError('"passages": expected a list of texts')
    sources = tuple(a_text(text, "passages" if question else "source") for text in given)
    return Example(str(row.get("id", number)), sources, ((),) * len(sources), question)


def lines_of(path: Path) -> list[str]:
    """The texts of a file, one a line; ConfigError names a line that is none."""
    lines = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        try:
            lines += [check(line)] if line.strip() else []
        except ValueError as error:
            raise config.ConfigError(f"{path}:{number}: {error}") from None
    return lines


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    runs.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


# --- encode ---------------------------------------------------------------------------------------


def encode_texts(system, data, settings: dict[str, Any], run_dir: Path) -> None:
    """Writes an .npz with `codes` (N, D) float32 and `ids`, and, whitened, the `mean` and `kernel`
    that did it.
    """
    if settings["input"]:
        path = Path(settings["input"])
        if format_of(path) in (".jsonl", ".json"):
            examples = read_input(path)
            texts, ids = [e.question or e.sources[0] for e in examples], [e.id for e in examples]
        else:
            texts = lines_of(path)
            ids = [str(i) for i in range(len(texts))]
    else:
        data.setup()
        examples = data.examples(settings["split"])
        texts, ids = [e.question or e.sources[0] for e in examples], [e.id for e in examples]
    out = Path(settings["out"] or run_dir / "codes.npz")
    if out.suffix != ".npz":
        raise config.ConfigError(f"out={out}: expected a name that ends in .npz")
    codes = system.encode(texts, settings["pooling"]).cpu()
    arrays = {"ids": np.array(ids)}
    if settings["whiten"] is not False:
        codes, mean, kernel = whiten(codes, settings["whiten"])
        arrays |= {"mean": mean.numpy(), "kernel": kernel.numpy()}
    save_arrays(out, codes=codes.numpy(), **arrays)
    print(f"codes    {out}  {codes.shape[0]} x {codes.shape[1]}, with codes, {', '.join(arrays)}")


def whiten(codes: torch.Tensor, dim: int | bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """((codes - mean) kernel, mean (D,), kernel (D, dim)): no correlation, unit variance, the dim
    widest directions.

    Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster Retrieval",
    arXiv 2103.15316.
    """
    dim = codes.shape[1] if dim is True else dim
    if not 1 <= dim <= codes.shape[1] or len(codes) <= dim:
        raise config.ConfigError(
            f"whiten={dim}: expected at most the {codes.shape[1]} dimensions of a code and fewer than the {len(codes)} texts"
        )
    mean = codes.double().mean(0)
    centred = codes.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(codes))
    variances, directions = variances.flip(0)[:dim], directions.flip(1)[:, :dim]
    kernel = directions / variances.clamp(min=1e-12).sqrt()
    return (centred @ kernel).float(), mean.float(), kernel.float()

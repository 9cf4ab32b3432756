"""What sample, encode and eval do for text models."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from genlab import config, runs
from genlab.commands.common import output_file, print_codes
from genlab.commands.text_input import read_examples, read_lines, read_records
from genlab.console import console
from genlab.data.text.formats import format_of
from genlab.errors import ConfigError
from genlab.systems.text.writing import Decoding
from genlab.tensors import save_arrays

__all__ = [
    "build_decoding",
    "encode_texts",
    "print_texts",
    "sample_texts",
    "shorten",
    "whiten",
    "write_rows",
]

MAX_SHOWN = 20  # rows of a printed table
MAX_CHARACTERS = 60  # of a source in it


def build_decoding(options: Mapping[str, Any], allow: Sequence[str], tokenizer) -> Decoding:
    """The Decoding of `decoding.*`.

    Args:
        options: The keys below `decoding`; null leaves one at its default.
        allow: What its rules may be built from besides genlab's own classes.
        tokenizer: The model's, which each rule is built with.

    Raises:
        ConfigError: For a rule that is no node, or whose arguments do not fit.
        ValueError: For another option or value that Decoding does not take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    rules = given.pop("rules", [])
    for i, rule in enumerate(rules):
        if not isinstance(rule, Mapping) or "_target_" not in rule:
            raise ConfigError(
                f"decoding.rules[{i}]: expected a node with _target_, as in "
                "decoding.rules=[{_target_: mypackage.MyRule}]"
            )
    node = {"decoding": {"rules": rules}, "allow": list(allow)}
    config.validate(node, {"decoding.*": ["tokenizer"]})
    built = [config.build(rule, allow, tokenizer=tokenizer) for rule in rules]
    return Decoding(**given, rules=tuple(built))


# --- sample ---------------------------------------------------------------------------------------


def sample_texts(system, settings: Mapping[str, Any], run_dir: Path) -> None:
    """Writes <out> (JSON lines: id, question or source, texts, scores) and prints a table."""
    examples = read_examples(settings)
    out = output_file(settings, run_dir, "texts.jsonl")
    generated = system.generate(
        examples,
        build_decoding(settings["decoding"], settings["allow"], system.codec.tokenizer),
        seed=settings["seed"],
    )
    rows = []
    for example, one in zip(examples, generated, strict=True):
        row: dict[str, Any] = {"id": example.id}
        if example.question is not None:
            row["question"] = example.question
        else:
            row["source"] = example.sources[0]
        row["texts"] = one.texts
        row["scores"] = [round(score, 4) for score in one.scores]
        rows.append(row)
    write_rows(out, rows)
    key = "question" if examples[0].question is not None else "source"
    table = [
        (shorten(row.get("question") or row["source"]), text or "(no answer)", f"{score:.3g}")
        for row in rows[:MAX_SHOWN]
        for text, score in zip(row["texts"], row["scores"], strict=True)
    ]
    print_texts(out, (key, "text", "score"), table, len(rows))


def print_texts(out: Path, columns: tuple[str, ...], rows: list[tuple], count: int) -> None:
    """A table of the first texts, and a line on the file `out` of all `count`."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console(sys.stdout).print(table)
    more = f", the first {MAX_SHOWN} above" if count > MAX_SHOWN else ""
    print(f"texts    {out}  {count}{more}")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes JSON lines."""
    runs.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def shorten(text: str, most: int = MAX_CHARACTERS) -> str:
    """`text`, cut to at most `most` characters with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


# --- encode ---------------------------------------------------------------------------------------


def encode_texts(system, data, settings: Mapping[str, Any], run_dir: Path) -> None:
    """Writes an .npz with `codes` (N, D) float32 and `ids`; of whitening also `mean`, `kernel`."""
    path = Path(settings["input"]) if settings["input"] else None
    if path is not None and format_of(path) not in (".jsonl", ".json"):
        texts = read_lines(path)
        ids = [str(i) for i in range(len(texts))]
    else:
        examples = data.examples(settings["split"]) if path is None else read_records(path)
        texts = [example.question or example.sources[0] for example in examples]
        ids = [example.id for example in examples]
    out = output_file(settings, run_dir, "codes.npz")
    codes = system.encode(texts, settings["pooling"]).cpu()
    arrays = {}
    if settings["whiten"] is not False:
        codes, mean, kernel = whiten(codes, settings["whiten"])
        arrays = {"mean": mean.numpy(), "kernel": kernel.numpy()}
    arrays = {"codes": codes.numpy(), "ids": np.array(ids), **arrays}
    save_arrays(out, **arrays)
    print_codes(out, arrays)


def whiten(codes: Tensor, dim: int | bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes without correlation and of unit variance.

    Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster Retrieval",
    arXiv 2103.15316.

    Args:
        codes: (N, D).
        dim: How many directions are kept, those of the largest variance; True: all D.

    Returns:
        The whitened codes (codes - mean) kernel, the mean (D,) and the kernel (D, dim).

    Raises:
        ConfigError: If dim is not in [1, D], or not below N.
    """
    dim = codes.shape[1] if dim is True else dim
    if not 1 <= dim <= codes.shape[1] or len(codes) <= dim:
        raise ConfigError(
            f"whiten={dim}: expected at most the {codes.shape[1]} dimensions of a code, and fewer "
            f"than the {len(codes)} texts"
        )
    mean = codes.double().mean(0)
    centred = codes.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(codes))
    variances, directions = variances.flip(0)[:dim], directions.flip(1)[:, :dim]
    kernel = directions / variances.clamp(min=1e-12).sqrt()
    return (centred @ kernel).float(), mean.float(), kernel.float()

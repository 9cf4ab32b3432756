"""What sample and encode do for a model of texts under a condition."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from genlab import config
from genlab.commands import options
from genlab.commands.data import require_own_data
from genlab.commands.text import SHOWN, decoding_of, lines_of, read_input, shortened, write_rows
from genlab.console import console
from genlab.data.images.folder import read_images
from genlab.data.sampler import in_order
from genlab.data.text.formats import format_of
from genlab.data.text.records import Example, read_labelled, read_records
from genlab.data.text.rows import Drawn, TextBatches, TextDraw
from genlab.tensors import save_arrays

__all__ = ["encode_conditional", "sample_conditional"]

BATCH_SIZE = 64


def sample_conditional(
    system, settings: dict[str, Any], run_dir: Path, overrides: Sequence[str]
) -> None:
    """Writes <out> (JSON lines: id, labels or image, source, texts, scores) and prints a table."""
    out = Path(settings["out"] or run_dir / "texts.jsonl")
    if out.suffix != ".jsonl":
        raise config.ConfigError(f"out={out}: expected a name that ends in .jsonl")
    free = system.writes_freely
    if settings["mode"] not in ("grid", "interpolate"):
        raise config.ConfigError(
            f"mode={settings['mode']}: of texts under a condition, expected grid or interpolate"
        )
    if "data" in options.given(overrides) and hasattr(system.condition, "values"):
        raise config.ConfigError("data: is not read for texts under labels; leave data.* out")
    for name, useful in {
        "prompt": free,
        "source": not free,
        "steps": settings["mode"] == "interpolate",
    }.items():
        if settings[name] is not None and not useful:
            why = {
                "prompt": "this model writes to a source=",
                "source": "this model is given no source, but a prompt=",
            }
            raise config.ConfigError(
                f"{name}={settings[name]}: {why.get(name, 'is for mode=interpolate')}"
            )
    by_labels = hasattr(system.condition, "values")
    starts = sources(settings, by_labels) if not free else [str(settings["prompt"] or "")]
    labelled = under_labels if by_labels else under_images
    conditions, names = labelled(system, settings, overrides)
    if settings["mode"] == "interpolate":
        conditions, names = between(conditions, names, settings["steps"])
    if free and by_labels:
        count = (
            settings["num"]
            if settings["mode"] == "grid"
            else len(names) * -(-settings["num"] // len(names))
        )
        chosen = [(i % len(names), 0) for i in range(count)]
    elif free:
        chosen = [(i, 0) for i in range(len(names))]
    else:
        if any(word.startswith("num=") for word in overrides):
            raise config.ConfigError(
                "num: each source is written to once under each label; for more, decoding.num="
            )
        chosen = [(i, j) for j in range(len(starts)) for i in range(len(names))]
    examples = [Example(str(n), (starts[j],), ((),)) for n, (_, j) in enumerate(chosen)]
    under = conditions[torch.tensor([i for i, _ in chosen])]
    made = system.generate(examples, decoding_of(settings), conditions=under, seed=settings["seed"])
    rows = []
    for n, ((i, j), one) in enumerate(zip(chosen, made, strict=True)):
        given = names[i] | (
            {"source": starts[j]} if not free else {"prompt": starts[j]} if starts[j] else {}
        )
        rows.append(
            {
                "id": str(n),
                **given,
                "texts": one.texts,
                "scores": [round(score, 4) for score in one.scores],
            }
        )
    write_rows(out, rows)
    show(rows)
    print(
        f"texts    {out}  {len(rows)}" + (f", the first {SHOWN} above" if len(rows) > SHOWN else "")
    )


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("under", "text", "score"):
        table.add_column(name)
    for row in rows[:SHOWN]:
        labels = row.get("labels", row.get("image", ""))
        under = (
            " ".join(str(v) for v in labels.values() if v)
            if isinstance(labels, dict)
            else str(labels)
        )
        under += f" {row['t']:.2f}" if "t" in row else ""
        under += f" | {shortened(row['source'], 40)}" if "source" in row else ""
        for text, score in zip(row["texts"], row["scores"], strict=True):
            table.add_row(under.strip() or "(nothing told)", text or "(nothing)", f"{score:.3g}")
    console(sys.stdout).print(table)


def sources(settings: dict[str, Any], by_labels: bool) -> list[str]:
    """The texts of source= or, where input= is no images, of input=."""
    given = settings["source"]
    if (given is None) == (settings["input"] is None or not by_labels):
        raise config.ConfigError('give one of source="a text" and input=file.jsonl')
    if given is None:
        return [e.sources[0] for e in read_input(Path(settings["input"]))]
    return [str(text) for text in (given if isinstance(given, list) else [given])]


def under_labels(
    system, settings: dict[str, Any], overrides: Sequence[str]
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """The vectors of label=, and {"labels": {field: name}} of each; without label=, each of the
    first field's in turn.
    """
    condition, wanted = system.condition, settings["label"]
    if system.writes_freely and settings["input"] is not None:
        raise config.ConfigError("input=: this model needs none; give label= and prompt=")
    if wanted is None:
        field = next(iter(condition.values))
        wanted = [{field: name} for name in condition.values[field]]
    labels = [
        condition.numbers(each) for each in (wanted if isinstance(wanted, list) else [wanted])
    ]
    vectors = system.conditions({"labels": torch.tensor(labels)})
    return vectors, [{"labels": condition.named(each)} for each in labels]


def under_images(
    system, settings: dict[str, Any], overrides: Sequence[str]
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """The vectors of the first num images of input=, or of the run's test split, and {"image":
    name} of each.
    """
    if settings["label"] is not None:
        raise config.ConfigError("label: this model writes about images; give input=photos/")
    data = options.build_data(settings)
    if settings["input"] is not None:
        images, names, _ = read_images(settings["input"], **data.image_shape, on_error="raise")
    else:
        data.prepare_data()
        data.setup()
        require_own_data(Path(settings["run"]), data, overrides)
        images, names = data.given("test")["image"], [e.id for e in data.examples("test")]
    count = min(settings["num"], len(names))
    return system.conditions({"image": images[torch.arange(count)]}), [
        {"image": name} for name in names[:count]
    ]


def between(
    conditions: torch.Tensor, names: list[dict[str, Any]], steps: int | None
) -> tuple[torch.Tensor, list[dict]]:
    """`steps` (5) vectors from the first of two conditions to the second, each with its t."""
    if len(names) != 2:
        raise config.ConfigError(f"mode=interpolate: goes from one condition to another, and {len(names)} are given; "
                                 "label=[one,other], or num=2 of images")  # fmt: skip
    steps = 5 if steps is None else steps
    t = torch.linspace(0, 1, steps, device=conditions.device)
    ends = [n.get("labels") or n["image"] for n in names]
    shown = [" ".join(filter(None, e.values())) if isinstance(e, dict) else e for e in ends]
    rows = [
        {"labels": {"from": shown[0], "to": shown[1]}, "t": round(float(part), 4)} for part in t
    ]
    return torch.lerp(conditions[0], conditions[1], t[:, None]), rows


# --- encode ---------------------------------------------------------------------------------------


def encode_conditional(system, data, settings: dict[str, Any], run_dir: Path) -> None:
    """Writes an .npz. Under images: their vectors as `codes`.

    Under labels, Bayes' rule over the values of field=: `codes` and `posterior` (N, K), log p(text
    | value) and, under a uniform prior, p(value | text); `values` (K,), `ids`, `labels` (N,), -1
    where not known.
    """
    out = Path(settings["out"] or run_dir / "codes.npz")
    if out.suffix != ".npz":
        raise config.ConfigError(f"out={out}: expected a name that ends in .npz")
    if not hasattr(system.condition, "values"):
        if settings["field"] is not None:
            raise config.ConfigError(
                f"field={settings['field']}: this model knows no labels; it gives the images' vectors"
            )
        if settings["input"] is not None:
            images, ids, _ = read_images(
                settings["input"], **data.image_shape, on_error=settings["on_error"]
            )
        else:
            data.prepare_data()
            data.setup()
            images, ids = (
                data.given(settings["split"])["image"],
                [e.id for e in data.examples(settings["split"])],
            )
        arrays = {
            "codes": system.conditions({"image": images}).float().cpu().numpy(),
            "ids": np.array(ids),
        }
        return save(out, arrays)
    fields = list(system.condition.values)
    field = settings["field"] or fields[0]
    if field not in fields:
        raise config.ConfigError(
            f"field={field}: expected one of {', '.join(fields)}.{config.closest(field, fields)}"
        )
    if len(fields) > 1 and not system.condition_dropout:
        raise config.ConfigError(
            f"field={field}: one label by itself was never told in training (model.condition_dropout=0)"
        )
    place, names = fields.index(field), system.condition.values[field]
    examples = texts_of(system, data, settings, fields)
    wanted = torch.full((len(names), len(fields)), -1)
    wanted[:, place] = torch.arange(len(names))
    drawn = Drawn(examples, system.codec, {})
    draws = [TextDraw(draw.index) for draw in in_order(len(examples), BATCH_SIZE)]
    batches = map(TextBatches(drawn, 0, 0.0).__getitem__, draws)
    log_p = system.score(batches, system.conditions({"labels": wanted}))
    labels = np.array(
        [
            names.index(e.labels[place]) if e.labels and e.labels[place] in names else -1
            for e in examples
        ]
    )
    save(out, {"codes": log_p.float().numpy(), "posterior": log_p.softmax(1).float().numpy(), "values": np.array(names),
               "ids": np.array([e.id for e in examples]), "labels": labels})  # fmt: skip
    told = labels >= 0
    if told.any():
        right = (log_p.argmax(1).numpy()[told] == labels[told]).mean()
        print(
            f"{field}: the likeliest of {len(names)} values is the text's own for {right:.1%} of {told.sum()}"
        )


def save(out: Path, arrays: dict[str, np.ndarray]) -> None:
    save_arrays(out, **arrays)
    print(
        f"codes    {out}  {arrays['codes'].shape[0]} x {arrays['codes'].shape[1]}, with {', '.join(arrays)}"
    )


def texts_of(system, data, settings: dict[str, Any], fields: list[str]) -> list[Example]:
    """The texts of split=, or of input=: records with the data's own fields, or for a language
    model a text a line.
    """
    if settings["split"]:
        data.setup()
        examples = data.examples(settings["split"])
    else:
        path = Path(settings["input"])
        if format_of(path) in (".jsonl", ".json", ".tsv", ".csv"):
            about = settings["data"]
            text, source = about.get("text_field", "text"), about.get("source_field")
            reader = partial(
                read_labelled, text=text, fields=about.get("fields", []), source=source
            )
            examples = read_records([path], reader, settings["on_error"]).examples
        elif system.writes_freely:
            examples = [
                Example(str(i), ("",), ((line.strip(),),)) for i, line in enumerate(lines_of(path))
            ]
        else:
            raise config.ConfigError(
                f"input={path}: expected .jsonl, .json, .tsv or .csv with a source and a text a record"
            )
    if not examples:
        raise config.ConfigError("input= or split=: there is nothing in it")
    return [replace(e, targets=(e.targets[0][:1],)) for e in examples]

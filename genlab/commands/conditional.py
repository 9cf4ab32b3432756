"""What sample and encode do for conditional text models: texts on labels, or on images.

Shapes: K conditions, F fields of labels, N texts, C the width of a condition vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.commands import options
from genlab.commands.common import build_data, output_file, print_codes
from genlab.commands.data import require_own_data
from genlab.commands.text import MAX_SHOWN, build_decoding, print_texts, shorten, write_rows
from genlab.commands.text_input import read_lines, read_records
from genlab.config import closest
from genlab.data.images.folder import read_images
from genlab.data.sampler import in_order
from genlab.data.text.formats import format_of
from genlab.data.text.records import Example, read_files, read_labelled
from genlab.data.text.rows import Drawn, TextBatches, TextDraw
from genlab.errors import ConfigError
from genlab.systems.base import LabelEncoder
from genlab.tensors import save_arrays

__all__ = ["encode_conditional", "sample_conditional"]

BATCH_SIZE = 64
NUM_STEPS = 5  # of mode=interpolate, where steps= is not given

Settings = Mapping[str, Any]
Row = dict[str, Any]


# --- sample ---------------------------------------------------------------------------------------


def sample_conditional(system, settings: Settings, run_dir: Path, overrides: Sequence[str]) -> None:
    """Writes <out> (JSON lines: id, labels or image, source, texts, scores) and prints a table."""
    out = output_file(settings, run_dir, "texts.jsonl")
    on_labels = isinstance(system.condition, LabelEncoder)
    _check_options(system, settings, overrides)
    if system.writes_freely:
        starts = [str(settings["prompt"] or "")]
    else:
        starts = _sources(settings, on_labels)
    if on_labels:
        conditions, about = _label_conditions(system, settings)
    else:
        conditions, about = _image_conditions(system, settings, overrides)
    if settings["mode"] == "interpolate":
        conditions, about = _interpolate(conditions, about, settings["steps"])
    pairs = _pairs(system, settings, len(about), len(starts), on_labels)
    examples = [Example(str(n), (starts[j],), ((),)) for n, (_, j) in enumerate(pairs)]
    generated = system.generate(
        examples,
        build_decoding(settings["decoding"], settings["allow"], system.codec.tokenizer),
        conditions=conditions[torch.tensor([i for i, _ in pairs])],
        seed=settings["seed"],
    )
    rows = []
    for n, ((i, j), one) in enumerate(zip(pairs, generated, strict=True)):
        row = {"id": str(n), **about[i]}
        if not system.writes_freely:
            row["source"] = starts[j]
        elif starts[j]:
            row["prompt"] = starts[j]
        row["texts"] = one.texts
        row["scores"] = [round(score, 4) for score in one.scores]
        rows.append(row)
    write_rows(out, rows)
    table = [
        (_condition_in_words(row), text or "(nothing)", f"{score:.3g}")
        for row in rows[:MAX_SHOWN]
        for text, score in zip(row["texts"], row["scores"], strict=True)
    ]
    print_texts(out, ("condition", "text", "score"), table, len(rows))


def _check_options(system, settings: Settings, overrides: Sequence[str]) -> None:
    """Refuses options that have no effect on this model."""
    mode, given = settings["mode"], options.top_keys(overrides)
    if mode not in ("grid", "interpolate"):
        raise ConfigError(
            f"mode={mode}: expected grid or interpolate, the modes of conditional text models"
        )
    if "data" in given and isinstance(system.condition, LabelEncoder):
        raise ConfigError("data: a model of texts on labels reads no data here; leave data.* out")
    if settings["prompt"] is not None and not system.writes_freely:
        raise ConfigError(f"prompt={settings['prompt']}: this model rewrites a text; give source=")
    if settings["source"] is not None and system.writes_freely:
        raise ConfigError(
            f"source={settings['source']}: this model is a language model; give prompt="
        )
    if settings["steps"] is not None and mode != "interpolate":
        raise ConfigError(f"steps={settings['steps']}: has an effect with mode=interpolate alone")
    if "num" in given and not system.writes_freely:
        raise ConfigError(
            "num: each source is rewritten once on each condition; for more texts give "
            "decoding.num="
        )


def _pairs(
    system, settings: Settings, num_conditions: int, num_starts: int, on_labels: bool
) -> list[tuple[int, int]]:
    """(number of the condition, number of the start) of each text to write."""
    if not system.writes_freely:
        return [(i, j) for j in range(num_starts) for i in range(num_conditions)]
    if not on_labels:
        return [(i, 0) for i in range(num_conditions)]
    count = settings["num"]
    if settings["mode"] == "interpolate":  # whole rounds over the line
        count = num_conditions * -(-count // num_conditions)
    return [(n % num_conditions, 0) for n in range(count)]


def _condition_in_words(row: Row) -> str:
    """What a row's text was written on, for the table."""
    labels = row.get("labels", row.get("image", ""))
    if isinstance(labels, dict):
        labels = " ".join(str(label) for label in labels.values() if label)
    words = str(labels)
    if "t" in row:
        words += f" {row['t']:.2f}"
    if "source" in row:
        words += f" | {shorten(row['source'], 40)}"
    return words.strip() or "(no label)"


def _sources(settings: Settings, on_labels: bool) -> list[str]:
    """The texts of source= or, unless input= has the images, of input=."""
    source = settings["source"]
    in_file = settings["input"] is not None and on_labels
    if (source is None) != in_file:
        raise ConfigError('give one of source="a text" and input=file.jsonl')
    if source is None:
        return [example.sources[0] for example in read_records(Path(settings["input"]))]
    return [str(text) for text in (source if isinstance(source, list) else [source])]


def _label_conditions(system, settings: Settings) -> tuple[Tensor, list[Row]]:
    """The vectors (K, C) of label=, and {"labels": {field: name}} of each.

    Without label=, each label of the first field in turn.
    """
    condition, wanted = system.condition, settings["label"]
    if system.writes_freely and settings["input"] is not None:
        raise ConfigError("input=: this model reads no file; give label= and prompt=")
    if wanted is None:
        field, names = next(iter(condition.values.items()))
        wanted = [{field: name} for name in names]
    labels = [condition.numbers(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    vectors = system.conditions({"labels": torch.tensor(labels)})
    return vectors, [{"labels": condition.named(numbers)} for numbers in labels]


def _image_conditions(
    system, settings: Settings, overrides: Sequence[str]
) -> tuple[Tensor, list[Row]]:
    """The vectors (K, C) of the first num= images, and {"image": name} of each.

    The images are those of input=, or of the test split of the run's data.
    """
    if settings["label"] is not None:
        raise ConfigError("label: this model writes on images; give input=photos/")
    data = build_data(settings)
    if settings["input"] is not None:
        images, names, _ = read_images(settings["input"], **data.image_shape, on_error="raise")
    else:
        data.prepare_data()
        data.setup()
        require_own_data(Path(settings["run"]), data, overrides)
        images = data.given("test")["image"]
        names = [example.id for example in data.examples("test")]
    count = min(settings["num"], len(names))
    vectors = system.conditions({"image": images[torch.arange(count)]})
    return vectors, [{"image": name} for name in names[:count]]


def _interpolate(
    conditions: Tensor, about: list[Row], num_steps: int | None
) -> tuple[Tensor, list[Row]]:
    """The vectors on the line from the first of two conditions to the second, each with its t."""
    if len(about) != 2:
        raise ConfigError(
            f"mode=interpolate: needs two conditions, and {len(about)} are given; give "
            "label=[one,other], or num=2 of images"
        )
    t = torch.linspace(0, 1, num_steps or NUM_STEPS, device=conditions.device)
    ends = [_end_in_words(row) for row in about]
    rows = [{"labels": {"from": ends[0], "to": ends[1]}, "t": round(float(step), 4)} for step in t]
    return torch.lerp(conditions[0], conditions[1], t[:, None]), rows


def _end_in_words(row: Row) -> str:
    labels = row.get("labels")
    return " ".join(filter(None, labels.values())) if labels else row["image"]


# --- encode ---------------------------------------------------------------------------------------


def encode_conditional(system, data, settings: Settings, run_dir: Path) -> None:
    """Writes an .npz: the vectors of images, or the log-probability of texts on each label.

    On images: `codes` (N, C), their condition vectors, and `ids`. On labels, Bayes' rule over the K
    labels of field=: `codes` (N, K), log p(text | label); `posterior` (N, K), p(label | text) under
    a uniform prior; `values` (K,), their names; `ids`; `labels` (N,), -1 where not known.
    """
    out = output_file(settings, run_dir, "codes.npz")
    if isinstance(system.condition, LabelEncoder):
        return _classify_texts(system, data, settings, out)
    if settings["field"] is not None:
        raise ConfigError(
            f"field={settings['field']}: this model has no labels; its codes are of images"
        )
    if settings["input"] is not None:
        on_error = settings["on_error"]
        images, ids, _ = read_images(settings["input"], **data.image_shape, on_error=on_error)
    else:
        split = settings["split"]
        images, ids = data.given(split)["image"], [one.id for one in data.examples(split)]
    codes = system.conditions({"image": images}).float().cpu().numpy()
    _save(out, {"codes": codes, "ids": np.array(ids)})


def _classify_texts(system, data, settings: Settings, out: Path) -> None:
    """Writes how likely each text is on each label of a field."""
    values = system.condition.values
    fields = list(values)
    field = settings["field"] or fields[0]
    if field not in fields:
        hint = closest(field, fields)
        raise ConfigError(f"field={field}: expected one of {', '.join(fields)}.{hint}")
    if len(fields) > 1 and not system.condition_dropout:
        raise ConfigError(
            f"field={field}: in training all fields were known together "
            "(model.condition_dropout=0), so the model cannot classify one of them alone"
        )
    place, names = fields.index(field), values[field]
    examples = _labelled_texts(system, data, settings)
    labels_KF = torch.full((len(names), len(fields)), -1)
    labels_KF[:, place] = torch.arange(len(names))
    rows = TextBatches(Drawn(examples, system.codec, {}), 0, 0.0)
    draws = in_order(len(examples), BATCH_SIZE)
    batches = (rows[TextDraw(draw.index)] for draw in draws)
    log_p_NK = system.score(batches, system.conditions({"labels": labels_KF}))
    known = [one.labels[place] if one.labels else None for one in examples]
    labels = np.array([names.index(name) if name in names else -1 for name in known])
    arrays = {
        "codes": log_p_NK.float().numpy(),
        "posterior": log_p_NK.softmax(1).float().numpy(),
        "values": np.array(names),
        "ids": np.array([one.id for one in examples]),
        "labels": labels,
    }
    _save(out, arrays)
    is_known = labels >= 0
    if is_known.any():
        hits = log_p_NK.argmax(1).numpy()[is_known] == labels[is_known]
        print(
            f"{field}: the most likely of {len(names)} labels is the text's own for "
            f"{hits.mean():.1%} of {is_known.sum()}"
        )


def _labelled_texts(system, data, settings: Settings) -> list[Example]:
    """The texts of split= or input=, with their labels where these are known.

    input= is a file of records with the fields of the run's data; for a language model it may be a
    text a line.
    """
    if settings["split"]:
        examples = data.examples(settings["split"])
    else:
        path, config = Path(settings["input"]), settings["data"]
        if format_of(path) in (".jsonl", ".json", ".tsv", ".csv"):
            reader = partial(
                read_labelled,
                text=config.get("text_field", "text"),
                fields=config.get("fields", []),
                source=config.get("source_field"),
            )
            examples = read_files([path], reader, settings["on_error"]).examples
        elif system.writes_freely:
            texts = [line.strip() for line in read_lines(path)]
            examples = [Example(str(i), ("",), ((text,),)) for i, text in enumerate(texts)]
        else:
            raise ConfigError(
                f"input={path}: expected a .jsonl, .json, .tsv or .csv file whose records have a "
                "source and a text"
            )
    if not examples:
        raise ConfigError("input= or split=: there are no texts in it")
    return [replace(example, targets=(example.targets[0][:1],)) for example in examples]


def _save(out: Path, arrays: dict[str, np.ndarray]) -> None:
    save_arrays(out, **arrays)
    print_codes(out, arrays)

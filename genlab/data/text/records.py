"""Text records as they come: source/target pairs, SQuAD-like files, and WebQA's question lists.

A reader of a format is a function of a file: it yields the place of each record and a function that
makes an Example of it. So a bad record is named by its place, or skipped, in every format alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from genlab.data.text.formats import an_object, check, json_rows, refuse, rows_of
from genlab.errors import DataError

__all__ = [
    "Example",
    "Record",
    "Records",
    "a_text",
    "read_files",
    "read_labelled",
    "read_pairs",
    "read_squad",
    "read_webqa",
]


@dataclass(frozen=True, slots=True)
class Example:
    """One source to write a target for, or one question with its passages.

    Attributes:
        id: Names the example in outputs.
        sources: The source, or the passages of the question; ("",) where there is none.
        targets: targets[i] are the references for sources[i], equally good ones; the first is
            trained on. () where the passage has no answer.
        question: None where there is none.
        document: Examples of one document never come into different splits.
        labels: What the text is written by, a value of each field of data.fields; "": unknown.
    """

    id: str
    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    question: str | None = None
    document: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (self.id, self.question or "", *self.sources, *self.accepted, *self.labels):
            check(text)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All references, each once."""
        return tuple(dict.fromkeys(target for targets in self.targets for target in targets))


# (place in the file, a function that makes the example, returns None to leave it out, or raises
# ValueError that says why it cannot be used)
Record = tuple[str, Callable[[], Example | None]]


@dataclass
class Records:
    """The examples of some files, and (where, why) of each record that was skipped."""

    examples: list[Example] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def read_files(
    paths: list[Path], reader: Callable[[Path], Iterator[Record]], on_error: str
) -> Records:
    """The examples of some files.

    Args:
        paths: The files.
        reader: Yields the records of one of them.
        on_error: `raise`: a bad record is an error that names its place; `skip`: it is left out.

    Raises:
        DataError: A file cannot be read or has no usable record, or a record is bad.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    records = Records()
    for path in paths:
        for place, make in reader(path):
            try:
                example = make()
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
                if on_error == "raise":
                    raise DataError(
                        f"{path}:{place}: {why}; data.on_error=skip leaves such records out"
                    ) from None
                records.skipped.append((f"{path}:{place}", why))
            else:
                records.examples += [] if example is None else [example]
        if not records.examples:
            count, first = len(records.skipped), records.skipped[:1]
            why = f"; of {count} skipped, {': '.join(first[0])}" if first else ""
            raise DataError(f"{path}: there is no usable record in it{why}")
    return records


def a_text(value: Any, name: str, empty: bool = False) -> str:
    """`value` without the space around it; ValueError unless it is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {type(value).__name__}")
    if not empty and not value.strip():
        raise ValueError(f"{name}: it is empty")
    return value.strip()


def texts(value: Any, name: str) -> tuple[str, ...]:
    """The texts in `value`: a text, a list of them, or answers.

    Answers are as SQuAD has them, [{"text": ...}], or as `datasets` does, {"text": [...]}.
    """
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    values = value if isinstance(value, list) else [value]
    found = [v["text"] if isinstance(v, dict) and "text" in v else v for v in values]
    return tuple(a_text(each, name) for each in found)


def targets_of(value: Any, name: str) -> tuple[str, ...]:
    """The texts in `value`; ValueError if there is none."""
    return texts(value, name) or refuse(f"{name}: it is empty")


# --- pairs and labelled texts ---------------------------------------------------------------------


def read_pairs(
    path: Path, source: str | int = "source", target: str | int = "target"
) -> Iterator[Record]:
    """A source and its target a record.

    Records are JSON objects: one a line or, in a file named .json, in a list. In a file named .tsv
    or .csv they are rows.

    Args:
        path: The file.
        source: The field of the source; in a table its column, a name in the first line or a number
            from 0.
        target: The field of the target: a text, a list of them, or answers as in SQuAD.
    """

    def make(place: str, row: list) -> Example:
        given = a_text(row[0], str(source))
        return Example(place, (given,), (targets_of(row[1], str(target)),), document=given)

    return _read_rows(path, (source, target), make, "data.source_field and data.target_field")


def read_labelled(
    path: Path, text: str | int, fields: list[str | int], source: str | int | None = None
) -> Iterator[Record]:
    """A text with its labels a record; files as in `read_pairs`.

    A label is a text, a number, true or false; null, and in a table an empty column, is an unknown
    label.

    Args:
        path: The file.
        text: The field of the text.
        fields: The fields of the labels.
        source: The field of what the text is written to; None: there is none.
    """

    def make(place: str, row: list) -> Example:
        target, given, *labels = row
        for name, label in zip(fields, labels, strict=True):
            if isinstance(label, list | dict):
                raise ValueError(f"{name}: expected a label, got a list or an object")
        labels = tuple("" if label is None else str(label).strip() for label in labels)
        targets = targets_of(target, str(text))
        given = "" if source is None else a_text(given, str(source))
        return Example(place, (given,), (targets,), document=given or targets[0], labels=labels)

    keys = (text, text if source is None else source, *fields)
    return _read_rows(path, keys, make, "data.text_field, data.source_field and data.fields")


def _read_rows(
    path: Path,
    keys: tuple[str | int, ...],
    make: Callable[[str, list], Example],
    settings: str,
) -> Iterator[Record]:
    """make(place, [the values of `keys`]) for each record.

    Args:
        path: The file.
        keys: The fields, or columns, that are needed.
        make: Makes the example.
        settings: The config keys that set `keys`, for errors.
    """

    def example(place: str, row: dict) -> Example:
        missing = [repr(key) for key in dict.fromkeys(keys) if key not in row]
        if missing:
            raise ValueError(
                f"there is no {', '.join(missing)} (set {settings} to the names that there are)"
            )
        return make(f"{path.name}:{place}", [row[key] for key in keys])

    for place, get in rows_of(path, keys, settings):
        yield place, lambda place=place, get=get: example(place, get())


# --- questions ------------------------------------------------------------------------------------


def read_squad(path: Path) -> Iterator[Record]:
    """SQuAD 1.1 and 2.0, CMRC 2018 and DRCD files as they are.

    Also records of {"question", "context", "answers"} as the `datasets` of Hugging Face write them,
    with answers in either layout.
    """
    for place, get in json_rows(path):
        try:
            item = get()
        except ValueError as error:
            yield place, partial(refuse, str(error))
            continue
        number = place.removeprefix("data")
        if "paragraphs" not in item and "context" in item:
            document = f"{item.get('title') or item['context']}/{path.name}"
            yield place, partial(_question, item, item, document, number.strip("[]"))
        else:
            yield from _article(item, place, f"{path.name}{number}", number.strip("[]"))


def _article(item: dict, place: str, name: str, number: str) -> Iterator[Record]:
    """The questions of an article of SQuAD."""
    if not isinstance(item.get("paragraphs"), list):
        why = 'expected a list "paragraphs", or "question", "context" and "answers"'
        yield place, partial(refuse, why)
        return
    document = f"{item.get('title') or item.get('id') or ''}/{name}"
    for j, paragraph in enumerate(item["paragraphs"]):
        here = f"{place}.paragraphs[{j}]"
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield here, partial(refuse, 'expected a list "qas"')
            continue
        for k, qa in enumerate(questions):
            make = partial(_question, qa, paragraph, document, f"{number}-{j}-{k}")
            yield f"{here}.qas[{k}]", make


def _question(item: dict, paragraph: dict, document: str, number: str) -> Example:
    """The example of one question, whose passage is that of `paragraph`."""
    context = a_text(paragraph["context"], "context")
    question = a_text(item["question"], "question")
    answers = [] if item.get("is_impossible") else item["answers"]
    found = tuple(dict.fromkeys(texts(answers, "answers")))
    return Example(str(item.get("id", number)), (context,), (found,), question, document)


def read_webqa(path: Path) -> Iterator[Record]:
    """A JSON list of questions, or one a line, each with passages; "answer" is "" without one."""
    for number, (place, get) in enumerate(json_rows(path)):
        yield place, lambda get=get, number=number: _listed(get(), number)


def _listed(item: dict, number: int) -> Example:
    """The example of one question of WebQA."""
    question = a_text(item["question"], "question")
    passages = item["passages"]
    if not isinstance(passages, list) or not passages:
        raise ValueError('"passages": expected a list with a passage at least')
    passages = [an_object(each) for each in passages]
    sources = tuple(a_text(each["passage"], "passage") for each in passages)
    answers = dict.fromkeys(a_text(each["answer"], "answer", empty=True) for each in passages)
    # As in Su's code, the answer of one passage also answers another in which it stands.
    found = tuple(answer for answer in answers if answer)
    targets = (found,) * len(sources)
    return Example(str(item.get("id", number)), sources, targets, question, question)

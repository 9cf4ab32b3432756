"""Text records as they come: source/target pairs, SQuAD-like question files, and WebQA's question
lists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlab.data.text.formats import an_object, check, json_rows, refuse, rows_of
from genlab.errors import DataError

__all__ = [
    "Example",
    "Records",
    "a_text",
    "read_labelled",
    "read_pairs",
    "read_squad",
    "read_webqa",
]


@dataclass(frozen=True, slots=True)
class Example:
    """One source to write a target for, or one question with its passages.

    targets[i]: what may be answered out of sources[i], the first being what is trained; () where it
    has no answer.
    document: examples of one document never come into different splits. labels: what is to steer
    the text, a value of each field of data.fields, "" where it is not told.
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
        """Every answer that counts as right, each once."""
        return tuple(dict.fromkeys(target for targets in self.targets for target in targets))


@dataclass
class Records:
    """The examples of some files, and (where, why) of each record that was skipped."""

    examples: list[Example] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


Reader = Callable[[Path], Iterator[tuple[str, Callable[[], Example | None]]]]


def read(paths: list[Path], parse: Reader, on_error: str) -> Records:
    """What `parse` finds in `paths`; a bad record raises DataError with its place, or is skipped if
    on_error says so.

    parse gives (place, a function that makes the example, None to leave it out, or raises
    ValueError that says why not).
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    records = Records()
    for path in paths:
        for place, make in parse(path):
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
            why = (
                f"; of {len(records.skipped)} skipped, {': '.join(records.skipped[0])}"
                if records.skipped
                else ""
            )
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
    """A text, a list of them, or answers as SQuAD and `datasets` have them: [{"text": ...}] and
    {"text": [...]}.
    """
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    found = [
        each["text"] if isinstance(each, dict) and "text" in each else each
        for each in as_list(value)
    ]
    return tuple(a_text(each, name) for each in found)


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def targets_of(value: Any, name: str) -> tuple[str, ...]:
    """The same, of which there has to be one."""
    return texts(value, name) or refuse(f"{name}: it is empty")


# --- the formats ----------------------------------------------------------------------------------


def read_pairs(
    paths: list[Path], on_error: str, source: str | int = "source", target: str | int = "target"
) -> Records:
    """A pair a record with the fields `source` and `target` (a text, a list of them, or answers as
    in SQuAD).

    Records are JSON objects, one a line, or, in a file named .json, in a list; in a file named .tsv
    or .csv rows, whose columns have these numbers from 0 or, where they are names, a first line of
    names.
    """

    def pair(place: str, row: list) -> Example:
        given, targets = a_text(row[0], str(source)), targets_of(row[1], str(target))
        return Example(place, (given,), (targets,), document=given)

    return read_rows(
        paths, on_error, (source, target), pair, "data.source_field and data.target_field"
    )


def read_labelled(
    paths: list[Path],
    on_error: str,
    text: str | int,
    fields: list[str | int],
    source: str | int | None = None,
) -> Records:
    """A text with its labels a record, and a source that it is written to if there is one; files as
    in read_pairs.

    A label is a text, number or true or false; null, and in a table nothing, is one that is not
    told.
    """

    def labelled(place: str, row: list) -> Example:
        wrong = [
            str(field)
            for field, value in zip(fields, row[2:], strict=True)
            if isinstance(value, list | dict)
        ]
        if wrong:
            raise ValueError(f"{wrong[0]}: expected a label, got a list or an object")
        labels = tuple("" if value is None else str(value).strip() for value in row[2:])
        targets = targets_of(row[0], str(text))
        given = "" if source is None else a_text(row[1], str(source))
        return Example(place, (given,), (targets,), document=given or targets[0], labels=labels)

    keys = (text, text if source is None else source, *fields)
    return read_rows(
        paths, on_error, keys, labelled, "data.text_field, data.source_field and data.fields"
    )


def read_rows(
    paths: list[Path],
    on_error: str,
    keys: tuple[str | int, ...],
    make: Callable[[str, list], Example],
    settings: str,
) -> Records:
    """make(place, [the values of `keys`]) for each record; settings: where the user says what the
    keys are.
    """

    def made(path: Path, place: str, row: dict) -> Example:
        missing = [repr(key) for key in dict.fromkeys(keys) if key not in row]
        if missing:
            raise ValueError(
                f"there is no {', '.join(missing)} (set {settings} to the names that there are)"
            )
        return make(f"{path.name}:{place}", [row[key] for key in keys])

    def rows(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        for place, get in rows_of(path, keys, settings):
            yield place, lambda place=place, get=get: made(path, place, get())

    return read(paths, rows, on_error)


def read_squad(paths: list[Path], on_error: str) -> Records:
    """SQuAD 1.1 and 2.0, CMRC 2018 and DRCD files as they are, and records of {"question",
    "context", "answers"} as the `datasets` of Hugging Face write them, answers in any of the two
    layouts.
    """

    def questions(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        for place, get in json_rows(path):
            try:
                item = get()
            except ValueError as error:
                yield place, lambda why=str(error): refuse(why)
                continue
            number = place.removeprefix("data")
            if "paragraphs" not in item and "context" in item:
                document = f"{item.get('title') or item['context']}/{path.name}"
                yield (
                    place,
                    lambda item=item, d=document, n=number: asked(item, item, d, n.strip("[]")),
                )
            else:
                yield from of_article(item, place, f"{path.name}{number}", number.strip("[]"))

    return read(paths, questions, on_error)


def of_article(
    item: dict, place: str, name: str, number: str
) -> Iterator[tuple[str, Callable[[], Example]]]:
    """The questions of an article of SQuAD."""
    if not isinstance(item.get("paragraphs"), list):
        yield (
            place,
            lambda: refuse('expected a list "paragraphs", or "question", "context" and "answers"'),
        )
        return
    document = f"{item.get('title') or item.get('id') or ''}/{name}"
    for j, paragraph in enumerate(item["paragraphs"]):
        here = f"{place}.paragraphs[{j}]"
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield here, lambda: refuse('expected a list "qas"')
            continue
        for k, question in enumerate(questions):
            make = lambda q=question, p=paragraph, n=f"{number}-{j}-{k}": asked(q, p, document, n)  # noqa: E731
            yield f"{here}.qas[{k}]", make


def asked(item: dict, paragraph: dict, document: str, number: str) -> Example:
    """The example of one question, whose passage is `paragraph`'s."""
    context, question = (
        a_text(paragraph["context"], "context"),
        a_text(item["question"], "question"),
    )
    answers = [] if item.get("is_impossible") else item["answers"]
    found = tuple(dict.fromkeys(texts(answers, "answers")))
    return Example(str(item.get("id", number)), (context,), (found,), question, document)


def read_webqa(paths: list[Path], on_error: str) -> Records:
    """A JSON list of questions, or one a line, each with passages that have an answer or none ("")."""

    def questions(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        for number, (place, get) in enumerate(json_rows(path)):
            yield place, lambda get=get, number=number: listed(get(), number)

    return read(paths, questions, on_error)


def listed(item: dict, number: int) -> Example:
    """The example of one question of WebQA."""
    question, passages = a_text(item["question"], "question"), item["passages"]
    if not isinstance(passages, list) or not passages:
        raise ValueError('"passages": expected a list with a passage at least')
    passages = [an_object(each) for each in passages]
    sources = tuple(a_text(each["passage"], "passage") for each in passages)
    answers = dict.fromkeys(a_text(each["answer"], "answer", empty=True) for each in passages)
    # The source lets a passage be answered by another passage's answer, if it stands there too.
    found = tuple(answer for answer in answers if answer)
    return Example(
        str(item.get("id", number)), sources, (found,) * len(sources), question, question
    )

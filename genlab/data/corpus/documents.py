"""Documents of text and JSON-lines files of any size, plain, .gz or .zst, one at a time."""

import io
from collections.abc import Iterator
from pathlib import Path

from genlab.data.text.formats import Row, an_object, check, format_of, json_rows, open_text, parse
from genlab.errors import DataError

__all__ = ["read_documents"]

LONGEST = 1 << 20  # characters: a longer document of a text file comes in parts


def read_documents(
    path: Path, field: str = "text", on_error: str = "raise", skipped: list | None = None
) -> Iterator[str]:
    """The documents of one file, without the space around them and without empty ones.

    In a text file, a blank line stands between documents. A file named .jsonl or .json holds an
    object a line; a .json may also hold a list of them.

    Args:
        path: The file.
        field: The field of the document in an object.
        on_error: `raise`: what cannot be used is an error; `skip`: it is left out.
        skipped: Gets (place, reason) of what is left out.

    Raises:
        DataError: The file cannot be read, or a document cannot be used.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    skipped = [] if skipped is None else skipped
    if format_of(path) in (".jsonl", ".json"):
        yield from _of_records(path, field, on_error, skipped)
    else:
        with open_text(path) as lines:
            yield from _of_lines(path, lines, on_error, skipped)


def _of_lines(path: Path, lines: io.TextIOBase, on_error: str, skipped: list) -> Iterator[str]:
    part: list[str] = []  # of the document that is being read
    size = 0  # of it
    number = 1  # of the line
    why = ""  # it cannot be used
    while True:
        line = lines.readline(LONGEST)
        blank = not line.strip()
        if part and (blank or size + len(line) > LONGEST):
            if not why:
                yield "".join(part).strip()
            part = []
            size = 0
            why = ""
        if not line:
            return
        if not blank:
            try:
                check(line)
            except ValueError as error:
                if on_error == "raise":
                    raise DataError(
                        f"{path}:{number}: {error}; data.on_error=skip leaves such documents out"
                    ) from None
                why = str(error)
                skipped.append((f"{path}:{number}", why))
            part.append(line)
            size += len(line)
        number += line.endswith("\n")


def _of_records(path: Path, field: str, on_error: str, skipped: list) -> Iterator[str]:
    for place, get in _rows(path):
        try:
            text = get()[field]
            if not isinstance(text, str):
                raise TypeError(f"{field!r} is not a text")
            text = check(text).strip()
        except (ValueError, KeyError, TypeError) as error:
            why = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
            if on_error == "raise":
                raise DataError(
                    f'{path}:{place}: expected an object with a text in "{field}" ({why}); '
                    "set data.field to another field, or data.on_error=skip to leave such lines out"
                ) from None
            skipped.append((f"{path}:{place}", why))
        else:
            if text:
                yield text


def _rows(path: Path) -> Iterator[Row]:
    """The records of a file: one a line, for a file of any size, or those of another .json."""
    with open_text(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    if format_of(path) == ".json" and not _is_record(first):
        yield from json_rows(path)
        return
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield str(number), lambda line=line: an_object(parse(line))


def _is_record(line: str) -> bool:
    """Whether a line of a .json is a record, and not the start of a list or {"data": ...}."""
    try:
        return not isinstance(an_object(parse(line)).get("data"), list)
    except ValueError:
        return False

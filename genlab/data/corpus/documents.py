"""Documents out of text and JSON-lines files of any size, plain, gzipped or compressed by zstd, one
at a time.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from genlab.data.text.formats import Row, an_object, check, format_of, json_rows, opened, parse
from genlab.errors import DataError

__all__ = ["read_documents"]

LONGEST = 1 << 20  # characters: a longer document of a text file comes in parts


def read_documents(
    path: Path, field: str = "text", on_error: str = "raise", skipped: list | None = None
) -> Iterator[str]:
    """The documents of one file, the space around them left out, empty ones too.

    Text files: a blank line stands between documents. Files named .jsonl or .json: an object a
    line, whose `field` is the document, or, in a .json, a list of such. What cannot be used is an
    error or, with on_error=skip, left out, its place and the reason added to `skipped`.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    skipped = [] if skipped is None else skipped
    if format_of(path) in (".jsonl", ".json"):
        yield from of_records(path, field, on_error, skipped)
    else:
        with opened(path) as lines:
            yield from of_lines(path, lines, on_error, skipped)


def of_lines(path: Path, lines: io.TextIOBase, on_error: str, skipped: list) -> Iterator[str]:
    part: list[str] = []
    size, number, why = 0, 1, ""
    while True:
        line = lines.readline(LONGEST)
        blank = not line.strip()
        if part and (blank or size + len(line) > LONGEST):
            if not why:
                yield "".join(part).strip()
            part, size, why = [], 0, ""
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


def of_records(path: Path, field: str, on_error: str, skipped: list) -> Iterator[str]:
    for place, get in rows(path):
        try:
            text = get()[field]
            if not isinstance(text, str):
                raise TypeError(f"{field!r} is no text")
            text = check(text).strip()
        except (ValueError, KeyError, TypeError) as error:
            why = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
            if on_error == "raise":
                raise DataError(
                    f'{path}:{place}: expected an object with a text in "{field}" ({why}); name another one by data.field, '
                    "or leave such lines out by data.on_error=skip"
                ) from None
            skipped.append((f"{path}:{place}", why))
        else:
            if text:
                yield text


def rows(path: Path) -> Iterator[Row]:
    """The records of a file of any size that has one a line, or those of another .json."""
    with opened(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    if format_of(path) == ".json" and not a_record(first):
        yield from json_rows(path)
        return
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield str(number), lambda line=line: an_object(parse(line))


def a_record(line: str) -> bool:
    """Whether a line of a .json is a record, and not the start of a list or {"data": ...}."""
    try:
        return not isinstance(an_object(parse(line)).get("data"), list)
    except ValueError:
        return False

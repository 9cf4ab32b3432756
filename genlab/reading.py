"""Small files that may be damaged or somebody else's: read with a limit and checked against a
schema.
"""

import csv
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from genlab.errors import RunError

__all__ = [
    "checked",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_rows",
    "read_text",
    "seal",
    "sealed",
]

log = logging.getLogger(__name__)
MAX_BYTES = 256 << 20  # of a file that is read as a whole; all that genlab writes are far smaller
MAX_DEPTH = 64  # of JSON
CELL = 1 << 30  # characters of a cell of CSV: a text may be longer than the 128 KiB that csv allows


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It is something else than a file, cannot be read, or is larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait for a writer
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                kind = "a directory" if stat.S_ISDIR(about.st_mode) else "something else"
                raise RunError(f"{path}: expected a file, and it is {kind}; move it away")
            if about.st_size > limit:
                raise RunError(f"{path}: has {about.st_size:,} bytes; expected {limit:,} at most")
            return file.read(limit)
    except IsADirectoryError:
        raise RunError(f"{path}: expected a file, and it is a directory; move it away") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """The content of a UTF-8 file; raises as `read_bytes` does, and RunError where it is not UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start:,})") from None


@cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def checked(content: Any, schema: Any, where: str, hint: str = "") -> Any:
    """`content` as it is, if it fits `schema`; else RunError naming the first key that does not.

    Args:
        content: Plain containers.
        schema: A pydantic model or type. Types are strict: the text "3" is no number.
        where: What the message begins with, as a file's name.
        hint: What the message ends with: what to do, or what works without the file.
    """
    try:
        _adapter(schema).validate_python(content, strict=True)
    except ValidationError as error:
        first, count = error.errors(include_url=False)[0], error.error_count()
        key = ".".join(str(part) for part in first["loc"])
        found = (
            f", found {_shortened(first['input'])}"
            if first["type"] not in ("missing", "value_error")
            else ""
        )
        message = (
            first["msg"]
            .replace("Input should be", "expected")
            .replace("Field required", "is missing")
        )
        message = re.sub(r"^Value error, | or instance of \w+", "", message)
        more = f" (and {count - 1} more)" if count > 1 else ""
        said = [where, key, f"{message}{found}{more}"]
        raise RunError(": ".join(filter(None, said)) + (f"; {hint}" if hint else "")) from None
    return content


def _shortened(value: Any, most: int = 40) -> str:
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    text = value if isinstance(value, str) else None
    text = json.dumps(text[: most + 1]) if text is not None else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_json(path: str | Path, schema: Any = Any, hint: str = "") -> Any:
    """The content of a JSON file, checked against `schema`; keys that it does not name pass.

    Args:
        path: The file.
        schema, hint: As of `checked`.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It cannot be read, is no JSON, or does not fit; the message names the file and
        key.
    """
    return parse_json(read_bytes(path), schema, str(path), hint)


def parse_json(content: str | bytes, schema: Any, where: str, hint: str = "") -> Any:
    """JSON text checked against `schema`; see `checked` for the arguments. RunError if it is no
    JSON or does not fit.
    """
    end = f"; {hint}" if hint else ""
    try:
        content = json.loads(content)
        if _is_deep(content):
            raise RecursionError
    except ValueError as error:  # not UTF-8, too
        raise RunError(f"{where}: not readable as JSON ({error}){end}") from None
    except RecursionError:
        raise RunError(
            f"{where}: expected lists and objects nested {MAX_DEPTH} deep at most{end}"
        ) from None
    return checked(content, schema, where, hint)


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
    return bool(level)


def _parts(content: dict | list) -> Iterable[Any]:
    return content.values() if isinstance(content, dict) else content


def read_rows(path: str | Path, key: str = "step", hint: str = "") -> list[dict[str, str]]:
    """The rows of a CSV file by the names of its columns, in their order; none of an empty file.

    Rows that are not whole are left out: those cut short, those with more cells than columns, and
    those with a cell that is no number.

    Args:
        path: The file.
        key: A column that must be there, with whole numbers.
        hint: What the message ends with.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It cannot be read as CSV or lacks the column; the message names the file.
    """
    text, hint = read_text(path), f"; {hint}" if hint else ""
    if not text:
        return []
    try:
        csv.field_size_limit(CELL)
        reader = csv.DictReader(text.splitlines(keepends=True))
        columns, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise RunError(f"{path}: not readable as CSV ({error}){hint}") from None
    if key not in columns or len(set(columns)) < len(columns):
        raise RunError(
            f"{path}: expected a column {key!r} in its first line, and each name once{hint}"
        )
    whole = [row for row in rows if _is_whole(row, key)]
    if len(rows) - len(whole) > 1:  # the last one may be cut short by a kill, and is written again
        log.warning(
            "%s: %d of its %d rows are damaged and left out",
            path,
            len(rows) - len(whole),
            len(rows),
        )
    return whole


def _is_whole(row: dict[str, str], key: str) -> bool:
    if None in row or None in row.values():
        return False
    try:
        [float(value) for value in row.values() if value]
    except ValueError:
        return False
    return row[key].isascii() and row[key].isdigit() and len(row[key]) < 19


# --- what is made by genlab and can be made again -------------------------------------------------


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with a checksum of it, for `sealed` to look at."""
    return content | {"checksum": _checksum(content)}


def sealed(content: dict[str, Any]) -> bool:
    """Whether a checksum in `content` is right; true where there is none, as in older files."""
    plain = {key: value for key, value in content.items() if key != "checksum"}
    return content.get("checksum") in (None, _checksum(plain))


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

"""Read text, JSON and CSV files that may be damaged or untrusted: with limits, and checked against
a schema. For YAML see genlab.safe_yaml.
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
    "check",
    "is_intact",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_rows",
    "read_text",
    "seal",
]

log = logging.getLogger(__name__)
MAX_BYTES = 256 << 20  # of a file; the files that genlab writes are far smaller
MAX_DEPTH = 64  # of JSON
CELL = 1 << 30  # characters of a CSV cell; the limit of the csv module is 128 KiB


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        FileNotFoundError: The file does not exist.
        RunError: It is not a regular file, cannot be read, or is larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait for a writer
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                kind = "a directory" if stat.S_ISDIR(about.st_mode) else "something else"
                raise RunError(f"{path}: expected a file, found {kind}; move it away")
            if about.st_size > limit:
                raise RunError(f"{path}: has {about.st_size:,} bytes; at most {limit:,} are read")
            return file.read(limit)
    except IsADirectoryError:
        raise RunError(f"{path}: expected a file, found a directory; move it away") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Read a UTF-8 file; raises as `read_bytes`, and RunError if the file is not UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start:,})") from None


@cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def check(content: Any, schema: Any, where: str, hint: str = "") -> Any:
    """Check plain containers against a schema.

    Args:
        content: Plain containers.
        schema: A pydantic model or type. Types are strict: the text "3" is not a number.
        where: The beginning of the message, for instance the name of a file.
        hint: The end of the message: what to do, or what works without the file.

    Returns:
        `content` itself.

    Raises:
        RunError: It names the first key that does not fit.
    """
    try:
        _adapter(schema).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].replace("Input should be", "expected")
        message = message.replace("Field required", "is missing")
        message = re.sub(r"^Value error, | or instance of \w+", "", message)
        if first["type"] not in ("missing", "value_error"):
            message += f", found {_shortened(first['input'])}"
        if (more := error.error_count() - 1) > 0:
            message += f" (and {more} more)"
        line = ": ".join(filter(None, [where, key, message]))
        raise RunError(line + (f"; {hint}" if hint else "")) from None
    return content


def _shortened(value: Any, most: int = 40) -> str:
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    text = value if isinstance(value, str) else None
    text = json.dumps(text[: most + 1]) if text is not None else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_json(path: str | Path, schema: Any = Any, hint: str = "") -> Any:
    """Read a JSON file and check it against `schema`; other keys than its own are not checked.

    Args:
        path: The file.
        schema, hint: As of `check`.

    Raises:
        FileNotFoundError: The file does not exist.
        RunError: It cannot be read, is not JSON, or does not fit; the message names file and key.
    """
    return parse_json(read_bytes(path), schema, str(path), hint)


def parse_json(content: str | bytes, schema: Any, where: str, hint: str = "") -> Any:
    """Parse JSON and check it against `schema`; arguments as of `check`.

    Raises:
        RunError: The text is not JSON, is nested too deep, or does not fit.
    """
    end = f"; {hint}" if hint else ""
    try:
        content = json.loads(content)
        if _is_deep(content):
            raise RecursionError
    except ValueError as error:  # includes what is not UTF-8
        raise RunError(f"{where}: not readable as JSON ({error}){end}") from None
    except RecursionError:
        raise RunError(f"{where}: nested deeper than {MAX_DEPTH}{end}") from None
    return check(content, schema, where, hint)


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
    return bool(level)


def _parts(content: dict | list) -> Iterable[Any]:
    return content.values() if isinstance(content, dict) else content


def read_rows(path: str | Path, key: str = "step", hint: str = "") -> list[dict[str, str]]:
    """Read the complete rows of a CSV file.

    A row is left out if it is cut short, has more cells than columns, or has a cell that is not a
    number.

    Args:
        path: The file.
        key: A column that must be there, with whole numbers.
        hint: The end of an error message.

    Returns:
        Column -> cell for each row, in their order; [] of an empty file.

    Raises:
        FileNotFoundError: The file does not exist.
        RunError: It cannot be read as CSV or lacks the column; the message names the file.
    """
    text = read_text(path)
    end = f"; {hint}" if hint else ""
    if not text:
        return []
    try:
        csv.field_size_limit(CELL)
        reader = csv.DictReader(text.splitlines(keepends=True))
        columns = reader.fieldnames or []
        rows = list(reader)
    except csv.Error as error:
        raise RunError(f"{path}: not readable as CSV ({error}){end}") from None
    if key not in columns or len(set(columns)) < len(columns):
        raise RunError(
            f"{path}: expected a column {key!r} in the first line, and no column twice{end}"
        )
    whole = [row for row in rows if _is_whole(row, key)]
    damaged = len(rows) - len(whole)
    if damaged > 1:  # a kill can cut the last row short; training writes that one again
        log.warning("%s: left out %d damaged rows of %d", path, damaged, len(rows))
    return whole


def _is_whole(row: dict[str, str], key: str) -> bool:
    if None in row or None in row.values():
        return False
    try:
        [float(value) for value in row.values() if value]
    except ValueError:
        return False
    return row[key].isascii() and row[key].isdigit() and len(row[key]) < 19


# --- files that genlab makes and can make again ---------------------------------------------------


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its own checksum, which `is_intact` verifies."""
    return content | {"checksum": _checksum(content)}


def is_intact(content: dict[str, Any]) -> bool:
    """Whether the checksum of `content` is right; True if it has none, as in older files."""
    plain = {key: value for key, value in content.items() if key != "checksum"}
    return content.get("checksum") in (None, _checksum(plain))


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

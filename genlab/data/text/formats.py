"""Text files of a user: opened, checked and split into records (JSON, JSON lines and tables)."""

import csv
import gzip
import importlib.util
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genlab.errors import DataError
from genlab.reading import CELL

__all__ = [
    "an_object",
    "check",
    "format_of",
    "json_of",
    "json_rows",
    "open_text",
    "parse",
    "refuse",
    "rows_of",
    "table_rows",
    "text_of",
]

PACKED = (".gz", ".zst", ".zstd")
DELIMITERS = {".tsv": "\t", ".csv": ","}

# (the place of a record in its file, a function that returns its values or raises ValueError)
Row = tuple[str, Callable[[], dict]]


def format_of(path: Path) -> str:
    """The suffix of a file without that of its compression: .jsonl of a.jsonl.gz."""
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix


def check(text: str) -> str:
    """Returns `text` if it can be written as UTF-8; raises ValueError if not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Bytes that are not UTF-8 are read as U+DC80 to U+DCFF.
        bytes_ = 0xDC80 <= ord(text[error.start]) <= 0xDCFF
        what = "bytes that are not UTF-8" if bytes_ else "half a surrogate pair"
        raise ValueError(f"not valid text ({what})") from None
    return text


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """A file as text, decompressed as its suffix says, without a byte order mark.

    Bytes that are not UTF-8 pass; `check` finds them.

    Raises:
        DataError: It is not there, or cannot be read to its end.
    """
    errors = (OSError, EOFError, zlib.error)
    stream: Any = None
    try:
        if path.suffix in (".zst", ".zstd"):
            if importlib.util.find_spec("zstandard") is None:
                raise DataError(f"{path}: to read it, pip install 'genlab[corpus]' for zstandard")
            import zstandard

            errors += (zstandard.ZstdError,)
            stream = zstandard.open(path, "rb")
        else:
            stream = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
        with stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape") as text:
            yield text
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; set data.path (or put it below $GENLAB_DATA)"
        ) from None
    except errors as error:
        raise DataError(
            f"{path}: not readable ({type(error).__name__}: {error}); is it cut off?"
        ) from None


def text_of(path: Path) -> str:
    """The content of a file; see `open_text`."""
    with open_text(path) as text:
        return text.read()


# --- JSON -----------------------------------------------------------------------------------------


def parse(text: str) -> Any:
    """The value of one line of JSON; ValueError says why there is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("not JSON that can be read (brackets are nested too deeply)") from None
    except json.JSONDecodeError as error:
        check(text)  # where it fails, its error says more
        raise ValueError(f"not JSON ({error.msg}: column {error.colno}); was it cut off?") from None


def json_of(path: Path, text: str | None = None) -> Any:
    """The value of a JSON file; DataError names the line where it is not JSON.

    Args:
        path: The file.
        text: Its content, if that is read already.
    """
    try:
        return json.loads(text_of(path) if text is None else text)
    except RecursionError:
        raise DataError(
            f"{path}: not JSON that can be read (brackets are nested too deeply)"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}); was it cut off?") from None
    except ValueError as error:  # a number of too many digits
        raise DataError(f"{path}: not JSON that can be read ({error})") from None


def json_rows(path: Path) -> Iterator[Row]:
    """The records of a file: an object a line; a file named .json may also hold a list of them, or
    {"data": a list}.
    """
    text = text_of(path)
    content = None
    if format_of(path) == ".json":
        try:
            content = json_of(path, text)
        except DataError:
            if not text.lstrip().startswith("{"):
                raise
    if content is None:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield str(number), lambda line=line: an_object(parse(line))
        return
    inside = isinstance(content, dict) and isinstance(content.get("data"), list)
    items = content["data"] if inside else content if isinstance(content, list) else [content]
    for i, item in enumerate(items):
        yield f"{'data' * inside}[{i}]", lambda item=item: an_object(item)


def an_object(value: Any) -> dict:
    """Returns `value` if it is a JSON object; raises ValueError if not."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


# --- tables ---------------------------------------------------------------------------------------


def rows_of(path: Path, keys: Sequence[str | int], settings: str) -> Iterator[Row]:
    """The records of a table (.tsv, .csv) or of JSON.

    Args:
        path: The file.
        keys, settings: See `table_rows`.
    """
    return table_rows(path, keys, settings) if format_of(path) in DELIMITERS else json_rows(path)


def table_rows(path: Path, keys: Sequence[str | int], settings: str) -> Iterator[Row]:
    """The rows of a table, with quotes as in csv: "" is a quote, and a column may span lines.

    In a .tsv, a quote that opens a column and is never closed stands for itself. What reads as one
    row over several lines, but as one row a line without the quotes, is refused.

    Args:
        path: A .tsv or .csv.
        keys: The columns that are needed: names in the first line or, in a file without names,
            numbers from 0.
        settings: The config keys that set them, for errors.

    Raises:
        DataError: A column is not there, or names and numbers are mixed.
    """
    delimiter, lines = DELIMITERS[format_of(path)], text_of(path).split("\n")
    names, number = None, 0
    if isinstance(keys[0], str):
        try:
            names, number = record(lines, 0, delimiter, 1)
        except ValueError as error:
            raise DataError(f"{path}:1: {error}") from None
        missing = [str(key) for key in keys if key not in names]
        if missing:
            raise DataError(
                f"{path}:1: no column {', '.join(missing)} among {', '.join(names)}; "
                f"set {settings} to names or, without a first line of names, to numbers from 0"
            )
    if len({type(key) for key in keys}) > 1:
        raise DataError(
            f"{settings}: {', '.join(map(str, keys))}: "
            "expected names of columns, or numbers, and not both"
        )
    width = max(keys) + 1 if names is None else len(names)
    needed = width if names is None else max(map(names.index, keys)) + 1
    while number < len(lines):
        place = str(number + 1)
        used = 1
        if lines[number].strip():
            try:
                cells, used = record(lines, number, delimiter, width)
                yield place, lambda cells=cells: columns(cells, names, needed)
            except ValueError as error:
                yield place, lambda why=str(error): refuse(why)
        number += used


def columns(cells: list[str], names: list[str] | None, needed: int) -> dict:
    """The cells of a row by their columns."""
    if len(cells) < needed:
        raise ValueError(f"{len(cells)} columns, expected {needed} or more")
    if names is not None and any(cells[len(names) :]):
        raise ValueError(
            f"{len(cells)} columns, expected {len(names)}; "
            "a text with a delimiter in it needs quotes around it"
        )
    return dict(enumerate(cells)) if names is None else dict(zip(names, cells, strict=False))


def record(lines: list[str], first: int, delimiter: str, width: int) -> tuple[list[str], int]:
    """The row that starts in line `first`: (its cells, how many lines it takes)."""
    plain = lines[first].rstrip("\r").split(delimiter)
    if '"' not in lines[first]:
        return plain, 1
    following = (f"{lines[i]}\n" for i in range(first, len(lines)))
    csv.field_size_limit(CELL)
    reader = csv.reader(following, delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        if delimiter == "\t":
            return plain, 1
        raise ValueError(
            'a column starts with a quote (") that is not closed as it should be; '
            'write "" for a quote in a column in quotes'
        ) from None
    used = reader.line_num
    spanned = lines[first : first + used]
    if used > 1 and width > 1 and all(len(line.split(delimiter)) >= width for line in spanned):
        raise ValueError(
            f'a quote (") opens a column here and closes it in line {first + used}, and each of '
            'these lines could be a row of its own; write "" for a quote in a column in quotes'
        )
    return cells, used


def refuse(why: str) -> Any:
    """Raises ValueError; as a function, so that a record can raise it when it is made."""
    raise ValueError(why)

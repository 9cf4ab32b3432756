"""Printing: names and texts appear unchanged, and printed commands can be pasted into a shell."""

import shlex
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["Console", "Text", "command", "console", "progress"]


class Text(TextColumn):
    """A column of a progress bar that prints its text unchanged, without rich's markup."""

    def __init__(self, text_format: str, **options: Any):
        super().__init__(text_format, markup=False, **options)


def console(file: TextIO | None = None) -> Console:
    """A console that prints every text unchanged, on `file` or else on standard error.

    With its defaults rich would take [lr=2e-4] in the name of a directory for markup and drop it,
    and replace :car: by a picture.
    """
    return Console(file=file or sys.stderr, markup=False, emoji=False, highlight=False)


def progress(
    *columns: str | ProgressColumn, file: TextIO | None = None, **options: Any
) -> Progress:
    """A progress bar on standard error that disappears when it is done.

    Args:
        columns: Columns of rich, or format strings; none: description, bar, percentage, time left.
        file: Where to print; None: standard error.
        options: Further arguments of rich's Progress.
    """
    default = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    columns = [Text(each) if isinstance(each, str) else each for each in columns or default]
    return Progress(*columns, console=console(file), **({"transient": True} | options))


def command(name: str, *words: str, **settings: Any) -> str:
    """The command line `genlab <name> key=value ...`, quoted for a shell.

    Args:
        name: train, sample, ...
        words: Further words behind the settings, already quoted.
        settings: Keys and their values, in order.
    """
    pairs = [shlex.quote(f"{key}={value}") for key, value in settings.items()]
    return " ".join(["genlab", name, *pairs, *words])

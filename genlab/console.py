"""What genlab prints: names and texts as they are, and commands that can be pasted."""

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
    """A column of a progress bar whose texts are printed as they are."""

    def __init__(self, text_format: str, **options: Any):
        super().__init__(text_format, markup=False, **options)


def console(file: TextIO | None = None) -> Console:
    """A console on `file` (standard error if None) that prints every text as it is.

    Left to itself, rich takes [lr=2e-4] in the name of a directory for markup and leaves it out,
    and :car: for a picture.
    """
    return Console(file=file or sys.stderr, markup=False, emoji=False, highlight=False)


def progress(
    *columns: str | ProgressColumn, file: TextIO | None = None, **options: Any
) -> Progress:
    """A progress bar on standard error that goes away when it is done; columns: rich's own if none
    are given.
    """
    columns = columns or (
        Text("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    columns = [Text(each) if isinstance(each, str) else each for each in columns]
    return Progress(*columns, console=console(file), **({"transient": True} | options))


def command(name: str, *words: str, **settings: Any) -> str:
    """`genlab <name> key=value ...`, quoted for a shell: what is printed can be pasted.

    Args:
        name: the command.
        words: further words, after the settings, already as they are typed.
        settings: keys and their values, in order.
    """
    pairs = [shlex.quote(f"{key}={value}") for key, value in settings.items()]
    return " ".join(["genlab", name, *pairs, *words])

"""The classes of a labelled image system, by name or number."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from genlab.config import closest
from genlab.errors import ConfigError

__all__ = ["class_numbers"]

Label = int | str
MAX_SHOWN = 12  # names that a message lists


def class_numbers(
    label: Label | Sequence[Label] | Tensor | None, num_classes: int, names: Sequence[str] | None
) -> Tensor:
    """The class numbers (K,) int64 that `label` means; all classes where it is None.

    Args:
        label: A class or several, each by its name or by its number, counted from 0. Where the
            names are whole numbers, as of the folders 1 to 12, a number is a name.
        num_classes: How many classes there are.
        names: Their names; None where they are not known.

    Raises:
        ConfigError: If there is no such class.
    """
    if label is None:
        return torch.arange(num_classes)
    if isinstance(label, Tensor):
        label = label.tolist()
    wanted = [label] if isinstance(label, int | str) else label
    if not isinstance(wanted, Sequence) or not wanted:
        expected = _expected("", num_classes, names)
        raise ConfigError(f"label={label}: expected a class or a list of them, {expected}")
    return torch.tensor([_number(one, num_classes, names) for one in wanted])


def _number(label: Label, num_classes: int, names: Sequence[str] | None) -> int:
    known = list(names or ())
    if str(label) in known:
        return known.index(str(label))
    if isinstance(label, int) and not isinstance(label, bool):
        numbers = [int(name) if name.isdecimal() else None for name in known]
        if label in numbers:  # 7 where the folder is 007
            return numbers.index(label)
        names_are_numbers = bool(numbers) and None not in numbers
        if 0 <= label < num_classes and not names_are_numbers:
            return label
    hint = closest(str(label), known) if known else ""
    raise ConfigError(f"label={label}: expected {_expected(str(label), num_classes, names)}.{hint}")


def _expected(label: str, num_classes: int, names: Sequence[str] | None) -> str:
    """What could be given instead, in words, with the names closest to `label` first."""
    by_number = f"a number from 0 to {num_classes - 1}"
    if not names:
        return f"{by_number} (this run stored no names of its classes)"
    shown = get_close_matches(label, names, MAX_SHOWN, cutoff=0.0) if label else names[:MAX_SHOWN]
    expected = f"one of {', '.join(shown)}"
    if len(names) > MAX_SHOWN:
        expected += f" and {len(names) - MAX_SHOWN} more"
    if not all(name.isdecimal() for name in names):
        expected += f", or {by_number}"
    return expected

"""Condition encoders: labels -> the vector that steers a conditional text model.

Encoders of images are in genlab.systems.text.encoders.

Shapes: B texts; F fields of labels; C = condition_dim.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genlab.ranges import PositiveInt

__all__ = ["ConditionEncoder", "LabelEncoder", "Labels", "LoadsWeights", "drop_conditions"]

SHOWN = 20  # values in an error message


class ConditionEncoder(Protocol):
    """What every condition encoder has; it is an nn.Module."""

    condition_dim: int

    def __call__(self, given: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
        """Vectors (B, C) of what is given with each text.

        Args:
            given: {"labels": (B, F) int64} or {"image": (B, channels, height, width)}.
            dropout: The probability with which a row is encoded as if nothing was given.
        """
        ...

    def free(self, num: int) -> Tensor:
        """Vectors (num, C) of texts with which nothing is given."""
        ...


@runtime_checkable
class LabelEncoder(Protocol):
    """A condition encoder of labels."""

    values: Mapping[str, Sequence[str]]  # the names of the labels of each field

    def numbers(self, wanted: Mapping | str | int | float | bool | None) -> list[int]:
        """A label for each field, -1 where `wanted` names none."""
        ...

    def named(self, labels: Sequence[int]) -> dict[str, str | None]:
        """{field: name of its label, None for -1}."""
        ...


@runtime_checkable
class LoadsWeights(Protocol):
    """A condition encoder with pretrained weights."""

    def load_weights(self) -> None:
        """Loads them; called once, at the start of a new run."""
        ...


def drop_conditions(num: int, dropout: float, device: torch.device, fields: int = 1) -> Tensor:
    """Which conditions are dropped in training: (num, fields) bool.

    All fields of a row are dropped with probability `dropout`; of several, each is also dropped by
    itself with that probability.
    """
    dropped = torch.rand(num, 1, device=device) < dropout
    if fields == 1:
        return dropped
    return dropped | (torch.rand(num, fields, device=device) < dropout)


class Labels(nn.Module):
    """Encodes labels as the sum of an embedding for each field.

    A field whose label is unknown, -1, has an embedding of its own.

    Args:
        values: Field -> the names of its labels. They come with the data: genlab train fills them
            in, and they stay in the run's config.
        condition_dim: C.
    """

    def __init__(
        self,
        values: Mapping[str, Sequence[str]] | None = None,
        condition_dim: PositiveInt = 128,
    ):
        super().__init__()
        self.values = {field: list(names) for field, names in (values or {}).items()}
        self.condition_dim = condition_dim
        self.tables = nn.ModuleList(
            nn.Embedding(len(names) + 1, condition_dim) for names in self.values.values()
        )
        # As small as a BERT's embeddings: a long vector would move all gains of a network at once.
        for table in self.tables:
            nn.init.trunc_normal_(table.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, given: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
        """{"labels": (B, F) int64} -> (B, C)."""
        labels = given["labels"].to(self.device)
        if dropout:
            dropped = drop_conditions(len(labels), dropout, labels.device, labels.shape[1])
            labels = labels.masked_fill(dropped, -1)
        parts = [
            table(column % table.num_embeddings)
            for table, column in zip(self.tables, labels.T, strict=True)
        ]
        return torch.stack(parts).sum(0)

    @property
    def device(self) -> torch.device:
        return self.tables[0].weight.device

    def free(self, num: int) -> Tensor:
        """Vectors (num, C) of texts without a known label."""
        return self({"labels": torch.full((num, len(self.values)), -1)})

    # --- names to labels --------------------------------------------------------------------------

    def numbers(self, wanted: Mapping | str | int | float | bool | None) -> list[int]:
        """The labels, one for each field, that a user names.

        Args:
            wanted: {field: name, ...}, or a name that only one field has; None: no label.

        Returns:
            -1 for each field that is not named.

        Raises:
            ValueError: A field or name is unknown, or several fields have the name.
        """
        if wanted is None:
            return [-1] * len(self.values)
        if not isinstance(wanted, Mapping):
            wanted = {self._field_of(str(wanted)): wanted}
        fields = list(self.values)
        for field in wanted:
            if field not in fields:
                raise ValueError(unknown("label: the field", str(field), fields))
        labels = []
        for field, names in self.values.items():
            name = wanted.get(field)
            if name is not None and str(name) not in names:
                raise ValueError(unknown(f"label.{field}", str(name), names))
            labels.append(-1 if name is None else names.index(str(name)))
        return labels

    def _field_of(self, name: str) -> str:
        """The only field that has a label `name`."""
        having = [field for field, names in self.values.items() if name in names]
        if len(having) > 1:
            raise ValueError(
                f"label={name}: the fields {' and '.join(having)} have it; choose one, as in "
                f"label={{{having[0]}: {name}}}"
            )
        if not having:
            every = [one for names in self.values.values() for one in names]
            raise ValueError(unknown("label", name, every))
        return having[0]

    def named(self, labels: Sequence[int]) -> dict[str, str | None]:
        """{field: name of its label, None for -1}."""
        return {
            field: None if label < 0 else names[label]
            for (field, names), label in zip(self.values.items(), labels, strict=True)
        }


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """The error message for a name that is not among `known`."""
    close = get_close_matches(name, known, 1)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"{what}={name}: expected one of {', '.join(known[:SHOWN])}{more}.{guess}"

"""From what a text is written under to the vector that steers it: labels; see systems.encoders for
images.

All of them: condition(given, dropout) -> (B, condition_dim), given being a dict of tensors with a row a text,
each row of it left out with probability `dropout`; free(num) -> (num, condition_dim), the vector of nothing
told.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from genlab.ranges import PositiveInt

__all__ = ["Labels", "leave_out"]

SHOWN = 20  # values in an error message


def leave_out(num: int, dropout: float, device: torch.device, fields: int = 1) -> Tensor:
    """bool (num, fields): with probability dropout all fields of a row, and, of several, each by
    itself as well.
    """
    gone = torch.rand(num, 1, device=device) < dropout
    return gone | (torch.rand(num, fields, device=device) < dropout) if fields > 1 else gone


class Labels(nn.Module):
    """{"labels": int64 (B, F)} -> (B, condition_dim): the sum of an embedding of each field's label, -1 being
    one not told.

    values: field -> its labels' names. They come with the data (genlab train fills them in) and
    stay in the run's config.
    """

    def __init__(
        self, values: Mapping[str, Sequence[str]] | None = None, condition_dim: PositiveInt = 128
    ):
        super().__init__()
        self.values, self.condition_dim = (
            {field: list(names) for field, names in (values or {}).items()},
            condition_dim,
        )
        self.tables = nn.ModuleList(
            nn.Embedding(len(names) + 1, condition_dim) for names in self.values.values()
        )
        for table in (
            self.tables
        ):  # as small as a BERT's: a long vector would move all gains of a network at each step
            nn.init.trunc_normal_(table.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, given: Mapping[str, Tensor], dropout: float = 0.0) -> Tensor:
        labels = given["labels"].to(self.device)
        if dropout:
            labels = labels.masked_fill(
                leave_out(len(labels), dropout, labels.device, labels.shape[1]), -1
            )
        parts = [
            table(column % table.num_embeddings)
            for table, column in zip(self.tables, labels.T, strict=True)
        ]
        return torch.stack(parts).sum(0)

    @property
    def device(self) -> torch.device:
        return self.tables[0].weight.device

    def free(self, num: int) -> Tensor:
        return self({"labels": torch.full((num, len(self.values)), -1)})

    # --- names to labels --------------------------------------------------------------------------

    def numbers(self, wanted: Mapping | str | int | float | bool | None) -> list[int]:
        """The labels of {field: name, ...}, or of a name that one field alone has; fields not named
        are not told.
        """
        if wanted is None:
            return [-1] * len(self.values)
        if not isinstance(wanted, Mapping):
            name = str(wanted)
            having = [field for field, names in self.values.items() if name in names]
            if len(having) > 1:
                raise ValueError(
                    f"label={name}: {' and '.join(having)} have it; say which, as in label={{{having[0]}: {name}}}"
                )
            if not having:
                raise ValueError(
                    unknown("label", name, [n for names in self.values.values() for n in names])
                )
            wanted = {having[0]: name}
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

    def named(self, labels: Sequence[int]) -> dict[str, str | None]:
        """{field: name, or None where it is not told}."""
        return {
            field: None if label < 0 else names[label]
            for (field, names), label in zip(self.values.items(), labels, strict=True)
        }


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not among `known`."""
    close = get_close_matches(name, known, 1)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"{what}={name}: expected one of {', '.join(known[:SHOWN])}{more}.{guess}"

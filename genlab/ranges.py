"""Ranges of numbers for annotations, as in `num_layers: PositiveInt`.

Configs are checked against them; Python ignores them.
"""

from dataclasses import dataclass
from typing import Annotated, Any

__all__ = [
    "Decay",
    "Depth",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OpenFraction",
    "PartialFraction",
    "PositiveFloat",
    "PositiveFraction",
    "PositiveInt",
    "Range",
    "Seed",
]


@dataclass(frozen=True)
class Range:
    """The range of an annotated argument, as in `Annotated[int, Range(ge=1)]`.

    Args:
        ge, gt, le, lt: Limits: at least, more than, at most, less than. None is no limit.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        return handler(source) | limits  # pydantic's schema of a number has the same keys

    def __str__(self) -> str:
        words = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
        if (self.ge, self.le) == (0, 1):
            return "from 0 to 1"
        return ", ".join(
            words[name].format(limit if limit != int(limit) else int(limit))
            for name, limit in vars(self).items()
            if limit is not None
        )


PositiveInt = Annotated[int, Range(ge=1)]
Depth = Annotated[int, Range(ge=1, le=10_000)]  # a number of layers, blocks or scales to build
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
OpenFraction = Annotated[float, Range(gt=0, lt=1)]
PositiveFraction = Annotated[float, Range(gt=0, le=1)]
PartialFraction = Annotated[float, Range(ge=0, lt=1)]
Decay = PartialFraction  # of a running average, such as beta of Adam and alpha of RMSprop
Seed = Annotated[int, Range(ge=0, lt=2**32)]

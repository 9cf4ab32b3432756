"""The contract: what a data set offers besides batches.

A data set of your own subclasses one of genlab's data modules and writes one method:

    images           genlab.data.images.module.ImageDataModule    `_read`
    text in files    genlab.data.text.module.TextDataModule       `read_examples`
    other text       genlab.data.text.module.TextDataModule       `_read`
    anything else    genlab.data.module.StepDataModule            see there

`DataSet` is what all of them have. The other Protocols below are what some sets offer as well:
whoever needs it asks `isinstance(data, <Protocol>)`. All of it is known after setup().

Shapes: N examples of a split, in its order; C channels; S image size; F fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "DataSet",
    "HasArrays",
    "HasClassWords",
    "HasDensity",
    "HasExamples",
    "HasImageShape",
    "HasLabelValues",
    "HasVocabulary",
]


@runtime_checkable
class DataSet(Protocol):
    """What every data set has; genlab.data.module.StepDataModule has defaults for most of it."""

    name: str
    modality: Literal["image", "point", "text"]
    num_classes: int | None  # None: there are no class labels
    classes: Sequence[str] | None  # their names, in the order of the labels
    notes: Sequence[str]  # what a user should know of the set, a line each
    left_out: Mapping[str, int]  # how many files were not used, by the reason

    def setup(self, stage: str | None = None) -> None:
        """Opens the set; calling it again changes nothing."""
        ...

    def loader(self, split: str) -> Iterable[dict[str, Tensor]]:
        """The batches of train, val or test, each example once, in order, on the CPU."""
        ...

    def given(self, split: str) -> Mapping[str, Any]:
        """What the examples come with for a model to be conditioned on; {} where it is nothing.

        {"labels": int64 (N, F)}, -1 where a label is unknown, or {"image": uint8 (N, C, S, S)}.
        """
        ...

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with: `name`, `split`, `count`, ..."""
        ...

    def split_key(self, split: str) -> str | None:
        """The key below `data.` that sets the size of val or test; None where there is none."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits that change with the examples of any split."""
        ...


@runtime_checkable
class HasArrays(Protocol):
    """Holds images or points as arrays."""

    def arrays(self, split: str) -> Any:
        """Points (N, D), or the genlab.data.images.arrays.Arrays of a split."""
        ...

    def pick(self, split: str, num: int, seed: int = 0) -> dict[str, Tensor]:
        """A batch of `num` different examples of a split, all where it has fewer."""
        ...


@runtime_checkable
class HasDensity(Protocol):
    """Is drawn from a density that may be known."""

    def log_density(self, points: Tensor) -> Tensor | None:
        """log p in nats (N,) of points (N, D); None where it has no closed form."""
        ...


@runtime_checkable
class HasExamples(Protocol):
    """Holds texts: sources, questions and targets."""

    codec: Any  # genlab.data.text.codec.Codec: the vocabulary and the lengths of rows

    def examples(self, split: str) -> list:
        """A genlab.data.text.records.Example for each text or question of a split."""
        ...


@runtime_checkable
class HasVocabulary(Protocol):
    """Has a vocabulary, which a network must be as large as."""

    vocab_size: int


@runtime_checkable
class HasLabelValues(Protocol):
    """Holds texts with labels that a model can write by."""

    label_values: Mapping[str, Sequence[str]]  # field -> its values that training uses


@runtime_checkable
class HasClassWords(Protocol):
    """Holds captions made from classes. (The `words` of a corpus are a setting of its own.)"""

    words: Sequence[str]  # the word for each class, in the order of the labels


@runtime_checkable
class HasImageShape(Protocol):
    """Holds images beside its texts."""

    # image_size, channels, crop and resize: how a model's other images are prepared
    image_shape: Mapping[str, Any]

"""The shards of a corpus as they are read: checked, and through memory maps.
genlab.data.corpus.shards makes them.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
from pydantic import BaseModel, NonNegativeInt

from genlab.errors import DataError
from genlab.reading import is_intact, read_json

__all__ = ["SPLITS", "VERSION", "Shards", "Stream", "described", "opened"]

VERSION = 1
SPLITS = ("train", "val", "test")
CHECKED = (
    1 << 30
    # bytes of shards that are all checked at once; those of a larger corpus are when they are first
    # read
)
log = logging.getLogger(__name__)


class Splits(BaseModel):
    """A number a split."""

    train: NonNegativeInt
    val: NonNegativeInt
    test: NonNegativeInt


class About(BaseModel):
    """What the .json of a shard must say."""

    tokens: Splits
    documents: Splits
    characters: NonNegativeInt
    unknown: NonNegativeInt
    sha256: str


class Index(BaseModel):
    """What index.json must say."""

    version: int
    itemsize: int
    shards: list[About]


def described(file: Path, itemsize: int) -> dict | None:
    """What the .json of a shard says, if the shard is whole."""
    try:
        about = read_json(file.with_suffix(".json"), About)
        return about if is_whole(file, about, itemsize) else None
    except (OSError, ValueError):
        return None


def is_whole(file: Path, about: dict, itemsize: int) -> bool:
    """Whether a shard has the size and the sha256 that `about` says."""
    if file.stat().st_size != itemsize * sum(about["tokens"][split] for split in SPLITS):
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == about["sha256"]


def opened(index: Path, itemsize: int) -> "Shards | None":
    """The shards that an index.json lists, if all are there and whole; None, said in a line, if
    they are damaged.
    """
    try:
        content = read_json(index, Index)
        files = [index.with_name(f"{i:05d}.tokens") for i in range(len(content["shards"]))]
        about = content["shards"]
        if (
            not is_intact(content)
            or content["version"] != VERSION
            or content["itemsize"] != itemsize
        ):
            raise ValueError(f"{index}: is damaged or of another version")
        total = sum(file.stat().st_size for file in files)
        if total <= CHECKED and not all(
            is_whole(f, a, itemsize) for f, a in zip(files, about, strict=True)
        ):
            raise ValueError(f"{index.parent}: a shard in it is damaged")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s; what is damaged is made anew", error)
        return None
    return Shards(files, about, itemsize)


class Shards:
    """Prepared shards: the streams of their splits, and what their index says."""

    def __init__(self, files: list[Path], about: list[dict], itemsize: int):
        self.files, self.about, self.dtype = files, about, np.dtype(f"<u{itemsize}")

    def total(self, what: str, split: str | None = None) -> int:
        """The sum of tokens, documents (of a split), characters or unknown over the shards."""
        return sum(about[what][split] if split else about[what] for about in self.about)

    @property
    def sha256(self) -> str:
        """Of the tokens of all shards."""
        return hashlib.sha256(
            " ".join(about["sha256"] for about in self.about).encode()
        ).hexdigest()

    def stream(self, split: str) -> "Stream":
        """The documents of a split, one after the other."""
        before = [
            sum(about["tokens"][s] for s in SPLITS[: SPLITS.index(split)]) for about in self.about
        ]
        return Stream(
            self.files,
            before,
            [about["tokens"][split] for about in self.about],
            self.dtype,
            self.about,
        )


class Stream:
    """stream[start:stop]: stored tokens, out of memory maps that are opened, and checked, when they
    are needed.
    """

    def __init__(
        self,
        files: list[Path],
        offsets: list[int],
        sizes: list[int],
        dtype: np.dtype,
        about: list[dict],
    ):
        self.files, self.offsets, self.dtype, self.about = files, offsets, dtype, about
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict:
        return self.__dict__ | {"maps": {}}  # a worker opens the files for itself

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop = part.start, min(part.stop, len(self))
        found = []
        shard = int(np.searchsorted(self.ends, start, "right"))
        while start < stop:
            if shard not in self.maps:
                self.maps[shard] = self._opened(shard)
            first = int(self.ends[shard - 1]) if shard else 0
            end = min(stop, int(self.ends[shard]))
            if end > start:
                here = self.offsets[shard] - first
                found.append(self.maps[shard][start + here : end + here])
            start, shard = max(start, end), shard + 1
        return np.concatenate(found) if len(found) != 1 else np.asarray(found[0])

    def _opened(self, shard: int) -> np.ndarray:
        file = self.files[shard]
        try:
            if not is_whole(file, self.about[shard], self.dtype.itemsize):
                raise DataError(
                    f"{file}: is damaged; remove it, and the next command makes it anew"
                )
            return np.memmap(file, self.dtype, "r")
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); the next command makes it anew"
            ) from None

"""The shards of a corpus as they are read: checked, and through memory maps.

genlab.data.corpus.shards makes them.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
from pydantic import BaseModel, NonNegativeInt

from genlab.data.splits import SPLITS
from genlab.errors import DataError
from genlab.reading import is_intact, read_json

__all__ = ["VERSION", "Shards", "Stream", "describe_shard", "open_shards"]

VERSION = 1
# Shards of up to so many bytes in all are checked at once; of a larger corpus, each when it is
# first read.
CHECKED = 1 << 30
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


def describe_shard(file: Path, itemsize: int) -> dict | None:
    """What the .json of a shard says; None unless the shard is whole."""
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


def open_shards(index: Path, itemsize: int) -> "Shards | None":
    """The shards that an index.json lists, if all are whole; else None, with a warning if damaged.

    Args:
        index: The file.
        itemsize: Bytes of a stored token.
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
        pairs = zip(files, about, strict=True)
        if total <= CHECKED and not all(is_whole(*pair, itemsize) for pair in pairs):
            raise ValueError(f"{index.parent}: a shard in it is damaged")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s; what is damaged is made anew", error)
        return None
    return Shards(files, about, itemsize)


class Shards:
    """Prepared shards: the streams of their splits, and what their index says.

    Args:
        files: The .tokens files.
        about: What the .json of each says (About).
        itemsize: Bytes of a stored token.
    """

    def __init__(self, files: list[Path], about: list[dict], itemsize: int):
        self.files = files
        self.about = about
        self.dtype = np.dtype(f"<u{itemsize}")

    def total(self, what: str, split: str | None = None) -> int:
        """A sum over the shards: `tokens` or `documents` of a split, or `characters`, `unknown`."""
        return sum(about[what][split] if split else about[what] for about in self.about)

    @property
    def sha256(self) -> str:
        """A sha256 over the tokens of all shards."""
        digests = " ".join(about["sha256"] for about in self.about)
        return hashlib.sha256(digests.encode()).hexdigest()

    def stream(self, split: str) -> "Stream":
        """The documents of a split, one after the other."""
        earlier = SPLITS[: SPLITS.index(split)]
        offsets = [sum(about["tokens"][s] for s in earlier) for about in self.about]
        sizes = [about["tokens"][split] for about in self.about]
        return Stream(self.files, offsets, sizes, self.dtype, self.about)


class Stream:
    """stream[start:stop] are stored tokens, from maps that are opened and checked when needed.

    Args:
        files: The shards.
        offsets: Where the split starts in each, in tokens.
        sizes: How many tokens of the split each has.
        dtype: Of a stored token.
        about: What the .json of each says (About).
    """

    def __init__(
        self,
        files: list[Path],
        offsets: list[int],
        sizes: list[int],
        dtype: np.dtype,
        about: list[dict],
    ):
        self.files = files
        self.offsets = offsets
        self.dtype = dtype
        self.about = about
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict:
        return self.__dict__ | {"maps": {}}  # a worker opens the files for itself

    def __getitem__(self, part: slice) -> np.ndarray:
        start = part.start
        stop = min(part.stop, len(self))
        found = []
        shard = int(np.searchsorted(self.ends, start, "right"))
        while start < stop:
            if shard not in self.maps:
                self.maps[shard] = self._open(shard)
            first = int(self.ends[shard - 1]) if shard else 0
            end = min(stop, int(self.ends[shard]))
            if end > start:
                here = self.offsets[shard] - first
                found.append(self.maps[shard][start + here : end + here])
            start = max(start, end)
            shard += 1
        return np.concatenate(found) if len(found) != 1 else np.asarray(found[0])

    def _open(self, shard: int) -> np.ndarray:
        file = self.files[shard]
        try:
            if not is_whole(file, self.about[shard], self.dtype.itemsize):
                raise DataError(
                    f"{file}: the file is damaged; remove it, and the next command makes it anew"
                )
            return np.memmap(file, self.dtype, "r")
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); the next command makes it anew"
            ) from None

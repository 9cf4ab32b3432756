"""data=corpus: raw text of any size as packed rows of tokens, to pretrain on.

Shapes: B rows of a batch, L = max_length tokens of a row.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genlab.console import progress
from genlab.data.corpus.documents import read_documents
from genlab.data.corpus.shards import (
    CHARACTERS,
    load_tokenizer,
    one_at_a_time,
    prepare,
    save_tokenizer,
)
from genlab.data.corpus.tokens import VERSION, Shards, Stream
from genlab.data.loader import StepLoader
from genlab.data.module import StepDataModule
from genlab.data.sampler import StepSampler, in_order
from genlab.data.splits import SPLITS, check_split
from genlab.data.text.tokenizer import Tokenizer, tokenizer_of
from genlab.data.text.vocabulary import SPECIALS, build_vocab
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PartialFraction, PositiveInt, Seed
from genlab.seeds import digest, permute

__all__ = ["Corpus", "RowDraw", "RowSampler", "Rows"]

SMALL_BYTES = 4 << 20  # files of so many bytes are done before other processes have started


class RowDraw(NamedTuple):
    """The rows of one batch.

    index: int64 (B,). epochs: the epoch of each, int64 (B,); None: as they are validated on, the
    same each time.
    """

    index: Tensor
    epochs: Tensor | None = None


class RowSampler(StepSampler):
    """RowDraws in an order that needs no memory, epoch after epoch without a break.

    The epochs, each a permutation of all rows, form one endless sequence. Step t takes the t-th run
    of batch_size * world_size rows of it, and rank r the r-th part of that: no row is left out or
    comes twice in an epoch, and a batch may end one epoch and begin the next. Iterating yields
    every step that overlaps the epoch.

    Args:
        count: Rows of the training split.
        batch_size, seed, rank, world_size: See StepSampler.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        # Not StepSampler's: a batch may be larger than an epoch.
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.position = 0
        self.global_batch = batch_size * world_size

    def __len__(self) -> int:
        return -(-self.count // self.global_batch)

    def _draws(self, position: int) -> Iterator[RowDraw]:
        for step in range(position, position + len(self)):
            first = step * self.global_batch + self.rank * self.batch_size
            sequence = np.arange(first, first + self.batch_size)
            epochs, places = sequence // self.count, sequence % self.count
            rows = np.empty_like(places)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                rows[here] = permute(places[here], self.count, digest(self.seed, epoch))
            yield RowDraw(torch.from_numpy(rows), torch.from_numpy(epochs))


class Rows:
    """`rows[draw]` is a batch of rows of tokens.

    Row r is [CLS] and the r-th run of L - 1 tokens of a stream, whose documents are [CLS] ...
    [SEP]; the last row of a stream is padded. A batch holds

        ids         int64 (B, L)
        starts      bool (B, L): where a word starts
        keys        int64 (B,): what an objective draws its random numbers from; see `masks`
        lengths     int64 (B,), unless all are L
        documents   int64 (B, L), if isolated: the number of a token's document in its row, from 0

    Args:
        stream: The tokens of a split.
        max_length: L.
        tokenizer: Has the ids of [CLS] and [PAD].
        isolated: Add `documents`.
        seed: Of the keys.
        masks: None: a key is a function of (seed, epoch, row); a number: of (seed, epoch % masks,
            row). A draw without epochs has the same keys each time.
    """

    def __init__(
        self,
        stream: Stream,
        max_length: int,
        tokenizer: Tokenizer,
        isolated: bool,
        seed: int,
        masks: int | None,
    ):
        self.stream = stream
        self.max_length = max_length
        self.isolated = isolated
        self.seed = seed
        self.masks = masks
        self.cls_id = tokenizer.cls_id
        self.pad_id = tokenizer.pad_id

    def __len__(self) -> int:
        return -(-len(self.stream) // (self.max_length - 1))

    def __getitem__(self, draw: RowDraw) -> dict[str, Tensor]:
        rows = draw.index.tolist()
        width = self.max_length - 1
        # As on disk, twice the id and whether a word starts there; see genlab.data.corpus.shards.
        stored = np.full((len(rows), self.max_length), 2 * self.pad_id + 1, np.int64)  # (B, L)
        stored[:, 0] = 2 * self.cls_id + 1
        lengths = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            part = self.stream[row * width : (row + 1) * width]
            stored[i, 1 : 1 + len(part)] = part
            lengths[i] = 1 + len(part)
        ids = torch.from_numpy(stored >> 1)
        batch = {
            "ids": ids,
            "starts": torch.from_numpy(stored & 1 == 1),
            "keys": torch.tensor(self._keys(draw)),
        }
        if (lengths < self.max_length).any():  # else attention needs no mask
            batch["lengths"] = torch.from_numpy(lengths)
        if self.isolated:
            batch["documents"] = (ids == self.cls_id).cumsum(1) - 1
        return batch

    def _keys(self, draw: RowDraw) -> list[int]:
        rows = draw.index.tolist()
        epochs = ["val"] * len(rows) if draw.epochs is None else draw.epochs.tolist()
        if self.masks is not None and draw.epochs is not None:
            epochs = [epoch % self.masks for epoch in epochs]
        return [digest(self.seed, epoch, row) for epoch, row in zip(epochs, rows, strict=True)]


class Corpus(StepDataModule):
    """Rows of tokens from text files (a blank line between documents) or JSON lines.

    Files are tokenised once, into shards below $GENLAB_DATA. Batches are those of Rows.

    Args:
        path: A file or pattern (corpus/*.txt.gz), or a list of them, looked for as given and below
            root or $GENLAB_DATA.
        val_path: The files of val; None: a fraction of the documents of `path` is held out.
        test_path: The same for test.
        root: A folder in which the files are looked for.
        field: The field of the text in JSON lines.
        on_error: `raise` or `skip` a line that cannot be used.
        val_fraction: The fraction of the documents held out for val, in [0, 1).
        test_fraction: The same for test.
        vocab: A vocab.txt or tokenizer.json, the directory with one, a run, or the name of
            pretrained weights; None: one is built from the beginning of the text.
        vocab_size: The most tokens of one that is built.
        vocab_kind: Of one that is built: wordpiece or characters.
        vocab_characters: How much of the text, from its beginning, it is built from.
        simplified: Leave out the tokens of `vocab` that BERT's splitting cannot produce.
        lowercase: Read texts in lower case; None: as the vocabulary says, and true without one.
        words: What is masked as a whole: spaces (words between spaces), jieba (Chinese words as
            well), pieces (each token by itself).
        max_length: Tokens of a row.
        pack: cross_document: the documents of a row see each other; isolated: masks and positions
            restart with each document.
        masks: So many static maskings, epochs in turn; None: a new masking each epoch.
        batch_size: Rows a process takes at each step.
        num_workers: Processes that make batches ahead of the step.
        processes: Processes that tokenise; None: one a core for more than a few megabytes.
        seed: Of the order of training and of the masks.

    Raises:
        DataError: A setting is out of range.
    """

    name = "corpus"
    modality = "text"

    def __init__(
        self,
        path: str | list | None = None,
        val_path: str | list | None = None,
        test_path: str | list | None = None,
        root: str | None = None,
        field: str = "text",
        on_error: Literal["raise", "skip"] = "raise",
        val_fraction: PartialFraction = 0.01,
        test_fraction: PartialFraction = 0.01,
        vocab: str | None = None,
        vocab_size: PositiveInt = 8000,
        vocab_kind: Literal["wordpiece", "characters"] = "wordpiece",
        vocab_characters: PositiveInt = 20_000_000,
        simplified: bool = False,
        lowercase: bool | None = None,
        words: Literal["spaces", "jieba", "pieces"] = "spaces",
        max_length: PositiveInt = 512,
        pack: Literal["cross_document", "isolated"] = "cross_document",
        masks: PositiveInt | None = None,
        batch_size: PositiveInt = 32,
        num_workers: NonNegativeInt = 0,
        processes: PositiveInt | None = None,
        seed: Seed = 1,
    ) -> None:
        super().__init__()
        numbers = {
            "batch_size": (batch_size, 1),
            "max_length": (max_length, 8),
            "num_workers": (num_workers, 0),
            "masks": (1 if masks is None else masks, 1),
            "processes": (1 if processes is None else processes, 1),
        }
        for key, (value, least) in numbers.items():
            if not isinstance(value, int) or value < least:
                raise DataError(f"data.{key}={value!r}: expected a number of {least} or more")
        if pack not in ("cross_document", "isolated"):
            raise DataError(f"data.pack={pack}: expected cross_document or isolated")
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise DataError(
                f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: "
                "expected fractions that leave some documents to train on"
            )
        if vocab is None and simplified:
            raise DataError("data.simplified=true: only a given data.vocab can be simplified")
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.root = root
        self.field = field
        self.on_error = on_error
        self.vocab = vocab
        self.wanted_size = vocab_size
        self.vocab_kind = vocab_kind
        self.vocab_characters = vocab_characters
        self.simplified = simplified
        self.lowercase = lowercase
        self.words = words
        self.max_length = max_length
        self.pack = pack
        self.masks = masks
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.processes = processes
        self.seed = seed
        self.skipped: list[tuple[str, str]] = []
        self.tokenizer: Tokenizer | None = None
        self._shards: dict[str, Shards] = {}

    # --- files and vocabulary ---------------------------------------------------------------------

    def split_key(self, split: str) -> str:
        """val_fraction or test_fraction."""
        return f"{split}_fraction"

    def locate(self, name: str) -> list[Path]:
        """The files that a name or pattern means, in the order of their names.

        Raises:
            DataError: There is none.
        """
        roots = [Path(root).expanduser() for root in (self.root, data_root()) if root]
        for place in (Path(), *roots):
            path = place / Path(name).expanduser()
            if path.is_file():
                return [path]
            found = sorted(p for p in path.parent.glob(path.name) if p.is_file())
            if found:
                return found
        raise DataError(
            f"data.path={name}: there is no such file here or below {self.root or data_root()}"
        )

    def files(self, split: str) -> list[Path]:
        """The files of a split; DataError if it has none of its own."""
        paths = self.paths[split]
        if paths is None:
            raise DataError(
                "data.path: give text files to train on, as in data.path='corpus/*.txt.gz'"
            )
        names = paths if isinstance(paths, list) else [paths]
        return [file for name in names for file in self.locate(name)]

    def documents(self, split: str) -> Iterator[str]:
        """The texts of the files of a split; of train with those that are held out of it."""
        for file in self.files(split):
            yield from read_documents(file, self.field, self.on_error, self.skipped)

    def stamp(self, split: str) -> list:
        """[name, bytes, time] of each file of a split: shards are made anew when it changes."""
        infos = [(str(file.resolve()), file.stat()) for file in self.files(split)]
        return [[name, info.st_size, info.st_mtime_ns] for name, info in infos]

    def _cache(self, *words) -> Path:
        """The folder for what these words decide."""
        key = hashlib.sha256(json.dumps([VERSION, *words]).encode()).hexdigest()[:16]
        return data_root() / "cache" / f"corpus-{key}"

    def _tokenizer(self) -> Tokenizer:
        if self.vocab is None:
            return self._build_tokenizer()
        try:
            path = self.locate(self.vocab)[0]
        except DataError:
            path = Path(self.vocab).expanduser()
        return tokenizer_of(self.vocab, path, self.lowercase, self.simplified, SPECIALS)

    def _build_tokenizer(self) -> Tokenizer:
        """A vocabulary of the first texts, made once: all processes of a run read the same file."""
        lowercase = True if self.lowercase is None else self.lowercase
        settings = [self.wanted_size, self.vocab_kind, lowercase, self.vocab_characters]
        # "with marks" sets it apart from older caches, whose vocabularies lack marks.
        folder = self._cache("vocab", self.stamp("train"), self.field, *settings, "with marks")
        file = folder / "vocab.json"
        with one_at_a_time(folder):
            tokenizer = load_tokenizer(file)
            if tokenizer is None:
                texts = self._first_texts()
                vocab = build_vocab(texts, self.wanted_size, self.vocab_kind, lowercase)
                tokenizer = Tokenizer(vocab, lowercase)
                save_tokenizer(file, tokenizer)
            return tokenizer

    def _first_texts(self) -> Iterator[str]:
        left = self.vocab_characters
        for text in self.documents("train"):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                return

    # --- what Lightning and the commands ask for --------------------------------------------------

    def prepare_data(self) -> None:
        """Tokenises what is not yet tokenised."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Opens the shards, made first where they are missing; again, it changes nothing."""
        if self.tokenizer is not None:
            return
        tokenizer = self._tokenizer()
        held_out = {
            split: fraction
            for split, fraction in self.fractions.items()
            if fraction and self.paths[split] is None
        }
        self._shards["train"] = self._prepare("train", tokenizer, held_out)
        for split in self.fractions:
            if self.paths[split] is None:
                self._shards[split] = self._shards["train"]
            else:
                self._shards[split] = self._prepare(split, tokenizer, {split: 1.0})
        self.tokenizer = tokenizer
        if not len(self.rows("train")):
            raise DataError(
                f"data.path={self.paths['train']}: it leaves no text to train on; "
                "lower data.val_fraction"
            )

    def _prepare(self, split: str, tokenizer: Tokenizer, fractions: dict[str, float]) -> Shards:
        """The shards of the files of a split; `fractions` of their documents go to val and test."""
        settings = [tokenizer.state(), self.words, self.field, self.on_error, fractions, CHARACTERS]
        stamp = self.stamp(split)
        small = sum(size for _, size, _ in stamp) < SMALL_BYTES
        processes = self.processes or (1 if small else len(os.sched_getaffinity(0)))
        with progress("{task.description}", "{task.completed:,.0f} characters") as bar:
            task = bar.add_task("tokenising", total=None)
            return prepare(
                self._cache(stamp, *settings),
                partial(self.documents, split),
                tokenizer,
                self.words,
                fractions,
                processes,
                progress=partial(bar.advance, task),
            )

    @property
    def vocab_size(self) -> int:
        """How many tokens the vocabulary has; known after setup()."""
        self.setup()
        return len(self.tokenizer)

    def rows(self, split: str) -> Rows:
        """The rows of train, val or test."""
        check_split(split)
        self.setup()
        stream = self._shards[split].stream(split)
        seed = self.seed if split == "train" else 0
        isolated = self.pack == "isolated"
        return Rows(stream, self.max_length, self.tokenizer, isolated, seed, self.masks)

    def _loader(self, split: str) -> StepLoader | list:
        rows, (rank, world) = self.rows(split), self._ranks()
        pin_memory = self._device().type == "cuda"
        if split != "train":
            draws = in_order(len(rows), self.batch_size, rank, world)
            draws = [RowDraw(draw.index) for draw in draws]
            return StepLoader(rows, draws, pin_memory=pin_memory) if draws else []
        sampler = RowSampler(len(rows), self.batch_size, self.seed, rank, world)
        return StepLoader(rows, sampler, self._step, self.num_workers, pin_memory)

    def loader(self, split: str, num: int | None = None) -> StepLoader:
        """The first `num` rows of a split (None: all) in order, with the same keys each time."""
        rows = self.rows(split)
        draws = in_order(min(len(rows), num or len(rows)), self.batch_size)
        return StepLoader(rows, [RowDraw(draw.index) for draw in draws])

    def examples(self, split: str) -> list:
        """Raises DataError: a corpus is kept as tokens alone."""
        raise DataError(
            f"split={split}: a corpus is kept as tokens, without its texts; "
            "give input=<file>, a text a line"
        )

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        self.setup()
        shards = self._shards[split]
        paths = {name: path for name, path in self.paths.items() if path}
        return {
            "name": self.name,
            "split": split,
            "count": len(self.rows(split)),
            "skipped": len(self.skipped),
            "tokens": shards.total("tokens", split),
            "documents": shards.total("documents", split),
            "max_length": self.max_length,
            "pack": self.pack,
            "words": self.words,
            "unknown": shards.total("unknown"),
            "source": json.dumps(paths),
        }

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over the tokens of all splits, the vocabulary and the rows."""
        self.setup()
        content = [
            *(self._shards[split].sha256 for split in SPLITS),
            self.tokenizer.state(),
            self.max_length,
            self.pack,
            self.masks,
            self.fractions,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

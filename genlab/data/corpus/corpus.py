"""data=corpus: raw text of any size as packed rows of tokens, to pretrain on."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genlab.console import progress
from genlab.data.corpus.documents import read_documents
from genlab.data.corpus.shards import CHARACTERS, alone, keep_tokenizer, kept_tokenizer, prepare
from genlab.data.corpus.tokens import VERSION, Shards, Stream
from genlab.data.loader import StepDataModule, StepLoader
from genlab.data.sampler import StepSampler, in_order
from genlab.data.splits import SPLITS
from genlab.data.text.tokenizer import Tokenizer, tokenizer_of
from genlab.data.text.vocabulary import SPECIALS, build_vocab
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PartialFraction, PositiveInt, Seed
from genlab.seeds import digest, permute

__all__ = ["Corpus", "RowDraw", "RowSampler", "Rows"]

SMALL_BYTES = 4 << 20  # files that one process is done with before others have started


class RowDraw(NamedTuple):
    """The rows of one batch, int64 (B,), and the epoch of each; None: as they are validated on."""

    index: Tensor
    epochs: Tensor | None = None


class RowSampler(StepSampler):
    """RowDraws in an order that needs no memory, epoch after epoch without a break.

    Of the endless sequence of epochs, each a permutation of all rows, step t takes the t-th run of
    batch_size * world_size and rank r the r-th part of that: no row is left out or comes twice in
    an epoch, and a batch may end one and begin the next. An iteration is the steps that an epoch
    has a part in.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.position = (
            count,
            batch_size,
            seed,
            rank,
            0,
        )
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
    """`rows[draw]` -> {ids (B, L), starts (B, L), keys (B,), lengths (B,) unless all are L,
    documents (B, L) if isolated}.

    Row r is [CLS] and the r-th run of L - 1 tokens of a stream, whose documents are [CLS] ...
    [SEP]; the last of a stream is padded. starts: where a word starts, bool. documents: the number
    of a token's document in its row, from 0. keys: int64, what an objective draws its random
    numbers from: a function of (seed, epoch, row); with `masks`, of (seed, epoch % masks, row). A
    draw without epochs has the same keys for ever.
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
        self.stream, self.max_length, self.isolated, self.seed, self.masks = (
            stream,
            max_length,
            isolated,
            seed,
            masks,
        )
        self.cls_id, self.pad_id = tokenizer.cls_id, tokenizer.pad_id

    def __len__(self) -> int:
        return -(-len(self.stream) // (self.max_length - 1))

    def __getitem__(self, draw: RowDraw) -> dict[str, Tensor]:
        width = self.max_length - 1
        stored = np.full((len(draw.index), self.max_length), 2 * self.pad_id + 1, np.int64)
        stored[:, 0] = 2 * self.cls_id + 1
        lengths = np.empty(len(stored), np.int64)
        for i, row in enumerate(draw.index.tolist()):
            part = self.stream[row * width : (row + 1) * width]
            stored[i, 1 : 1 + len(part)] = part
            lengths[i] = 1 + len(part)
        epochs = ["val"] * len(stored) if draw.epochs is None else draw.epochs.tolist()
        if self.masks is not None and draw.epochs is not None:
            epochs = [epoch % self.masks for epoch in epochs]
        keys = [
            digest(self.seed, epoch, row)
            for epoch, row in zip(epochs, draw.index.tolist(), strict=True)
        ]
        ids = torch.from_numpy(stored >> 1)
        batch = {
            "ids": ids,
            "starts": torch.from_numpy(stored & 1 == 1),
            "keys": torch.tensor(keys),
        }
        if (lengths < self.max_length).any():  # else attention needs no mask
            batch["lengths"] = torch.from_numpy(lengths)
        if self.isolated:
            batch["documents"] = (ids == self.cls_id).cumsum(1) - 1
        return batch


class Corpus(StepDataModule):
    """Rows of max_length tokens out of text files (a blank line between documents) or JSON lines,
    tokenised once.

    path: a file or a pattern (corpus/*.txt.gz), or a list of them, looked for as given and below
    root or $GENLAB_DATA; val_path, test_path: those of the other splits; without them the parts
    val_part and test_part of the documents are held out. vocab: a vocab.txt or tokenizer.json, a
    directory with one, a run, or the name of pretrained weights; null: built of the first
    vocab_characters, vocab_size tokens of vocab_kind. simplified: drop the tokens that BERT's
    splitting cannot produce. words: what is masked as a whole: spaces, jieba (for Chinese), pieces.
    pack: cross_document lets a row's documents see each other, isolated restarts mask and positions
    with each. masks: so many static maskings, epochs in turn, instead of a new one each epoch.
    processes: that tokenise; null: one a core for more than a few megabytes.
    """

    name = "corpus"
    num_classes = None

    def __init__(
        self,
        path: str | list | None = None,
        val_path: str | list | None = None,
        test_path: str | list | None = None,
        root: str | None = None,
        field: str = "text",
        on_error: Literal["raise", "skip"] = "raise",
        val_part: PartialFraction = 0.01,
        test_part: PartialFraction = 0.01,
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
        }
        numbers |= {
            "masks": (1 if masks is None else masks, 1),
            "processes": (1 if processes is None else processes, 1),
        }
        for key, (value, least) in numbers.items():
            if not isinstance(value, int) or value < least:
                raise DataError(f"data.{key}={value!r}: expected a number of {least} or more")
        if pack not in ("cross_document", "isolated"):
            raise DataError(f"data.pack={pack}: expected cross_document or isolated")
        if min(val_part, test_part) < 0 or val_part + test_part >= 1:
            raise DataError(
                f"data.val_part={val_part}, data.test_part={test_part}: expected parts that leave some to train on"
            )
        if vocab is None and simplified:
            raise DataError("data.simplified=true: only a given data.vocab can be simplified")
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.root, self.field, self.on_error, self.parts = (
            root,
            field,
            on_error,
            {"val": val_part, "test": test_part},
        )
        self.vocab, self.wanted_size, self.vocab_kind, self.vocab_characters = (
            vocab,
            vocab_size,
            vocab_kind,
            vocab_characters,
        )
        self.simplified, self.lowercase, self.words, self.max_length, self.pack = (
            simplified,
            lowercase,
            words,
            max_length,
            pack,
        )
        self.masks, self.batch_size, self.num_workers, self.processes, self.seed = (
            masks, batch_size, num_workers, processes, seed)  # fmt: skip
        self.skipped: list[tuple[str, str]] = []
        self.tokenizer: Tokenizer | None = None
        self._shards: dict[str, Shards] = {}

    # --- files and vocabulary ---------------------------------------------------------------------

    def located(self, name: str) -> list[Path]:
        """The files that a name or pattern means, in the order of their names; DataError if there
        is none.
        """
        for place in (
            Path(),
            *(Path(root).expanduser() for root in (self.root, data_root()) if root),
        ):
            path = place / Path(name).expanduser()
            found = (
                [path]
                if path.is_file()
                else sorted(p for p in path.parent.glob(path.name) if p.is_file())
            )
            if found:
                return found
        raise DataError(
            f"data.path={name}: there is no such file here or below {self.root or data_root()}"
        )

    def files(self, split: str) -> list[Path]:
        paths = self.paths[split]
        if paths is None:
            raise DataError(
                "data.path: give text files to train on, as in data.path='corpus/*.txt.gz'"
            )
        return [
            file
            for name in (paths if isinstance(paths, list) else [paths])
            for file in self.located(name)
        ]

    def documents(self, split: str) -> Iterator[str]:
        """The texts of the files of a split, and with train of the splits held out of it."""
        for file in self.files(split):
            yield from read_documents(file, self.field, self.on_error, self.skipped)

    def stamp(self, split: str) -> list:
        return [
            [str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in self.files(split)
        ]

    def cached(self, *words) -> Path:
        key = hashlib.sha256(json.dumps([VERSION, *words]).encode()).hexdigest()[:16]
        return data_root() / "cache" / f"corpus-{key}"

    def _tokenizer(self) -> Tokenizer:
        if self.vocab is None:
            return self._built()
        try:
            path = self.located(self.vocab)[0]
        except DataError:
            path = Path(self.vocab).expanduser()
        return tokenizer_of(self.vocab, path, self.lowercase, self.simplified, SPECIALS)

    def _built(self) -> Tokenizer:
        """A vocabulary of the first texts, made once: all processes of a run read the same file."""
        lowercase = True if self.lowercase is None else self.lowercase
        settings = [self.wanted_size, self.vocab_kind, lowercase, self.vocab_characters]
        folder = self.cached(
            "vocab", self.stamp("train"), self.field, *settings, "with marks"
        )  # those without are older
        file = folder / "vocab.json"
        with alone(folder):
            tokenizer = kept_tokenizer(file)
            if tokenizer is None:
                vocab = build_vocab(
                    self._first_texts(), self.wanted_size, self.vocab_kind, lowercase
                )
                tokenizer = Tokenizer(vocab, lowercase)
                keep_tokenizer(file, tokenizer)
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
        """Tokenises what is not yet."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Opens the shards, made first where they are not there; calling it again changes nothing."""
        if self.tokenizer is None:
            tokenizer = self._tokenizer()
            own = {
                split: self.parts[split] for split in ("val", "test") if self.paths[split] is None
            }
            self._shards["train"] = self._prepared(
                "train", tokenizer, {k: v for k, v in own.items() if v}
            )
            for split in self.parts:
                given = self.paths[split] is not None
                self._shards[split] = (
                    self._prepared(split, tokenizer, {split: 1.0})
                    if given
                    else self._shards["train"]
                )
            self.tokenizer = tokenizer
            if not len(self.rows("train")):
                raise DataError(
                    f"data.path={self.paths['train']}: it leaves no text to train on; lower data.val_part"
                )

    def _prepared(self, split: str, tokenizer: Tokenizer, parts: dict[str, float]) -> Shards:
        settings = [tokenizer.state(), self.words, self.field, self.on_error, parts, CHARACTERS]
        folder = self.cached(self.stamp(split), *settings)
        small = sum(size for _, size, _ in self.stamp(split)) < SMALL_BYTES
        processes = self.processes or (1 if small else len(os.sched_getaffinity(0)))
        read = lambda: self.documents(split)  # noqa: E731
        with progress("{task.description}", "{task.completed:,.0f} characters") as bar:
            task = bar.add_task("tokenising", total=None)
            advance: Callable[[int], None] = lambda characters: bar.advance(task, characters)  # noqa: E731
            return prepare(folder, read, tokenizer, self.words, parts, processes, progress=advance)

    @property
    def vocab_size(self) -> int:
        """Of the vocabulary that there is after setup()."""
        self.setup()
        return len(self.tokenizer)

    def rows(self, split: str) -> Rows:
        """The rows of train, val or test."""
        if split not in SPLITS:
            raise DataError(f"split={split!r} must be one of {', '.join(SPLITS)}")
        self.setup()
        stream, isolated = self._shards[split].stream(split), self.pack == "isolated"
        return Rows(
            stream,
            self.max_length,
            self.tokenizer,
            isolated,
            self.seed if split == "train" else 0,
            self.masks,
        )

    def _loader(self, split: str) -> StepLoader | list:
        rows, trainer = self.rows(split), self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        pin = bool(trainer) and trainer.strategy.root_device.type == "cuda"
        if split != "train":
            draws = [
                RowDraw(draw.index) for draw in in_order(len(rows), self.batch_size, rank, world)
            ]
            return StepLoader(rows, draws, pin_memory=pin) if draws else []
        sampler = RowSampler(len(rows), self.batch_size, self.seed, rank, world)
        return StepLoader(rows, sampler, self._step if trainer else None, self.num_workers, pin)

    def loader(self, split: str, num: int | None = None) -> StepLoader:
        """The first `num` rows of a split (null: all) in order, with the same keys each time."""
        rows = self.rows(split)
        draws = in_order(min(len(rows), num or len(rows)), self.batch_size)
        return StepLoader(rows, [RowDraw(draw.index) for draw in draws])

    def examples(self, split: str) -> list:
        """A corpus is kept as tokens alone."""
        raise DataError(
            f"split={split}: a corpus has tokens, and no texts; give input=<file>, a text a line"
        )

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        self.setup()
        shards = self._shards[split]
        content = {
            "name": self.name,
            "split": split,
            "count": len(self.rows(split)),
            "skipped": len(self.skipped),
        }
        content |= {
            "tokens": shards.total("tokens", split),
            "documents": shards.total("documents", split),
        }
        about = {
            "max_length": self.max_length,
            "pack": self.pack,
            "words": self.words,
            "unknown": shards.total("unknown"),
        }
        return content | about | {"source": json.dumps({k: v for k, v in self.paths.items() if v})}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over the tokens of all splits, the vocabulary, and how rows are
        made of them.
        """
        self.setup()
        content = [self._shards[split].sha256 for split in SPLITS] + [
            self.tokenizer.state(),
            self.max_length,
            self.pack,
        ]
        return hashlib.sha256(json.dumps([*content, self.masks, self.parts]).encode()).hexdigest()[
            :16
        ]

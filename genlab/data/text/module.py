"""Text sets as LightningDataModules: source/target pairs, and questions about passages."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from genlab.data.loader import StepDataModule, StepLoader
from genlab.data.sampler import in_order
from genlab.data.splits import SPLIT_SEED, SPLITS
from genlab.data.text.codec import Codec
from genlab.data.text.records import Example, Records, read_pairs, read_squad, read_webqa
from genlab.data.text.rows import Encoded, LengthSampler, TextBatches, TextDraw
from genlab.data.text.tokenizer import Tokenizer, tokenizer_of
from genlab.data.text.vocabulary import build_vocab
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PartialFraction, PositiveInt, Seed

__all__ = ["Pairs", "SquadJSON", "TextDataModule", "WebQA"]


def split_documents(
    examples: Sequence[Example], num_val: int, num_test: int
) -> dict[str, np.ndarray]:
    """Sorted rows of three splits, always the same: whole documents until num_test and num_val
    examples are reached.
    """
    documents: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        documents.setdefault(example.document, []).append(row)
    groups, splits = list(documents.values()), {"test": [], "val": [], "train": []}
    wanted = {"test": num_test, "val": num_val}
    for i in np.random.RandomState(SPLIT_SEED).permutation(len(groups)):
        split = next((name for name, count in wanted.items() if len(splits[name]) < count), "train")
        splits[split] += groups[i]
    if min(num_val, num_test) < 0 or not splits["train"]:
        raise DataError(
            f"{num_val} val and {num_test} test examples leave nothing of {len(examples)} in {len(groups)} documents to "
            "train on; lower data.num_val or data.num_test"
        )
    return {split: np.sort(np.array(rows, dtype=np.int64)) for split, rows in splits.items()}


class TextDataModule(StepDataModule):
    """Batches of TextBatches of three splits; subclasses read their format in `_records`.

    path: a file or several, looked for as given and below root or $GENLAB_DATA; val_path and
    test_path: files that are those splits; without them num_val and num_test examples of `path` are
    held out, by whole documents. extra_path: more files to train on; repeat: how often an epoch
    goes over the examples of `path`. vocab: a vocab.txt or tokenizer.json, a directory with one, a
    run, or the name of pretrained weights; null: built of the training texts, vocab_size tokens of
    vocab_kind (wordpiece, characters), in which marks (é, й, が) stay with their letters.
    simplified: drop the tokens that BERT's splitting cannot produce. no_answer: the part of the
    training questions that are shown a passage without their answer. pad_to_multiple_of: a number,
    so that rows of training batches have few different widths (trainer.graph=true);
    null: the longest's. See Codec for max_source to commas.
    """

    name: str
    num_classes = None

    def __init__(
        self,
        path: str | list | None = None,
        val_path: str | list | None = None,
        test_path: str | list | None = None,
        extra_path: str | list | None = None,
        repeat: PositiveInt = 1,
        root: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        num_val: NonNegativeInt = 500,
        num_test: NonNegativeInt = 500,
        vocab: str | None = None,
        vocab_size: PositiveInt = 8000,
        vocab_kind: Literal["wordpiece", "characters"] = "wordpiece",
        simplified: bool = False,
        lowercase: bool | None = None,
        max_source: NonNegativeInt = 256,
        max_target: PositiveInt = 32,
        max_question: NonNegativeInt = 64,
        stride: PositiveInt | None = None,
        truncate: Literal["right", "left"] = "right",
        commas: bool = False,
        no_answer: PartialFraction = 0.0,
        batch_size: PositiveInt = 32,
        pad_to_multiple_of: PositiveInt | None = None,
        seed: Seed = 1,
    ) -> None:
        super().__init__()
        if pad_to_multiple_of is not None and not (
            isinstance(pad_to_multiple_of, int) and pad_to_multiple_of > 0
        ):
            raise DataError(
                f"data.pad_to_multiple_of={pad_to_multiple_of!r}: expected a number of 1 or more, or null"
            )
        if not (
            isinstance(batch_size, int)
            and batch_size > 0
            and isinstance(repeat, int)
            and repeat > 0
        ):
            raise DataError(
                f"data.batch_size={batch_size!r}, data.repeat={repeat!r}: expected numbers of 1 or more"
            )
        if not 0 <= no_answer < 1:
            raise DataError(
                f"data.no_answer={no_answer}: expected a part of the questions, in [0, 1)"
            )
        if vocab is None and simplified:
            raise DataError(
                "data.simplified=true: only a given data.vocab can be simplified; one built here has no such tokens"
            )
        self.codec = Codec(max_source, max_target, max_question, stride, truncate, commas)
        self.paths = {"path": path, "val": val_path, "test": test_path, "extra": extra_path}
        self.repeat, self.root, self.on_error, self.num_val, self.num_test = (
            repeat,
            root,
            on_error,
            num_val,
            num_test,
        )
        self.vocab, self.vocab_kind, self.simplified, self.lowercase = (
            vocab,
            vocab_kind,
            simplified,
            lowercase,
        )
        self.wanted_size, self.no_answer, self.batch_size, self.seed = (
            vocab_size,
            no_answer,
            batch_size,
            seed,
        )
        self.multiple = pad_to_multiple_of or 1
        self._splits: dict[str, list[Example]] | None = None
        self._encoded: dict[str, Encoded] = {}
        self.skipped: list[tuple[str, str]] = []

    def _records(self, paths: list[Path]) -> Records:
        """The examples of some files."""
        raise NotImplementedError

    def files(self, paths: str | list | None) -> list[Path]:
        """The files meant by `paths`, each as given or below data.root or $GENLAB_DATA."""
        found = []
        for path in paths if isinstance(paths, list) else [] if paths is None else [paths]:
            places = [
                Path(path).expanduser(),
                *(Path(r).expanduser() / path for r in (self.root, data_root()) if r),
            ]
            found.append(next((place for place in places if place.is_file()), places[0]))
        return found

    def _read(self) -> dict[str, list[Example]]:
        """The examples of each split."""
        if self.paths["path"] is None:
            raise DataError("data.path: give the file to train on, as in data.path=train.json")
        parts = {
            name: self._records(self.files(paths)) if paths else Records()
            for name, paths in self.paths.items()
        }
        self.skipped = [where for part in parts.values() for where in part.skipped]
        own = parts["path"].examples
        counts = [
            0 if self.paths[split] else count
            for split, count in (("val", self.num_val), ("test", self.num_test))
        ]
        splits = {
            split: [own[row] for row in rows]
            for split, rows in split_documents(own, *counts).items()
        }
        splits |= {split: parts[split].examples for split in ("val", "test") if self.paths[split]}
        splits["train"] = splits["train"] * self.repeat + parts["extra"].examples
        return splits

    def prepare_data(self) -> None:
        """Nothing to download."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads the files and makes the vocabulary; calling it again changes nothing."""
        if self._splits is None:
            self._splits = self._read()
            self.codec.use(self._tokenizer())

    def _tokenizer(self) -> Tokenizer:
        if self.vocab is not None:
            return tokenizer_of(
                self.vocab, self.files(self.vocab)[0], self.lowercase, self.simplified
            )
        lowercase = True if self.lowercase is None else self.lowercase
        return Tokenizer(
            build_vocab(self._corpus(), self.wanted_size, self.vocab_kind, lowercase), lowercase
        )

    def _corpus(self) -> Iterable[str]:
        """What a vocabulary is built of."""
        return dict.fromkeys(
            t for e in self._splits["train"] for t in (*e.sources, e.question or "", *e.accepted)
        )

    @property
    def vocab_size(self) -> int:
        """Of the vocabulary that there is after setup()."""
        self.setup()
        return len(self.codec.tokenizer)

    def examples(self, split: str) -> list[Example]:
        """The examples of train, val or test as texts."""
        if split not in SPLITS:
            raise DataError(f"split={split!r} must be one of {', '.join(SPLITS)}")
        self.setup()
        return self._splits[split]

    def encoded(self, split: str) -> Encoded:
        """The same as ids."""
        if split not in self._encoded:
            self._encoded[split] = Encoded(self.examples(split), self.codec)
        return self._encoded[split]

    def _loader(self, split: str) -> StepLoader | list:
        encoded, trainer = self.encoded(split), self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        count = len(encoded.rows)
        if split != "train":
            draws = [TextDraw(draw.index) for draw in in_order(count, self.batch_size, rank, world)]
            return StepLoader(TextBatches(encoded, 0, 0.0), draws) if draws else []
        if count < self.batch_size * world:
            raise DataError(
                f"the training split has {count} usable examples, less than one global batch of {self.batch_size * world}; "
                "lower data.batch_size"
            )
        sampler = LengthSampler(
            [encoded.length(i) for i in encoded.rows], self.batch_size, self.seed, rank, world
        )
        batches = TextBatches(encoded, self.seed, self.no_answer, self.multiple)
        return StepLoader(batches, sampler, self._step if trainer else None)

    def loader(self, split: str) -> StepLoader | list:
        """Every usable example of a split once, as it is validated on: with its first window that
        has the answer.
        """
        encoded = self.encoded(split)
        return StepLoader(
            TextBatches(encoded, 0, 0.0),
            [TextDraw(d.index) for d in in_order(len(encoded.rows), self.batch_size)],
        )

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        content = {
            "name": self.name,
            "split": split,
            "count": len(self.examples(split)),
            "skipped": len(self.skipped),
        }
        content |= (
            {"not_trained": content["count"] - len(self.encoded(split).rows)}
            if split == "train"
            else {}
        )
        return content | {"source": json.dumps({k: v for k, v in self.paths.items() if v})}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over the examples of each split and the vocabulary."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for e in self.examples(split):
                labels = [e.labels] if e.labels else []
                digest.update(
                    json.dumps([split, e.id, e.sources, e.targets, e.question, *labels]).encode()
                )
        digest.update(self.codec.content.numpy().tobytes())
        return digest.hexdigest()[:16]


class Pairs(TextDataModule):
    """Sources and targets, a pair a line; see read_pairs."""

    name = "pairs"

    def __init__(
        self, source_field: str | int = "source", target_field: str | int = "target", **options
    ) -> None:
        super().__init__(max_question=0, stride=None, **options)
        self.fields = source_field, target_field

    def _records(self, paths: list[Path]) -> Records:
        return read_pairs(paths, self.on_error, *self.fields)


class SquadJSON(TextDataModule):
    """SQuAD, CMRC 2018 and DRCD files as they are; see read_squad."""

    name = "squad_json"

    def _records(self, paths: list[Path]) -> Records:
        return read_squad(paths, self.on_error)


class WebQA(TextDataModule):
    """WebQA's and SogouQA's lists of questions; see read_webqa."""

    name = "webqa"

    def _records(self, paths: list[Path]) -> Records:
        return read_webqa(paths, self.on_error)

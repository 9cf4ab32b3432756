"""Text sets as data modules: source/target pairs, and questions about passages."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from genlab.data.loader import StepLoader
from genlab.data.module import StepDataModule
from genlab.data.sampler import in_order
from genlab.data.splits import SPLIT_SEED, SPLITS, check_split
from genlab.data.text.codec import Codec
from genlab.data.text.records import (
    Example,
    Record,
    Records,
    read_files,
    read_pairs,
    read_squad,
    read_webqa,
)
from genlab.data.text.rows import Encoded, LengthSampler, TextBatches, TextDraw
from genlab.data.text.tokenizer import Tokenizer, tokenizer_of
from genlab.data.text.vocabulary import build_vocab
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PartialFraction, PositiveInt, Seed

__all__ = ["Pairs", "SquadJSON", "TextDataModule", "WebQA", "split_documents"]


def split_documents(
    examples: Sequence[Example], num_val: int, num_test: int
) -> dict[str, np.ndarray]:
    """Sorted rows of three splits, by whole documents, the same ones for the same examples.

    Args:
        examples: All of them.
        num_val: At least so many are held out for val.
        num_test: At least so many are held out for test.

    Raises:
        DataError: Nothing is left to train on.
    """
    documents: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        documents.setdefault(example.document, []).append(row)
    groups = list(documents.values())
    splits: dict[str, list[int]] = {"test": [], "val": [], "train": []}
    wanted = {"test": num_test, "val": num_val}
    for i in np.random.RandomState(SPLIT_SEED).permutation(len(groups)):
        split = next((name for name, count in wanted.items() if len(splits[name]) < count), "train")
        splits[split] += groups[i]
    if min(num_val, num_test) < 0 or not splits["train"]:
        raise DataError(
            f"{num_val} val and {num_test} test examples leave nothing of {len(examples)} in "
            f"{len(groups)} documents to train on; lower data.num_val or data.num_test"
        )
    return {split: np.sort(np.array(rows, dtype=np.int64)) for split, rows in splits.items()}


class TextDataModule(StepDataModule):
    """Three splits of texts, read from files; batches are those of TextBatches.

    A subclass reads its format in `read_examples`, or, where there are no files, returns the
    examples of each split in `_read`.

    Args:
        path: A file or several to train on, looked for as given and below root or $GENLAB_DATA.
        val_path: The files of val; None: num_val examples of `path` are held out.
        test_path: The files of test; None: num_test examples of `path` are held out.
        extra_path: More files to train on.
        repeat: How often an epoch goes over the examples of `path`.
        root: A folder in which the files are looked for.
        on_error: `raise` or `skip` a record that cannot be used.
        num_val: How many examples are held out for val, by whole documents.
        num_test: The same for test.
        vocab: A vocab.txt or tokenizer.json, the directory with one, a run, or the name of
            pretrained weights; None: one is built from the training texts.
        vocab_size: The most tokens of one that is built.
        vocab_kind: Of one that is built: wordpiece or characters.
        simplified: Leave out the tokens of `vocab` that BERT's splitting cannot produce.
        lowercase: Read texts in lower case; None: as the vocabulary says, and true without one.
        max_source, max_target, max_question, stride, truncate, commas: See Codec.
        no_answer: The fraction of the training questions that are shown a passage without their
            answer.
        batch_size: Examples a process takes at each step.
        pad_to_multiple_of: Training rows are padded to a multiple of it, so that they have few
            widths (trainer.graph=true); None: to the longest of their batch.
        seed: Of the order of training, and of what is drawn.

    Raises:
        DataError: A setting is out of range.

    Example:
        class Dialogues(TextDataModule):  # a dialogue a line, with tabs between turns
            name = "dialogues"

            def read_examples(self, path):
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    yield str(number), partial(self.example, f"{path.name}:{number}", line)

            def example(self, id, line):
                *turns, answer = line.split("\\t")
                if not turns:
                    raise ValueError("expected two turns or more")
                return Example(id, (" ".join(turns),), ((answer,),), document=id)
    """

    modality = "text"

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
        numbers = {"batch_size": batch_size, "repeat": repeat}
        if pad_to_multiple_of is not None:
            numbers["pad_to_multiple_of"] = pad_to_multiple_of
        for key, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise DataError(f"data.{key}={value!r}: expected a number of 1 or more")
        if not 0 <= no_answer < 1:
            raise DataError(
                f"data.no_answer={no_answer}: expected a fraction of the questions, in [0, 1)"
            )
        if vocab is None and simplified:
            raise DataError(
                "data.simplified=true: only a given data.vocab can be simplified; "
                "one built from the texts has no such tokens"
            )
        self.codec = Codec(max_source, max_target, max_question, stride, truncate, commas)
        self.paths = {"path": path, "val": val_path, "test": test_path, "extra": extra_path}
        self.repeat = repeat
        self.root = root
        self.on_error = on_error
        self.num_val = num_val
        self.num_test = num_test
        self.vocab = vocab
        self.wanted_size = vocab_size
        self.vocab_kind = vocab_kind
        self.simplified = simplified
        self.lowercase = lowercase
        self.no_answer = no_answer
        self.batch_size = batch_size
        self.seed = seed
        self.multiple = pad_to_multiple_of or 1
        self._splits: dict[str, list[Example]] | None = None
        self._encoded: dict[str, Encoded] = {}
        self.skipped: list[tuple[str, str]] = []

    def read_examples(self, path: Path) -> Iterator[Record]:
        """The records of one file: (place, make) of each.

        `place` names it in errors, such as its line. make() returns the Example, or None to leave
        it out, or raises ValueError that says why it cannot be used: so a bad record is named, or
        skipped with on_error=skip.
        """
        raise NotImplementedError

    def files(self, paths: str | list | None) -> list[Path]:
        """The files that `paths` names, each as given or below data.root or $GENLAB_DATA."""
        if paths is None:
            return []
        roots = [Path(root).expanduser() for root in (self.root, data_root()) if root]
        found = []
        for path in paths if isinstance(paths, list) else [paths]:
            places = [Path(path).expanduser(), *(root / path for root in roots)]
            found.append(next((place for place in places if place.is_file()), places[0]))
        return found

    def _read(self) -> dict[str, list[Example]]:
        """The examples of each split."""
        if self.paths["path"] is None:
            raise DataError("data.path: give the file to train on, as in data.path=train.json")
        records = {name: self._records(self.files(paths)) for name, paths in self.paths.items()}
        self.skipped = [where for part in records.values() for where in part.skipped]
        own = records["path"].examples
        num_val = 0 if self.paths["val"] else self.num_val
        num_test = 0 if self.paths["test"] else self.num_test
        rows = split_documents(own, num_val, num_test)
        splits = {split: [own[row] for row in rows[split]] for split in rows}
        for split in ("val", "test"):
            if self.paths[split]:
                splits[split] = records[split].examples
        splits["train"] = splits["train"] * self.repeat + records["extra"].examples
        return splits

    def _records(self, paths: list[Path]) -> Records:
        return read_files(paths, self.read_examples, self.on_error) if paths else Records()

    def prepare_data(self) -> None:
        """Nothing is downloaded; it reads, so that an error comes before training starts."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads the files and makes the vocabulary; calling it again changes nothing."""
        if self._splits is None:
            self._splits = self._read()
            self.codec.use(self._tokenizer())

    def _tokenizer(self) -> Tokenizer:
        if self.vocab is not None:
            path = self.files(self.vocab)[0]
            return tokenizer_of(self.vocab, path, self.lowercase, self.simplified)
        lowercase = True if self.lowercase is None else self.lowercase
        vocab = build_vocab(self._corpus(), self.wanted_size, self.vocab_kind, lowercase)
        return Tokenizer(vocab, lowercase)

    def _corpus(self) -> Iterable[str]:
        """The texts that a vocabulary is built from."""
        train = self._splits["train"]
        texts = (text for e in train for text in (*e.sources, e.question or "", *e.accepted))
        return dict.fromkeys(texts)

    @property
    def vocab_size(self) -> int:
        """How many tokens the vocabulary has; known after setup()."""
        self.setup()
        return len(self.codec.tokenizer)

    def examples(self, split: str) -> list[Example]:
        """The examples of train, val or test as texts."""
        check_split(split)
        self.setup()
        return self._splits[split]

    def encoded(self, split: str) -> Encoded:
        """The examples of a split as ids."""
        if split not in self._encoded:
            self._encoded[split] = Encoded(self.examples(split), self.codec)
        return self._encoded[split]

    def _loader(self, split: str) -> StepLoader | list:
        encoded, (rank, world) = self.encoded(split), self._ranks()
        count = len(encoded.rows)
        if split != "train":
            draws = [TextDraw(draw.index) for draw in in_order(count, self.batch_size, rank, world)]
            return StepLoader(TextBatches(encoded, 0, 0.0), draws) if draws else []
        if count < self.batch_size * world:
            raise DataError(
                f"the training split has {count} usable examples, less than one global batch of "
                f"{self.batch_size * world}; lower data.batch_size"
            )
        lengths = [encoded.length(i) for i in encoded.rows]
        sampler = LengthSampler(lengths, self.batch_size, self.seed, rank, world)
        batches = TextBatches(encoded, self.seed, self.no_answer, self.multiple)
        return StepLoader(batches, sampler, self._step)

    def loader(self, split: str) -> StepLoader | list:
        """Every usable example of a split once, in order, as it is validated on.

        Of a question that is the first window with the answer.
        """
        encoded = self.encoded(split)
        draws = [TextDraw(draw.index) for draw in in_order(len(encoded.rows), self.batch_size)]
        return StepLoader(TextBatches(encoded, 0, 0.0), draws)

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        count = len(self.examples(split))
        about = {"name": self.name, "split": split, "count": count, "skipped": len(self.skipped)}
        if split == "train":
            about["not_trained"] = count - len(self.encoded(split).rows)
        paths = {name: path for name, path in self.paths.items() if path}
        return about | {"source": json.dumps(paths)}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over the examples of each split and the vocabulary."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for e in self.examples(split):
                labels = [e.labels] if e.labels else []
                content = [split, e.id, e.sources, e.targets, e.question, *labels]
                digest.update(json.dumps(content).encode())
        digest.update(self.codec.content.numpy().tobytes())
        return digest.hexdigest()[:16]


class Pairs(TextDataModule):
    """Sources and targets, a pair a record; see genlab.data.text.records.read_pairs.

    Args:
        source_field: The field, or column, of the source.
        target_field: The field, or column, of the target.
        options: See TextDataModule.
    """

    name = "pairs"

    def __init__(
        self, source_field: str | int = "source", target_field: str | int = "target", **options
    ) -> None:
        super().__init__(max_question=0, stride=None, **options)
        self.fields = source_field, target_field

    def read_examples(self, path: Path) -> Iterator[Record]:
        """A pair a record."""
        return read_pairs(path, *self.fields)


class SquadJSON(TextDataModule):
    """SQuAD, CMRC 2018 and DRCD files as they are; see genlab.data.text.records.read_squad."""

    name = "squad_json"

    def read_examples(self, path: Path) -> Iterator[Record]:
        """A question a record."""
        return read_squad(path)


class WebQA(TextDataModule):
    """WebQA's and SogouQA's lists of questions; see genlab.data.text.records.read_webqa."""

    name = "webqa"

    def read_examples(self, path: Path) -> Iterator[Record]:
        """A question with its passages a record."""
        return read_webqa(path)

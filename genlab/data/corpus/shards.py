"""A corpus as tokens on disk: made once by several processes, read through memory maps.

A folder holds 00000.tokens, 00001.tokens, ..., each with a .json that says what is in it and is
written last, and index.json when all are there. A document is [CLS] its tokens [SEP]. A token is
stored as 2 id + (it starts a word), two bytes wide where that is enough. The documents of the
splits lie one after the other in a shard. The split of a document depends on its text alone, so
that copies of it are never in two splits.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from genlab.data.corpus.tokens import VERSION, Shards, describe_shard, open_shards
from genlab.data.splits import SPLITS
from genlab.data.text.tokenizer import Tokenizer
from genlab.errors import DataError
from genlab.files import write_bytes
from genlab.reading import is_intact, read_json, seal
from genlab.seeds import fraction_of
from genlab.weights.source import Vocabulary

__all__ = ["CHARACTERS", "WORDS", "load_tokenizer", "one_at_a_time", "prepare", "save_tokenizer"]

CHARACTERS = 4 << 20  # of a shard
WORDS = ("spaces", "jieba", "pieces")
log = logging.getLogger(__name__)


# --- one shard ------------------------------------------------------------------------------------


class Writer:
    """Writes the files of a shard from documents.

    Args:
        tokenizer: Tokenizer.state().
        words: What is masked as a whole: spaces: the pieces (##) of a word; jieba: also the Chinese
            words that jieba finds; pieces: each token by itself.
        fractions: The fractions of the documents that go to val and to test.
    """

    def __init__(self, tokenizer: dict, words: str, fractions: dict[str, float]):
        self.tokenizer = Tokenizer.from_state(tokenizer)
        self.fractions = fractions
        self.inside = np.array(
            [words != "pieces" and token.startswith("##") for token in self.tokenizer.vocab]
        )
        self.cut = segmenter() if words == "jieba" else None
        self.dtype = token_type(len(self.tokenizer))

    def split(self, text: str) -> str:
        """The split of a document, a function of its text."""
        place = fraction_of(text)
        for name, fraction in self.fractions.items():
            if place < fraction:
                return name
            place -= fraction
        return "train"

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The stored tokens of each document, with [CLS] and [SEP] around them."""
        t = self.tokenizer
        # encode_batch_fast gives no offsets, which jieba's words need.
        encode = t.backend.encode_batch if self.cut else t.backend.encode_batch_fast
        # Part by part: the library's encodings take a hundred times the memory of the tokens.
        pairs = (
            pair for part in chunks(texts, 1 << 17) for pair in zip(part, encode(part), strict=True)
        )
        found = []
        for text, encoding in pairs:
            ids = np.array([t.cls_id, *encoding.ids, t.sep_id], np.int64)
            starts = ~self.inside[ids]
            if self.cut:
                begins = np.zeros(len(text) + 1, bool)
                begins[np.cumsum([0, *map(len, self.cut(text))])] = True
                starts[1:-1] &= begins[np.array([start for start, _ in encoding.offsets], np.int64)]
            found.append((2 * ids + starts).astype(self.dtype))
        return found

    def write(self, file: Path, texts: Sequence[str]) -> None:
        """Writes the tokens of `texts`, then the .json beside them."""
        by_split: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for text, tokens in zip(texts, self.tokens(texts), strict=True):
            by_split[self.split(text)].append(tokens)
        stored = [tokens for split in SPLITS for tokens in by_split[split]]
        content = b"".join(tokens.tobytes() for tokens in stored)
        unknown = sum(int((tokens >> 1 == self.tokenizer.unk_id).sum()) for tokens in stored)
        about = {
            "tokens": {split: sum(map(len, part)) for split, part in by_split.items()},
            "documents": {split: len(part) for split, part in by_split.items()},
            "characters": sum(map(len, texts)),
            "unknown": unknown,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        replace(file, content)
        replace(file.with_suffix(".json"), json.dumps(about).encode())


def token_type(vocab_size: int) -> np.dtype:
    """The type of a stored token."""
    return np.dtype("<u2" if vocab_size <= 1 << 15 else "<u4")


def segmenter() -> Callable[[str], Iterable[str]]:
    """jieba's `cut`, whose words joined are the text; DataError if it is not installed."""
    if importlib.util.find_spec("jieba") is None:
        raise DataError(
            "data.words=jieba: pip install 'genlab[corpus]' for jieba, or set data.words=spaces"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own code warns
        import jieba
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    return jieba.cut


def replace(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    try:
        write_bytes(file, content)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error.strerror}); "
            "set GENLAB_DATA to a folder with more room"
        ) from None


def load_tokenizer(file: Path) -> Tokenizer | None:
    """The tokenizer that is stored in `file`; None if there is none, or, with a warning, if it is
    damaged.
    """
    try:
        content = read_json(file, Vocabulary)
        if not is_intact(content):
            raise ValueError(f"{file}: the file is damaged")
        content.pop("checksum")
        return Tokenizer.from_state(content)
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s; it is made anew", error)
        return None


def save_tokenizer(file: Path, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer for `load_tokenizer`."""
    replace(file, json.dumps(seal(tokenizer.state())).encode())


# --- all of them ----------------------------------------------------------------------------------

_writer: Writer | None = None  # of a process that makes shards


def _start(*arguments) -> None:
    global _writer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _writer = Writer(*arguments)


def _write(file: Path, texts: Sequence[str]) -> None:
    _writer.write(file, texts)


def chunks(documents: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Runs of documents with `characters` or a little more in all: a shard, whoever makes it."""
    chunk: list[str] = []
    size = 0
    for text in documents:
        chunk.append(text)
        size += len(text)
        if size >= characters:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        if folder.is_dir():  # on a read-only disk: it may be read, and nobody writes in it
            yield
            return
        raise DataError(
            f"{folder} cannot be written ({error.strerror}); set GENLAB_DATA to a folder that can"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(
    folder: Path,
    documents: Callable[[], Iterator[str]],
    tokenizer: Tokenizer,
    words: str = "spaces",
    fractions: dict[str, float] | None = None,
    processes: int = 1,
    characters: int = CHARACTERS,
    progress: Callable[[int], None] = lambda characters: None,
) -> "Shards":
    """The shards of a corpus, made where they are not there yet.

    What was made before an interruption is kept. Memory holds the texts of a few shards a process,
    whatever the size of the corpus.

    Args:
        folder: Where they are.
        documents: Starts an iteration over the texts.
        tokenizer: Tokenises them.
        words: What is masked as a whole; see Writer.
        fractions: The fractions of the documents that go to val and to test.
        processes: How many write shards; with 1, this one.
        characters: Of a shard, or a little more.
        progress: Is called with the characters of each shard.

    Raises:
        DataError: A setting is wrong, a document cannot be used, or the folder cannot be written.
    """
    if words not in WORDS:
        raise DataError(f"data.words={words}: expected one of {', '.join(WORDS)}")
    index = folder / "index.json"
    arguments = (tokenizer.state(), words, fractions or {})
    itemsize = token_type(len(tokenizer)).itemsize
    with one_at_a_time(folder):
        if (found := open_shards(index, itemsize)) is not None:
            return found
        pending: set[Future] = set()
        pool = writer = None
        try:
            number = -1
            for number, texts in enumerate(chunks(documents(), characters)):
                file = folder / f"{number:05d}.tokens"
                if describe_shard(file, itemsize) is not None:
                    pass  # made before an interruption
                elif processes == 1:
                    writer = writer or Writer(*arguments)
                    writer.write(file, texts)
                else:
                    if pool is None:
                        # Not a fork: it would take torch's threads along.
                        spawn = multiprocessing.get_context("spawn")
                        pool = ProcessPoolExecutor(processes, spawn, _start, arguments)
                    pending.add(pool.submit(_write, file, texts))
                    if len(pending) > 2 * processes:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        _raise_errors(done)
                progress(sum(map(len, texts)))
            _raise_errors(pending)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        files = [folder / f"{i:05d}.tokens" for i in range(number + 1)]
        shards = [describe_shard(file, itemsize) for file in files]
        content = {"version": VERSION, "itemsize": itemsize, "shards": shards}
        replace(index, json.dumps(seal(content)).encode())
        return Shards(files, shards, itemsize)


def _raise_errors(futures: Iterable[Future]) -> None:
    """Waits for other processes and raises what they raised."""
    for future in futures:
        future.result()

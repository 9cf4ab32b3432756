"""A corpus as tokens on disk: made once by several processes, read through memory maps.

A folder holds 00000.tokens, 00001.tokens, ..., each with a .json that says what is in it and is
written last, and index.json when all are there. A document is [CLS] its tokens [SEP]; a token is
stored as 2 id + (it starts a word), two bytes wide where that is enough. The documents of the
splits lie one after the other in a shard; in which split a document is depends on its text alone,
so that copies of it are never in two.
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

from genlab.data.corpus.tokens import SPLITS, VERSION, Shards, described, opened
from genlab.data.text.tokenizer import Tokenizer
from genlab.errors import DataError
from genlab.files import write_bytes
from genlab.reading import is_intact, read_json, seal
from genlab.seeds import fraction_of
from genlab.weights.source import Vocabulary

__all__ = ["WORDS", "kept_tokenizer", "prepare"]

CHARACTERS = 4 << 20  # of a shard
WORDS = ("spaces", "jieba", "pieces")
log = logging.getLogger(__name__)


# --- one shard ------------------------------------------------------------------------------------


class Writer:
    """Documents -> the files of a shard. words: what is masked as a whole.

    spaces: the pieces (##) of a word; jieba: the words of Chinese that jieba finds, too; pieces:
    each token by itself.
    parts: the part of the documents that goes to val and to test.
    """

    def __init__(self, tokenizer: dict, words: str, parts: dict[str, float]):
        self.tokenizer, self.parts = Tokenizer.from_state(tokenizer), parts
        self.inside = np.array(
            [words != "pieces" and token.startswith("##") for token in self.tokenizer.vocab]
        )
        self.cut = segmenter() if words == "jieba" else None
        self.dtype = token_type(len(self.tokenizer))

    def split(self, text: str) -> str:
        place = fraction_of(text)
        for name, part in self.parts.items():
            if place < part:
                return name
            place -= part
        return "train"

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """2 id + (it starts a word) of each document, [CLS] and [SEP] around it."""
        t, found = self.tokenizer, []
        encode = (
            t.backend.encode_batch if self.cut else t.backend.encode_batch_fast
        )  # the latter has no offsets
        # A part at a time: what the library gives takes a hundred times the room of the tokens.
        pairs = (
            pair for part in chunks(texts, 1 << 17) for pair in zip(part, encode(part), strict=True)
        )
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
        by_split: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for text, tokens in zip(texts, self.tokens(texts), strict=True):
            by_split[self.split(text)].append(tokens)
        content = b"".join(tokens.tobytes() for split in SPLITS for tokens in by_split[split])
        unknown = sum(
            int((tokens >> 1 == self.tokenizer.unk_id).sum())
            for part in by_split.values()
            for tokens in part
        )
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
    return np.dtype("<u2" if vocab_size <= 1 << 15 else "<u4")


def segmenter() -> Callable[[str], Iterable[str]]:
    """jieba's `cut`, whose words joined are the text; DataError if it is not installed."""
    if importlib.util.find_spec("jieba") is None:
        raise DataError(
            "data.words=jieba: pip install 'genlab[corpus]' for jieba, or set data.words=spaces"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own code
        import jieba
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    return jieba.cut


def replace(file: Path, content: bytes) -> None:
    """Writes a file that is never half there."""
    try:
        write_bytes(file, content)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error.strerror}); set GENLAB_DATA to a folder with more room"
        ) from None


def kept_tokenizer(file: Path) -> Tokenizer | None:
    """The tokenizer that was kept in `file`; None if there is none, or, said in a line, if it is
    damaged.
    """
    try:
        content = read_json(file, Vocabulary)
        if not is_intact(content):
            raise ValueError(f"{file}: is damaged")
        return Tokenizer.from_state(
            {key: value for key, value in content.items() if key != "checksum"}
        )
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s; it is made anew", error)
        return None


def keep_tokenizer(file: Path, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer for `kept_tokenizer`."""
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
    """Documents of `characters` or a little more together: a shard, whoever makes it."""
    chunk, size = [], 0
    for text in documents:
        chunk.append(text)
        size += len(text)
        if size >= characters:
            yield chunk
            chunk, size = [], 0
    yield from [chunk] if chunk else []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        if (
            folder.is_dir()
        ):  # of a read-only disk: what is there may be used, and nobody writes in it
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
    parts: dict[str, float] | None = None,
    processes: int = 1,
    characters: int = CHARACTERS,
    progress: Callable[[int], None] = lambda characters: None,
) -> "Shards":
    """The shards of `documents()` in `folder`: made where they are not there yet, by `processes`
    others if over 1.

    What was made before an interruption is kept. Memory holds some shards' texts a process,
    whatever the corpus.
    """
    if words not in WORDS:
        raise DataError(f"data.words={words}: expected one of {', '.join(WORDS)}")
    index, arguments = folder / "index.json", (tokenizer.state(), words, parts or {})
    itemsize = token_type(len(tokenizer)).itemsize
    with alone(folder):
        if (found := opened(index, itemsize)) is not None:
            return found
        pending: set[Future] = set()
        pool = writer = None
        try:
            number = -1
            for number, texts in enumerate(chunks(documents(), characters)):
                file = folder / f"{number:05d}.tokens"
                if described(file, itemsize) is None:
                    if processes > 1 and pool is None:
                        spawn = multiprocessing.get_context(
                            "spawn"
                        )  # a fork would take torch's threads along
                        pool = ProcessPoolExecutor(processes, spawn, _start, arguments)
                    if pool is not None:
                        pending.add(pool.submit(_write, file, texts))
                        if len(pending) > 2 * processes:
                            done, pending = wait(pending, return_when=FIRST_COMPLETED)
                            [future.result() for future in done]
                    else:
                        writer = writer or Writer(*arguments)
                        writer.write(file, texts)
                progress(sum(map(len, texts)))
            [future.result() for future in pending]
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        shards = [described(folder / f"{i:05d}.tokens", itemsize) for i in range(number + 1)]
        content = {"version": VERSION, "itemsize": itemsize, "shards": shards}
        replace(index, json.dumps(seal(content)).encode())
        return Shards([folder / f"{i:05d}.tokens" for i in range(number + 1)], shards, itemsize)

"""Reading TensorFlow checkpoints (the "tensor bundle" of tf.train.Saver since 2016), without it.

`<prefix>.index` is a table in LevelDB's form: blocks of entries whose keys share prefixes, then an
index block that lists the blocks, then a footer of 48 bytes. The key "" holds a BundleHeaderProto.
Every other key is a variable's name and holds a BundleEntryProto: dtype, shape, shard, offset and
size. `<prefix>.data-00000-of-00001` holds the raw little-endian arrays. The checksums of the index
are verified. Formats: tensorflow/core/util/tensor_bundle and leveldb/doc/table_format.md.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["BundleError", "read_bundle"]

MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5
# DataType of tensorflow/core/framework/types.proto
DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    14: "<u2",
    19: "<f2",
}
BFLOAT16 = 14


class BundleError(ValueError):
    """A TensorFlow checkpoint that cannot be read; the message names the file."""


def read_bundle(prefix: str | Path) -> dict[str, Tensor]:
    """The variables of a checkpoint by name, without those of text.

    Args:
        prefix: Of its files `prefix`.index and `prefix`.data-*.

    Raises:
        BundleError: A file is missing or damaged.
    """
    prefix = Path(str(prefix).removesuffix(".index"))
    index = prefix.with_name(prefix.name + ".index")
    try:
        return _read(prefix, index)
    except BundleError:
        raise
    except (
        ValueError,
        LookupError,
        TypeError,
        OverflowError,
        AttributeError,
        MemoryError,
    ) as error:
        raise BundleError(
            f"{index}: not readable as the index of a TensorFlow checkpoint ({error})"
        ) from None


def _read(prefix: Path, index: Path) -> dict[str, Tensor]:
    try:
        content = index.read_bytes()
        entries = dict(_table(content))
        header = _message(entries.pop(b""))
    except (OSError, IndexError, KeyError, BundleError) as error:
        raise BundleError(
            f"{index}: not readable as the index of a TensorFlow checkpoint ({error})"
        ) from None
    num_shards = header.get(1, [1])[0]
    if header.get(2, [0])[0]:
        raise BundleError(f"{index}: big-endian checkpoints are not supported")
    shards: dict[int, np.ndarray] = {}
    tensors = {}
    for key, value in entries.items():
        name, entry = key.decode(), _message(value)
        dtype = entry.get(1, [0])[0]
        shard = entry.get(3, [0])[0]
        if 7 in entry:
            raise BundleError(
                f"{index}: {name} is stored in slices; save the checkpoint without a partitioner"
            )
        if dtype not in DTYPES:
            continue
        dims = _message(entry.get(2, [b""])[0]).get(2, [])
        shape = [_message(dim).get(1, [0])[0] for dim in dims]
        if shard not in shards:
            file = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
            try:
                shards[shard] = np.memmap(file, np.uint8, "r")
            except (OSError, ValueError) as error:
                raise BundleError(
                    f"{file}: not readable ({error}); the checkpoint {index} needs it"
                ) from None
        offset = entry.get(4, [0])[0]
        size = entry.get(5, [0])[0]
        raw = shards[shard][offset : offset + size]
        kind = np.dtype(DTYPES[dtype])
        if len(raw) != size or size != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise BundleError(
                f"{prefix}.data-*: {name} {shape} is cut short; copy the checkpoint again"
            )
        array = torch.from_numpy(np.frombuffer(raw.tobytes(), kind).reshape(shape).copy())
        tensors[name] = array.view(torch.bfloat16) if dtype == BFLOAT16 else array
    return tensors


# --- the table ------------------------------------------------------------------------------------


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries (key, value) of a table."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise BundleError("it does not end with the magic number of a table")
    footer = content[-FOOTER:]
    at = 0
    for _ in range(2):  # the handle of the meta index, which is not needed
        _, at = _varint(footer, at)
    start, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(content, start, size):
        start, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        yield from _block(content, start, size)


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of the block at `start`."""
    block = content[start : start + size]
    trailer = content[start + size : start + size + TRAILER]
    if len(block) != size or len(trailer) != TRAILER:
        raise BundleError("it is cut short")
    if trailer[0]:
        raise BundleError(
            f"a block is compressed (type {trailer[0]}), which TensorFlow's own writer never does"
        )
    if _masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise BundleError("a checksum does not match; copy the file again")
    num_restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (num_restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + length]
        at += rest + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where the next one starts: seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _message(data: bytes) -> dict[int, list]:
    """The fields of a protocol buffer by number: integers, or the bytes of nested messages."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = int.from_bytes(data[at : at + size], "little")
            at += size
        elif kind == 2:
            size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise BundleError(f"a field of wire type {kind}, which protocol buffers do not have")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """Castagnoli's checksum, rotated and shifted as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

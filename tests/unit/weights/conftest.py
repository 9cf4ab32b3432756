"""A writer of TensorFlow checkpoints, independent of the reader."""

import struct

import numpy as np
import pytest

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "float16": 19}


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: list[tuple[bytes, bytes]], restart_every: int) -> bytes:
    """Keys share the start of the key before, but for one in `restart_every`."""
    data, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        if i % restart_every == 0:
            restarts.append(len(data))
            shared = 0
        else:
            shared = next(n for n in range(len(last), -1, -1) if key.startswith(last[:n]))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data += key[shared:] + value
        last = key
    return data + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def write_bundle(
    prefix,
    arrays: dict[str, np.ndarray],
    header: bytes = b"",
    per_block: int = 3,
    extra: bytes = b"",
) -> None:
    """The checkpoint that TensorFlow's BundleWriter would leave; sorted keys, several blocks."""
    raw, entries = b"", [(b"", header or field(1, 1) + field(3, field(1, 1)))]
    for name in sorted(arrays):
        array = arrays[name]
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, TYPES[str(array.dtype)]) + field(2, shape)
        entry += field(4, len(raw)) if raw else b""
        entry += field(5, array.nbytes) + varint(6 << 3 | 5) + b"\0\0\0\0" + extra
        raw += array.tobytes()
        entries.append((name.encode(), entry))
    content, handles, footer = b"", [], b""
    for blocks in [entries[i : i + per_block] for i in range(0, len(entries), per_block)]:
        data = block(blocks, 2)
        handles.append((blocks[-1][0] + b"~", varint(len(content)) + varint(len(data))))
        content += data + b"\0" + struct.pack("<I", crc32c(data + b"\0"))
    for data in (block([], 1), block(handles, 1)):
        handle = varint(len(content)) + varint(len(data))
        content += data + b"\0" + struct.pack("<I", crc32c(data + b"\0"))
        footer += handle
    content += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(content)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(raw)


@pytest.fixture(scope="session")
def bundle_writer():
    """write(prefix, arrays, ...), which writes a checkpoint, and field(number, value), which
    encodes a field of a protocol buffer.
    """
    return write_bundle, field

"""TensorFlow checkpoints: one written by hand here, one by TensorFlow itself."""

import importlib.util
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from genlab.weights.bundle import BundleError, read_bundle

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
        shared = 0 if i % restart_every == 0 else next(n for n in range(len(last), -1, -1) if key.startswith(last[:n]))
        if i % restart_every == 0:
            restarts.append(len(data))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return data + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def write(prefix, arrays: dict[str, np.ndarray], header: bytes = b"", per_block: int = 3, extra: bytes = b"") -> None:
    """The checkpoint that TensorFlow's BundleWriter would leave; sorted keys, several blocks."""
    raw, entries = b"", [(b"", header or field(1, 1) + field(3, field(1, 1)))]
    for name in sorted(arrays):
        array = arrays[name]
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, TYPES[str(array.dtype)]) + field(2, shape)
        entry += (field(4, len(raw)) if raw else b"") + field(5, array.nbytes) + varint(6 << 3 | 5) + b"\0\0\0\0" + extra
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


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    made = {f"bert/encoder/layer_{i}/output/dense/kernel": rng.normal(size=(3, 300)).astype("f4") for i in range(12)}
    made |= {"scalar": np.array(7, "i8"), "half": rng.normal(size=5).astype("f2"), "flag": np.array([True, False])}
    return made | {"double": rng.normal(size=(2, 1, 2)), "none": np.zeros((0, 4), "f4"), "count": np.arange(6, dtype="i4")}


@pytest.mark.parametrize("per_block", [1, 3, 100])
def test_a_checkpoint_written_by_hand(tmp_path, arrays, per_block):
    prefix = tmp_path / "bert_model.ckpt"
    write(prefix, arrays, per_block=per_block)
    for name in (prefix, f"{prefix}.index"):
        found = read_bundle(name)
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            assert found[key].numpy().dtype == array.dtype
            np.testing.assert_array_equal(found[key].numpy(), array)


def test_what_cannot_be_read_is_named(tmp_path, arrays):
    prefix = tmp_path / "model.ckpt"
    index, data = tmp_path / "model.ckpt.index", tmp_path / "model.ckpt.data-00000-of-00001"
    with pytest.raises(BundleError, match=r"model\.ckpt\.index: not readable"):
        read_bundle(prefix)
    write(prefix, arrays)
    whole, raw = index.read_bytes(), data.read_bytes()
    index.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(BundleError, match="checksum"):
        read_bundle(prefix)
    index.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="magic"):
        read_bundle(prefix)
    index.write_bytes(whole)
    data.write_bytes(raw[:-3])
    with pytest.raises(BundleError, match="cut short"):
        read_bundle(prefix)
    data.unlink()
    with pytest.raises(BundleError, match=r"data-00000-of-00001: not readable"):
        read_bundle(prefix)
    write(prefix, arrays, header=field(1, 1) + field(2, 1))
    with pytest.raises(BundleError, match="big-endian"):
        read_bundle(prefix)
    write(prefix, arrays, extra=field(7, b""))
    with pytest.raises(BundleError, match="slices"):
        read_bundle(prefix)


WRITER = """
import sys, numpy as np, tensorflow as tf
tf1 = tf.compat.v1
tf1.disable_eager_execution()
rng, arrays = np.random.default_rng(0), {}
for i in range(300):  # more than one block of the index
    arrays[f"bert/encoder/layer_{i}/attention/self/query/kernel"] = rng.normal(size=(17, 9)).astype("f4")
arrays |= {"global_step": np.array(3, "i8"), "half": rng.normal(size=4).astype("f2"), "double": rng.normal(size=(2, 3))}
variables = [tf1.get_variable(n, initializer=tf.constant(a)) for n, a in arrays.items()]
brain = tf1.get_variable("brain", initializer=tf.cast(tf.constant([1.5, -2.0]), tf.bfloat16))
text = tf1.get_variable("text", initializer=tf.constant(["not", "numbers"]))
with tf1.Session() as session:
    session.run(tf1.global_variables_initializer())
    tf1.train.Saver().save(session, sys.argv[1])
np.savez(sys.argv[2], **arrays)
"""


@pytest.mark.slow
def test_a_checkpoint_written_by_tensorflow(tmp_path):
    """By the interpreter that GENLAB_TENSORFLOW names, or this one if it has TensorFlow."""
    python = os.environ.get("GENLAB_TENSORFLOW") or (importlib.util.find_spec("tensorflow") and sys.executable)
    if not python:
        pytest.skip("needs tensorflow-cpu here, or GENLAB_TENSORFLOW=<a python that has it>")
    subprocess.run([python, "-c", WRITER, tmp_path / "model.ckpt", tmp_path / "arrays.npz"], check=True, capture_output=True)
    found, arrays = read_bundle(tmp_path / "model.ckpt"), np.load(tmp_path / "arrays.npz")
    assert set(found) == {*arrays, "brain"}
    for key in arrays:
        np.testing.assert_array_equal(found[key].numpy(), arrays[key])
        assert found[key].numpy().dtype == arrays[key].dtype
    assert torch.equal(found["brain"], torch.tensor([1.5, -2.0], dtype=torch.bfloat16))

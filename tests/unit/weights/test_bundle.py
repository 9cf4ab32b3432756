"""TensorFlow checkpoints: one written by hand here, one by TensorFlow itself."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from genlab.weights.bundle import BundleError, read_bundle


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    made = {
        f"bert/encoder/layer_{i}/output/dense/kernel": rng.normal(size=(3, 300)).astype("f4")
        for i in range(12)
    }
    made |= {
        "scalar": np.array(7, "i8"),
        "half": rng.normal(size=5).astype("f2"),
        "flag": np.array([True, False]),
    }
    return made | {
        "double": rng.normal(size=(2, 1, 2)),
        "none": np.zeros((0, 4), "f4"),
        "count": np.arange(6, dtype="i4"),
    }


@pytest.mark.parametrize("per_block", [1, 3, 100])
def test_a_checkpoint_written_by_hand(tmp_path, arrays, per_block, bundle_writer):
    write, _ = bundle_writer
    prefix = tmp_path / "bert_model.ckpt"
    write(prefix, arrays, per_block=per_block)
    for name in (prefix, f"{prefix}.index"):
        found = read_bundle(name)
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            assert found[key].numpy().dtype == array.dtype
            np.testing.assert_array_equal(found[key].numpy(), array)


def test_what_cannot_be_read_is_named(tmp_path, arrays, bundle_writer):
    write, field = bundle_writer
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
    name = f"bert/encoder/layer_{i}/attention/self/query/kernel"
    arrays[name] = rng.normal(size=(17, 9)).astype("f4")
arrays["global_step"] = np.array(3, "i8")
arrays["half"] = rng.normal(size=4).astype("f2")
arrays["double"] = rng.normal(size=(2, 3))
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
    python = os.environ.get("GENLAB_TENSORFLOW") or (
        importlib.util.find_spec("tensorflow") and sys.executable
    )
    if not python:
        pytest.skip("needs tensorflow-cpu here, or GENLAB_TENSORFLOW=<a python that has it>")
    subprocess.run(
        [python, "-c", WRITER, tmp_path / "model.ckpt", tmp_path / "arrays.npz"],
        check=True,
        capture_output=True,
    )
    found, arrays = read_bundle(tmp_path / "model.ckpt"), np.load(tmp_path / "arrays.npz")
    assert set(found) == {*arrays, "brain"}
    for key in arrays:
        np.testing.assert_array_equal(found[key].numpy(), arrays[key])
        assert found[key].numpy().dtype == arrays[key].dtype
    assert torch.equal(found["brain"], torch.tensor([1.5, -2.0], dtype=torch.bfloat16))

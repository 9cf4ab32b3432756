"""IDX files: found, read exactly, and named where they are damaged."""

import gzip

import numpy as np
import pytest

from genlab.data.images.idx import FILES, find_idx, read_idx
from genlab.errors import DataError


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_are_read_exactly(suffix, write_idx, tmp_path):
    parts = write_idx(tmp_path, suffix=suffix)
    found = [read_idx(file) for file in find_idx([tmp_path])]
    assert all(np.array_equal(*pair) for pair in zip(found, parts, strict=True))


def test_the_first_place_that_has_all_four_files_is_used(write_idx, tmp_path):
    for place in ("partial", "first", "second"):
        write_idx(tmp_path / place)
    (tmp_path / "partial" / FILES[2]).unlink()
    places = [tmp_path / place for place in ("absent", "partial", "first", "second")]
    assert find_idx(places) == [tmp_path / "first" / name for name in FILES]
    assert find_idx(places[:2]) is None


def test_plain_and_gzipped_files_may_be_mixed_and_plain_ones_come_first(write_idx, tmp_path):
    write_idx(tmp_path)
    write_idx(tmp_path, suffix=".gz")
    (tmp_path / FILES[0]).unlink()
    expected = [f"{FILES[0]}.gz", *FILES[1:]]
    assert find_idx([tmp_path]) == [tmp_path / name for name in expected]


def header(*shape):
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"<html>404</html>",
        b"\0\0\x0d\1" + bytes(8),  # floats
        header(3),
        header(3) + b"12",
        header(3) + b"1234",
        header(2, 2)[:-2],
        header(2**32 - 1, 2**32 - 1, 2**32 - 1) + b"123",
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_or_truncated_file_is_named(content, suffix, tmp_path):
    file = tmp_path / f"{FILES[0]}{suffix}"
    file.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=f"{FILES[0]}{suffix}: "):
        read_idx(file)


def test_a_gzip_file_cut_or_damaged_anywhere_is_named(tmp_path, flip_byte):
    file = tmp_path / f"{FILES[1]}.gz"
    whole = gzip.compress(header(400) + np.random.default_rng(0).bytes(400))
    for position in range(10, len(whole), 7):
        file.write_bytes(whole[:position])
        with pytest.raises(DataError, match=FILES[1]):
            read_idx(file)
        file.write_bytes(whole)
        flip_byte(file, position)
        with pytest.raises(DataError, match=FILES[1]):
            read_idx(file)

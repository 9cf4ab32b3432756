"""Pictures hold the pixels of their images, in reading order."""

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.report.images import (
    GAP,
    SEEN_SIDE,
    save_gif,
    save_grid,
    save_pairs,
    save_rows,
    with_ends,
)


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def cell(path, row, column, size=SEEN_SIDE):
    pixels = pixels_of(path)
    top, left = GAP + row * (size + GAP), GAP + column * (size + GAP)
    return pixels[top : top + size, left : left + size]


def flat(values, channels=1, size=32):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, channels, size, size)


def test_a_grid_is_read_row_by_row(tmp_path):
    path = save_grid(flat([-1.0, 0.0, 1.0, -0.5, 0.5]), tmp_path / "made" / "grid.png")
    assert pixels_of(path).ndim == 2
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [int(cell(path, *place).max()) for place in places] == [0, 128, 255, 64, 191]
    assert cell(path, 1, 2).max() == 0  # filled up with black


def in_bytes(image):
    return ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_are_not(tmp_path):
    small = torch.rand(1, 3, 16, 16) * 2 - 1
    shown = cell(save_grid(small, tmp_path / "a.png"), 0, 0)
    assert (shown == in_bytes(small[0]).repeat(4, 0).repeat(4, 1)).all()
    large = torch.rand(1, 3, 100, 100) * 2 - 1
    shown = cell(save_grid(large, tmp_path / "b.png"), 0, 0, 100)
    assert (shown == in_bytes(large[0])).all()


@pytest.mark.parametrize("count", [1, 2, 8, 18])
def test_pairs_stand_side_by_side(tmp_path, count):
    left, right = flat([-0.5] * count), flat([0.5] * count)
    path = save_pairs(left, right, tmp_path / "pairs.png")
    columns = (pixels_of(path).shape[1] - GAP) // (SEEN_SIDE + GAP)
    assert columns % 2 == 0
    for i in range(2 * count):
        assert cell(path, i // columns, i % columns).max() == (64, 191)[i % 2]


def test_rows_with_their_ends(tmp_path):
    rows = with_ends(flat([-1.0]), flat([0.0, 0.0])[None], flat([1.0]))
    path = save_rows(rows, tmp_path / "rows.png")
    assert [int(cell(path, 0, c).max()) for c in range(4)] == [0, 128, 128, 255]


def test_a_gif_has_every_frame_and_never_ends(tmp_path):
    frames = torch.linspace(-1, 1, 5).view(5, 1, 1, 1, 1).expand(5, 4, 3, 32, 32)
    with Image.open(save_gif(frames, tmp_path / "walk.gif")) as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        assert gif.size == (2 * (SEEN_SIDE + GAP) + GAP,) * 2

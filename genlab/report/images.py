"""Images as files: PNG grids, pairs, rows and GIF walks. All take floats in [-1, 1] with C = 1 or
3.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genlab.files import writing

__all__ = ["save_gif", "save_grid", "save_pairs", "save_rows", "with_ends"]

# smaller images are enlarged by whole pixels up to this, or a grid of them is a postage stamp
SEEN_SIDE = 64
GAP = 2


def save_grid(images: Tensor, path: Path) -> Path:
    """Writes images (N, C, H, W) as a near-square PNG grid, row by row; returns `path`."""
    return save_rows(_fold(images, math.ceil(math.sqrt(len(images)))), path)


def save_pairs(left: Tensor, right: Tensor, path: Path) -> Path:
    """Writes each image of `left` (N, C, H, W) beside that of `right`, about as many pairs a row as
    rows.
    """
    pairs = torch.stack([left.cpu(), right.cpu()], dim=1).flatten(0, 1)
    return save_rows(_fold(pairs, 2 * max(1, round(math.sqrt(len(left) / 2)))), path)


def save_rows(images: Tensor, path: Path) -> Path:
    """Writes images (R, K, C, H, W) as a PNG of R rows of K; returns `path`."""
    return _save(path, lambda file: Image.fromarray(_canvas(images)).save(file, "PNG"))


def with_ends(start: Tensor, rows: Tensor, end: Tensor) -> Tensor:
    """rows (R, K, C, H, W) with `start` and `end` (R, C, H, W) put before and behind: (R, K + 2, C,
    H, W).
    """
    return torch.cat([start.cpu()[:, None], rows.cpu(), end.cpu()[:, None]], dim=1)


def save_gif(frames: Tensor, path: Path, milliseconds: int = 60) -> Path:
    """Writes frames (T, N, C, H, W) as an endless GIF whose every picture is the grid of N images;
    returns `path`.
    """
    width = math.ceil(math.sqrt(frames.shape[1]))
    first, *rest = (Image.fromarray(_canvas(_fold(frame, width))) for frame in frames)
    options = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    return _save(path, lambda file: first.save(file, "GIF", **options))


def _fold(images: Tensor, width: int) -> Tensor:
    """(N, C, H, W) -> (R, width, C, H, W), the last row filled up with black."""
    missing = -len(images) % width
    return torch.cat([images, images.new_full((missing, *images.shape[1:]), -1.0)]).unflatten(
        0, (-1, width)
    )


def _canvas(images: Tensor) -> np.ndarray:
    """(R, K, C, H, W) -> uint8 (height, width) or (height, width, 3), cells GAP pixels apart on
    grey.
    """
    rows, columns, channels, height, width = images.shape
    zoom = max(1, SEEN_SIDE // max(height, width))
    cells = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    cells = cells.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    height, width = zoom * height, zoom * width
    size = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    canvas = np.full(size, 96, np.uint8)
    for r in range(rows):
        for c in range(columns):
            top, left = GAP + r * (height + GAP), GAP + c * (width + GAP)
            canvas[top : top + height, left : left + width] = cells[r, c].permute(1, 2, 0).numpy()
    return canvas[..., 0] if channels == 1 else canvas


def _save(path: Path, write) -> Path:
    with writing(path) as temporary, open(temporary, "wb") as file:
        write(file)
    return Path(path)

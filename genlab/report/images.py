"""Writes images to files: PNG grids, pairs and rows, and GIFs.

All functions take floats in [-1, 1].

Shapes: N images; C channels, 1 or 3; H, W image size; R rows and K columns of a picture; T frames.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genlab.files import writing

__all__ = ["save_gif", "save_grid", "save_pairs", "save_rows", "with_ends"]

# Smaller images are enlarged by a whole factor up to this side, so that they can be seen.
SEEN_SIDE = 64
GAP = 2  # pixels between two images
GREY = 96  # of the gaps


def save_grid(images: Tensor, path: Path) -> Path:
    """Writes images (N, C, H, W) as a near-square PNG grid, row by row; returns `path`."""
    return save_rows(_fold(images, math.ceil(math.sqrt(len(images)))), path)


def save_pairs(left: Tensor, right: Tensor, path: Path) -> Path:
    """Writes a near-square PNG of pairs: each image of `left` (N, C, H, W) and that of `right`."""
    pairs = torch.stack([left.cpu(), right.cpu()], dim=1).flatten(0, 1)
    return save_rows(_fold(pairs, 2 * max(1, round(math.sqrt(len(left) / 2)))), path)


def save_rows(images: Tensor, path: Path) -> Path:
    """Writes images (R, K, C, H, W) as a PNG of R rows and K columns; returns `path`."""
    return _save(path, lambda file: Image.fromarray(_canvas(images)).save(file, "PNG"))


def with_ends(start: Tensor, rows: Tensor, end: Tensor) -> Tensor:
    """Rows (R, K, C, H, W) between `start` and `end` (R, C, H, W): (R, K + 2, C, H, W)."""
    return torch.cat([start.cpu()[:, None], rows.cpu(), end.cpu()[:, None]], dim=1)


def save_gif(frames: Tensor, path: Path, milliseconds: int = 60) -> Path:
    """Writes frames (T, N, C, H, W) as an endless GIF; returns `path`.

    Args:
        frames: Each frame is a near-square grid of N images.
        path: Of the GIF.
        milliseconds: Time for a frame.
    """
    width = math.ceil(math.sqrt(frames.shape[1]))
    first, *rest = (Image.fromarray(_canvas(_fold(frame, width))) for frame in frames)
    options = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    return _save(path, lambda file: first.save(file, "GIF", **options))


def _fold(images: Tensor, width: int) -> Tensor:
    """(N, C, H, W) -> (R, width, C, H, W); the last row is filled up with black."""
    missing = -len(images) % width
    black = images.new_full((missing, *images.shape[1:]), -1.0)
    return torch.cat([images, black]).unflatten(0, (-1, width))


def _canvas(images: Tensor) -> np.ndarray:
    """(R, K, C, H, W) -> uint8 (height, width), or (height, width, 3) for three channels."""
    rows, columns, channels, height, width = images.shape
    zoom = max(1, SEEN_SIDE // max(height, width))
    cells = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    cells = cells.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    height *= zoom
    width *= zoom
    size = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    canvas = np.full(size, GREY, np.uint8)
    for r in range(rows):
        for c in range(columns):
            top = GAP + r * (height + GAP)
            left = GAP + c * (width + GAP)
            canvas[top : top + height, left : left + width] = cells[r, c].permute(1, 2, 0).numpy()
    return canvas[..., 0] if channels == 1 else canvas


def _save(path: Path, write) -> Path:
    with writing(path) as temporary, open(temporary, "wb") as file:
        write(file)
    return Path(path)

"""One image file of any kind as uint8 (C, S, S): C channels, S image size."""

import contextlib
import io
import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from genlab.errors import DataError

__all__ = ["FILTERS", "FORMATS", "READS_AVIF", "Shrinking", "Transform", "printable"]

# Named formats only: left to itself Pillow would hand an EPS hidden under another suffix to
# Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")  # JPEG covers MPO
# Pillow 11.3 and later read AVIF.
READS_AVIF = features.check("avif") if "avif" in features.modules else False
FORMATS += ("AVIF",) if READS_AVIF else ()
# Larger images are decoded one at a time, so that threads do not multiply their memory.
LARGE_PIXELS = 1 << 24
_one_at_a_time = threading.Lock()
NAMES = ("box", "bilinear", "bicubic", "lanczos", "hamming")
FILTERS = {name: Image.Resampling[name.upper()] for name in NAMES}


def printable(name: str) -> str:
    """A file's name, with escapes for control characters and for bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def check_sums(data: bytes) -> None:
    """Compares the checksums inside a PNG, the one format here that has them.

    Raises what Pillow raises where they differ.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """An 8- or 16-bit image as "L" or "RGB": transparency becomes white, 16-bit grey is scaled."""
    if image.mode.startswith("I;16"):
        values = (np.asarray(image).astype(np.uint32) + 128) // 257
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"32-bit pixels (mode {image.mode}) have no fixed range; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


@dataclass(frozen=True)
class Transform:
    """How an image becomes uint8 (channels, image_size, image_size).

    Args:
        image_size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        crop: `none` (an image that is not square is squeezed), `center` (the largest central
            square), or the side of a central square in pixels.
        resize: `pad` (black border, no resampling) or one of Pillow's anti-aliased filters.
    """

    image_size: int
    channels: int
    crop: str | int
    resize: str
    shrinks: ClassVar[bool] = False  # whether resize=pad takes images that are too large as well

    def __post_init__(self) -> None:
        if not (isinstance(self.image_size, int) and self.image_size > 0):
            raise DataError(
                f"data.image_size={self.image_size!r} must be a positive number of pixels"
            )
        if self.channels not in (1, 3):
            raise DataError(f"data.channels={self.channels!r} must be 1 (grey) or 3 (RGB)")
        if self.crop not in ("none", "center") and not (type(self.crop) is int and self.crop > 0):
            raise DataError(f"data.crop={self.crop!r} must be none, center or a side in pixels")
        if self.resize != "pad" and self.resize not in FILTERS:
            raise DataError(f"data.resize={self.resize!r} must be one of pad, {', '.join(FILTERS)}")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (channels, image_size, image_size) of an image; DataError where it does not fit."""
        image = self._resize(self._crop(_flatten(image, "L" if self.channels == 1 else "RGB")))
        pixels = np.asarray(image)
        pixels = pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels)

    def _crop(self, image: Image.Image) -> Image.Image:
        if self.crop == "none":
            return image
        width, height = image.size
        side = min(width, height) if self.crop == "center" else self.crop
        if side > min(width, height):
            raise DataError(f"data.crop={side} does not fit into {width}x{height} pixels")
        left = (width - side) // 2
        top = (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def _resize(self, image: Image.Image) -> Image.Image:
        size = self.image_size
        width, height = image.size
        if self.resize != "pad":
            same = (width, height) == (size, size)
            return image if same else image.resize((size, size), FILTERS[self.resize])
        if max(width, height) > size:
            if not self.shrinks:
                raise DataError(
                    f"data.resize=pad cannot shrink {width}x{height} pixels to "
                    f"data.image_size={size}; use one of {', '.join(FILTERS)}"
                )
            image = ImageOps.contain(image, (size, size), Image.Resampling.LANCZOS)
            width, height = image.size
        canvas = Image.new(image.mode, (size, size))
        canvas.paste(image, ((size - width) // 2, (size - height) // 2))
        return canvas

    def decode(self, name: str, data: bytes) -> np.ndarray:
        """The upright first frame of an encoded image, transformed.

        A PNG is compared with its own checksums. Damage to a JPEG, GIF, WebP, TIFF, BMP, PPM, AVIF
        or JPEG 2000 file shows only where it cannot be decoded: these formats have none.

        Args:
            name: For errors.
            data: The content of the file.

        Raises:
            DataError: It cannot be decoded or does not fit; names the file.
        """
        name = printable(name)
        try:
            check_sums(data)
            with contextlib.ExitStack() as stack:
                image = stack.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
                if image.width * image.height > LARGE_PIXELS:
                    stack.enter_context(_one_at_a_time)
                if image.format == "JPEG2000" and b"\xff\xd9" not in data:
                    # Its decoder would fill the rest with grey.
                    raise DataError("cut short: its end marker is missing")
                if image.format == "PPM" and image.mode == "I":  # 16 bits, widened by Pillow
                    image = Image.fromarray(np.asarray(image).astype(np.uint16))
                upright = image
                # Damaged EXIF costs the rotation, not the image.
                with contextlib.suppress(Exception):
                    upright = ImageOps.exif_transpose(image)
                return self(upright)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        except UnidentifiedImageError:
            raise DataError(
                f"{name}: not a readable image (none of {', '.join(FORMATS)})"
            ) from None
        except Exception as error:  # decoders raise nearly anything on damaged input
            raise DataError(
                f"{name}: not a readable image ({type(error).__name__}: {error})"
            ) from None

    def arrays(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W) or (N, H, W, C) as uint8 (N, channels, image_size, image_size)."""
        grey = images.ndim == 3
        if self.crop == "none" and self.channels == (1 if grey else images.shape[-1]):
            planes = images[:, None] if grey else images.transpose(0, 3, 1, 2)  # (N, C, H, W)
            borders = [self._border(side) for side in planes.shape[2:]]
            smallest = min(min(border) for border in borders)
            exact = not any(before or after for before, after in borders)
            if exact or (self.resize == "pad" and smallest >= 0):
                return np.pad(planes, [(0, 0), (0, 0), *borders])
        images = images[..., 0] if images.shape[-1] == 1 and not grey else images
        return np.stack([self(Image.fromarray(image)) for image in images])

    def _border(self, side: int) -> tuple[int, int]:
        """The pixels before and after a side that resize=pad adds; negative: it is too long."""
        before = (self.image_size - side) // 2
        return before, self.image_size - side - before


class Shrinking(Transform):
    """A Transform of a user's own images, of any size: resize=pad shrinks those that are too large.

    They are shrunk by Lanczos' filter.
    """

    shrinks = True

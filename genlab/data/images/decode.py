"""One picture of any kind -> uint8 (C, S, S)."""

import contextlib
import io
import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from genlab.errors import DataError

# Named formats only: left to itself Pillow would hand an EPS hidden under another suffix to
# Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")  # JPEG covers MPO
READS_AVIF = (
    features.check("avif") if "avif" in features.modules else False
)  # Pillow 11.3 and later
FORMATS += ("AVIF",) if READS_AVIF else ()
LARGE_PIXELS = (
    1 << 24
)  # pictures beyond are decoded one at a time, so that threads do not multiply their memory
_one_at_a_time = threading.Lock()
NAMES = ("box", "bilinear", "bicubic", "lanczos", "hamming")
FILTERS = {name: Image.Resampling[name.upper()] for name in NAMES}


def printable(name: str) -> str:
    """A file's name with escapes for what a terminal would obey or cannot show: control characters,
    bytes of no UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def check_sums(data: bytes) -> None:
    """Compares the checksums inside a PNG, the one format here that has them; raises whatever
    Pillow does.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Any 8- or 16-bit picture as "L" or "RGB": transparency goes on white, 16-bit grey is scaled."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(
            ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        )
    if image.mode in ("I", "F"):
        raise DataError(
            f"32-bit pixels (mode {image.mode}) have no fixed range; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


@dataclass(frozen=True)
class Transform:
    """How a picture becomes uint8 (channels, image_size, image_size).

    crop is none (a non-square picture is squeezed), center (the largest central square) or the side
    in pixels of a central square; resize is pad (black border, no resampling) or one of Pillow's
    anti-aliased filters.
    """

    image_size: int
    channels: int
    crop: str | int
    resize: str
    shrinks: ClassVar[bool] = False  # pad: pictures that are too large, too

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
        """Flatten, crop and resize one picture; raises DataError where that cannot be done."""
        image = _flatten(image, "L" if self.channels == 1 else "RGB")
        width, height = image.size
        if self.crop != "none":
            side = min(width, height) if self.crop == "center" else self.crop
            if side > min(width, height):
                raise DataError(f"data.crop={side} does not fit into {width}x{height} pixels")
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        width, height = image.size
        size = self.image_size
        if self.resize == "pad":
            if max(width, height) > size:
                if not self.shrinks:
                    raise DataError(
                        f"data.resize=pad cannot shrink {width}x{height} pixels to data.image_size={size}; "
                        f"use one of {', '.join(FILTERS)}"
                    )
                image = ImageOps.contain(image, (size, size), Image.Resampling.LANCZOS)
                width, height = image.size
            canvas = Image.new(image.mode, (size, size))
            canvas.paste(image, ((size - width) // 2, (size - height) // 2))
            image = canvas
        elif (width, height) != (size, size):
            image = image.resize((size, size), FILTERS[self.resize])
        pixels = np.asarray(image)
        return np.ascontiguousarray(
            pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)
        )

    def decode(self, name: str, data: bytes) -> np.ndarray:
        """The upright first frame of an encoded picture, transformed; a failure is a DataError
        naming it.

        A PNG is compared with its own checksums. Damage to a JPEG, GIF, WebP, TIFF, BMP, PPM, AVIF
        or JPEG 2000 file shows only where it cannot be decoded: they have none.
        """
        name = printable(name)
        try:
            check_sums(data)
            with contextlib.ExitStack() as stack:
                image = stack.enter_context(Image.open(io.BytesIO(data), formats=FORMATS))
                if image.width * image.height > LARGE_PIXELS:
                    stack.enter_context(_one_at_a_time)
                if image.format == "JPEG2000" and b"\xff\xd9" not in data:
                    raise DataError(
                        "cut short: its end marker is missing"
                    )  # its decoder would fill in grey
                if image.format == "PPM" and image.mode == "I":  # 16 bits, widened by Pillow
                    image = Image.fromarray(np.asarray(image).astype(np.uint16))
                upright = image
                with contextlib.suppress(
                    Exception
                ):  # damaged EXIF costs the rotation, not the picture
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
        """uint8 (N, H, W) or (N, H, W, C) -> uint8 (N, channels, image_size, image_size)."""
        grey = images.ndim == 3
        if self.crop == "none" and self.channels == (1 if grey else images.shape[-1]):
            images = images[:, None] if grey else images.transpose(0, 3, 1, 2)
            before = [(self.image_size - side) // 2 for side in images.shape[2:]]
            after = [
                self.image_size - side - pad
                for side, pad in zip(images.shape[2:], before, strict=True)
            ]
            if not any(before + after) or (self.resize == "pad" and min(before + after) >= 0):
                return np.pad(images, [(0, 0), (0, 0), *zip(before, after, strict=True)])
            images = images[:, 0] if grey else images.transpose(0, 2, 3, 1)
        images = images[..., 0] if images.shape[-1] == 1 and not grey else images
        return np.stack([self(Image.fromarray(image)) for image in images])


class Shrinking(Transform):
    """A Transform of somebody's own pictures, of any size: pad makes those that are too large fit,
    by Lanczos' filter.
    """

    shrinks = True

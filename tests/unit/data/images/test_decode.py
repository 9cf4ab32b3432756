"""One image file to an array: formats, modes, orientation, crop, resize, and damage."""

import io

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from genlab.data.images.decode import FILTERS, Transform
from genlab.errors import DataError

ROTATIONS = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "GIF": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "PPM": {},
    "JPEG2000": {},
}
LOSSY = {"JPEG": {"quality": 95}, "MPO": {"quality": 95}, "WEBP": {"quality": 95}}


def plain(size, channels=3):
    """No crop, no resampling."""
    return Transform(size, channels, "none", "pad")


def one_colour(mode, value, **info):
    image = Image.new(mode, (4, 4), value)
    image.info |= info
    return image


@pytest.mark.parametrize("format", LOSSLESS)
def test_every_lossless_format_gives_the_pixels_that_were_saved(format, noise, encode):
    pixels = noise(9, 9)
    found = plain(9, 1).decode("x", encode(pixels, format, **LOSSLESS[format]))
    assert found.dtype == np.uint8 and np.array_equal(found, pixels[None])


@pytest.mark.parametrize("format", LOSSY)
def test_every_lossy_format_gives_nearly_the_pixels_that_were_saved(format, encode):
    ramp = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    found = plain(16, 1).decode("x", encode(ramp, format, **LOSSY[format]))
    assert np.abs(found.astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("format", ["EPS", "PCX", "ICO"])
def test_a_format_that_is_not_named_is_refused_whatever_its_suffix(
    format, noise, encode, monkeypatch
):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: started.append(args))
    with pytest.raises(DataError, match=r"trap\.png: "):
        plain(16).decode("trap.png", encode(noise(16, 16, 3), format))
    assert not started


@pytest.mark.parametrize(
    ("mode", "value", "options", "rgb"),
    [
        ("L", 100, {}, (100, 100, 100)),
        ("1", 1, {}, (255, 255, 255)),
        ("RGB", (200, 100, 50), {}, (200, 100, 50)),
        ("RGBA", (200, 100, 50, 255), {}, (200, 100, 50)),
        ("RGBA", (200, 100, 50, 0), {}, (255, 255, 255)),
        ("RGBA", (200, 100, 50, 51), {}, (244, 224, 214)),  # a fifth of the colour, four of white
        ("LA", (100, 0), {}, (255, 255, 255)),
        ("LA", (100, 51), {}, (224, 224, 224)),
        ("RGB", (9, 9, 9), {"transparency": (9, 9, 9)}, (255, 255, 255)),
        ("L", 9, {"transparency": 9}, (255, 255, 255)),
        ("L", 8, {"transparency": 9}, (8, 8, 8)),
    ],
)
def test_every_mode_becomes_rgb_with_transparency_on_white(mode, value, options, rgb, encode):
    found = plain(4).decode("x", encode(one_colour(mode, value), "PNG", **options))
    assert found.shape == (3, 4, 4) and np.abs(found - np.array(rgb)[:, None, None]).max() <= 0


@pytest.mark.parametrize(
    ("format", "transparency", "colours"),
    [
        ("PNG", None, [(10, 20, 30), (200, 100, 50)]),
        ("PNG", 1, [(10, 20, 30), (255, 255, 255)]),
        ("PNG", b"\x00\x33", [(255, 255, 255), (244, 224, 214)]),
        ("GIF", 1, [(10, 20, 30), (255, 255, 255)]),
    ],
)
def test_a_palette_is_looked_up_and_its_transparency_goes_on_white(
    format, transparency, colours, encode
):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image = image.convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    options = {} if transparency is None else {"transparency": transparency}
    found = plain(2).decode("x", encode(image, format, **options)).transpose(1, 2, 0)
    first, second = colours
    assert np.array_equal(found, [[first, second], [second, first]])


@pytest.mark.parametrize(
    ("format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_and_rounded_to_8_bits(format, dtype, channels, encode):
    values = np.array(
        [[0, 128, 129], [257, 257 * 100 + 128, 257 * 100 + 129], [65535, 65407, 65406]]
    )
    found = plain(3, channels).decode("x", encode(Image.fromarray(values.astype(dtype)), format))
    expected = [[0, 0, 1], [1, 100, 101], [255, 255, 254]]
    assert np.array_equal(found, np.broadcast_to(expected, (channels, 3, 3)))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_refused_by_name(dtype, encode):
    with pytest.raises(DataError, match=r"^deep\.tif: "):
        plain(4).decode("deep.tif", encode(np.ones((4, 4), dtype), "TIFF"))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "rgb"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_ink_becomes_colour(format, ink, rgb, encode):
    found = plain(8).decode("x", encode(Image.new("CMYK", (8, 8), ink), format))
    assert np.abs(found.astype(int) - np.array(rgb)[:, None, None]).max() <= 2


def test_colour_becomes_grey_as_pillow_weighs_it(noise, encode):
    pixels = noise(5, 5, 3)
    weighed = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(plain(5, 1).decode("x", encode(pixels))[0] - weighed).max() <= 0.51


@pytest.mark.parametrize("orientation", ROTATIONS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright_by_its_exif(orientation, format, noise, encode):
    pixels, exif = noise(4, 7, 3), Image.Exif()
    exif[0x0112] = orientation
    found = plain(8).decode("x", encode(pixels, format, exif=exif, **LOSSLESS[format]))
    upright = np.ascontiguousarray(ROTATIONS[orientation](pixels))
    assert np.array_equal(found, plain(8)(Image.fromarray(upright)))


def test_damaged_exif_costs_the_rotation_but_not_the_picture(noise, encode):
    pixels = noise(4, 7, 3)
    data = encode(pixels, exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(plain(8).decode("x", data), plain(8)(Image.fromarray(pixels)))


def test_the_first_frame_of_an_animation_is_taken(noise, encode):
    frames = [Image.fromarray(noise(6, 6, seed=seed)) for seed in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(plain(6, 1).decode("x", data)[0], np.asarray(frames[0]))


@pytest.mark.parametrize("format", sorted(LOSSLESS | LOSSY))
def test_a_picture_cut_anywhere_is_named_or_whole(format, noise, encode):
    data, transform = encode(noise(12, 12, 3), format, **(LOSSY | LOSSLESS)[format]), plain(12)
    whole, refused = transform.decode("x", data), 0
    for length in range(0, len(data), 1 + len(data) // 40):
        try:
            assert np.array_equal(transform.decode("cut", data[:length]), whole), length
        except DataError as error:
            assert str(error).startswith("cut: ")
            refused += 1
    assert refused > 30


def test_bytes_that_are_no_picture_are_named():
    with pytest.raises(DataError, match=r"a/b\.jpg: "):
        plain(8).decode("a/b.jpg", b"<html>404</html>")


def test_crop_none_squeezes_the_whole_picture(noise):
    image = Image.fromarray(noise(20, 30, 3))
    expected = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert np.array_equal(Transform(8, 3, "none", "box")(image), expected)


@pytest.mark.parametrize(
    ("height", "width", "crop", "top", "left", "side"),
    [
        (4, 7, "center", 0, 1, 4),
        (9, 4, "center", 2, 0, 4),
        (5, 5, "center", 0, 0, 5),
        (6, 7, 3, 1, 2, 3),
        (6, 7, 6, 0, 0, 6),
    ],
)
def test_crop_takes_a_central_square(height, width, crop, top, left, side, noise):
    pixels = noise(height, width, 3)
    found = Transform(side, 3, crop, "pad")(Image.fromarray(pixels))
    assert np.array_equal(found, pixels[top : top + side, left : left + side].transpose(2, 0, 1))


def test_a_crop_that_does_not_fit_is_refused_by_name(noise, encode):
    with pytest.raises(DataError, match=r"small\.png: data\.crop=8 .*9x7"):
        Transform(8, 3, 8, "box").decode("small.png", encode(noise(7, 9, 3)))


@pytest.mark.parametrize("resize", FILTERS)
@pytest.mark.parametrize(("height", "width", "size"), [(33, 47, 8), (8, 8, 21)])
def test_every_filter_is_pillows(resize, height, width, size, noise):
    image = Image.fromarray(noise(height, width, 3))
    expected = np.asarray(image.resize((size, size), getattr(Image.Resampling, resize.upper())))
    assert np.array_equal(Transform(size, 3, "none", resize)(image), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("resize", FILTERS)
def test_every_filter_averages_what_is_too_fine_to_keep(resize):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    found = Transform(8, 1, "none", resize)(Image.fromarray(stripes))[0].astype(int)
    assert np.abs(found[:, 1:-1] - 127.5).max() <= 3


def test_box_is_the_mean_of_a_block(noise):
    pixels = noise(12, 12)
    means = pixels.reshape(3, 4, 3, 4).mean(axis=(1, 3))
    assert np.abs(Transform(3, 1, "none", "box")(Image.fromarray(pixels))[0] - means).max() <= 1


def test_a_picture_of_the_right_size_is_not_resampled(noise):
    pixels = noise(9, 9)
    for resize in ("pad", *FILTERS):
        assert np.array_equal(Transform(9, 1, "none", resize)(Image.fromarray(pixels))[0], pixels)


def test_pad_adds_a_black_border(noise):
    pixels = noise(4, 7)
    pixels[pixels == 0] = 1
    found = plain(8, 1)(Image.fromarray(pixels))[0]
    assert np.array_equal(found[2:6, 0:7], pixels)
    assert np.count_nonzero(found) == pixels.size


def test_pad_refuses_to_shrink_and_names_the_option(noise, encode):
    with pytest.raises(
        DataError, match=r"big\.png: data\.resize=pad .*data\.image_size=8.*lanczos"
    ):
        plain(8).decode("big.png", encode(noise(4, 9, 3)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("image_size", 32.0),
        ("channels", 4),
        ("crop", "centre"),
        ("crop", 0),
        ("crop", True),
        ("resize", "nearest"),
    ],
)
def test_an_option_out_of_range_is_refused_by_key_and_value(key, value):
    options = {"image_size": 8, "channels": 3, "crop": "none", "resize": "pad"} | {key: value}
    with pytest.raises(DataError, match=f"data.{key}={value!r} "):
        Transform(**options)


@pytest.mark.parametrize(
    "shape", [(8, 8), (6, 7), (8, 8, 1), (6, 7, 1), (6, 7, 3), (8, 8, 3), (7, 7, 4)]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("crop", "resize"), [("none", "pad"), ("center", "pad"), (5, "pad"), ("none", "box")]
)
def test_an_array_is_transformed_as_its_pictures_are(shape, channels, crop, resize, noise, encode):
    transform, images = Transform(8, channels, crop, resize), noise(3, *shape)
    found = transform.arrays(images)
    single = images[..., 0] if shape[-1] == 1 else images
    assert found.dtype == np.uint8 and found.shape == (3, channels, 8, 8)
    assert found.flags.c_contiguous
    assert np.array_equal(found, [transform.decode("x", encode(image)) for image in single])


def test_an_array_too_large_to_pad_is_refused(noise):
    with pytest.raises(DataError, match=r"data\.resize=pad .*28x28"):
        plain(16, 1).arrays(noise(2, 28, 28))


def test_a_picture_is_read_from_memory_alone(noise, encode, monkeypatch):
    data = encode(noise(8, 8, 3))
    monkeypatch.setattr(io, "open", None)
    monkeypatch.setattr("builtins.open", None)
    assert plain(8).decode("no/such/file.png", data).shape == (3, 8, 8)

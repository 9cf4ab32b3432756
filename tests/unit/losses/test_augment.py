"""DiffAugment against pixels moved by hand."""

import pytest
import torch

from genlab.losses.augment import DiffAugment, translate

IMAGES = torch.rand(40, 3, 16, 16) * 2 - 1


def drawn(*policy, seed=0):
    torch.manual_seed(seed)
    augment = DiffAugment(list(policy))
    augment.draw(len(IMAGES), torch.device("cpu"))
    return augment


def test_translation_moves_up_to_an_eighth_and_brings_in_zeros():
    moved = drawn("translation")(IMAGES)
    found = set()
    for before, after in zip(IMAGES, moved, strict=True):
        matches = []
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                shifted = torch.zeros_like(before)
                source = before[:, max(0, -dy) : 16 - max(0, dy), max(0, -dx) : 16 - max(0, dx)]
                shifted[:, max(0, dy) : 16 + min(0, dy), max(0, dx) : 16 + min(0, dx)] = source
                matches += [(dy, dx)] if torch.equal(shifted, after) else []
        assert len(matches) == 1
        found.update(matches)
    assert {dy for dy, _ in found} == {dx for _, dx in found} == {-2, -1, 0, 1, 2}


def test_translate_moves_each_image_by_its_own_pixels_and_fills_the_border():
    x = torch.arange(12.0).view(1, 1, 3, 4).expand(2, 1, 3, 4)
    dy, dx = torch.tensor([1, 0]).view(2, 1, 1), torch.tensor([-2, 9]).view(2, 1, 1)
    moved = translate(x, dy, dx, fill=-1.0)[:, 0]
    assert moved[0].tolist() == [[-1, -1, -1, -1], [2, 3, -1, -1], [6, 7, -1, -1]]
    assert (moved[1] == -1).all()


def test_cutout_blanks_a_square_of_half_the_side():
    cut = drawn("cutout")(IMAGES)
    blank = (cut == 0).all(1)
    assert torch.equal(torch.where(blank[:, None], torch.zeros(()), IMAGES), cut)
    rows, columns = blank.any(2).sum(1), blank.any(1).sum(1)
    assert (rows * columns == blank.sum((1, 2))).all()  # a rectangle
    assert rows.max() == columns.max() == 8
    assert rows.min() >= 4 and columns.min() >= 4  # cut off by the border


def test_colour_keeps_the_picture_up_to_brightness_saturation_and_contrast():
    augment = drawn("color")
    brightness, saturation, contrast = augment.numbers[:3]
    x = IMAGES + brightness - 0.5
    x = x.mean(1, keepdim=True) + 2 * saturation * (x - x.mean(1, keepdim=True))
    x = x.mean((1, 2, 3), keepdim=True) + (contrast + 0.5) * (x - x.mean((1, 2, 3), keepdim=True))
    torch.testing.assert_close(augment(IMAGES), x)


def test_all_passes_of_a_step_see_one_transform_and_gradients_pass():
    augment = drawn("color", "translation", "cutout")
    images = IMAGES.clone().requires_grad_()
    assert torch.equal(augment(images), augment(IMAGES))
    augment(images).sum().backward()
    assert images.grad.abs().sum() > 0
    first = augment(IMAGES)
    augment.draw(len(IMAGES), torch.device("cpu"))
    assert not torch.equal(first, augment(IMAGES))


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match=r"^augment\.policy=\['colour'\]"):
        DiffAugment(["colour", "cutout"])

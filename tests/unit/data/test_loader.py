"""Batches: from stored images and a draw to tensors, from the step that training has reached."""

import pickle

import numpy as np
import pytest
import torch

from genlab.data.images.arrays import Arrays, ImageBatches, MappedImages, normalize
from genlab.data.loader import StepLoader
from genlab.data.sampler import Draw, StepSampler
from genlab.errors import DataError


@pytest.fixture
def stored(noise, tmp_path):
    """Twelve pixels (12, 3, 4, 4) and MappedImages of all of them, in order."""
    pixels, file = noise(12, 3, 4, 4), tmp_path / "images.u8"
    file.write_bytes(pixels.tobytes())
    return pixels, MappedImages(file, pixels.shape, np.arange(12))


def test_bytes_become_minus_one_to_one_exactly_at_the_ends():
    found = normalize(torch.arange(256, dtype=torch.uint8))
    expected = torch.linspace(-1, 1, 256, dtype=torch.float64)
    assert found.dtype == torch.float32 and found[0] == -1 and found[255] == 1
    assert torch.allclose(found.double(), expected, atol=1e-7)


def test_every_byte_comes_back_from_its_normal_value():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(normalize(values).add(1).mul(127.5).round().to(torch.uint8), values)


ROWS = (torch.tensor([3, 0, 3]), torch.tensor([5]), torch.tensor([0])[:0])


@pytest.mark.parametrize("key", [0, 5, slice(None), slice(2, 7), *ROWS])
def test_mapped_images_are_indexed_as_the_tensor_in_memory_is(key, stored):
    pixels, images = stored
    found = images[key]
    assert found.dtype == torch.uint8 and torch.equal(found, torch.from_numpy(pixels)[key])
    assert images.shape == (12, 3, 4, 4) and len(images) == 12


def test_a_selection_of_mapped_images_maps_its_rows(stored):
    pixels, images = stored
    some = images.select(np.array([9, 2, 7])).select(np.array([2, 0]))
    assert some.shape == (2, 3, 4, 4) and torch.equal(some[:], torch.from_numpy(pixels[[7, 9]]))


def test_writing_to_what_mapped_images_gave_leaves_the_file_alone(stored):
    pixels, images = stored
    images[:].zero_()
    images[3].zero_()
    assert images.file.read_bytes() == pixels.tobytes()


def test_mapped_images_are_pickled_without_their_content(tmp_path, noise):
    pixels, file = noise(100, 3, 16, 16), tmp_path / "images.u8"
    file.write_bytes(pixels.tobytes())
    images = MappedImages(file, pixels.shape, np.arange(100))
    assert images[0].shape == (3, 16, 16)  # opened
    pickled = pickle.dumps(images)
    assert len(pickled) < pixels.nbytes // 20
    assert torch.equal(pickle.loads(pickled)[:], images[:])


def test_a_selection_of_arrays_keeps_images_labels_and_paths_together(stored):
    pixels, images = stored
    paths = [str(row) for row in range(12)]
    for kind in (images, torch.from_numpy(pixels)):
        some = Arrays(kind, torch.arange(12), paths).select(np.array([4, 1]))
        assert torch.equal(some.images[:], torch.from_numpy(pixels[[4, 1]]))
        assert some.labels.tolist() == [4, 1] and some.paths == ["4", "1"] and len(some) == 2
    assert Arrays(images).select(np.array([4])).labels is None


def test_a_batch_holds_the_rows_of_its_draw_mirrored_where_drawn(stored):
    pixels, images = stored
    draw = Draw(torch.tensor([5, 0, 7]), torch.tensor([True, False, True]))
    for kind in (images, torch.from_numpy(pixels)):
        batch = ImageBatches(Arrays(kind, torch.arange(100, 112)))[draw]
        expected = np.stack([pixels[5][..., ::-1], pixels[0], pixels[7][..., ::-1]])
        assert torch.equal(batch["image"], torch.from_numpy(expected))
        assert batch["label"].tolist() == [105, 100, 107] and batch["index"].tolist() == [5, 0, 7]


def test_a_batch_has_no_label_where_there_is_none_and_is_scaled_where_asked(stored):
    pixels, images = stored
    batch = ImageBatches(Arrays(images), scaled=True)[Draw(torch.tensor([2]))]
    assert set(batch) == {"image", "index"}
    assert torch.equal(batch["image"], normalize(torch.from_numpy(pixels[2:3])))


def flat(loader):
    return [(batch["index"].tolist(), batch["image"].tolist()) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_iteration_starts_with_the_step_that_training_has_reached(num_workers, stored):
    _, images = stored
    step = 0
    sampler = StepSampler(12, 2, seed=1, flip=True)
    loader = StepLoader(ImageBatches(Arrays(images)), sampler, lambda: step, num_workers)
    reference = StepSampler(12, 2, seed=1, flip=True)
    plain = ImageBatches(Arrays(images[:]))
    for step in (0, 6, 8):
        reference.position = step
        assert len(loader) == 6 and flat(loader) == flat(map(plain.__getitem__, reference))
    step = 3  # an epoch left in the middle, with batches prefetched
    next(iter(loader))
    step = 4
    reference.position = 4
    assert flat(loader) == flat(map(plain.__getitem__, reference))


def test_a_checkpoint_trained_in_another_order_is_refused(stored):
    _, images = stored

    def loader(**changed):
        options = {"count": 12, "batch_size": 2, "seed": 1} | changed
        return StepLoader(ImageBatches(Arrays(images)), StepSampler(**options))

    state = loader().state_dict()
    loader().load_state_dict(state)
    for changed in ({"seed": 2}, {"batch_size": 3}, {"count": 11}, {"world_size": 2}):
        with pytest.raises(DataError, match=r"set seed, data\.batch_size"):
            loader(**changed).load_state_dict(state)

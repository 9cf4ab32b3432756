"""What all image sets share: splits, batches, resident data, resuming, fingerprints."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genlab.data.images import module
from genlab.data.images.arrays import Arrays, MappedImages, normalize
from genlab.data.images.module import Content, ImageDataModule
from genlab.data.loader import StepLoader
from genlab.data.splits import split_rows
from genlab.errors import DataError

COUNT = 30
# Two workers are what is promised, on a machine of one core too.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Toy(ImageDataModule):
    """What it is given: 30 pictures of 3x4x4 in three classes, 21 / 3 / 6."""

    name = "toy"

    def __init__(self, arrays, splits=None, classes=("x", "y", "z"), sha256=None, **options):
        defaults = {
            "image_size": 4,
            "channels": 3,
            "crop": "none",
            "resize": "pad",
            "flip": True,
            "batch_size": 4,
        }
        defaults |= {"num_workers": None, "resident": "auto", "num_val": 3, "seed": 1}
        super().__init__(**defaults | options)
        self.reads = 0
        self.content = Content(
            arrays, splits or split_rows(COUNT, 3, 6), "here", list(classes), 2, sha256
        )

    def _read(self):
        self.reads += 1
        return self.content


@pytest.fixture
def in_memory(noise):
    return Arrays(torch.from_numpy(noise(COUNT, 3, 4, 4)), torch.arange(COUNT) % 3)


@pytest.fixture
def mapped(in_memory, tmp_path):
    file = tmp_path / "images.u8"
    file.write_bytes(in_memory.images.numpy().tobytes())
    return Arrays(MappedImages(file, (COUNT, 3, 4, 4), np.arange(COUNT)), in_memory.labels)


def trainer(rank=0, world=1, step=0, overfit=0.0):
    """As much of a Lightning trainer as a data module asks for."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=step))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(
        global_rank=rank,
        world_size=world,
        strategy=strategy,
        fit_loop=loop,
        overfit_batches=overfit,
    )


def batches(loader):
    return [{key: value.tolist() for key, value in batch.items()} for batch in loader]


def rows(loader):
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize(
    ("count", "num_val", "num_test"), [(30, 3, 6), (30, 0, 0), (2, 1, 0), (100, 33, 66)]
)
def test_splits_are_sorted_disjoint_complete_and_of_the_size_asked_for(count, num_val, num_test):
    for labels in (None, torch.arange(count) % 3):
        splits = split_rows(count, num_val, num_test, labels)
        sizes = {split: len(rows) for split, rows in splits.items()}
        assert sizes == {"train": count - num_val - num_test, "val": num_val, "test": num_test}
        assert all((np.diff(part) > 0).all() for part in splits.values())
        assert sorted(itertools.chain(*splits.values())) == list(range(count))


def test_splits_are_the_same_for_ever():
    splits = split_rows(12, 3, 4)
    assert splits["val"].tolist() == [1, 2, 3] and splits["test"].tolist() == [7, 8, 9, 10]


def test_splits_hold_the_classes_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    splits = split_rows(100, 10, 20, labels)
    assert np.bincount(labels[splits["test"]]).tolist() == [12, 6, 2]
    assert np.bincount(labels[splits["val"]]).tolist() == [6, 3, 1]


@pytest.mark.parametrize(("num_val", "num_test"), [(-1, 3), (3, -1), (20, 10), (40, 0)])
def test_splits_that_leave_nothing_to_train_on_are_refused_by_key(num_val, num_test):
    with pytest.raises(DataError, match=r"data\.num_val or data\.num_test"):
        split_rows(30, num_val, num_test)


def test_the_first_images_of_the_training_split_alone_can_be_taken(in_memory):
    whole, some = Toy(in_memory), Toy(in_memory, num_train=5)
    assert torch.equal(some.arrays("train").images, whole.arrays("train").images[:5])
    for split in ("val", "test"):
        assert torch.equal(some.arrays(split).images, whole.arrays(split).images)
    assert some.fingerprint() != whole.fingerprint() and some.describe("train")["count"] == 5
    for wrong in (0, 22):
        with pytest.raises(DataError, match=rf"^data\.num_train={wrong}: .*21"):
            Toy(in_memory, num_train=wrong).setup()


def test_the_set_is_read_once_however_often_it_is_set_up(in_memory):
    data = Toy(in_memory)
    data.prepare_data()
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    data.arrays("train"), data.fingerprint(), data.train_dataloader()
    assert data.reads == 1


def test_arrays_are_the_rows_of_the_split(in_memory):
    data = Toy(in_memory)
    for split, chosen in data.content.splits.items():
        assert torch.equal(data.arrays(split).images, in_memory.images[chosen])
        assert torch.equal(data.arrays(split).labels, in_memory.labels[chosen])
    with pytest.raises(DataError, match=r"^split='dev' "):
        data.arrays("dev")


def test_class_names_and_their_number_are_known_after_setup(in_memory):
    data = Toy(in_memory)
    assert data.classes is None and data.num_classes is None
    data.setup()
    assert data.classes == ["x", "y", "z"] and data.num_classes == 3


def test_a_small_set_is_resident_as_bytes(mapped):
    loader = Toy(mapped).train_dataloader()
    assert isinstance(loader.batches.arrays.images, torch.Tensor)
    assert loader.batches.arrays.images.dtype == torch.uint8 and loader.workers is None


def test_a_large_set_is_mapped_and_prefetched_by_two_workers(mapped, monkeypatch):
    monkeypatch.setattr(module, "RESIDENT_BYTES", COUNT * 48 - 1)
    loader = Toy(mapped).train_dataloader()
    assert isinstance(loader.batches.arrays.images, MappedImages)
    assert loader.workers.num_workers == 2
    monkeypatch.setattr(module, "RESIDENT_BYTES", COUNT * 48)
    assert isinstance(Toy(mapped).train_dataloader().batches.arrays.images, torch.Tensor)


def test_a_small_set_is_prefetched_where_workers_are_asked_for(mapped):
    loader = Toy(mapped, num_workers=1).train_dataloader()
    assert isinstance(loader.batches.arrays.images, MappedImages)
    assert loader.workers.num_workers == 1


def test_a_resident_split_is_copied_to_the_device_once(mapped):
    data = Toy(mapped)
    first, second = data.train_dataloader(), data.train_dataloader()
    assert first.batches.arrays is second.batches.arrays


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_resident_and_mapped_sets_give_identical_batches_with_any_number_of_workers(
    split, in_memory, mapped, monkeypatch
):
    reference = [batches(Toy(in_memory)._loader(split)) for _ in range(2)]
    assert reference[0] == reference[1]
    ways = [
        (mapped, {}),
        (mapped, {"resident": True}),
        (in_memory, {"resident": False, "num_workers": 0}),
    ]
    ways += [(mapped, {"resident": False, "num_workers": workers}) for workers in (0, 2)]
    for arrays, options in ways:
        assert batches(Toy(arrays, **options)._loader(split)) == reference[0]
    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    for workers in (0, 2):
        assert batches(Toy(mapped, num_workers=workers)._loader(split)) == reference[0]


def test_a_split_whose_last_batch_holds_one_picture_is_read_whole(mapped):
    data = Toy(mapped, resident=False, num_workers=0, batch_size=2)
    assert [len(batch["image"]) for batch in data.val_dataloader()] == [2, 1]
    assert all(batch["image"].shape[1:] == (3, 4, 4) for batch in data.val_dataloader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"^data\.batch_size=0 "),
        ({"batch_size": 2.5}, r"^data\.batch_size=2\.5 "),
        ({"resident": "yes"}, r"^data\.resident='yes' "),
        (
            {"resident": True, "num_workers": 2},
            r"data\.num_workers=2 .*data\.resident=false",
        ),
        ({"crop": "top"}, r"data\.crop='top'"),
    ],
)
def test_an_option_that_cannot_take_effect_is_refused_by_key(options, message, in_memory):
    with pytest.raises(DataError, match=message):
        Toy(in_memory, **options)


def test_training_batches_are_full_shuffled_and_mirrored_by_half(in_memory):
    data = Toy(in_memory, batch_size=5)
    found, mirrored = list(data.train_dataloader()), 0
    assert [len(batch["index"]) for batch in found] == [5] * 4
    images = data.arrays("train").images
    for batch in found:
        assert torch.equal(batch["label"], data.arrays("train").labels[batch["index"]])
        for row, image in zip(batch["index"], batch["image"], strict=True):
            flipped = torch.equal(image, images[row].flip(-1))
            assert flipped or torch.equal(image, images[row])
            mirrored += flipped
    assert 4 <= mirrored <= 16
    for split in ("val", "test"):  # held-out pictures are left as they are
        whole = torch.cat([batch["image"] for batch in data._loader(split)])
        assert torch.equal(whole, data.arrays(split).images)


def test_without_flip_no_training_picture_is_mirrored(in_memory):
    data = Toy(in_memory, flip=False)
    for batch in data.train_dataloader():
        assert torch.equal(batch["image"], data.arrays("train").images[batch["index"]])


def test_two_processes_together_train_on_the_batches_of_one(mapped):
    def loader(batch_size, **place):
        data = Toy(mapped, batch_size=batch_size)
        data.trainer = trainer(**place)
        return data.train_dataloader()

    one = batches(loader(6))
    ranks = zip(*(batches(loader(3, rank=rank, world=2)) for rank in range(2)), strict=True)
    assert [{key: first[key] + second[key] for key in first} for first, second in ranks] == one


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_processes_together_see_each_held_out_picture_once(split, world, in_memory):
    found = []
    for rank in range(world):
        data = Toy(in_memory, batch_size=2)
        data.trainer = trainer(rank, world)
        found += itertools.chain(*rows(data._loader(split)))
    assert sorted(found) == list(range(len(data.arrays(split))))


def test_training_goes_on_from_the_step_the_trainer_has_reached(in_memory):
    data = Toy(in_memory)
    data.trainer = trainer()
    whole = batches(data.train_dataloader())
    data.trainer = trainer(step=5)
    following = batches(data.train_dataloader())
    resumed = Toy(in_memory)
    resumed.trainer = trainer(step=3)
    assert batches(resumed.train_dataloader()) == whole[3:] + following[:3]


def test_overfitting_sees_the_same_batches_in_every_epoch(in_memory):
    data = Toy(in_memory)
    data.trainer = trainer(step=7, overfit=2)
    assert batches(data.train_dataloader()) == batches(Toy(in_memory).train_dataloader())


def test_an_empty_split_has_no_batches(in_memory):
    data = Toy(in_memory, splits=split_rows(COUNT, 0, 0))
    assert data.val_dataloader() == [] and data.test_dataloader() == []
    assert list(data.loader("val")) == []


def test_a_training_split_smaller_than_a_batch_is_refused(in_memory):
    with pytest.raises(DataError, match=r"data\.batch_size=22 "):
        Toy(in_memory, batch_size=22).train_dataloader()


def test_bytes_are_normalised_after_the_transfer_and_the_rest_is_kept(in_memory):
    data = Toy(in_memory)
    batch = next(iter(data.train_dataloader()))
    found = data.on_after_batch_transfer(batch, 0)
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(found["image"], normalize(batch["image"]))
    assert found["image"].abs().max() <= 1
    assert found["label"] is batch["label"] and found["index"] is batch["index"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_loader_covers_a_split_once_in_order_as_floats_without_a_trainer(split, mapped):
    data = Toy(mapped)
    loader = data.loader(split, batch_size=5)
    found, size = list(loader), len(data.arrays(split))
    assert isinstance(loader, StepLoader) and len(loader) == len(found)
    assert list(itertools.chain(*rows(found))) == list(range(size))
    assert {len(batch["index"]) for batch in found[:-1]} <= {5}
    images = torch.cat([batch["image"] for batch in found])
    assert torch.equal(images, normalize(data.arrays(split).images[:]))
    assert torch.equal(torch.cat([batch["label"] for batch in found]), data.arrays(split).labels)
    assert len(next(iter(data.loader("train")))["index"]) == data.batch_size


def test_pick_takes_different_pictures_of_a_split_by_seed_alone(in_memory, mapped):
    arrays = Toy(in_memory).arrays("train")
    batch = Toy(mapped).pick("train", 8, seed=3)
    rows = batch["index"].tolist()
    assert len(set(rows)) == 8 and rows != sorted(rows)
    assert torch.equal(batch["image"], normalize(arrays.images[rows]))
    assert torch.equal(batch["label"], arrays.labels[rows])
    other = Toy(in_memory, seed=9, batch_size=1).pick("train", 5, seed=3)
    assert other["index"].tolist() == rows[:5]
    assert Toy(in_memory).pick("train", 8, seed=4)["index"].tolist() != rows
    assert Toy(mapped).pick("val", 1)["image"].shape == (1, 3, 4, 4)
    assert sorted(Toy(mapped).pick("val", 99)["index"].tolist()) == [0, 1, 2]


def test_describe_says_what_a_number_must_be_read_with(in_memory):
    assert Toy(in_memory, crop=4, resize="box").describe("test") == {
        "name": "toy",
        "split": "test",
        "count": 6,
        "image_size": 4,
        "channels": 3,
        "crop": 4,
        "resize": "box",
        "source": "here",
        "skipped": 2,
    }


def test_the_fingerprint_does_not_depend_on_how_the_set_is_trained_on(in_memory):
    reference = Toy(in_memory).fingerprint()
    assert len(reference) == 16 and int(reference, 16) >= 0
    options = [
        {"seed": 2},
        {"batch_size": 7},
        {"flip": False},
        {"resident": False},
        {"num_workers": 1},
    ]
    assert {Toy(in_memory, **option).fingerprint() for option in options} == {reference}


def test_the_fingerprint_does_not_depend_on_the_layout_in_memory(in_memory):
    channels_last = in_memory.images.contiguous(memory_format=torch.channels_last)
    same = Toy(Arrays(channels_last, in_memory.labels))
    assert same.fingerprint() == Toy(in_memory).fingerprint()


def test_the_fingerprint_changes_with_pixels_labels_names_and_splits(in_memory, mapped):
    images, labels = in_memory.images.clone(), in_memory.labels.clone()
    images[17, 1, 2, 3] ^= 1
    labels[4] = 2
    names = [str(row) for row in range(COUNT)]
    sets = [
        Toy(in_memory),
        Toy(Arrays(images, in_memory.labels)),
        Toy(Arrays(in_memory.images, labels)),
        Toy(Arrays(in_memory.images)),
        Toy(Arrays(in_memory.images.reshape(COUNT, 1, 12, 4), in_memory.labels)),
        Toy(Arrays(in_memory.images, in_memory.labels, names)),
        Toy(Arrays(in_memory.images, in_memory.labels, names[::-1])),
        Toy(in_memory, classes=("x", "y", "w")),
        Toy(in_memory, splits=split_rows(COUNT, 3, 7)),
        Toy(in_memory, splits=split_rows(COUNT, 4, 6)),
        Toy(mapped, sha256="00"),
        Toy(mapped, sha256="01"),
    ]
    assert len({data.fingerprint() for data in sets}) == len(sets)

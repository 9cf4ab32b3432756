"""Images with captions: made from labels by templates, or COCO's.

Shapes: N images of a split, C channels, S image size.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from genlab.data.images.arrays import MappedImages
from genlab.data.images.cache import cached_images
from genlab.data.images.decode import Transform
from genlab.data.images.module import ImageDataModule
from genlab.data.splits import SPLIT_SEED, SPLITS
from genlab.data.text.formats import an_object, check, json_of
from genlab.data.text.labelled import ConditionalText
from genlab.data.text.records import Example, a_text
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["CocoCaptions", "LabelledImages"]


class LabelledImages(ConditionalText):
    """Captions made from the class of each image by templates; the splits are those of the images.

    An example has as many captions as there are templates, of which one is drawn each time that it
    is trained on.

    Args:
        images: The image set.
        templates: Texts with {label}, which the word of the class replaces.
        words: A word for each class; None: the names of the classes.
        options: See TextDataModule.
    """

    name = "labelled_images"

    def __init__(
        self, images: ImageDataModule, templates: list, words: list | None = None, **options
    ) -> None:
        super().__init__(max_source=0, max_question=0, **options)
        if not templates or any("{label}" not in template for template in templates):
            raise DataError(f"data.templates={templates}: expected texts with {{label}} in them")
        self.images = images
        self.templates = list(templates)
        self._words = words

    @property
    def notes(self) -> list[str]:
        """Those of the images."""
        return self.images.notes

    @property
    def left_out(self) -> dict[str, int]:
        """That of the images."""
        return self.images.left_out

    @property
    def image_shape(self) -> dict:
        """How a model's other images are prepared: image_size, channels, crop and resize."""
        images = self.images
        return {
            "image_size": images.image_size,
            "channels": images.channels,
            "crop": images.crop,
            "resize": images.resize,
        }

    @property
    def words(self) -> list[str]:
        """The word for each class; known after setup()."""
        self.images.setup()
        known = self.images.classes
        if known is None:
            raise DataError(f"data.images: {self.images.name} has no classes to make captions from")
        if self._words is not None and len(self._words) != len(known):
            raise DataError(
                f"data.words: {len(self._words)} words for the {len(known)} classes "
                f"{', '.join(known)}"
            )
        return [str(word) for word in self._words or known]

    def split_key(self, split: str) -> str | None:
        """That of the images."""
        key = self.images.split_key(split)
        return None if key is None else f"images.{key}"

    def prepare_data(self) -> None:
        """Downloads or decodes the images where they are missing, and makes the captions."""
        self.images.prepare_data()
        self.setup()

    def _read(self) -> dict[str, list[Example]]:
        words = self.words
        splits = {}
        for split in SPLITS:
            labels = self.images.arrays(split).labels.tolist()
            splits[split] = [
                self._example(f"{split}-{i}", words[label]) for i, label in enumerate(labels)
            ]
        return splits

    def _example(self, id: str, word: str) -> Example:
        captions = tuple(template.replace("{label}", word) for template in self.templates)
        return Example(id, ("",), (captions,), labels=(word,))

    def given(self, split: str) -> dict[str, Tensor | MappedImages]:
        """{"image": uint8 (N, C, S, S)}."""
        return {"image": self.images.arrays(split).images}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over captions, images and the vocabulary."""
        content = f"{super().fingerprint()} {self.images.fingerprint()}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]


class CocoCaptions(ConditionalText):
    """COCO's images with five captions each, in its own layout. https://cocodataset.org

    root/annotations/captions_train<year>.json and captions_val<year>.json hold the captions,
    root/train<year>/ and root/val<year>/ the images, which are decoded once into a cache below
    $GENLAB_DATA. Train is COCO's train; val and test are drawn from COCO's val.

    Args:
        root: The folder with the three; None: $GENLAB_DATA/coco or $GENLAB_DATA.
        year: 2014 or 2017.
        image_size, channels, crop, resize: See genlab.data.images.decode.Transform.
        on_error: `raise` or `skip` an image that is missing, unreadable or without a caption.
        num_val: Images of COCO's val that are val.
        num_test: Others of them that are test; None: all others.
        options: See TextDataModule.
    """

    name = "coco_captions"

    def __init__(
        self,
        root: str | None = None,
        year: int = 2014,
        image_size: PositiveInt = 224,
        channels: PositiveInt = 3,
        crop: str | int = "center",
        resize: str = "bilinear",
        on_error: Literal["raise", "skip"] = "raise",
        num_val: NonNegativeInt = 1000,
        num_test: NonNegativeInt | None = 5000,
        **options,
    ) -> None:
        super().__init__(
            root=root, on_error=on_error, max_source=0, max_question=0, num_val=num_val, **options
        )
        self.num_test = num_test
        self.year = year
        self.image_shape = {
            "image_size": image_size,
            "channels": channels,
            "crop": crop,
            "resize": resize,
        }
        self.transform = Transform(**self.image_shape)
        self._given: dict[str, MappedImages] = {}

    def _folder(self) -> Path:
        """The folder that COCO is in."""
        if self.root:
            places = [Path(self.root).expanduser()]
        else:
            places = [data_root() / "coco", data_root()]
        wanted = f"annotations/captions_train{self.year}.json"
        found = next((place for place in places if (place / wanted).is_file()), None)
        if found is None:
            raise DataError(
                f"data.root: there is no {wanted} below {' or '.join(map(str, places))}; put "
                f"COCO's annotations/, train{self.year}/ and val{self.year}/ there "
                "(https://cocodataset.org)"
            )
        return found

    def _part(self, root: Path, part: str) -> tuple[list[Example], MappedImages]:
        """The captioned images of COCO's train or val, in the order of their file names."""
        path = root / "annotations" / f"captions_{part}{self.year}.json"
        folder = root / f"{part}{self.year}"
        content = json_of(path)
        lists = ("images", "annotations")
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in lists
        ):
            raise DataError(
                f'{path}: expected an object with lists "images" and "annotations", as in COCO'
            )
        images = cached_images(folder, self.transform, self.on_error)
        row_of = {name: row for row, name in enumerate(images.names)}
        captions = self._captions(path, content["annotations"])
        examples, rows = [], []
        for name, number in self._entries(path, content["images"]):
            with self._record(str(path)):
                if name not in row_of:
                    raise ValueError(f"image {name} is not in {folder}")
                if not captions.get(number):
                    raise ValueError(f"image {name} has no caption")
                own = tuple(dict.fromkeys(captions[number]))
                examples.append(Example(name, ("",), (own,), document=str(number)))
                rows.append(row_of[name])
        if not examples:
            raise DataError(f"{path}: none of its images is there with a caption")
        return examples, images.images.select(np.array(rows, dtype=np.int64))

    def _captions(self, path: Path, notes: list) -> dict[int, list[str]]:
        """number of an image -> its captions."""
        captions: dict[int, list[str]] = {}
        for i, note in enumerate(notes):
            with self._record(f"{path}: annotations[{i}]"):
                note = an_object(note)
                found = captions.setdefault(note["image_id"], [])
                found.append(" ".join(check(a_text(note["caption"], "caption")).split()))
        return captions

    def _entries(self, path: Path, images: list) -> list[tuple[str, int]]:
        """(file name, number) of each image, in the order of the names."""
        entries = []
        for i, image in enumerate(images):
            with self._record(f"{path}: images[{i}]"):
                entries.append((a_text(an_object(image)["file_name"], "file_name"), image["id"]))
        return sorted(entries, key=lambda entry: entry[0])

    @contextmanager
    def _record(self, where: str) -> Iterator[None]:
        """Handles an error in the block: a DataError that names the place, or a skipped record."""
        try:
            yield
        except (ValueError, KeyError, TypeError) as error:
            why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            if self.on_error == "raise":
                raise DataError(
                    f"{where}: {why}; data.on_error=skip leaves such records out"
                ) from None
            self.skipped.append((where, why))

    def _read(self) -> dict[str, list[Example]]:
        root = self._folder()
        self.skipped = []
        train, train_images = self._part(root, "train")
        held, images = self._part(root, "val")
        if not 0 <= self.num_val < len(held):
            raise DataError(
                f"data.num_val={self.num_val}: COCO's val has {len(held)} images, "
                "from which test is drawn as well; lower it"
            )
        num_test = len(held) - self.num_val
        if self.num_test is not None:
            num_test = min(self.num_test, num_test)
        order = np.random.RandomState(SPLIT_SEED).permutation(len(held))
        rows = {
            "val": np.sort(order[: self.num_val]),
            "test": np.sort(order[self.num_val :][:num_test]),
        }
        self._given = {"train": train_images} | {s: images.select(rows[s]) for s in rows}
        return {"train": train} | {split: [held[row] for row in rows[split]] for split in rows}

    def given(self, split: str) -> dict[str, MappedImages]:
        """{"image": uint8 (N, C, S, S)}."""
        self.setup()
        return {"image": self._given[split]}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over captions, names, the images' shape and the vocabulary."""
        content = [super().fingerprint(), self.year, *map(str, self.image_shape.values())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

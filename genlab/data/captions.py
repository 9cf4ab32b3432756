"""Images with captions: made of labels by templates, or COCO's."""

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
from genlab.data.text.labelled import SteeredText
from genlab.data.text.records import Example, a_text
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["CocoCaptions", "LabelledImages"]


class LabelledImages(SteeredText):
    """Captions that `templates` make of the class of each of `images`, "{label}" being its word.

    words: one for each class; null: the class names. An example has as many captions as there are
    templates, of which one is drawn each time it is trained on. Splits are those of the images.
    """

    name = "labelled_images"

    def __init__(
        self, images: ImageDataModule, templates: list, words: list | None = None, **options
    ) -> None:
        super().__init__(max_source=0, max_question=0, **options)
        if not templates or any("{label}" not in template for template in templates):
            raise DataError(f"data.templates={templates}: expected texts with {{label}} in them")
        self.images, self.templates, self._words = images, list(templates), words

    @property
    def notes(self) -> list[str]:
        """Those of the images."""
        return self.images.notes

    @property
    def left_out(self) -> dict[str, int]:
        """Those of the images."""
        return self.images.left_out

    @property
    def image_shape(self) -> dict:
        """How pictures are made what the model sees."""
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
            raise DataError(f"data.images: {self.images.name} has no classes to make captions of")
        if self._words is not None and len(self._words) != len(known):
            raise DataError(
                f"data.words: {len(self._words)} words for the {len(known)} classes {', '.join(known)}"
            )
        return [str(word) for word in self._words or known]

    def prepare_data(self) -> None:
        self.images.prepare_data()
        self.setup()

    def _read(self) -> dict[str, list[Example]]:
        words, splits = self.words, {}
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
        return hashlib.sha256(
            f"{super().fingerprint()} {self.images.fingerprint()}".encode()
        ).hexdigest()[:16]


class CocoCaptions(SteeredText):
    """COCO's images with five captions each, in its own layout below `root`.

    root/annotations/captions_train<year>.json and captions_val<year>.json, root/train<year>/ and
    root/val<year>/ with the images, which are decoded once into a cache below $GENLAB_DATA. Train
    is COCO's; num_val images of its val are val, the others, or num_test of them, test.
    https://cocodataset.org
    """

    name, words = "coco_captions", None

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
        self.num_test, self.year = num_test, year
        self.image_shape = {
            "image_size": image_size,
            "channels": channels,
            "crop": crop,
            "resize": resize,
        }
        self.transform = Transform(**self.image_shape)
        self._given: dict[str, MappedImages] = {}

    def _folder(self) -> Path:
        places = (
            [Path(self.root).expanduser()] if self.root else [data_root() / "coco", data_root()]
        )
        wanted = f"annotations/captions_train{self.year}.json"
        found = next((place for place in places if (place / wanted).is_file()), None)
        if found is None:
            raise DataError(
                f"data.root: there is no {wanted} below {' or '.join(map(str, places))}; put COCO's annotations/, "
                f"train{self.year}/ and val{self.year}/ there (https://cocodataset.org)"
            )
        return found

    def _part(self, root: Path, part: str) -> tuple[list[Example], MappedImages]:
        """The captioned images of one of COCO's two parts, in the order of their file names."""
        path = root / "annotations" / f"captions_{part}{self.year}.json"
        content = json_of(path)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in ("images", "annotations")
        ):
            raise DataError(
                f'{path}: expected an object with lists "images" and "annotations", as COCO\'s captions'
            )
        images = cached_images(root / f"{part}{self.year}", self.transform, self.on_error)
        rows, captions = {name: row for row, name in enumerate(images.names)}, {}
        for i, note in enumerate(content["annotations"]):
            with self._place(f"{path}: annotations[{i}]"):
                note = an_object(note)
                captions.setdefault(note["image_id"], []).append(
                    " ".join(check(a_text(note["caption"], "caption")).split())
                )
        entries = []
        for i, image in enumerate(content["images"]):
            with self._place(f"{path}: images[{i}]"):
                entries.append((a_text(an_object(image)["file_name"], "file_name"), image["id"]))
        examples, kept = [], []
        for name, number in sorted(entries, key=lambda entry: entry[0]):
            with self._place(str(path)):
                if name not in rows:
                    raise ValueError(f"image {name} is not in {root / f'{part}{self.year}'}")
                if not captions.get(number):
                    raise ValueError(f"image {name} has no caption")
                examples.append(
                    Example(
                        name, ("",), (tuple(dict.fromkeys(captions[number])),), document=str(number)
                    )
                )
                kept.append(rows[name])
        if not examples:
            raise DataError(f"{path}: none of its images is there with a caption")
        return examples, images.images.select(np.array(kept, dtype=np.int64))

    @contextmanager
    def _place(self, where: str) -> Iterator[None]:
        """Makes an error in the block a DataError that says where, or, with on_error=skip, a record
        that is left out.
        """
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
        root, self.skipped = self._folder(), []
        train, self._given["train"] = self._part(root, "train")
        held, images = self._part(root, "val")
        if not 0 <= self.num_val < len(held):
            raise DataError(
                f"data.num_val={self.num_val}: COCO's val has {len(held)} images, some of which are to test on"
            )
        num_test = (
            len(held) - self.num_val
            if self.num_test is None
            else min(self.num_test, len(held) - self.num_val)
        )
        order = np.random.RandomState(SPLIT_SEED).permutation(len(held))
        rows = {"val": order[: self.num_val], "test": order[self.num_val :][:num_test]}
        rows = {split: np.sort(part) for split, part in rows.items()}
        self._given |= {split: images.select(rows[split]) for split in rows}
        return {"train": train} | {split: [held[row] for row in rows[split]] for split in rows}

    def given(self, split: str) -> dict[str, MappedImages]:
        """{"image": uint8 (N, C, S, S)}."""
        self.setup()
        return {"image": self._given[split]}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over captions, names, the images' shape and the vocabulary."""
        shape = json.dumps([super().fingerprint(), self.year, *map(str, self.image_shape.values())])
        return hashlib.sha256(shape.encode()).hexdigest()[:16]

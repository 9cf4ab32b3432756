"""Texts with labels, sentences out of a table, captions made by templates, and COCO's files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.data.captions import CocoCaptions, LabelledImages
from genlab.data.images.sets import MNIST5k
from genlab.data.text.facts import Facts
from genlab.data.text.labelled import FactSentences, LabelledText, Poems
from genlab.errors import DataError


def rows(count=60):
    return [
        {"text": f"word{i} again", "mood": "good" if i % 3 else "bad", "stars": i % 2 + 1}
        for i in range(count)
    ]


def lines(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def made(path, **options):
    options = {"fields": ["mood", "stars"], "num_val": 5, "num_test": 6, "batch_size": 4} | options
    return LabelledText(path=path, max_target=12, **options)


def test_labels_come_with_their_texts_and_out_of_training_alone(tmp_path):
    content = [*rows(), {"text": "rare", "mood": "odd", "stars": None}]
    data = made(lines(tmp_path / "a.jsonl", content), min_count=2)
    assert data.label_values == {"mood": ["good", "bad"], "stars": data.label_values["stars"]}
    assert sorted(data.label_values["stars"]) == ["1", "2"]
    for split in ("train", "val", "test"):
        labels = data.given(split)["labels"]
        for example, row in zip(data.examples(split), labels.tolist(), strict=True):
            known = [
                "" if i < 0 else names[i]
                for i, names in zip(row, data.label_values.values(), strict=True)
            ]
            rare = example.targets[0][0] == "rare"
            assert known == (["", ""] if rare else list(example.labels))
    batch = next(iter(data.loader("val")))
    assert batch["labels"].shape == (4, 2) and batch["ids"][:, 0].eq(2).all()
    # All but [CLS] is written.
    assert batch["segments"][:, 0].eq(0).all() and batch["segments"][:, 1].eq(1).all()


def test_a_table_gives_the_same_as_json_lines(tmp_path):
    one = made(lines(tmp_path / "a.jsonl", rows()))
    table = "text\tmood\tstars\n" + "".join(
        f"{r['text']}\t{r['mood']}\t{r['stars']}\n" for r in rows()
    )
    (tmp_path / "a.tsv").write_text(table)
    (tmp_path / "b.tsv").write_text(table.partition("\n")[2])
    other = made(str(tmp_path / "a.tsv"))
    bare = made(str(tmp_path / "b.tsv"), text_field=0, fields=[1, 2])
    for data in (other, bare):
        assert [e.targets for e in data.examples("train")] == [
            e.targets for e in one.examples("train")
        ]
        assert torch.equal(data.given("train")["labels"], one.given("train")["labels"])
    assert list(bare.label_values) == ["1", "2"]


def test_the_fingerprint_tells_other_labels(tmp_path):
    one, other = rows(), rows()
    other[7]["mood"] = "bad"
    prints = {
        made(lines(tmp_path / name, content)).fingerprint()
        for name, content in (("a.jsonl", one), ("b.jsonl", other))
    }
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"mood": ["a"]}, {}, r"a\.jsonl:3: mood: "),
        ({"text": ""}, {}, r"a\.jsonl:3: text: "),
        ({}, {"fields": ["mod"]}, r"a\.jsonl:1: .*'mod'.*data\.fields"),
        ({}, {"fields": []}, r"data\.fields=\[\]"),
        ({}, {"source_field": "text"}, r"data\.source_field=text, data\.max_source=0"),
        ({}, {"min_count": 50}, r"data\.fields: mood .*data\.min_count"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, change, options, message):
    content = rows()
    content[2] |= change
    with pytest.raises(DataError, match=message):
        _ = made(lines(tmp_path / "a.jsonl", content), **options).label_values


def test_a_source_may_come_with_the_labels(tmp_path):
    content = [{"source": f"s{i}", **row} for i, row in enumerate(rows())]
    data = made(lines(tmp_path / "a.jsonl", content), source_field="source", max_source=8)
    batch = next(iter(data.loader("test")))
    assert (batch["segments"] == 0).sum(1).min() >= 3 and batch["labels"].shape == (4, 2)


def test_poems_are_labelled_texts(tmp_path):
    poem = {
        "form": "5x4",
        "dynasty": "tang",
        "author": "李白",
        "title": "x",
        "text": "白日依山盡，黄河入海流。",
    }
    other = [poem | {"dynasty": "song", "author": "杜甫"}, poem | {"form": "7x4"}]
    content = [row | {"text": chr(0x4E00 + i) + row["text"]} for i, row in enumerate(20 * other)]
    data = Poems(
        path=lines(tmp_path / "p.jsonl", content),
        num_val=4,
        num_test=4,
        vocab_kind="characters",
        max_target=20,
    )
    assert {field: set(names) for field, names in data.label_values.items()} == {
        "form": {"5x4", "7x4"},
        "dynasty": {"tang", "song"},
        "author": {"李白", "杜甫"},
    }


def test_the_sentences_are_those_of_the_table():
    data = FactSentences()
    splits = {split: data.examples(split) for split in ("train", "val", "test")}
    texts = [e.targets[0][0] for examples in splits.values() for e in examples]
    # Countries and elements have four topics each, with three statements and three questions.
    assert len(texts) == 81 * 4 * 6 + 49 * 4 * 6
    assert len(splits["test"]) == 400 and len(splits["val"]) == 200
    assert len(data.label_values["topic"]) == 8
    assert set(data.label_values["form"]) == {"statement", "question"}
    for e in splits["train"]:
        assert (e.labels[1] == "question") == e.targets[0][0].endswith("?")
    train, test = ({e.targets[0][0] for e in splits[split]} for split in ("train", "test"))
    assert not train & test
    assert Facts(num_train=20, num_val=5, num_test=5).fingerprint() != data.fingerprint()


def test_captions_are_made_of_classes_and_one_is_drawn_each_time():
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    data = LabelledImages(
        MNIST5k(), ["the digit {label}", "a {label}"], words, vocab_size=200, max_target=10
    )
    data.prepare_data()
    labels = data.images.arrays("val").labels.tolist()
    assert [e.targets[0] for e in data.examples("val")] == [
        (f"the digit {words[y]}", f"a {words[y]}") for y in labels
    ]
    batch = next(iter(data.loader("val")))
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (32, 1, 32, 32)
    encoded = data.encoded("train")
    drawn = {tuple(encoded.row(0, np.random.RandomState(i), 0.0)[1]) for i in range(20)}
    assert len(drawn) == 2 and encoded.row(0, None, 0.0)[1] == encoded.targets[0][0]
    with pytest.raises(DataError, match=r"data\.templates"):
        LabelledImages(MNIST5k(), ["a digit"])
    with pytest.raises(DataError, match=r"data\.words: "):
        _ = LabelledImages(MNIST5k(), ["{label}"], ["x"]).words


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A tiny COCO: three training images, five to validate and test on, with shuffled ids."""
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, count in (("train", 3), ("val", 5)):
        (root / f"{part}2014").mkdir()
        images, notes = [], []
        for i in range(count):
            name, number = f"COCO_{part}2014_{i:012d}.jpg", 100 - i
            Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(root / f"{part}2014" / name)
            images.append({"id": number, "file_name": name, "height": 30, "width": 40})
            notes += [
                {"id": 10 * i + k, "image_id": number, "caption": f"{part} image {i}\n caption {k}"}
                for k in (0, 1)
            ]
        content = {"info": {}, "images": images[::-1], "annotations": notes}
        (root / "annotations" / f"captions_{part}2014.json").write_text(json.dumps(content))
    return root


def test_coco_is_read_as_it_is(coco):
    data = CocoCaptions(root=str(coco), image_size=16, num_val=2, batch_size=2, vocab_size=100)
    data.prepare_data()
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [3, 2, 3]
    assert data.examples("train")[1].targets == (
        ("train image 1 caption 0", "train image 1 caption 1"),
    )
    for split in ("train", "val", "test"):
        for i, example in enumerate(data.examples(split)):
            number = int(example.id.split("_")[-1].removesuffix(".jpg"))
            image = data.given(split)["image"][torch.tensor([i])]
            assert image.shape == (1, 3, 16, 16)
            assert abs(int(image[0, 0].float().mean()) - 40 * number) <= 3
    ids = {e.id for split in ("val", "test") for e in data.examples(split)}
    assert len(ids) == 5 and next(iter(data.loader("test")))["image"].shape == (2, 3, 16, 16)
    again = CocoCaptions(root=str(coco), image_size=16, num_val=2, vocab_size=100)
    assert data.fingerprint() == again.fingerprint()


def test_a_coco_that_lacks_something_says_what(coco, tmp_path):
    with pytest.raises(DataError, match=r"data\.root: .*annotations/captions_train2014\.json"):
        CocoCaptions(root=str(tmp_path)).setup()
    (coco / "train2014" / "COCO_train2014_000000000001.jpg").unlink()
    options = {"root": str(coco), "image_size": 16, "num_val": 2, "vocab_size": 100}
    name = r"COCO_train2014_000000000001\.jpg"
    with pytest.raises(DataError, match=rf"{name} .*data\.on_error=skip"):
        CocoCaptions(**options).setup()
    data = CocoCaptions(**options, on_error="skip")
    data.setup()
    assert len(data.examples("train")) == 2 and len(data.skipped) == 1

"""The contract of data sets: which Protocols each kind has."""

import pytest

from genlab.data import base
from genlab.data.captions import LabelledImages
from genlab.data.corpus.facts import FactTexts
from genlab.data.images.sets import Digits
from genlab.data.points import PointSet
from genlab.data.text.facts import Facts
from genlab.data.text.labelled import FactSentences

POINTS = {"HasArrays", "HasDensity"}
TEXT = {"HasExamples", "HasVocabulary"}
CAPTIONS = {"HasClassWords", "HasImageShape"}


def small(kind):
    if kind == "captions":
        return LabelledImages(Digits(), ["a {label}"], vocab_size=50)
    return {
        "points": lambda: PointSet("moons", num_train=50, num_val=10, num_test=10),
        "images": Digits,
        "questions": lambda: Facts(num_train=30, num_val=5, num_test=5),
        "labelled": lambda: FactSentences(vocab_size=200),
        "corpus": lambda: FactTexts(num_documents=40, max_length=16, vocab_size=100),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "modality", "expected", "key"),
    [
        ("points", "point", POINTS, "num_val"),
        ("images", "image", {"HasArrays"}, "num_val"),
        ("questions", "text", TEXT, "num_val"),
        ("labelled", "text", TEXT | {"HasLabelValues"}, "num_val"),
        ("captions", "text", TEXT | CAPTIONS, "images.num_val"),
        ("corpus", "text", {"HasVocabulary"}, "val_fraction"),
    ],
)
def test_a_set_says_what_it_offers(kind, modality, expected, key):
    data = small(kind)
    data.prepare_data()
    data.setup()
    assert isinstance(data, base.DataSet) and data.modality == modality
    # The `words` of a corpus are a setting of its own.
    ignored = {"DataSet", "HasClassWords"} if kind == "corpus" else {"DataSet"}
    names = set(base.__all__) - ignored
    assert {name for name in names if isinstance(data, getattr(base, name))} == expected
    assert data.split_key("val") == key
    assert bool(data.given("val")) == (kind in ("labelled", "captions"))
    assert data.describe("val")["count"] > 0 and len(data.fingerprint()) == 16
    assert next(iter(data.loader("val")))

"""Texts from outside, whole or damaged: the right rows, or one line that names the place."""

import csv
import gzip
import json
import random
import re
import unicodedata
from functools import partial

import pytest

from genlab.commands.text_input import read_examples, read_records
from genlab.config import ConfigError
from genlab.data.corpus.documents import read_documents
from genlab.data.text.module import Pairs
from genlab.data.text.records import read_files, read_labelled, read_pairs, read_squad, read_webqa
from genlab.data.text.tokenizer import Tokenizer
from genlab.data.text.vocabulary import SPECIALS, build_vocab
from genlab.errors import DataError
from genlab.evaluation.text import is_chinese
from genlab.metrics.overlap import bleu, cmrc_scores, rouge_l, squad_scores

HALF = "a half \ud83d emoji"
PAIRS = [
    {"source": f"{i} and {i + 1} are even and odd", "target": str(i), "label": f"{i % 3}"}
    for i in range(12)
]


def squad_article(i: int) -> dict:
    answer = {"text": f"{i}x", "answer_start": 20}
    question = {"id": f"{i}", "question": "what?", "answers": [answer]}
    paragraph = {"context": f"the capital of {i} is {i}x", "qas": [question]}
    return {"title": f"t{i}", "paragraphs": [paragraph]}


SQUAD = {"data": [squad_article(i) for i in range(6)]}
WEBQA = [
    {"id": str(i), "question": "what?", "passages": [{"passage": f"it is {i}x", "answer": f"{i}x"}]}
    for i in range(8)
]
QUESTIONS = [
    {"question": "what?", "passages": ["a b", "c"]},
    {"question": "what?", "passages": ["d"], "id": 7},
]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(delimiter: str) -> str:
    """PAIRS as a tsv or csv file."""
    quote = '"' if delimiter == "," else ""
    rows = [f"{quote}{row['source']}{quote}{delimiter}{row['target']}\n" for row in PAIRS]
    return f"source{delimiter}target\n" + "".join(rows)


def put(path, text: str | bytes):
    """Writes a file, compressed if its name ends with .gz, and returns its path."""
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def documents(path, on_error, field="source"):
    skipped = []
    return list(read_documents(path, field, on_error, skipped)), skipped


def examples(reader):
    def reading(path, on_error):
        records = read_files([path], reader, on_error)
        return records.examples, records.skipped

    return reading


def labelled(path):
    return read_labelled(path, "source", ["label"])


# reader: (name of a file, its content, function of the path and on_error). The function returns
# (rows, skipped rows), or raises.
READERS = {
    "pairs": ("a.jsonl", lines(PAIRS), examples(read_pairs)),
    "list": ("a.json", json.dumps(PAIRS, indent=1), examples(read_pairs)),
    "tsv": ("a.tsv", table("\t"), examples(read_pairs)),
    "csv": ("a.csv", table(","), examples(read_pairs)),
    "labelled": ("a.jsonl", lines(PAIRS), examples(labelled)),
    "squad": ("a.json", json.dumps(SQUAD), examples(read_squad)),
    "webqa": ("a.json", json.dumps(WEBQA), examples(read_webqa)),
    "corpus": ("a.jsonl", lines(PAIRS), documents),
    "text": ("a.txt", "\n\n".join(row["source"] for row in PAIRS), documents),
    "input": ("a.jsonl", lines(QUESTIONS), lambda path, on_error: (read_records(path), [])),
}
SKIPPING = [name for name in READERS if name != "input"]


# --- half a surrogate pair ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SKIPPING)
def test_half_a_surrogate_pair_is_named_by_its_place_or_skipped(tmp_path, name):
    file, content, read = READERS[name]
    good, none = read(put(tmp_path / file, content), "raise")
    assert good
    assert not none
    found = "3 and 4 are" if "3 and 4 are" in content else "is 3x"
    half = "\\ud83d" if file.endswith(("json", "jsonl")) else "\0"
    replaced = content.replace(found, found.replace("3", half), 1)
    path = put(tmp_path / file, replaced.encode().replace(b"\0", b"\xed\xa0\xbd"))
    with pytest.raises(DataError, match=rf"{file}:\S+: .*data\.on_error=skip"):
        read(path, "raise")
    left, skipped = read(path, "skip")
    assert len(left) == len(good) - 1
    assert len(skipped) == 1
    place, reason = skipped[0]
    assert place.startswith(f"{path}:")
    assert reason


def test_half_a_surrogate_pair_in_an_input_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: "):
        read_records(put(tmp_path / "a.jsonl", lines([{"source": "a"}, {"source": HALF}])))
    empty = {"source": None, "question": None, "passages": None, "input": None}
    cases = {
        "source": {"source": HALF},
        "question": {"question": HALF, "passages": ["a"]},
        "passages": {"question": "a", "passages": ["a", HALF]},
    }
    for key, words in cases.items():
        with pytest.raises(ConfigError, match=rf"\b{key}=.*: "):
            read_examples(empty | words)


# --- formats in use -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.json", "a.json.gz", "b.json", "c.json", "a.jsonl", "a.jsonl.gz", "crlf.jsonl"]
)
def test_records_are_read_from_lines_lists_and_data(tmp_path, name):
    forms = {
        "a.json": json.dumps(PAIRS),
        "b.json": json.dumps({"data": PAIRS}, indent=1),
        "c.json": lines(PAIRS),
    }
    forms["crlf.jsonl"] = "\ufeff" + lines(PAIRS).replace("\n", "\r\n")
    path = put(tmp_path / name, forms.get(name.removesuffix(".gz"), lines(PAIRS)))
    sources = [row["source"] for row in PAIRS]
    pairs, _ = examples(read_pairs)(path, "raise")
    assert [example.sources[0] for example in pairs] == sources
    assert documents(path, "raise")[0] == sources
    assert [example.sources[0] for example in read_records(path)] == sources


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_answers_are_read_as_the_package_datasets_writes_them(tmp_path, name):
    two = {"text": ["Au", "gold is Au"], "answer_start": [8, 0]}
    none = {"text": [], "answer_start": []}
    rows = [
        {"id": "1", "context": "gold is Au", "question": "what?", "answers": two, "title": "t"},
        {"id": "2", "context": "gold", "question": "who?", "answers": none, "title": "t"},
    ]
    content = lines(rows) if name == "a.jsonl" else json.dumps(rows)
    (answered, unanswered), _ = examples(read_squad)(put(tmp_path / name, content), "raise")
    assert answered.targets == (("Au", "gold is Au"),)
    assert unanswered.targets == ((),)
    assert answered.document == unanswered.document
    assert (answered.id, answered.question) == ("1", "what?")
    assert answered.sources == ("gold is Au",)
    reader = partial(read_pairs, source="context", target="answers")
    path = put(tmp_path / "one.jsonl", lines(rows[:1]))
    ((pair,), _) = examples(reader)(path, "raise")
    assert pair.accepted == ("Au", "gold is Au")
    (record,) = read_records(path)
    assert record.sources == ("gold is Au",)
    assert record.question == "what?"


HARD = ['a "quoted" word', '"all of it"', "two\nlines", "a tab\tinside", "a, comma", '5" pipe']
HARD += ["plain", '"', 'ends with "']


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.tsv.gz", "\t")]
)
def test_tables_are_quoted_like_csv(tmp_path, name, delimiter):
    path = tmp_path / "plain"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["source", "target"], *([text, text] for text in HARD)])
    found, _ = examples(read_pairs)(put(tmp_path / name, path.read_bytes()), "raise")
    assert [e.sources[0] for e in found] == HARD == [e.accepted[0] for e in found]


def test_a_stray_quote_loses_no_line(tmp_path):
    rows = ["source\ttarget", '"Hello" he said\tA', '"never closed\tB', "c\tC", 'd\t5" pipe']
    path = put(tmp_path / "a.tsv", "\n".join(rows) + "\n")
    found, _ = examples(read_pairs)(path, "raise")
    pairs = [(example.sources[0], example.accepted[0]) for example in found]
    assert pairs == [tuple(row.split("\t")) for row in rows[1:]]
    # Lines 3 and 4 are two rows, or one with a long source.
    path = put(tmp_path / "b.tsv", 'source\ttarget\nx\tX\n"Hello\tA\nworld"\tB\ny\tY\n')
    with pytest.raises(DataError, match=r"b\.tsv:3: .*line 4"):
        examples(read_pairs)(path, "raise")
    found, skipped = examples(read_pairs)(path, "skip")
    assert [example.accepted[0] for example in found] == ["X", "B", "Y"]
    assert skipped[0][0] == f"{path}:3"
    path = put(tmp_path / "c.csv", 'source,target\n"Hello" he said,A\nb,B\nc, d,C\n')
    with pytest.raises(DataError, match=r"c\.csv:2: "):
        examples(read_pairs)(path, "raise")
    _, skipped = examples(read_pairs)(path, "skip")
    assert [where for where, _ in skipped] == [f"{path}:2", f"{path}:4"]


# --- damage ---------------------------------------------------------------------------------------


WEIRD = [
    "\ud800",
    "\0",
    "",
    " ",
    "\u200b",
    "é" * 50,
    "[MASK]",
    '"',
    "\t",
    "\r\n",
    5,
    1.5,
    None,
    True,
]
WEIRD += [[], {}, ["a", None], [[["x"]]], {"a": {"b": 1}}, float("nan"), 10**400, "\U0001f600"]


def mutated(draw: random.Random, value):
    """`value` with a fault somewhere in it."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(WEIRD)
    value = value.copy()
    key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    if draw.random() < 0.2:
        del value[key]
    else:
        value[key] = mutated(draw, value[key])
    return value


def damaged(draw: random.Random, content: bytes) -> bytes:
    """`content` cut off, or with some of its bytes changed."""
    size = len(content)
    content = bytearray(content)
    how = draw.choice(["cut", "flip", "zero", "insert", "delete", "nested", "surrogate"])
    at = draw.randrange(size)
    if how == "cut":
        return bytes(content[:at])
    if how == "delete":
        del content[at : at + draw.randint(1, 50)]
    elif how == "flip":
        for _ in range(draw.randint(1, 20)):
            content[draw.randrange(size)] = draw.randrange(256)
    else:
        wrong = {
            "zero": bytes(40),
            "insert": draw.randbytes(20),
            "nested": b"[" * 100_000,
            "surrogate": b"\xed\xa0\xbd",
        }
        content[at:at] = wrong[how]
    return bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_the_place_of_the_damage_is_named(tmp_path, name):
    file, content, read = READERS[name]
    draw = random.Random(f"damage {name}")
    outcomes = {"read": 0, "refused": 0, "skipped": 0}
    for i in range(60):
        packed = i % 4 == 0
        path = tmp_path / f"{i}-{file}{'.gz' * packed}"
        if i % 2 and file.endswith(("json", "jsonl")):
            by_lines = file.endswith("jsonl")
            rows = [json.loads(line) for line in content.splitlines()] if by_lines else None
            rows = mutated(draw, rows if by_lines else json.loads(content))
            by_lines = by_lines and isinstance(rows, list)
            put(path, lines(rows) if by_lines else json.dumps(rows))
        elif packed and i % 8:  # damage after compression
            path.write_bytes(damaged(draw, gzip.compress(content.encode())))
        else:
            put(path, damaged(draw, content.encode()))
        on_error = "skip" if i % 3 else "raise"
        try:
            found, skipped = read(path, on_error)
        except (DataError, ConfigError) as error:
            assert str(path) in str(error), error
            assert len(str(error).splitlines()) == 1, error
            outcomes["refused"] += 1
        else:
            for row in found:  # every text that was read can be written
                str(row).encode()
            assert on_error == "skip" or not skipped
            for place, reason in skipped:
                assert re.match(rf"{re.escape(str(path))}:\S+$", place), place
                assert reason, place
            outcomes["skipped" if skipped else "read"] += 1
    assert outcomes["read"], outcomes
    assert outcomes["refused"], outcomes
    assert name == "input" or outcomes["skipped"], outcomes


def test_deep_nesting_is_an_error_of_one_line(tmp_path):
    deep = "[" * 100_000
    for file, _, read in READERS.values():
        if file.endswith(("json", "jsonl")):
            with pytest.raises((DataError, ConfigError), match=file) as error:
                read(put(tmp_path / file, deep), "raise")
            assert len(str(error.value).splitlines()) == 1


def test_skipped_records_are_counted(tmp_path):
    rows = [*PAIRS, {"source": HALF, "target": "x"}, {"source": "x", "target": HALF}]
    path = put(tmp_path / "a.jsonl", lines(rows))
    data = Pairs(path=str(path), on_error="skip", num_val=2, num_test=2)
    data.setup()
    assert data.describe("train")["skipped"] == 2
    assert len(data.fingerprint()) == 16


# --- vocabularies that are built ------------------------------------------------------------------

LANGUAGES = [
    "서울은 대한민국의 수도이다",
    "がぎぐげご パピプペポ",
    "мой чайник ещё ёлка",
    "schöne Grüße, Äpfel",
    "हिन्दी में लिखना ।",
    "می‌خواهم بروم",
    "ΟΔΥΣΣΕΥΣ Ὀδυσσεύς",
    "İstanbul ılık",
    "ＡＢＣ ＤＥＦ １２３",
    "tiếng Việt đẹp",
    "zero\u200bwidth soft\u00adhyphen",
    "The Linux Foundation announced GNOME 46 in Berlin.",
    "北京是中国的首都。",
]


@pytest.mark.parametrize("text", LANGUAGES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_a_perfect_text_has_perfect_scores_in_every_language(text, form, lowercase):
    given = unicodedata.normalize(form, text)
    tokenizer = Tokenizer(build_vocab([given] * 2, 500, "wordpiece", lowercase), lowercase)
    out = tokenizer.decode(tokenizer.plain([given])[0])
    assert rouge_l(out, [given]) == 1
    references = [tokenizer.comparable(given)]
    assert out == references[0]
    assert squad_scores(out, references) == (1, 1)
    assert cmrc_scores(out, [given]) == (1, 1)
    chinese = is_chinese([references])
    assert bleu([out], [references], chinese, lowercase)[0] == pytest.approx(100)


@pytest.mark.parametrize("text", LANGUAGES)
def test_a_vocabulary_without_accents_loses_no_score_for_them(text):
    options = {"strip_accents": True, "compose": False}
    words = Tokenizer([*SPECIALS], True, **options).comparable(text).split()
    tokenizer = Tokenizer(build_vocab([" ".join(words)] * 2, 500), True, **options)
    out = tokenizer.decode(tokenizer.plain([text])[0])
    if "[UNK]" not in tokenizer.tokenize(text):
        assert rouge_l(out, [tokenizer.comparable(text)]) == 1
    assert not re.search("[\u1100-\u11ff]", out)  # Hangul syllables are whole


def test_tokenizers_with_older_states_split_as_before():
    vocab = [*SPECIALS, "schon", "schön"]
    old = Tokenizer.from_state({"vocab": vocab, "lowercase": True, "keep_tokens": None})
    assert old.tokenize("Schön") == ["schon"]
    assert old.state() == {"vocab": vocab, "lowercase": True, "keep_tokens": None}
    new = Tokenizer(vocab)
    assert new.tokenize("Scho\u0308n") == ["schön"]
    assert Tokenizer.from_state(new.state()).tokenize("Schön") == ["schön"]
    no_vocab = {"vocab": 3, "lowercase": True, "keep_tokens": None}
    for state in ({}, [], no_vocab, new.state() | {"more": 1}):
        with pytest.raises(DataError):
            Tokenizer.from_state(state)

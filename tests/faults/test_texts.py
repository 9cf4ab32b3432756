"""Texts from outside, whole and damaged: the right rows, or one line that says where it is wrong."""

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
SQUAD = {
    "data": [
        {
            "title": f"t{i}",
            "paragraphs": [
                {
                    "context": f"the capital of {i} is {i}x",
                    "qas": [
                        {
                            "id": f"{i}",
                            "question": "what?",
                            "answers": [{"text": f"{i}x", "answer_start": 20}],
                        }
                    ],
                }
            ],
        }
        for i in range(6)
    ]
}
WEBQA = [
    {"id": str(i), "question": "what?", "passages": [{"passage": f"it is {i}x", "answer": f"{i}x"}]}
    for i in range(8)
]
ASKED = [
    {"question": "what?", "passages": ["a b", "c"]},
    {"question": "what?", "passages": ["d"], "id": 7},
]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def put(path, text: str | bytes):
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


# reader -> (name of a file, its content, how it is read; raises, or gives (what there is, what was
# skipped))
READERS = {
    "pairs": ("a.jsonl", lines(PAIRS), examples(read_pairs)),
    "list": ("a.json", json.dumps(PAIRS, indent=1), examples(read_pairs)),
    "tsv": (
        "a.tsv",
        "source\ttarget\n" + "".join(f"{r['source']}\t{r['target']}\n" for r in PAIRS),
        examples(read_pairs),
    ),
    "csv": (
        "a.csv",
        "source,target\n" + "".join(f'"{r["source"]}",{r["target"]}\n' for r in PAIRS),
        examples(read_pairs),
    ),
    "labelled": (
        "a.jsonl",
        lines(PAIRS),
        examples(lambda path: read_labelled(path, "source", ["label"])),
    ),
    "squad": ("a.json", json.dumps(SQUAD), examples(read_squad)),
    "webqa": ("a.json", json.dumps(WEBQA), examples(read_webqa)),
    "corpus": ("a.jsonl", lines(PAIRS), documents),
    "text": ("a.txt", "\n\n".join(row["source"] for row in PAIRS), documents),
    "input": ("a.jsonl", lines(ASKED), lambda path, on_error: (read_records(path), [])),
}
SKIPPING = [name for name in READERS if name != "input"]


# --- half a surrogate pair ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SKIPPING)
def test_half_a_surrogate_pair_is_named_by_its_place_or_skipped(tmp_path, name):
    file, content, read = READERS[name]
    good, none = read(put(tmp_path / file, content), "raise")
    assert good and not none
    found = "3 and 4 are" if "3 and 4 are" in content else "is 3x"
    replaced = content.replace(
        found, found.replace("3", "\\ud83d" if file.endswith(("json", "jsonl")) else "\0"), 1
    )
    path = put(tmp_path / file, replaced.encode().replace(b"\0", b"\xed\xa0\xbd"))
    with pytest.raises(DataError, match=rf"{file}:\S+: .*not valid text .*data\.on_error=skip"):
        read(path, "raise")
    left, skipped = read(path, "skip")
    assert len(left) == len(good) - 1 and len(skipped) == 1
    where, why = skipped[0]
    assert where.startswith(f"{path}:") and "not valid text" in why


def test_half_a_surrogate_pair_cannot_be_asked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: not valid text \(half a surrogate pair\)"):
        read_records(put(tmp_path / "a.jsonl", lines([{"source": "a"}, {"source": HALF}])))
    empty = {"source": None, "question": None, "passages": None, "input": None}
    for words in (
        {"source": HALF},
        {"question": HALF, "passages": ["a"]},
        {"question": "a", "passages": ["a", HALF]},
    ):
        with pytest.raises(ConfigError, match="not valid text"):
            read_examples(empty | words)


# --- what people have -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.json", "a.json.gz", "b.json", "c.json", "a.jsonl", "a.jsonl.gz", "crlf.jsonl"]
)
def test_records_come_as_lines_lists_and_data(tmp_path, name):
    forms = {
        "a.json": json.dumps(PAIRS),
        "b.json": json.dumps({"data": PAIRS}, indent=1),
        "c.json": lines(PAIRS),
    }
    forms["crlf.jsonl"] = "\ufeff" + lines(PAIRS).replace("\n", "\r\n")
    path = put(tmp_path / name, forms.get(name.removesuffix(".gz"), lines(PAIRS)))
    assert [e.sources[0] for e in examples(read_pairs)(path, "raise")[0]] == [
        row["source"] for row in PAIRS
    ]
    assert documents(path, "raise")[0] == [row["source"] for row in PAIRS]
    assert [e.sources[0] for e in read_records(path)] == [row["source"] for row in PAIRS]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_answers_come_as_datasets_writes_them(tmp_path, name):
    rows = [
        {
            "id": "1",
            "title": "t",
            "context": "gold is Au",
            "question": "what?",
            "answers": {"text": ["Au", "gold is Au"], "answer_start": [8, 0]},
        },
        {
            "id": "2",
            "title": "t",
            "context": "gold",
            "question": "who?",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    content = lines(rows) if name == "a.jsonl" else json.dumps(rows)
    one, two = examples(read_squad)(put(tmp_path / name, content), "raise")[0]
    assert one.targets == (("Au", "gold is Au"),)
    assert two.targets == ((),)
    assert one.document == two.document
    assert (one.id, one.question, one.sources) == ("1", "what?", ("gold is Au",))
    reader = partial(read_pairs, source="context", target="answers")
    (pair,) = examples(reader)(put(tmp_path / "one.jsonl", lines(rows[:1])), "raise")[0]
    assert pair.accepted == ("Au", "gold is Au")
    (asked_for,) = read_records(put(tmp_path / "one.jsonl", lines(rows[:1])))
    assert asked_for.sources == ("gold is Au",) and asked_for.question == "what?"


HARD = [
    'a "quoted" word',
    '"all of it"',
    "two\nlines",
    "a tab\tinside",
    "a, comma",
    '5" pipe',
    "plain",
    '"',
    'ends with "',
]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.tsv.gz", "\t")]
)
def test_tables_are_quoted_as_csv_has_it(tmp_path, name, delimiter):
    path = tmp_path / "plain"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["source", "target"], *([text, text] for text in HARD)])
    table = put(tmp_path / name, path.read_bytes())
    found = examples(read_pairs)(table, "raise")[0]
    assert [e.sources[0] for e in found] == HARD == [e.accepted[0] for e in found]


def test_a_stray_quote_swallows_no_line(tmp_path):
    rows = ["source\ttarget", '"Hello" he said\tA', '"never closed\tB', "c\tC", 'd\t5" pipe']
    path = put(tmp_path / "a.tsv", "\n".join(rows) + "\n")
    found = examples(read_pairs)(path, "raise")[0]
    assert [(e.sources[0], e.accepted[0]) for e in found] == [
        tuple(row.split("\t")) for row in rows[1:]
    ]
    path = put(
        tmp_path / "b.tsv", 'source\ttarget\nx\tX\n"Hello\tA\nworld"\tB\ny\tY\n'
    )  # two rows, or one of a long source
    with pytest.raises(DataError, match=r"b\.tsv:3: .*line 4"):
        examples(read_pairs)(path, "raise")
    found, skipped = examples(read_pairs)(path, "skip")
    assert [e.accepted[0] for e in found] == ["X", "B", "Y"] and skipped[0][0] == f"{path}:3"
    path = put(tmp_path / "c.csv", 'source,target\n"Hello" he said,A\nb,B\nc, d,C\n')
    with pytest.raises(DataError, match=r"c\.csv:2: "):
        examples(read_pairs)(path, "raise")
    _, skipped = examples(read_pairs)(path, "skip")
    assert [where for where, _ in skipped] == [f"{path}:2", f"{path}:4"]


# --- damage ---------------------------------------------------------------------------------------


def weird(draw: random.Random):
    return draw.choice(
        [
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
            [],
            {},
            ["a", None],
            [[["x"]]],
            {"a": {"b": 1}},
            float("nan"),
            10**400,
            "\U0001f600",
        ]
    )


def mutated(draw: random.Random, value):
    """`value` with a fault somewhere in it."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return weird(draw)
    value = value.copy()
    key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    if draw.random() < 0.2:
        del value[key]
    else:
        value[key] = mutated(draw, value[key])
    return value


def damaged(draw: random.Random, content: bytes) -> bytes:
    """`content` cut off, or with some of its bytes changed."""
    content, size = bytearray(content), len(content)
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
def test_whatever_a_file_holds_the_rows_are_right_or_the_place_is_named(tmp_path, name):
    file, content, read = READERS[name]
    good = {str(row) for row in read(put(tmp_path / file, content), "raise")[0]}
    draw = random.Random(f"damage {name}")
    outcomes = {"read": 0, "refused": 0, "skipped": 0}
    for i in range(60):
        packed = i % 4 == 0
        path = tmp_path / f"{i}-{file}{'.gz' * packed}"
        if i % 2 and file.endswith(("json", "jsonl")):
            rows = (
                [json.loads(line) for line in content.splitlines()]
                if file.endswith("l")
                else json.loads(content)
            )
            rows = mutated(draw, rows)
            whole = file.endswith("json") or not isinstance(rows, list)
            put(path, json.dumps(rows) if whole else lines(rows))
        else:
            raw = damaged(
                draw, gzip.compress(content.encode()) if packed and i % 8 else content.encode()
            )
            path.write_bytes(raw) if packed and i % 8 else put(path, raw)
        on_error = "skip" if i % 3 else "raise"
        try:
            found, skipped = read(path, on_error)
        except (DataError, ConfigError) as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1, error
            outcomes["refused"] += 1
        else:
            for row in found:  # what was read can be written
                str(row).encode()
            assert on_error == "skip" or not skipped
            assert all(
                re.match(rf"{re.escape(str(path))}:\S+$", where) and why for where, why in skipped
            )
            outcomes["skipped" if skipped else "read"] += 1
    assert outcomes["read"], (outcomes, good)
    assert outcomes["refused"], (outcomes, good)
    assert name == "input" or outcomes["skipped"], (outcomes, good)


def test_deep_nesting_is_one_line(tmp_path):
    deep = "[" * 100_000
    for name, (file, _, read) in READERS.items():
        if file.endswith(("json", "jsonl")):
            with pytest.raises((DataError, ConfigError), match=rf"{file}.*nested too deeply"):
                read(put(tmp_path / file, deep), "raise")
        assert name


def test_what_was_skipped_is_counted(tmp_path):
    rows = [*PAIRS, {"source": HALF, "target": "x"}, {"source": "x", "target": HALF}]
    data = Pairs(
        path=str(put(tmp_path / "a.jsonl", lines(rows))), on_error="skip", num_val=2, num_test=2
    )
    data.setup()
    assert data.describe("train")["skipped"] == 2 and len(data.fingerprint()) == 16


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
def test_a_perfect_text_scores_fully_whatever_the_language(text, form, lowercase):
    given = unicodedata.normalize(form, text)
    tokenizer = Tokenizer(build_vocab([given] * 2, 500, "wordpiece", lowercase), lowercase)
    out = tokenizer.decode(tokenizer.plain([given])[0])
    assert rouge_l(out, [given]) == 1
    again = [[tokenizer.comparable(given)]]
    assert out == again[0][0] and squad_scores(out, again[0]) == (1, 1) == cmrc_scores(out, [given])
    assert bleu([out], again, is_chinese(again), lowercase)[0] == pytest.approx(100)


@pytest.mark.parametrize("text", LANGUAGES)
def test_a_vocabulary_without_marks_is_not_blamed_for_them(text):
    options = {"strip_accents": True, "compose": False}
    words = Tokenizer([*SPECIALS], True, **options).comparable(text).split()
    tokenizer = Tokenizer(build_vocab([" ".join(words)] * 2, 500), True, **options)
    out = tokenizer.decode(tokenizer.plain([text])[0])
    if "[UNK]" not in tokenizer.tokenize(text):
        assert rouge_l(out, [tokenizer.comparable(text)]) == 1
    assert not re.search("[\u1100-\u11ff]", out)  # Hangul in one piece


def test_older_states_split_as_they_did():
    vocab = [*SPECIALS, "schon", "schön"]
    old = Tokenizer.from_state({"vocab": vocab, "lowercase": True, "keep_tokens": None})
    assert old.tokenize("Schön") == ["schon"]
    assert old.state() == {"vocab": vocab, "lowercase": True, "keep_tokens": None}
    new = Tokenizer(vocab)
    assert new.tokenize("Scho\u0308n") == ["schön"]
    assert Tokenizer.from_state(new.state()).tokenize("Schön") == ["schön"]
    for damage in (
        {},
        [],
        {"vocab": 3, "lowercase": True, "keep_tokens": None},
        new.state() | {"more": 1},
    ):
        with pytest.raises(DataError, match="damaged"):
            Tokenizer.from_state(damage)

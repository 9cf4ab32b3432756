"""Records of pairs, SQuAD and WebQA files: read, named by their place, or skipped."""

import gzip
import json
from functools import partial

import pytest

from genlab.data.text.records import read_files, read_pairs, read_squad, read_webqa
from genlab.errors import DataError


def write(path, content):
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_pairs_are_json_lines(tmp_path, name):
    first = '{"source": " 春眠 ", "target": ["a", "b"], "more": 1}'
    path = write(tmp_path / name, f'\ufeff{first}\n\n{{"source": "x", "target": "y"}}\n')
    first, second = read_files([path], read_pairs, "raise").examples
    assert first.sources == ("春眠",) and first.question is None
    assert first.targets == (("a", "b"),) and first.accepted == ("a", "b")
    assert first.id == f"{name}:1" and second.id == f"{name}:3" and second.targets == (("y",),)


def test_pairs_are_columns(tmp_path):
    named = write(tmp_path / "a.tsv", "title\tabstract\r\nT\tA\r\n")
    bare = write(tmp_path / "b.tsv", "T\tA\n")
    for path, source, target in ((named, "abstract", "title"), (bare, 1, 0)):
        reader = partial(read_pairs, source=source, target=target)
        (example,) = read_files([path], reader, "raise").examples
        assert example.sources == ("A",) and example.accepted == ("T",)
    with pytest.raises(DataError, match=r"b\.tsv:1: .*source, target.*data\.source_field"):
        read_files([bare], read_pairs, "raise")


BAD_PAIRS = [
    '{"source": "x"}',
    '{"source": "", "target": "y"}',
    '{"source": 3, "target": "y"}',
    "[1]",
    '{"source": "x", ',
]


@pytest.mark.parametrize("bad", BAD_PAIRS)
def test_a_bad_pair_is_named_by_its_line_or_skipped(tmp_path, bad):
    path = write(tmp_path / "a.jsonl", '{"source": "x", "target": "y"}\n' + bad + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*data\.on_error=skip"):
        read_files([path], read_pairs, "raise")
    records = read_files([path], read_pairs, "skip")
    assert len(records.examples) == 1 and records.skipped[0][0] == f"{path}:2"


SQUAD = {
    "data": [
        {
            "title": "Gold",
            "paragraphs": [
                {
                    "context": "Gold is a chemical element with the symbol Au.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Symbol?",
                            "answers": [{"text": " Au", "answer_start": 42}, {"text": "Au"}],
                        },
                        {"id": "2", "question": "Colour?", "is_impossible": True},
                        {"question": "Which?", "answers": [{"text": "Gold", "answer_start": 0}]},
                    ],
                }
            ],
        }
    ]
}


def test_squad_files_are_read_as_they_are(tmp_path):
    one, two, three = read_files([write(tmp_path / "s.json", SQUAD)], read_squad, "raise").examples
    assert (
        one.targets == (("Au",),)
        and one.question == "Symbol?"
        and one.sources[0].startswith("Gold is")
    )
    assert two.targets == ((),) and two.accepted == ()
    assert three.id == "0-0-2" and one.document == two.document == three.document != ""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][1].pop("question"),
            r"data\[0\]\.paragraphs\[0\]\.qas\[1\]",
        ),
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][0].update(answers=[{}]),
            r"data\[0\]\.paragraphs\[0\]\.qas\[0\]",
        ),
        (
            lambda d: d["data"][0]["paragraphs"].append({"context": "x"}),
            r"data\[0\]\.paragraphs\[1\]",
        ),
        (lambda d: d["data"].append([]), r"data\[1\]"),
    ],
)
def test_a_bad_question_is_named_by_its_place_or_skipped(tmp_path, change, place):
    content = json.loads(json.dumps(SQUAD))
    change(content)
    path = write(tmp_path / "s.json", content)
    with pytest.raises(DataError, match=r"s\.json:" + place + ": "):
        read_files([path], read_squad, "raise")
    records = read_files([path], read_squad, "skip")
    assert len(records.skipped) == 1 and records.examples


WEBQA = [
    {
        "id": "10",
        "question": "谁?",
        "passages": [{"passage": "甲和乙", "answer": "甲 乙"}, {"passage": "丙", "answer": ""}],
    },
    {"id": "11", "question": "何时?", "passages": [{"passage": "今天", "answer": ""}]},
]


def test_webqa_lists_lend_an_answer_to_all_passages(tmp_path):
    one, two = read_files([write(tmp_path / "w.json", WEBQA)], read_webqa, "raise").examples
    assert (
        one.sources == ("甲和乙", "丙")
        and one.targets == (("甲 乙",), ("甲 乙",))
        and one.accepted == ("甲 乙",)
    )
    assert two.targets == ((),)


def test_what_is_no_such_file_is_said(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: "):
        read_files([tmp_path / "nowhere.json"], read_squad, "raise")
    with pytest.raises(DataError, match=r"s\.json:1: "):
        read_files([write(tmp_path / "s.json", '{"data": [')], read_squad, "raise")
    with pytest.raises(DataError, match=r's\.json:\[0\]: .*"paragraphs"'):
        read_files([write(tmp_path / "s.json", WEBQA)], read_squad, "raise")
    with pytest.raises(DataError, match=r"w\.json:data\[0\]: .*'question'"):
        read_files([write(tmp_path / "w.json", SQUAD)], read_webqa, "raise")
    with pytest.raises(DataError, match=r"w\.json:.*passages"):
        read_files(
            [write(tmp_path / "w.json", [{"question": "x", "passages": []}])], read_webqa, "raise"
        )
    with pytest.raises(DataError, match=r"w\.json: "):
        read_files([write(tmp_path / "w.json", [])], read_webqa, "skip")
    with pytest.raises(DataError, match=r"data\.on_error=maybe"):
        read_files([], read_webqa, "maybe")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"b\.jsonl:1: "):
        read_files([tmp_path / "b.jsonl"], read_pairs, "raise")

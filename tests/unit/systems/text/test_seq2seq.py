"""Sequence to sequence: the objective against brute force, and texts with and without a cache."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from genlab import config
from genlab.data.text.codec import Codec
from genlab.data.text.records import Example
from genlab.data.text.tokenizer import Tokenizer
from genlab.models.seq2seq import generation
from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import CachedScorer, Decoding, write
from genlab.systems.text.seq2seq import Seq2Seq

WORDS = [f"w{i}" for i in range(40)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def made(seed=0, scale=40.0, segments=2, **options) -> Seq2Seq:
    """A small float64 system whose random scores are far apart."""
    torch.manual_seed(seed)
    sizes = {"max_source": 14, "max_question": 5, "max_target": 6} | options.pop("codec", {})
    codec = Codec(**sizes)
    codec.use(Tokenizer(VOCAB))
    sizes = (len(VOCAB), 16, 2, 2, 32, 40, segments)
    net = BERT(*sizes, dropout=0.0, attention_dropout=0.0, init_std=0.02 * scale)
    with torch.no_grad():
        net.head.bias[3] = 2.0  # texts of all lengths
    return Seq2Seq(net, codec, torch.optim.AdamW, **options).double().eval()


def batch(count=5, seed=0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=random))

    rows, segments = [], []
    for _ in range(count):
        source, target = draw(3, 10), draw(1, 6)
        rows.append(torch.randint(5, len(VOCAB), (source + target,), generator=random))
        segments.append(torch.tensor([0] * source + [1] * target))
    return {
        "ids": pad_sequence(rows, batch_first=True),
        "segments": pad_sequence(segments, batch_first=True),
        "lengths": torch.tensor([len(row) for row in rows]),
    }


def one_by_one(system: Seq2Seq, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(the log-probability of each target token, from a row that ends before it and is read alone;
    the logits).
    """
    found, logits = [], []
    for ids, segments, n in zip(
        batch["ids"], batch["segments"], batch["lengths"].tolist(), strict=True
    ):
        first = segments[:n].tolist().index(1)
        for t in range(first, n):
            mask = torch.ones(t, t, dtype=torch.bool)
            mask[:, first:] = torch.ones(t, t, dtype=torch.bool).tril()[:, first:]
            places = torch.where(segments[:t] == 1, system.target_segment, system.source_segment)
            hidden = system.net(ids[None, :t], places[None], mask)
            logits.append(system.net.logits(hidden[0, -1]))
            found.append(logits[-1].log_softmax(0)[ids[t]])
    return torch.stack(found), torch.stack(logits)


@pytest.mark.parametrize(("source", "target"), [(0, 1), (4, 5)])
def test_the_loss_is_the_mean_over_target_tokens_read_one_by_one(source, target):
    system = made(segments=6, source_segment=source, target_segment=target)
    data = batch()
    expected, logits = one_by_one(system, data)
    assert len(expected) == data["segments"].sum()
    # predict() gives float32, which is what cross-entropy is taken in under autocast too
    assert system(data).item() == pytest.approx(-expected.mean().item(), rel=1e-6)
    assert torch.allclose(system.predict(data)[0].double(), logits, rtol=1e-5, atol=1e-5)


def test_label_smoothing_is_torchs():
    system = made(label_smoothing=0.1)
    logits, tokens = system.predict(batch())
    p = logits.log_softmax(1)
    expected = -(0.9 * p.gather(1, tokens[:, None])[:, 0] + 0.1 * p.mean(1)).mean()
    assert system(batch()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_adversarial_loss_is_that_of_word_embeddings_moved_against_it():
    system = made(adversarial=0.7)
    system.log_dict = lambda *args, **kwargs: None
    data = batch()
    word = system.net.word.weight
    clean = system(data)
    (gradient,) = torch.autograd.grad(clean, word)
    loss = system.training_step(data, 0)
    loss.backward()
    found = {
        name: p.grad.clone() for name, p in system.net.named_parameters() if p.grad is not None
    }
    system.zero_grad()
    system(data).backward()
    plain = {
        name: p.grad.clone() for name, p in system.net.named_parameters() if p.grad is not None
    }
    system.zero_grad()
    with torch.no_grad():
        word += 0.7 * gradient / gradient.norm()
    attacked = system(data)
    attacked.backward()
    assert loss.item() == pytest.approx((clean + attacked).item(), rel=1e-6) and attacked > clean
    for name, p in system.net.named_parameters():
        if p.grad is not None:
            assert torch.allclose(found[name], plain[name] + p.grad, rtol=1e-4, atol=1e-6), name


def test_biases_and_norms_do_not_decay_and_the_rate_warms_up_and_falls():
    system = made(lr=0.5, weight_decay=0.1, num_warmup_steps=4, num_decay_steps=14)
    (decaying, others) = system.configure_optimizers()["optimizer"].param_groups
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert {p.ndim for p in decaying["params"]} == {2} and {p.ndim for p in others["params"]} == {1}
    assert len(decaying["params"]) + len(others["params"]) == len(list(system.net.parameters()))
    rates = [system.rate(step) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[9] == pytest.approx(0.5)
    assert rates[13] == pytest.approx(0.1) and rates[14:] == [0.01] * 6
    assert [made().rate(step) for step in (0, 1000)] == [1.0, 1.0]


def test_settings_without_meaning_are_refused():
    for wrong, key in (
        ({"num_warmup_steps": 5, "num_decay_steps": 5}, "num_decay_steps"),
        ({"adversarial": -1.0}, "adversarial"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"codec": {"max_source": 60}}, "max_length"),
    ):
        with pytest.raises(ValueError, match=key):
            made(**wrong)
    for wrong, key in (
        ({"abstain": 0.5}, "abstain"),
        ({"temperature": 0.5}, "temperature"),
        ({"method": "greedy", "beams": 3}, "beams"),
        ({"method": "sample", "length_penalty": 1.0}, "length_penalty"),
        ({"method": "greedy", "num": 2}, "num"),
    ):
        with pytest.raises(ValueError, match=rf"decoding\.{key}"):
            Decoding(**wrong).resolve(False)


def test_the_vocabulary_must_be_the_networks():
    system = made()
    other = Codec()
    other.use(Tokenizer(VOCAB[:-1]))
    system.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    system.trainer.datamodule = SimpleNamespace(codec=other)
    with pytest.raises(ValueError, match=r"^net\.vocab_size=45: .*44"):
        system.setup("fit")


# --- what it writes -------------------------------------------------------------------------------


def sources(count=7, seed=3):
    random = torch.Generator().manual_seed(seed)
    rows = [
        torch.randint(5, len(VOCAB), (int(n),), generator=random)
        for n in torch.randint(2, 15, (count,), generator=random)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, True, 0)
    return ids, torch.zeros_like(ids), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("answers", [None, "generative", "extractive"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cache_generates_what_none_does(decoding, answers, seed, recomputed):
    system, rows = made(seed, segments=3), sources(9, seed)
    options = {"end": 3, "max_length": 6, "banned": [0, 1, 2, 4], "target_segment": 2}
    if answers:
        options["groups"] = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 4])
        ids, _, lengths = rows
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        options["passages"] = ids.masked_fill(~inside, -1)
        decoding = decoding | {"extractive": answers == "extractive"}
    how = Decoding(**decoding)
    count = 5 if answers else 9
    options["uniforms"] = torch.rand(count, how.num, 6, dtype=torch.float64)
    by_cache, without = (
        write(system.net, rows, how, **options, scorer=scorer)
        for scorer in (CachedScorer, recomputed)
    )
    assert torch.equal(by_cache.tokens, without.tokens) and torch.equal(
        by_cache.lengths, without.lengths
    )
    assert torch.allclose(by_cache.scores, without.scores, rtol=0, atol=1e-10)
    if seed == 1 and decoding["method"] == "greedy":
        assert len(by_cache.lengths.unique()) > 1
    if not answers:  # the other rows do not matter
        picked = torch.tensor([5, 2, 8])
        fewer = write(
            system.net,
            tuple(r[picked] for r in rows),
            how,
            **options | {"uniforms": options["uniforms"][picked]},
        )
        assert torch.equal(fewer.tokens, by_cache.tokens[picked])


def test_beam_search_of_the_model_is_exhaustive_search():
    """Over the three likeliest first tokens and their continuations of a model with few words."""
    torch.manual_seed(1)
    net = (
        BERT(8, 8, 2, 2, 16, 20, 2, dropout=0.0, attention_dropout=0.0, init_std=0.3)
        .double()
        .eval()
    )
    ids = torch.tensor([[2, 5, 6, 3]])
    segments = torch.zeros(1, 4, dtype=torch.long)
    lengths = torch.tensor([4])
    how = Decoding(beams=49, num=5, min_length=0)
    found = write(net, (ids, segments, lengths), how, end=3, max_length=3, banned=[])
    words = [w for w in range(8) if w != 3]
    texts = [()] + [(a,) for a in words] + [(a, b) for a in words for b in words]

    def score(text):
        row = torch.tensor([[2, 5, 6, 3, *text, 3]])
        kind = torch.tensor([[0] * 4 + [1] * (len(text) + 1)])
        n = row.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril() | (torch.arange(n) < 4)
        logits = net.logits(net(row, kind, mask)).log_softmax(-1)[0]
        return sum(logits[3 + i, w].item() for i, w in enumerate((*text, 3)))

    best = sorted(((score(t), t) for t in texts), reverse=True)[:5]
    assert [
        tuple(t[:n])
        for t, n in zip(found.tokens[0].tolist(), found.lengths[0].tolist(), strict=True)
    ] == [t for _, t in best]
    assert found.scores[0].tolist() == pytest.approx([s for s, _ in best], abs=1e-10)


def question_on(passages, question="w1 w2", number=0):
    return Example(str(number), tuple(passages), ((),) * len(passages), question)


def text(numbers) -> str:
    return " ".join(f"w{i}" for i in numbers)


def test_answers_do_not_depend_on_other_questions_and_are_pieces_of_a_passage():
    system = made(codec={"stride": 5})
    random = torch.Generator().manual_seed(2)
    examples = [
        question_on(
            [text(torch.randint(0, 40, (int(n),), generator=random).tolist()) for n in sizes],
            f"w{i} w3",
            i,
        )
        for i, sizes in enumerate([(4, 30), (9,), (25, 12, 3), (50,), (2, 2)])
    ]
    together = system.generate(examples)
    for example, one in zip(examples, together, strict=True):
        (alone,) = system.generate([example])
        assert alone.texts == one.texts and alone.scores == pytest.approx(one.scores, abs=1e-10)
        assert any(one.texts[0] in passage for passage in example.sources)
    assert any(one.texts[0] for one in together)
    assert system.generate(examples, Decoding(abstain=0.0)) == [
        type(one)([""], [0.0]) for one in together
    ]
    never = system.generate(examples, Decoding(abstain=1.0))
    assert all(one.texts[0] for one in never)


# Tokens at once: no scorer keeps a cache, some do, all do.
@pytest.mark.parametrize("read", [1, 40, 400, 1 << 20])
@pytest.mark.parametrize(
    "how", [{}, {"method": "beam", "beams": 3, "num": 2}, {"extractive": False, "abstain": 0.3}]
)
def test_many_windows_are_read_a_few_at_a_time_with_the_same_result(monkeypatch, read, how):
    system = made(codec={"stride": 5})
    random = torch.Generator().manual_seed(3)
    examples = [
        question_on([text(torch.randint(0, 40, (n,), generator=random).tolist())], "w1", i)
        for i, n in ((0, 400), (1, 9))
    ]
    expected, counts = system.generate(examples, Decoding(**how)), []
    monkeypatch.setattr(generation, "FEW", 0)
    monkeypatch.setattr(generation, "READ", read)

    start = CachedScorer.start
    monkeypatch.setattr(
        CachedScorer, "start", lambda self: (counts.append(self.inputs[0].numel()), start(self))[1]
    )
    found = system.generate(examples, Decoding(**how))
    assert [one.texts for one in found] == [one.texts for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-10)
    assert max(counts) <= max(read, 20)  # or one window


def test_an_option_of_decoding_takes_effect_or_is_refused():
    system = made(codec={"max_question": 0})
    one = [Example("0", ("w1 w2 w3",), ((),))]
    whole = {"num", "beams", "min_length", "max_length", "block_ngrams", "top_k"}
    wrong = [(name, value) for name in whole for value in (-1, 1.5, True, "3", [])]
    wrong += [(name, 0) for name in ("num", "beams", "max_length", "temperature", "top_k", "top_p")]
    wrong += [
        ("method", "best"),
        ("top_p", 1.5),
        ("abstain", 2),
        ("guidance", -1),
        ("temperature", float("nan")),
        ("length_penalty", "x"),
    ]
    for name, value in wrong:
        (error,) = config.check_arguments("decoding", Decoding, {name: value})
        assert error.startswith(f"decoding.{name}=")
    with pytest.raises(ValueError, match=r"^decoding\.beams=2: .*decoding\.num=3"):
        Decoding("beam", num=3, beams=2)
    with pytest.raises(ValueError, match=r"^decoding\.max_length=100: .*6"):
        system.generate(one, Decoding(max_length=100))
    assert (
        Decoding("beam", num=6).resolve(False).beams == 6
        and Decoding(beams=1).resolve(False).beams == 1
    )
    assert len(system.generate(one, Decoding(max_length=2))[0].texts[0].split()) <= 2


def test_texts_are_written_to_plain_sources_and_sampled_by_seed_alone():
    system = made(codec={"max_question": 0})
    examples = [Example(str(i), (text(range(i, i + 4)),), ((),)) for i in range(8)]
    how = Decoding("sample", num=2, temperature=1.5)
    first = system.generate(examples, how, seed=1)
    assert first == system.generate(examples, how, seed=1) and first != system.generate(
        examples, how, seed=2
    )
    assert all(len(one.texts) == 2 and all(one.texts) for one in first)  # never empty
    done = []
    system.generate(examples, progress=done.append)
    assert done[-1] == 8
    with pytest.raises(ValueError, match=r"^decoding\.extractive"):
        system.generate(examples, Decoding(extractive=True))
    with pytest.raises(ValueError, match=r"^question"):
        system.generate([examples[0], question_on(["w1"])])
    with pytest.raises(ValueError, match=r"^source"):
        made(codec={"stride": 3, "max_question": 0}).generate(
            [Example("0", (text(range(30)),), ((),))]
        )


def test_sentence_vectors_are_the_mean_or_the_first_of_the_real_tokens():
    system = made()
    texts = ["w1 w2 w3", "w5", text(range(30))]
    for pooling in ("mean", "cls"):
        codes = system.encode(texts, pooling)
        for row, one in zip(codes, texts, strict=True):
            ids = torch.tensor([system.codec.windows(system.codec.sources([one])[0])[0]])[:, :14]
            ids = ids if ids.shape[1] < 14 else torch.cat([ids[:, :13], torch.tensor([[3]])], 1)
            hidden = system.net(ids)[0]
            assert torch.allclose(
                row, (hidden.mean(0) if pooling == "mean" else hidden[0]).float(), atol=1e-6
            )
    with pytest.raises(ValueError, match=r"^pooling=max"):
        system.encode(texts, "max")
    assert F.mse_loss(system.encode(texts[:1]), system.encode(texts)[:1]) < 1e-12

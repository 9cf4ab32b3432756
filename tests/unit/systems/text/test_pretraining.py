"""Pretraining: packed rows equal documents apart, the loss, and what a trained model does."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from genlab.data.corpus.corpus import RowDraw, Rows
from genlab.data.text.codec import Codec
from genlab.data.text.records import Example
from genlab.data.text.tokenizer import Tokenizer
from genlab.losses.language import mask_words
from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import Decoding
from genlab.nn.masks import bidirectional
from genlab.systems.text.pretraining import Pretraining
from genlab.training.lamb import LAMB

WORDS = [f"w{i}" for i in range(30)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def made(objective="mlm", scale=40.0, **options) -> Pretraining:
    """A small float64 system whose random scores are far apart."""
    torch.manual_seed(0)
    codec = Codec(24, 8, 0)
    codec.use(Tokenizer(VOCAB))
    net = BERT(
        len(VOCAB), 16, 2, 2, 32, 48, dropout=0.0, attention_dropout=0.0, init_std=0.02 * scale
    )
    return (
        Pretraining(net, codec, options.pop("optimizer", torch.optim.AdamW), objective, **options)
        .double()
        .eval()
    )


class Stored:
    """A stream of documents of these sizes in memory."""

    def __init__(self, sizes, seed=0):
        random = torch.Generator().manual_seed(seed)
        ids = [
            torch.cat(
                [
                    torch.tensor([2]),
                    torch.randint(5, len(VOCAB), (n,), generator=random),
                    torch.tensor([3]),
                ]
            )
            for n in sizes
        ]
        self.tokens = (2 * torch.cat(ids) + 1).numpy()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, part):
        return self.tokens[part]


def batch(
    isolated=True, sizes=(3, 7, 1, 12, 5, 2, 9, 4, 6, 3, 8), length=20
) -> dict[str, torch.Tensor]:
    rows = Rows(Stored(sizes), length, Tokenizer(VOCAB), isolated, 0, None)
    return rows[RowDraw(torch.arange(len(rows)))]


def apart(task, documents, inside):
    """Each document of packed rows as a row of its own: (row, places)."""
    for i in range(len(documents)):
        for number in documents[i][inside[i]].unique():
            yield i, ((documents[i] == number) & inside[i]).nonzero().flatten()


@pytest.mark.parametrize("objective", ["mlm", "gpt", "unilm"])
def test_isolated_documents_have_the_logits_they_have_apart(objective):
    system, data = made(objective), batch()
    task, mask, positions = system.make_task(data)
    packed = system.net.logits(system.net(task.ids, task.segments, mask, positions))
    first = positions == 0
    numbers = first.long().cumsum(1)
    inside = task.ids != 0
    count = 0
    for i, places in apart(task, numbers, inside):
        ids, segments = task.ids[i, places][None], task.segments[i, places][None]
        n = len(places)
        sees = torch.ones(n, n, dtype=torch.bool)
        if objective == "gpt":
            sees = sees.tril()
        if objective == "unilm":
            target = segments[0] == 1
            sees = torch.where(
                target[None, :], sees.tril() & target[:, None], ~target[None, :].expand(n, n)
            )
        alone = system.net.logits(system.net(ids, segments, sees))
        assert torch.allclose(packed[i, places], alone[0], rtol=1e-10, atol=1e-10)
        count += n
    assert count == int(inside.sum()) and int(numbers.max()) > 3
    assert not torch.allclose(packed, system.net.logits(system.net(task.ids, task.segments)))


def test_documents_of_a_row_see_each_other_unless_isolated():
    system, data = made(), batch(isolated=False)
    _, mask, positions = system.make_task(data)
    assert positions is None and torch.equal(
        mask.expand(-1, -1, 20, -1)[0, 0], torch.ones(20, 20, dtype=torch.bool)
    )
    inside = torch.arange(20) < data["lengths"][:, None]
    assert torch.equal(mask, bidirectional(inside))


@pytest.mark.parametrize("objective", ["mlm", "gpt", "unilm"])
@pytest.mark.parametrize("isolated", [False, True])
def test_the_loss_is_the_mean_over_predicted_tokens(objective, isolated):
    system, data = made(objective, mask_rate=0.4), batch(isolated)
    task, mask, positions = system.make_task(data)
    logits = system.net.logits(system.net(task.ids, task.segments, mask, positions))
    places = task.predicted.nonzero().tolist()
    assert len(places) == len(task.labels[task.predicted]) > 10
    losses = [
        F.cross_entropy(logits[i, j], answer)
        for (i, j), answer in zip(places, task.labels[task.predicted], strict=True)
    ]
    assert system(data).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_only_predicted_tokens_go_through_the_head(monkeypatch):
    system, data, seen = made(), batch(), []
    original = BERT.logits
    monkeypatch.setattr(
        BERT, "logits", lambda self, hidden: (seen.append(hidden.shape), original(self, hidden))[1]
    )
    system(data)
    assert seen == [(int(system.make_task(data)[0].predicted.sum()), 16)]


def test_special_tokens_are_never_hidden():
    system, data = made(mask_rate=0.9), batch()
    task, _, _ = system.make_task(data)
    assert not task.predicted[(data["ids"] == 2) | (data["ids"] == 3) | (data["ids"] == 0)].any()


def test_biases_and_norms_have_neither_decay_nor_ratio():
    system = made(optimizer=LAMB, weight_decay=0.1, lr=0.5)
    system._trainer = SimpleNamespace(strategy=SimpleNamespace())
    decaying, others = system.configure_optimizers()["optimizer"].param_groups
    names = {id(p): name for name, p in system.net.named_parameters()}
    assert all(names[id(p)].endswith("bias") or "norm." in names[id(p)] for p in others["params"])
    assert {names[id(p)] for p in decaying["params"]} >= {
        "word.weight",
        "layers.0.qkv.weight",
        "head.dense.weight",
    }
    assert (
        decaying["weight_decay"],
        decaying["adapt"],
        others["weight_decay"],
        others["adapt"],
    ) == (0.1, True, 0.0, False)
    assert len(decaying["params"]) + len(others["params"]) == len(names)


def test_lamb_is_refused_where_tensors_are_cut():
    system = made(optimizer=LAMB)
    system._trainer = SimpleNamespace(strategy=type("FSDPStrategy", (), {})())
    with pytest.raises(ValueError, match=r"^optimizer=lamb"):
        system.configure_optimizers()


def test_the_rate_warms_up_and_falls_in_steps_or_tokens():
    system = made(num_warmup_steps=4, num_decay_steps=14)
    rates = [system.rate(step) for step in range(16)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[9] == pytest.approx(0.5)
    assert rates[14:] == [0.0, 0.0] and made().rate(10**6) == 1.0
    tokens = made(num_warmup_steps=4 * 6400, num_decay_steps=14 * 6400, unit="tokens")
    data = SimpleNamespace(batch_size=8, max_length=100)
    tokens._trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=4, datamodule=data)
    assert [tokens.rate(step) for step in range(16)] == pytest.approx(rates)


def test_settings_without_meaning_are_refused():
    for wrong, key in (
        ({"objective": "nsp"}, "objective"),
        ({"mask_rate": 0.0}, "mask_rate"),
        ({"num_warmup_steps": 5, "num_decay_steps": 5}, "num_decay_steps"),
        ({"unit": "epochs"}, "unit"),
    ):
        with pytest.raises(ValueError, match=rf"model\.{key}"):
            made(**wrong)


# --- verbs ----------------------------------------------------------------------------------------


def texts_of(*sources: str) -> list[Example]:
    return [Example(str(i), (source,), ((),)) for i, source in enumerate(sources)]


def test_masks_are_filled_the_most_certain_first():
    system = made()
    (made_one,) = system.generate(texts_of("W1 [MASK] w2, [MASK] end"))
    t = system.codec.tokenizer
    parts = [t.plain([part])[0] for part in ("W1", "w2,", "end")]
    row = torch.tensor(
        [[t.cls_id, *parts[0], t.mask_id, *parts[1], t.mask_id, *parts[2], t.sep_id]]
    )
    places, score = (row[0] == t.mask_id).nonzero().flatten().tolist(), 0.0
    while places:
        logits = system.net.logits(system.net(row))[0]
        logits[:, [0, 1, 2, 3, 4]] = -torch.inf
        log_p = logits.log_softmax(1)
        place = max(places, key=lambda i: log_p[i].max().item())
        score += log_p[place].max().item()
        row[0, place] = log_p[place].argmax()
        places.remove(place)
    filled = [VOCAB[i] for i in row[0].tolist()]
    first, second = (1 + len(parts[0]), 2 + len(parts[0]) + len(parts[1]))
    assert made_one.texts == [f"W1 {filled[first]} w2, {filled[second]} end"]
    assert made_one.scores[0] == pytest.approx(score, rel=1e-4)


def test_several_fillings_are_the_likeliest_and_differ():
    system = made()
    (one,) = system.generate(texts_of("w1 [MASK]"), Decoding(num=3))
    assert len(set(one.texts)) == 3 and one.scores == sorted(one.scores, reverse=True)
    assert one.texts[0] == system.generate(texts_of("w1 [MASK]"))[0].texts[0]
    with pytest.raises(ValueError, match=r"^source"):
        system.generate(texts_of("w1"))
    with pytest.raises(ValueError, match=r"^decoding\.top_k"):
        system.generate(texts_of("w1 [MASK]"), Decoding(top_k=3))


def test_a_language_model_continues_as_if_it_read_again_for_each_token():
    system = made("gpt", scale=20.0)
    sources = ["w1 w2 w3", "w4", ""]
    texts = [one.texts[0] for one in system.generate(texts_of(*sources), Decoding("greedy"))]
    t = system.codec.tokenizer
    for source, text in zip(sources, texts, strict=True):
        ids = [t.cls_id, *t.plain([source])[0]]
        start = len(ids)
        while len(ids) - start < 8:
            n = len(ids)
            logits = system.net.logits(
                system.net(torch.tensor([ids]), mask=torch.ones(n, n, dtype=torch.bool).tril())
            )[0, -1]
            logits[[0, 1, 2, 4]] = -torch.inf
            if n == start:
                logits[t.sep_id] = -torch.inf  # min_length
            token = int(logits.argmax())
            if token == t.sep_id:
                break
            ids.append(token)
        assert text == t.decode(ids[start:])


@pytest.mark.parametrize("objective", ["mlm", "gpt", "unilm"])
def test_a_code_does_not_depend_on_the_other_texts(objective):
    system = made(objective)
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    codes = system.encode(texts)
    assert codes.shape == (3, 16) and codes.dtype == torch.float32
    assert torch.allclose(system.encode(texts[:1]), codes[:1], atol=1e-6)
    if objective == "gpt":
        with pytest.raises(ValueError, match=r"^pooling=cls"):
            system.encode(texts, "cls")


@pytest.mark.parametrize("objective", ["mlm", "gpt", "unilm"])
def test_an_export_has_the_same_logits_in_transformers(objective, tmp_path):
    transformers = pytest.importorskip("transformers")
    system = made(objective)
    assert sorted(system.export(str(tmp_path))) == sorted(p.name for p in tmp_path.iterdir())
    kind = transformers.BertLMHeadModel if objective == "gpt" else transformers.AutoModelForMaskedLM
    peer = kind.from_pretrained(tmp_path).double().eval()
    task, mask, _ = system.make_task(batch(isolated=False))
    ids, inside = task.ids, task.ids != 0
    here = system.net.logits(system.net(ids, task.segments, mask))
    see = mask if objective == "unilm" else inside
    with torch.no_grad():
        there = peer(ids, attention_mask=see, token_type_ids=task.segments).logits
    assert torch.allclose(here[inside], there[inside], rtol=1e-9, atol=1e-9)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("W1 w2, w3", "unknown w29"):
        own = system.codec.tokenizer
        assert tokenizer(text)["input_ids"] == [own.cls_id, *own.plain([text])[0], own.sep_id]


def test_masked_rows_are_what_the_objective_says():
    system, data = made(), batch()
    inside = torch.arange(20) < data["lengths"][:, None]
    maskable = inside & (data["ids"] > 3)
    expected = mask_words(data["ids"], data["starts"], maskable, data["keys"], 0.15, 4, len(VOCAB))
    assert torch.equal(system.make_task(data)[0].ids, expected.ids)

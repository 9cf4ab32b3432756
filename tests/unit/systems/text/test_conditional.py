"""Conditional texts: what is learned, dropped, scored and generated."""

import pytest
import torch

from genlab.data.text.codec import Codec
from genlab.data.text.records import Example
from genlab.data.text.rows import Drawn, TextBatches, TextDraw
from genlab.data.text.tokenizer import Tokenizer
from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import Decoding
from genlab.nn.conditions import Labels, drop_conditions
from genlab.systems.text.conditional import Conditional

WORDS = [f"w{i}" for i in range(40)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
VALUES = {"form": ["5x4", "7x4"], "author": ["li bai", "du fu", "wang wei"]}


def made(max_source=0, stir=0.6, values=VALUES, **options) -> Conditional:
    torch.manual_seed(0)
    codec = Codec(max_source, 8, 0)
    codec.use(Tokenizer(VOCAB))
    sizes = (len(VOCAB), 16, 2, 2, 32, 40)
    options_of_net = {"dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.6}
    net = BERT(*sizes, **options_of_net, condition_dim=6)
    for parameter in net.parameters():
        parameter.data.add_(stir * torch.randn_like(parameter))
    target = {"target_segment": int(max_source > 0)}
    net.word.weight.data.div_(4)  # so that samples are not all the likeliest
    return (
        Conditional(net, codec, torch.optim.AdamW, Labels(values, 6), **target | options)
        .double()
        .eval()
    )


def batch(
    system,
    sources=("", "", ""),
    targets=("w1 w2", "w3", "w4 w5 w6 w7"),
    labels=((0, 1), (1, -1), (-1, 2)),
):
    examples = [
        Example(str(i), (s,), ((t,),))
        for i, (s, t) in enumerate(zip(sources, targets, strict=True))
    ]
    drawn = Drawn(examples, system.codec, {"labels": torch.tensor(labels)})
    return TextBatches(drawn, 0, 0.0)[TextDraw(torch.arange(len(examples)))]


@pytest.mark.parametrize("max_source", [0, 6])
def test_the_score_is_the_sum_over_tokens_read_one_by_one(max_source):
    system = made(max_source)
    data = batch(system, ("w9 w8", "w7", "w9 w9 w1") if max_source else ("", "", ""))
    found = system.score([data])[:, 0]
    c = system.condition(data)
    for i, (ids, segments, n) in enumerate(
        zip(data["ids"], data["segments"], data["lengths"].tolist(), strict=True)
    ):
        first = segments[:n].tolist().index(1)
        assert first == (1 if not max_source else first) and ids[n - 1] == 3
        total = 0.0
        for t in range(first, n):
            mask = torch.ones(t, t, dtype=torch.bool).tril()
            mask[:, :first] = True
            where = torch.where(segments[:t] == 1, system.target_segment, 0)
            hidden = system.net(ids[None, :t], where[None], mask, condition=c[i : i + 1])
            total += system.net.logits(hidden[:, -1], c[i : i + 1]).log_softmax(1)[0, ids[t]].item()
        # Cross-entropy is computed in float32.
        assert found[i].item() == pytest.approx(total, abs=1e-4)
    each = system.score([data], c)
    assert torch.allclose(each.diagonal(), found, atol=1e-5) and not torch.allclose(
        each[:, 0], each[:, 1], atol=1e-2
    )


def test_labels_are_the_sum_of_their_embeddings_and_none_is_an_embedding_too():
    condition = made().condition
    tables = [table.weight for table in condition.tables]
    found = condition({"labels": torch.tensor([[0, 2], [1, -1], [-1, -1]])})
    expected = [
        tables[0][0] + tables[1][2],
        tables[0][1] + tables[1][3],
        tables[0][2] + tables[1][3],
    ]
    assert torch.equal(found, torch.stack(expected)) and torch.equal(
        condition.free(1)[0], expected[2]
    )


def test_conditions_are_dropped_at_the_given_rate_and_only_in_training():
    torch.manual_seed(0)
    gone = drop_conditions(20_000, 0.2, torch.device("cpu"), 2)
    assert gone.all(1).double().mean() == pytest.approx(0.2 + 0.8 * 0.04, abs=0.01)
    assert gone[:, 0].double().mean() == pytest.approx(0.2 + 0.8 * 0.2, abs=0.01)
    assert drop_conditions(20_000, 0.2, torch.device("cpu")).double().mean() == pytest.approx(
        0.2, abs=0.01
    )
    system = made(condition_dropout=0.5)
    data = batch(system)
    assert torch.equal(system.predict(data)[0], system.predict(data)[0])
    system.train()
    found = {round(system(data).item(), 6) for _ in range(12)}
    assert len(found) > 1


def test_every_parameter_learns():
    system = made().train()
    system(batch(system)).backward()
    idle = [name for name, p in system.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["net.segment.weight"] or idle == [], idle
    (decaying, others) = system.configure_optimizers()["optimizer"].param_groups
    assert sum(len(group["params"]) for group in (decaying, others)) == len(
        list(system.parameters())
    )


def test_a_label_is_found_by_its_name_and_a_bad_one_lists_the_known():
    condition = made().condition
    assert condition.numbers("du fu") == [-1, 1] and condition.numbers(
        {"form": "7x4", "author": "li bai"}
    ) == [1, 0]
    assert condition.numbers(None) == [-1, -1] and condition.named([1, -1]) == {
        "form": "7x4",
        "author": None,
    }
    for wanted, message in (
        ("du fo", r"^label=du fo: .* 5x4, 7x4, li bai, du fu, wang wei\..*'du fu'"),
        ({"autor": "du fu"}, r"autor: .* form, author\..*'author'"),
        ({"form": "9x9"}, r"^label\.form=9x9: .* 5x4, 7x4"),
    ):
        with pytest.raises(ValueError, match=message):
            condition.numbers(wanted)
    both = Labels({"a": ["x", "y"], "b": ["x", "z"]}, 4)
    with pytest.raises(ValueError, match=r"^label=x: .* a and b .*label=\{a: x\}"):
        both.numbers("x")
    many = Labels({"a": [f"n{i}" for i in range(50)]}, 4)
    with pytest.raises(ValueError, match=r"^label=q: .* 30 more"):
        many.numbers("q")


def test_a_language_model_continues_a_prompt_and_texts_do_not_depend_on_each_other():
    system = made()
    examples = [Example(str(i), (start,), ((),)) for i, start in enumerate(["", "w5 w6", "w7", ""])]
    given = {"labels": torch.tensor([[0, 0], [1, 1], [0, 2], [1, -1]])}
    texts = system.generate(examples, given=given, seed=3)
    assert [
        one.texts[0].startswith(e.sources[0]) for one, e in zip(texts, examples, strict=True)
    ] == [True] * 4
    assert (
        texts
        == system.generate(examples, given=given, seed=3)
        != system.generate(examples, given=given, seed=4)
    )
    alone = system.generate(examples[:1], given={"labels": given["labels"][:1]}, seed=3)
    # A longer prompt in the batch cuts a text shorter.
    assert alone[0].texts == texts[0].texts or len(texts[0].texts[0].split()) > 5
    guided = system.generate(examples, Decoding(guidance=4.0), given, seed=3)
    assert guided != texts
    assert system.generate(examples, Decoding(guidance=1.0), given, seed=3) == texts
    same = system.generate(examples, conditions=system.conditions(given), seed=3)
    assert same == texts
    with pytest.raises(ValueError, match=r"data\.max_target - 2 = 6"):
        system.generate([Example("0", (" ".join(WORDS[:7]),), ((),))])


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"^net\.condition_dim=6"):
        Conditional(made().net, made().codec, torch.optim.AdamW, Labels(VALUES, 5))
    with pytest.raises(ValueError, match=r"^model\.condition_dropout=1"):
        made(condition_dropout=1)
    with pytest.raises(ValueError, match=r"^decoding\.guidance=2: .*model\.condition_dropout"):
        made(condition_dropout=0.0).generate([Example("0", ("",), ((),))], Decoding(guidance=2))


def test_a_condition_starts_as_short_as_an_embedding_of_bert():
    condition = Labels({"form": ["a", "b"], "dynasty": ["c"]}, condition_dim=256)
    weights = torch.cat([table.weight.flatten() for table in condition.tables])
    assert weights.abs().max() <= 0.04
    assert 0.015 < weights.std() < 0.02  # 0.02, cut at twice as much

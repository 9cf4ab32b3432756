"""Conditional layer norm: the formula, and a network that starts as if there was no condition."""

import re

import pytest
import torch
from torch.nn import functional as F

from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import CachedScorer, Decoding, GuidedScorer, write
from genlab.nn import masks
from genlab.nn.conditional_norm import ConditionalLayerNorm
from genlab.weights.bert import load, to_huggingface

V, C = 40, 6
SIZES = {
    "vocab_size": V,
    "hidden_dim": 24,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_dim": 40,
    "max_length": 40,
}
BY = ("layer_norm", "prefix", "embedding")


def bert(stir: float = 0.2, **changes) -> BERT:
    torch.manual_seed(1)
    model = BERT(**SIZES | {"condition_dim": C} | changes).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(stir * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("hidden", [0, 5])
def test_the_formula(hidden):
    norm = ConditionalLayerNorm(8, 1e-12, C, hidden, torch.nn.SiLU()).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    h, c = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(3, C, dtype=torch.float64)
    found = norm(h, c)
    a = c if not hidden else F.silu(c @ norm.hidden.weight.T)
    for row in range(3):
        for token in range(5):
            x = h[row, token]
            normal = (x - x.mean()) / x.var(unbiased=False).sqrt()
            gain, shift = (
                norm.weight + norm.gain.weight @ a[row],
                norm.bias + norm.shift.weight @ a[row],
            )
            assert torch.allclose(found[row, token], gain * normal + shift, atol=1e-12)
    of_each_token = c[:, None].expand(3, 5, C)
    assert torch.allclose(norm(h, of_each_token), found, atol=1e-12)
    assert torch.equal(norm(h), F.layer_norm(h, (8,), norm.weight, norm.bias, 1e-12))


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("embedding_dim", [None, 16])
def test_a_pretrained_network_is_not_changed_at_first_to_the_bit(by, embedding_dim):
    plain = BERT(**SIZES, embedding_dim=embedding_dim).eval()
    for parameter in plain.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model = BERT(
        **SIZES, embedding_dim=embedding_dim, condition_dim=C, condition_by=by, condition_hidden=3
    ).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(
        re.search(r"(gain|shift|hidden)\.weight$|^project\.", name) for name in missing
    )
    ids, c = torch.randint(1, V, (4, 11)), 5 * torch.randn(4, C)
    mask = masks.causal(torch.ones(4, 11, dtype=torch.bool))
    hidden = plain(ids, None, mask)
    assert torch.equal(model(ids, None, mask, condition=c), hidden)
    assert torch.equal(model.logits(hidden, c), plain.logits(hidden))


def test_every_norm_takes_part_and_the_twins_have_as_many_weights():
    def extra(model):
        return sum(p.numel() for p in model.parameters()) - sum(
            p.numel() for p in BERT(**SIZES).parameters()
        )

    model = bert()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 3 + 2 and all(isinstance(norm, ConditionalLayerNorm) for norm in norms)
    for by in BY[1:]:
        assert abs(extra(bert(condition_by=by)) - extra(model)) <= (C + 24) / 2


@pytest.mark.parametrize("by", BY)
def test_every_parameter_of_the_condition_gets_a_gradient(by):
    model = bert(condition_by=by, condition_hidden=4)
    c = torch.randn(3, C, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(1, V, (3, 7))
    model.logits(model(ids, None, masks.causal(ids > 0), condition=c), c).square().mean().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []
    assert c.grad.abs().sum(1).min() > 0


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("target_segment", [0, 1])
@pytest.mark.parametrize("guidance", [None, 0.0, 2.5])
def test_cached_is_uncached_with_a_condition(by, target_segment, guidance, recomputed):
    """target_segment 0: a language model that goes on from a beginning; 1: sequence to sequence."""
    model = bert(condition_by=by)
    lengths = torch.tensor([2, 7, 4, 1])
    ids = torch.where(torch.arange(7) < lengths[:, None], torch.randint(5, V, (4, 7)), 0)
    rows = (ids, torch.zeros_like(ids), lengths)
    c = torch.randn(4, C).double()
    free = torch.randn(1, C).double()
    kept = []
    for kind in (CachedScorer, recomputed):
        scorer = kind(model, *rows, 3, 9, target_segment, c)
        if guidance is not None:
            both = [torch.cat([part, part]) for part in rows]
            under = kind(model, *both, 3, 9, target_segment, torch.cat([c, free.expand(4, C)]))
            scorer = GuidedScorer(under, guidance)
        found = [scorer.start()[:, None].expand(-1, 3, -1)]
        torch.manual_seed(3)
        count = 4
        for t in range(6):
            found.append(scorer.step(torch.randint(5, V, (count, 3))))
            if t == 1:
                count = 3
                scorer.keep(torch.tensor([0, 1, 3]))
            scorer.reorder(torch.randint(3, (count, 3)))
        kept.append(found)
    for a, b in zip(*kept, strict=True):
        assert torch.allclose(a, b, atol=1e-11)
    written = []
    for kind in (CachedScorer, recomputed):
        options = {
            "end": 3,
            "max_length": 9,
            "target_segment": target_segment,
            "condition": c,
            "free": free.expand(4, C),
        }
        decoding = Decoding("beam", num=2, beams=3, guidance=guidance)
        written.append(write(model, rows, decoding, **options, scorer=kind))
    assert torch.equal(written[0].tokens, written[1].tokens)
    assert torch.allclose(written[0].scores, written[1].scores, atol=1e-10)


def test_guidance_of_one_is_the_condition_and_of_none_is_no_condition():
    model, ids = bert(), torch.tensor([[2, 7], [2, 9]])
    rows = (ids, torch.zeros_like(ids), torch.tensor([2, 2]))
    c, free = torch.randn(2, C).double(), torch.randn(2, C).double()

    def guided(scale):
        scorer = CachedScorer(
            model, *(torch.cat([part, part]) for part in rows), 1, 4, 0, torch.cat([c, free])
        )
        return GuidedScorer(scorer, scale).start()

    under, without = (CachedScorer(model, *rows, 1, 4, 0, each).start() for each in (c, free))
    assert torch.allclose(guided(1.0), under, atol=1e-12) and torch.allclose(
        guided(0.0), without, atol=1e-12
    )
    assert torch.allclose(guided(3.0), 3 * under - 2 * without, atol=1e-10)
    assert not torch.allclose(under, without, atol=1e-3)
    with pytest.raises(ValueError, match=r"^decoding\.guidance=2"):
        write(model, rows, Decoding(guidance=2), end=3, max_length=4)


def test_weights_without_a_condition_are_loaded_and_those_of_the_condition_reported():
    plain, model = bert(condition_dim=0), bert(0.0)
    report = load(model, to_huggingface(plain.state_dict()))
    assert (
        "norm.gain.weight" in report.missing
        and len(report.missing) == 2 * 8
        and "head" not in str(report.head)
    )
    ids = torch.randint(1, V, (2, 5))
    assert torch.equal(model(ids, condition=torch.randn(2, C).double()), plain(ids))


def test_an_activation_without_units_is_refused():
    with pytest.raises(ValueError, match=r"^net\.condition_activation=silu"):
        BERT(**SIZES, condition_dim=C, condition_activation="silu")

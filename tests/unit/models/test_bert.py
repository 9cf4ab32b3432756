"""BERT: its attention, its head, and cached decoding equal to running the whole row again."""

import pytest
import torch

from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.key_value_cache import Cache
from genlab.nn import masks

V = 50
SIZES = {
    "vocab_size": V,
    "hidden_dim": 24,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_dim": 40,
    "max_length": 40,
}


def bert(**changes) -> BERT:
    model = BERT(**SIZES | changes).double().eval()
    # Away from the initialisation, where logits hardly depend on anything.
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def test_every_parameter_gets_a_gradient():
    model = bert(embedding_dim=8)
    ids, segments = torch.randint(1, V, (2, 10)), (torch.arange(10) > 4).long().expand(2, 10)
    model.logits(model(ids, segments)).square().mean().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_the_initialisation_is_berts():
    model = BERT(vocab_size=2000, hidden_dim=128, num_layers=2, num_heads=4, intermediate_dim=256)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.abs().max() <= 0.04 and 0.015 < parameter.std() < 0.02, name
        else:
            assert torch.equal(
                parameter, torch.full_like(parameter, float("norm.weight" in name))
            ), name


def test_the_head_is_tied_to_the_embeddings():
    model = bert()
    hidden = torch.randn(2, 24, dtype=torch.float64)
    before = model.logits(hidden)
    model.word.weight.data[7] += 1
    changed = (model.logits(hidden) != before).any(0)
    assert changed.nonzero().flatten().tolist() == [7]


def test_padding_changes_nothing():
    model = bert()
    ids = torch.randint(1, V, (1, 7))
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.long)], 1)
    other = padded.clone()
    other[:, 7:] = 0
    assert torch.allclose(model(padded)[:, :7], model(ids), atol=1e-12)
    mask = masks.bidirectional(torch.arange(12)[None] < 7)
    other[:, 7:] = 3
    assert torch.allclose(model(other, None, mask)[:, :7], model(ids), atol=1e-12)
    everything = bert(pad_id=None)
    assert not torch.allclose(everything(padded)[:, :7], everything(ids), atol=1e-3)


def test_packed_documents_are_as_they_are_alone():
    model = bert()
    lengths, sources = [6, 9, 4], [3, 5, 2]
    rows = [torch.randint(1, V, (n,)) for n in lengths]
    segments = [(torch.arange(n) >= s).long() for n, s in zip(lengths, sources, strict=True)]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    ids, segment = torch.cat(rows)[None], torch.cat(segments)[None]
    mask = masks.unilm(segment, torch.ones_like(ids, dtype=torch.bool), documents)
    packed = model(ids, segment, mask, masks.positions_of(documents))[0].split(lengths)
    for row, seg, found in zip(rows, segments, packed, strict=True):
        alone = model(
            row[None], seg[None], masks.unilm(seg[None], torch.ones(1, len(row), dtype=torch.bool))
        )
        assert torch.allclose(found, alone[0], atol=1e-12)


def test_recomputing_layers_gives_the_same_gradients():
    models = [BERT(**SIZES, checkpointing=flag).double().train() for flag in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    ids = torch.randint(1, V, (2, 10))
    for model in models:
        torch.manual_seed(1)  # of the dropout
        model.logits(model(ids)).logsumexp(-1).sum().backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-12)


def test_recomputing_layers_stores_less():
    def stored(checkpointing: bool) -> int:
        model = BERT(
            V,
            hidden_dim=24,
            num_layers=4,
            num_heads=4,
            intermediate_dim=96,
            checkpointing=checkpointing,
        ).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(torch.randint(1, V, (4, 32)))
        return sum(sizes)

    assert stored(True) < stored(False) / 3


# --- decoding -------------------------------------------------------------------------------------


def again(model: BERT, source, written, target_segment: int, causal: bool = False):
    """The logits after `written`, by running the whole row."""
    ids = torch.cat([source, written])[None]
    segments = torch.cat([torch.zeros_like(source), torch.full_like(written, target_segment)])[None]
    padding = torch.ones_like(ids, dtype=torch.bool)
    mask = masks.causal(padding) if causal else masks.unilm(segments, padding, None, target_segment)
    return model.logits(model(ids, segments, mask))[0, -1]


@pytest.mark.parametrize(
    ("num_beams", "target_segment", "changes"),
    [
        (1, 1, {}),
        (3, 1, {"embedding_dim": 8}),
        (2, 5, {"num_segments": 6}),
        (4, 1, {"activation": "gelu_new"}),
    ],
)
@pytest.mark.parametrize("static", [False, True])
def test_cached_steps_equal_running_the_whole_row(num_beams, target_segment, static, changes):
    """Over random lengths, beams that go on from other beams, and rows that drop out."""
    model = bert(**changes)
    lengths = torch.tensor([9, 3, 12, 1, 7])
    ids = torch.randint(1, V, (5, 12))  # what stands behind a row's length must not matter
    cache = Cache(3, ids, num_beams, 8, target_segment, static)
    hidden, _ = model.prefill(ids, None, lengths, num_beams, 8, target_segment, cache=cache)
    first = model.logits(model.take_last(hidden, lengths))
    sources = [ids[b, :n] for b, n in enumerate(lengths)]
    for b, source in enumerate(sources):
        assert torch.allclose(
            first[b], again(model, source, source[:0], target_segment), rtol=0, atol=1e-10
        )
    written = torch.empty(5, num_beams, 0, dtype=torch.long)
    for step in range(8):
        tokens = torch.randint(1, V, (len(sources), num_beams))
        written = torch.cat([written, tokens[:, :, None]], -1)
        logits = model.step(tokens, cache)
        assert logits.shape == (len(sources), num_beams, V)
        for b, source in enumerate(sources):
            for k in range(num_beams):
                assert torch.allclose(
                    logits[b, k],
                    again(model, source, written[b, k], target_segment),
                    rtol=0,
                    atol=1e-10,
                ), (step, b, k)
        parents = torch.randint(0, num_beams, tokens.shape)
        cache.reorder(parents)
        written = written.gather(1, parents[:, :, None].expand_as(written))
        if step in (2, 5):
            rows = (
                torch.randperm(len(sources))[:-1]
                if step == 2
                else torch.tensor([True, False, True, True])
            )
            cache.keep(rows)
            written = written[rows]
            kept = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
            sources = [sources[i] for i in kept.tolist()]


def test_cached_steps_in_bfloat16():
    model = bert().float()
    ids, lengths = torch.randint(1, V, (2, 6)), torch.tensor([6, 4])
    with torch.autocast("cpu", torch.bfloat16):
        _, cache = model.prefill(ids, None, lengths, 2, 3)
        assert cache.memory.dtype == torch.bfloat16
        written = torch.randint(1, V, (2, 2, 3))
        for t in range(3):
            logits = model.step(written[:, :, t], cache)
        for b in range(2):
            expected = again(model, ids[b, : lengths[b]], written[b, 1], 1)
            assert (logits[b, 1] - expected).abs().max() < 0.05 * expected.std()


def test_a_language_model_is_decoded_exactly_too():
    model = bert()
    ids, lengths = torch.randint(1, V, (2, 5)), torch.tensor([5, 3])
    mask = masks.causal(torch.arange(5) < lengths[:, None])
    _, cache = model.prefill(ids, None, lengths, 2, 4, target_segment=0, mask=mask)
    written = torch.randint(1, V, (2, 2, 4))
    for t in range(4):
        logits = model.step(written[:, :, t], cache)
    for b in range(2):
        for k in range(2):
            expected = again(model, ids[b, : lengths[b]], written[b, k], 0, causal=True)
            assert torch.allclose(logits[b, k], expected, rtol=0, atol=1e-10)


def test_the_segment_of_what_is_written_matters():
    """The shortcut of other cached decoders, segment 0 for the target, gives other logits."""
    model = bert()
    ids, lengths = torch.randint(1, V, (1, 6)), torch.tensor([6])
    tokens = torch.tensor([[4]])
    with_segment, without = (
        model.step(tokens, model.prefill(ids, None, lengths, target_segment=s, max_new_tokens=2)[1])
        for s in (1, 0)
    )
    assert (with_segment - without).abs().max() > 0.01


def test_beams_share_the_memory_of_their_source():
    model = bert()
    ids, lengths = torch.randint(1, V, (2, 6)), torch.tensor([6, 4])
    caches = [model.prefill(ids, None, lengths, beams, 4)[1] for beams in (1, 5)]
    assert [cache.memory.shape for cache in caches] == [
        (3, 2, 2, 4, 6 + beams * 4, 6) for beams in (1, 5)
    ]
    address = caches[1].memory.data_ptr()
    model.step(torch.ones(2, 5, dtype=torch.long), caches[1])
    caches[1].reorder(torch.zeros(2, 5, dtype=torch.long))
    assert caches[1].memory.data_ptr() == address


def test_what_cannot_be_decoded_is_refused():
    model = bert()
    ids, lengths = torch.randint(1, V, (1, 30)), torch.tensor([30])
    with pytest.raises(ValueError, match=r"^net\.max_length=40: .* max_new_tokens=11"):
        model.prefill(ids, None, lengths, max_new_tokens=11)
    with pytest.raises(ValueError, match=r"^target_segment=2"):
        model.prefill(ids, None, lengths, max_new_tokens=1, target_segment=2)
    _, cache = model.prefill(ids, None, lengths, max_new_tokens=1)
    model.step(torch.tensor([[1]]), cache)
    with pytest.raises(ValueError, match=r"^max_new_tokens=1"):
        model.step(torch.tensor([[1]]), cache)
    with pytest.raises(ValueError, match=r"^prefill"):
        model.train().prefill(ids, None, lengths, max_new_tokens=1)
    with pytest.raises(ValueError, match=r"^net\.max_length=40: .* 41 tokens"):
        model(torch.ones(1, 41, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^net\.hidden_dim=25"):
        BERT(V, hidden_dim=25, num_heads=4)
    with pytest.raises(ValueError, match=r"^net\.activation=gelu2"):
        BERT(V, activation="gelu2")

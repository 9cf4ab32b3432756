"""Attention masks against their definitions, over random padded and packed batches."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from genlab.nn import masks


def batch(packed: bool, target_segment: int = 1):
    """(segments, padding, documents) of random rows: each document a source and a target, then
    padding.
    """
    rows, length = 40, 24
    segments = torch.zeros(rows, length, dtype=torch.long)
    documents = torch.full((rows, length), -1)
    for row in range(rows):
        at, number = 0, 0
        end = (0, length)[row] if row < 2 else int(torch.randint(1, length + 1, ()))
        while at < end:
            source, target = max(1, end // 2), end - max(1, end // 2)
            if packed:
                source, target = torch.randint(1, 6, (2,)).tolist()
            stop = min(at + source + target, end)
            segments[row, at + source : stop] = target_segment
            documents[row, at:stop] = number
            at, number = stop, number + 1
    return segments, documents >= 0, documents


@pytest.mark.parametrize("packed", [False, True])
def test_each_mask_is_its_definition(packed):
    segments, padding, documents = batch(packed)
    given = documents if packed else None
    found = {
        "bidirectional": masks.bidirectional(padding, given),
        "unilm": masks.unilm(segments, padding, given),
        "causal": masks.causal(padding, given),
    }
    for name, mask in found.items():
        mask = mask.expand(-1, 1, 24, 24)
        for b in range(len(padding)):
            for i in range(24):
                for j in range(24):
                    same = bool(documents[b, i] == documents[b, j]) and bool(padding[b, j])
                    target = segments[b].bool()
                    rule = {
                        "bidirectional": True,
                        "unilm": (not target[i] and not target[j]) or (bool(target[i]) and j <= i),
                        "causal": j <= i,
                    }[name]
                    if padding[b, i]:
                        assert bool(mask[b, 0, i, j]) == (same and bool(rule)), (name, b, i, j)


def test_the_two_written_forms_of_unilm_agree():
    """The running count of bert4keras and the products of its first version."""
    segments, padding, _ = batch(packed=False)
    s = segments.double()
    earlier = torch.ones(24, 24).double().tril()
    written = (1 - s[:, :, None]) * (1 - s[:, None, :]) + s[:, :, None] * earlier
    both = padding[:, :, None] & padding[:, None, :]
    assert torch.equal(masks.unilm(segments, padding)[:, 0] & both, written.bool() & both)


@pytest.mark.parametrize("target_segment", [1, 5])
def test_a_packed_document_sees_what_it_sees_alone(target_segment):
    segments, padding, documents = batch(packed=True, target_segment=target_segment)
    packed = masks.unilm(segments, padding, documents, target_segment)
    for b in range(len(padding)):
        for number in range(int(documents[b].max()) + 1):
            own = documents[b] == number
            alone = masks.unilm(segments[b, own][None], padding[b, own][None], None, target_segment)
            assert torch.equal(packed[b, 0][own][:, own], alone[0, 0])
            assert not packed[b, 0][own][:, ~own].any()


@pytest.mark.parametrize("packed", [False, True])
def test_no_query_has_nothing_to_see(packed):
    segments, padding, documents = batch(packed)
    assert not padding.any(-1).all()  # rows of padding alone are among them
    given = documents if packed else None
    for mask in (
        masks.bidirectional(padding, given),
        masks.unilm(segments, padding, given),
        masks.causal(padding, given),
    ):
        assert mask.any(-1).all()
        x = torch.randn(len(padding), 2, 24, 4)
        assert scaled_dot_product_attention(x, x, x, mask).isfinite().all()


def test_left_padding_is_not_seen_either():
    padding = torch.tensor([[False, False, True, True]])
    assert masks.bidirectional(padding).flatten().tolist() == [False, False, True, True]


def test_positions_restart_with_each_document():
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1], [5, 5, 5, 5, 5, 5, 5, 5]])
    assert masks.positions_of(documents).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], list(range(8))]


def test_masks_without_a_tensor_are_those_with_one():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 2, 24, 8, dtype=torch.float64)
    full = torch.ones(4, 24, dtype=torch.bool)
    found = masks.attend(query, key, value, masks.FULL)
    assert torch.allclose(
        found, masks.attend(query, key, value, masks.bidirectional(full)), rtol=1e-12
    )
    padding = torch.arange(24) < torch.tensor([24, 1, 13, 20])[:, None]
    found = masks.attend(query, key, value, masks.CAUSAL)
    expected = masks.attend(query, key, value, masks.causal(padding))
    real = padding[:, None, :, None].expand_as(found)
    assert torch.allclose(found[real], expected[real], rtol=1e-12) and found.isfinite().all()

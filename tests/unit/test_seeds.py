"""Seeded hashes: uniform, independent, and SplitMix64's own numbers."""

import numpy as np
import torch

from genlab.seeds import digest, fraction_of, mix, random_state, uniforms


def test_the_random_numbers_are_uniform_independent_and_the_rows_own():
    keys = torch.arange(2000)  # as alike as keys can be
    u = uniforms(keys, 3, 50)
    assert u.shape == (2000, 3, 50) and u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 100, 0, 1)
    expected = u.numel() / 100
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - 99) < 5 * (2 * 99) ** 0.5
    flat = u.flatten(1).double() - 0.5
    next_in_the_row = (flat[:, :-1], flat[:, 1:])
    next_row = (flat[:-1], flat[1:])
    for a, b in (next_in_the_row, next_row):
        assert abs((a * b).mean() * 12) < 5 / a.numel() ** 0.5
    assert torch.equal(uniforms(keys[[7, 3]], 3, 50), u[[7, 3]])


def test_splitmix64_is_the_published_one():
    mask = (1 << 64) - 1

    def reference(state: int) -> int:
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = 123456789123456789
    state = key * 0xBF58476D1CE4E5B9 & mask
    expected = [
        (reference(state + i * 0x9E3779B97F4A7C15 & mask) >> 40) / (1 << 24) for i in range(1, 11)
    ]
    assert uniforms(torch.tensor([key]), 2, 5).flatten().tolist() == expected


def test_numpy_and_torch_give_the_same_bits():
    z = np.random.RandomState(0).randint(-(2**63), 2**63 - 1, 1000)
    assert mix(z).tolist() == mix(torch.from_numpy(z)).tolist()


def test_hashes_are_the_same_in_every_version():
    assert digest("order", 1, 2) == digest("order 1 2") == 5676407364936358730
    assert fraction_of("a text") == 0.9537152496021903
    assert random_state(1, 2).randint(1 << 30) == 464658030

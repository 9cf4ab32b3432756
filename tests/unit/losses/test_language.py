"""What a language model is asked: against the binomial, and against loops over tokens."""

import torch

from genlab.losses.language import (
    IGNORED,
    continued,
    masked,
    most_masked,
    next_tokens,
    select,
    uniforms,
)

VOCAB, PAD, CLS, SEP, MASK = 1000, 0, 2, 3, 4


def within(count: int, trials: int, p: float) -> bool:
    """Whether a binomial count is as far from its mean as chance goes (five standard deviations)."""
    return abs(count - trials * p) < 5 * (trials * p * (1 - p)) ** 0.5


def rows(num=400, length=64, seed=0):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (num, length), generator=random)
    ids[:, 0], ids[:, 40] = CLS, SEP
    starts = torch.rand(num, length, generator=random) < 0.6
    starts[:, 0] = starts[:, 40] = starts[:, 41] = True
    keys = torch.randint(0, 1 << 62, (num,), generator=random)
    return ids, starts, (ids != CLS) & (ids != SEP), keys


def test_the_random_numbers_are_uniform_independent_and_the_rows_own():
    keys = torch.arange(2000)  # as alike as keys can be
    u = uniforms(keys, 3, 50)
    assert u.shape == (2000, 3, 50) and u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 100, 0, 1)
    expected = u.numel() / 100
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - 99) < 5 * (2 * 99) ** 0.5
    flat = u.flatten(1).double() - 0.5
    for a, b in (
        (flat[:, :-1], flat[:, 1:]),
        (flat[:-1], flat[1:]),
    ):  # next in the row, and of the next row
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


def test_masking_keeps_to_the_binomial():
    ids, starts, hideable, keys = rows()
    asked = masked(ids, starts, hideable, keys, 0.15, MASK, VOCAB)
    words = starts & hideable
    assert within(int((asked.chosen & words).sum()), int(words.sum()), 0.15)
    chosen, before = asked.ids[asked.chosen], ids[asked.chosen]
    count = len(before)
    assert within(int((chosen == MASK).sum()), count, 0.8 + 0.1 / VOCAB)
    assert within(int((chosen == before).sum()), count, 0.1 + 0.1 / VOCAB)
    drawn = chosen[(chosen != MASK) & (chosen != before)]
    assert within(len(drawn), count, 0.1)
    assert within(int((drawn < VOCAB // 2).sum()), len(drawn), 0.5) and drawn.max() < VOCAB
    assert torch.equal(asked.answers, before) and torch.equal(
        asked.ids[~asked.chosen], ids[~asked.chosen]
    )
    assert not asked.chosen[~hideable].any() and not asked.segments.any()


def test_a_word_is_chosen_as_a_whole_and_its_pieces_are_replaced_each_by_itself():
    ids, starts, hideable, keys = rows()
    asked = masked(ids, starts, hideable, keys, 0.15, MASK, VOCAB)
    word = starts.cumsum(1)
    mixed = 0
    for i in range(100):
        for number in word[i].unique():
            piece = (word[i] == number) & hideable[i]
            assert asked.chosen[i][piece].unique().numel() <= 1
            if asked.chosen[i][piece].any() and piece.sum() > 1:
                mixed += (asked.ids[i][piece] == MASK).unique().numel() == 2
    assert mixed > 0


def test_two_words_are_chosen_independently():
    ids, _, hideable, keys = rows(num=4000)
    asked = masked(ids, torch.ones_like(hideable), hideable, keys, 0.3, MASK, VOCAB)
    both = asked.chosen[:, 1:39:2] & asked.chosen[:, 2:40:2]
    assert within(int(both.sum()), both.numel(), 0.09)
    assert within(int((asked.chosen[:, -1] & asked.chosen[:, -2]).sum()), 4000, 0.09)


def test_masks_are_those_of_the_keys_whatever_the_company():
    ids, starts, hideable, keys = rows()
    whole = masked(ids, starts, hideable, keys, 0.15, MASK, VOCAB)
    some = [5, 17, 3]
    part = masked(ids[some], starts[some], hideable[some], keys[some], 0.15, MASK, VOCAB)
    assert torch.equal(part.ids, whole.ids[some]) and torch.equal(part.chosen, whole.chosen[some])
    other = masked(ids, starts, hideable, keys + 1, 0.15, MASK, VOCAB)
    assert not torch.equal(other.chosen, whole.chosen)


def packed():
    """Two rows: documents of 3, 1 and 4 tokens; and of 5 tokens, then padding."""
    ids = torch.tensor(
        [[CLS, 10, SEP, CLS, CLS, 11, 12, SEP], [CLS, 13, 14, 15, 16, PAD, PAD, PAD]]
    )
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2], [0] * 8])
    return ids, torch.arange(8) < torch.tensor([[8], [5]]), documents


def test_next_tokens_stay_in_their_document():
    ids, inside, documents = packed()
    asked = next_tokens(ids, inside, documents, CLS)
    assert asked.chosen.nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [0, 4],
        [0, 5],
        [0, 6],
        [1, 0],
        [1, 1],
        [1, 2],
        [1, 3],
    ]
    assert asked.answers.tolist() == [10, SEP, 11, 12, SEP, 13, 14, 15, 16]
    assert torch.equal(
        next_tokens(ids, inside, None, CLS).chosen, asked.chosen
    )  # a [CLS] is never asked for


def test_a_split_keeps_every_token_and_asks_for_the_target_alone():
    ids, inside, documents = packed()
    for apart in (None, documents):
        for seed in range(30):
            keys = torch.tensor([seed, 100 + seed])
            asked, real, numbers = continued(ids, inside, apart, keys, SEP, PAD)
            for i in range(2):
                answers = []
                of_row = torch.zeros(8, dtype=torch.long) if apart is None else apart[i]
                new = (
                    torch.zeros(asked.ids.shape[1], dtype=torch.long)
                    if numbers is None
                    else numbers[i]
                )
                for number in of_row[inside[i]].unique():
                    old = ids[i][inside[i] & (of_row == number)].tolist()
                    here = (new == number) & real[i]
                    got, target = asked.ids[i][here].tolist(), asked.segments[i][here].tolist()
                    if len(old) == 1:
                        assert got == old and target == [0]
                        continue
                    cut = target.index(1)
                    assert target == [0] * cut + [1] * (len(got) - cut) and got[cut - 1] == SEP
                    assert got[: cut - 1] + got[cut:] == old and cut >= 2
                    answers += got[cut:]
                row = asked.chosen[i].nonzero().flatten()
                assert asked.ids[i][row + 1].tolist() == answers
            assert asked.answers.tolist() == asked.ids[:, 1:][asked.chosen[:, :-1]].tolist()
            assert not (asked.ids[~real] != PAD).any()


def test_the_split_is_uniform():
    ids = torch.full((3000, 6), 9)
    asked, _, _ = continued(
        ids, torch.ones_like(ids, dtype=torch.bool), None, torch.arange(3000), SEP, PAD
    )
    sizes = asked.segments.sum(1)
    for size in range(1, 6):
        assert within(int((sizes == size).sum()), 3000, 1 / 5)


def test_chosen_places_come_first_and_each_place_once():
    random = torch.Generator().manual_seed(0)
    right = torch.arange(100, 140).view(5, 8)
    for rate in (0.0, 0.3, 1.0):
        chosen = torch.rand(5, 8, generator=random) < rate
        expected = [i for i, here in enumerate(chosen.flatten().tolist()) if here]
        places, answers = select(chosen, right)
        assert places.tolist() == expected and answers.tolist() == [100 + i for i in expected]
        for capacity in (3, 24, 40, 50):
            places, answers = select(chosen, right, capacity)
            assert len(places) == len(answers) == min(capacity, 40) == len(places.unique())
            kept = expected[:capacity]
            asked = answers != IGNORED
            assert places[asked].tolist() == kept and answers[asked].tolist() == [
                100 + i for i in kept
            ]


def test_no_batch_hides_more_than_is_reckoned_with():
    ids, starts, hideable, keys = rows(200, 512)
    for rate in (0.15, 0.4):
        counts = masked(ids, starts, hideable, keys, rate, MASK, VOCAB).chosen.view(20, -1).sum(1)
        most = most_masked(10 * 512, rate)
        assert counts.max() < most < 1.5 * counts.double().mean()
    assert most_masked(20, 0.15) == 20 and most_masked(64 * 512, 0.15) == 5696

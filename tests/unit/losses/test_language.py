"""The objectives on raw text: against the binomial, and against loops over tokens."""

import torch

from genlab.losses.language import (
    IGNORED,
    Task,
    bound_masked,
    mask_words,
    predict_next,
    select,
    split_documents,
)

VOCAB, PAD, CLS, SEP, MASK = 1000, 0, 2, 3, 4


def within(count: int, trials: int, p: float) -> bool:
    """Whether a binomial count is within five standard deviations of its mean."""
    return abs(count - trials * p) < 5 * (trials * p * (1 - p)) ** 0.5


def labels_of(task: Task) -> torch.Tensor:
    """(M,): the tokens to predict."""
    return task.labels[task.predicted]


def rows(num=400, length=64, seed=0):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (num, length), generator=random)
    ids[:, 0], ids[:, 40] = CLS, SEP
    starts = torch.rand(num, length, generator=random) < 0.6
    starts[:, 0] = starts[:, 40] = starts[:, 41] = True
    keys = torch.randint(0, 1 << 62, (num,), generator=random)
    return ids, starts, (ids != CLS) & (ids != SEP), keys


def test_masking_keeps_to_the_binomial():
    ids, starts, maskable, keys = rows()
    task = mask_words(ids, starts, maskable, keys, 0.15, MASK, VOCAB)
    words = starts & maskable
    assert within(int((task.predicted & words).sum()), int(words.sum()), 0.15)
    shown, before = task.ids[task.predicted], ids[task.predicted]
    count = len(before)
    assert within(int((shown == MASK).sum()), count, 0.8 + 0.1 / VOCAB)
    assert within(int((shown == before).sum()), count, 0.1 + 0.1 / VOCAB)
    drawn = shown[(shown != MASK) & (shown != before)]
    assert within(len(drawn), count, 0.1)
    assert within(int((drawn < VOCAB // 2).sum()), len(drawn), 0.5) and drawn.max() < VOCAB
    assert torch.equal(labels_of(task), before) and torch.equal(
        task.ids[~task.predicted], ids[~task.predicted]
    )
    assert not task.predicted[~maskable].any() and not task.segments.any()


def test_a_word_is_masked_as_a_whole_and_its_pieces_are_replaced_each_by_itself():
    ids, starts, maskable, keys = rows()
    task = mask_words(ids, starts, maskable, keys, 0.15, MASK, VOCAB)
    word = starts.cumsum(1)
    mixed = 0
    for i in range(100):
        for number in word[i].unique():
            piece = (word[i] == number) & maskable[i]
            assert task.predicted[i][piece].unique().numel() <= 1
            if task.predicted[i][piece].any() and piece.sum() > 1:
                mixed += (task.ids[i][piece] == MASK).unique().numel() == 2
    assert mixed > 0


def test_two_words_are_masked_independently():
    ids, _, maskable, keys = rows(num=4000)
    task = mask_words(ids, torch.ones_like(maskable), maskable, keys, 0.3, MASK, VOCAB)
    both = task.predicted[:, 1:39:2] & task.predicted[:, 2:40:2]
    assert within(int(both.sum()), both.numel(), 0.09)
    assert within(int((task.predicted[:, -1] & task.predicted[:, -2]).sum()), 4000, 0.09)


def test_masks_are_those_of_the_keys_whatever_the_batch():
    ids, starts, maskable, keys = rows()
    whole = mask_words(ids, starts, maskable, keys, 0.15, MASK, VOCAB)
    some = [5, 17, 3]
    part = mask_words(ids[some], starts[some], maskable[some], keys[some], 0.15, MASK, VOCAB)
    assert torch.equal(part.ids, whole.ids[some]) and torch.equal(
        part.predicted, whole.predicted[some]
    )
    other = mask_words(ids, starts, maskable, keys + 1, 0.15, MASK, VOCAB)
    assert not torch.equal(other.predicted, whole.predicted)


def packed():
    """Two rows: documents of 3, 1 and 4 tokens; and of 5 tokens, then padding."""
    ids = torch.tensor(
        [[CLS, 10, SEP, CLS, CLS, 11, 12, SEP], [CLS, 13, 14, 15, 16, PAD, PAD, PAD]]
    )
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2], [0] * 8])
    return ids, torch.arange(8) < torch.tensor([[8], [5]]), documents


def test_next_tokens_stay_in_their_document():
    ids, inside, documents = packed()
    task = predict_next(ids, inside, documents, CLS)
    assert task.predicted.nonzero().tolist() == [
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
    assert labels_of(task).tolist() == [10, SEP, 11, 12, SEP, 13, 14, 15, 16]
    # A [CLS] is never predicted.
    assert torch.equal(predict_next(ids, inside, None, CLS).predicted, task.predicted)


def test_a_split_keeps_every_token_and_predicts_the_target_alone():
    ids, inside, documents = packed()
    for apart in (None, documents):
        for seed in range(30):
            keys = torch.tensor([seed, 100 + seed])
            task, real, numbers = split_documents(ids, inside, apart, keys, SEP, PAD)
            for i in range(2):
                answers = []
                of_row = torch.zeros(8, dtype=torch.long) if apart is None else apart[i]
                new = (
                    torch.zeros(task.ids.shape[1], dtype=torch.long)
                    if numbers is None
                    else numbers[i]
                )
                for number in of_row[inside[i]].unique():
                    old = ids[i][inside[i] & (of_row == number)].tolist()
                    here = (new == number) & real[i]
                    got, target = task.ids[i][here].tolist(), task.segments[i][here].tolist()
                    if len(old) == 1:
                        assert got == old and target == [0]
                        continue
                    cut = target.index(1)
                    assert target == [0] * cut + [1] * (len(got) - cut) and got[cut - 1] == SEP
                    assert got[: cut - 1] + got[cut:] == old and cut >= 2
                    answers += got[cut:]
                row = task.predicted[i].nonzero().flatten()
                assert task.ids[i][row + 1].tolist() == answers
            assert labels_of(task).tolist() == task.ids[:, 1:][task.predicted[:, :-1]].tolist()
            assert not (task.ids[~real] != PAD).any()


def test_the_split_is_uniform():
    ids = torch.full((3000, 6), 9)
    task, _, _ = split_documents(
        ids, torch.ones_like(ids, dtype=torch.bool), None, torch.arange(3000), SEP, PAD
    )
    sizes = task.segments.sum(1)
    for size in range(1, 6):
        assert within(int((sizes == size).sum()), 3000, 1 / 5)


def test_predicted_places_come_first_and_each_place_once():
    random = torch.Generator().manual_seed(0)
    tokens = torch.arange(100, 140).view(5, 8)
    for rate in (0.0, 0.3, 1.0):
        predicted = torch.rand(5, 8, generator=random) < rate
        expected = [i for i, here in enumerate(predicted.flatten().tolist()) if here]
        places, labels = select(predicted, tokens)
        assert places.tolist() == expected
        assert labels.tolist() == [100 + i for i in expected]
        for capacity in (3, 24, 40, 50):
            places, labels = select(predicted, tokens, capacity)
            assert len(places) == len(labels) == min(capacity, 40) == len(places.unique())
            kept = expected[:capacity]
            counted = labels != IGNORED
            assert places[counted].tolist() == kept
            assert labels[counted].tolist() == [100 + i for i in kept]


def test_no_batch_masks_more_than_the_bound():
    ids, starts, maskable, keys = rows(200, 512)
    for rate in (0.15, 0.4):
        counts = (
            mask_words(ids, starts, maskable, keys, rate, MASK, VOCAB).predicted.view(20, -1).sum(1)
        )
        most = bound_masked(10 * 512, rate)
        assert counts.max() < most < 1.5 * counts.double().mean()
    assert bound_masked(20, 0.15) == 20 and bound_masked(64 * 512, 0.15) == 5696

"""Decoders over a scorer whose probabilities are a table: against exhaustive search, closed forms
and each other.
"""

import itertools

import pytest
import torch
from torch import Tensor

from genlab.models.seq2seq.decoding import LogProbs, Rules, beam_search, greedy, sample
from genlab.models.seq2seq.voting import Extractive, Vote

END = 0


class Table:
    """A scorer whose logits after a prefix are fixed random numbers for (row, prefix); it counts
    how many it computed.
    """

    def __init__(self, rows: list[int], vocabulary: int, scale: float = 1.0):
        self.rows, self.vocabulary, self.scale = rows, vocabulary, scale
        self.prefixes: list[list[tuple]] | None = None
        self.scored = 0

    def logits(self, row: int, prefix: tuple) -> Tensor:
        self.scored += 1
        generator = torch.Generator().manual_seed(hash((row, prefix)) % 2**31)
        return self.scale * torch.randn(self.vocabulary, generator=generator, dtype=torch.float64)

    def start(self) -> Tensor:
        return torch.stack([self.logits(row, ()) for row in self.rows])

    def step(self, tokens: Tensor) -> Tensor:
        tokens = tokens.tolist()
        if self.prefixes is None:
            self.prefixes = [[()] * len(texts) for texts in tokens]
        assert [len(texts) for texts in tokens] == [len(texts) for texts in self.prefixes]
        self.prefixes = [
            [(*p, w) for p, w in zip(*both, strict=True)]
            for both in zip(self.prefixes, tokens, strict=True)
        ]
        scored = [
            [self.logits(row, p) for p in texts]
            for row, texts in zip(self.rows, self.prefixes, strict=True)
        ]
        return torch.stack([torch.stack(texts) for texts in scored])

    def reorder(self, parents: Tensor) -> None:
        self.prefixes = [
            [texts[i] for i in row]
            for texts, row in zip(self.prefixes, parents.tolist(), strict=True)
        ]

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]
        if self.prefixes is not None:
            self.prefixes = [self.prefixes[row] for row in rows.tolist()]


def score(row: int, text: tuple, vocabulary: int, scale: float = 1.0) -> float:
    """The summed log-probability of `text`, whose end token, if it has one, is part of it."""
    table = Table([row], vocabulary, scale)
    return sum(
        table.logits(row, text[:i]).log_softmax(0)[word].item() for i, word in enumerate(text)
    )


def exhaustive(
    row: int, vocabulary: int, max_length: int, allowed, length_penalty: float, num: int
):
    """The best of all finished texts of at most max_length tokens, their end among them, that
    `allowed` lets pass.
    """
    words = [word for word in range(vocabulary) if word != END]
    texts = (t for n in range(max_length) for t in itertools.product(words, repeat=n) if allowed(t))
    found = [(score(row, (*t, END), vocabulary) / (len(t) + 1) ** length_penalty, t) for t in texts]
    return sorted(found, reverse=True)[:num]


def texts(decoded, row: int) -> list[tuple]:
    return [
        tuple(t[:n])
        for t, n in zip(decoded.tokens[row].tolist(), decoded.lengths[row].tolist(), strict=True)
    ]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({}, lambda t: True),
        ({"min_length": 2}, lambda t: len(t) >= 2),
        ({"block_ngrams": 2}, lambda t: len(set(itertools.pairwise(t))) == max(len(t) - 1, 0)),
        ({"block_ngrams": 1}, lambda t: len(set(t)) == len(t)),
        ({"banned": [2]}, lambda t: 2 not in t),
    ],
)
def test_a_beam_wide_enough_finds_what_exhaustive_search_finds(rules, allowed, length_penalty):
    rows, vocabulary, max_length, num = [3, 1, 4, 15], 4, 4, 3
    scorer = LogProbs(Table(rows, vocabulary))
    rules = Rules(END, max_length, **rules)
    found = beam_search(scorer, rules, 27, num=num, length_penalty=length_penalty)
    assert found.finished.all()
    for i, row in enumerate(rows):
        best = exhaustive(row, vocabulary, max_length, allowed, length_penalty, num)
        assert texts(found, i) == [text for _, text in best]
        assert torch.allclose(
            found.scores[i], torch.tensor([s for s, _ in best], dtype=torch.float64), atol=1e-12
        )


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_a_narrow_beam_stops_early_without_missing_what_it_would_have_found(beams, length_penalty):
    """Against the same search on single rows that never stops before max_length."""
    rows, rules = list(range(40)), Rules(END, 8)
    found = beam_search(LogProbs(Table(rows, 6, 2.0)), rules, beams, length_penalty=length_penalty)
    for i, row in enumerate(rows):
        live, pool = [(0.0, ())], []
        for _ in range(8):
            grown = [(s + p, (*t, w)) for s, t in live for w, p in enumerate(steps(row, t, 6, 2.0))]
            pool += [(s / len(t) ** length_penalty, t) for s, t in grown if t[-1] == END]
            live = sorted((item for item in grown if item[1][-1] != END), reverse=True)[:beams]
        best, text = max(pool)
        assert texts(found, i) == [text[:-1]]
        assert found.scores[i, 0].item() == pytest.approx(best, abs=1e-12)


def steps(row: int, prefix: tuple, vocabulary: int, scale: float) -> list[float]:
    return Table([row], vocabulary, scale).logits(row, prefix).log_softmax(0).tolist()


def test_rows_that_are_done_cost_nothing_and_change_nothing():
    rules = Rules(END, 12)
    for decode in (greedy, lambda scorer, rules: beam_search(scorer, rules, 3, 2)):
        together = Table(list(range(30)), 4, 3.0)
        apart = [Table([row], 4, 3.0) for row in range(30)]
        whole = decode(LogProbs(together), rules)
        singles = [decode(LogProbs(table), rules) for table in apart]
        for part, single in zip(whole, zip(*singles, strict=True), strict=True):
            assert torch.equal(part, torch.cat(single))
        assert together.scored == sum(table.scored for table in apart)


def test_greedy_takes_the_most_probable_token_and_a_text_too_long_is_not_finished():
    found = greedy(LogProbs(Table(list(range(20)), 5)), Rules(END, 6))
    for row in range(20):
        text = ()
        while len(text) < 6 and (not text or text[-1] != END):
            text = (*text, int(torch.tensor(steps(row, text, 5, 1.0)).argmax()))
        finished = text[-1] == END
        assert texts(found, row) == [text[:-1] if finished else text]
        assert found.finished[row, 0] == finished
        assert found.scores[row, 0].item() == pytest.approx(score(row, text, 5), abs=1e-12)
    assert not found.finished.all()


def test_texts_cut_off_only_fill_places_without_a_finished_one():
    found = beam_search(LogProbs(Table(list(range(12)), 5)), Rules(END, 2), 4, num=4)
    assert found.finished[:, 0].all()
    ranks = found.finished.long()
    assert (ranks[:, :-1] >= ranks[:, 1:]).all()
    gaps = found.scores[:, :-1] - found.scores[:, 1:]
    assert (gaps[ranks[:, :-1] == ranks[:, 1:]] >= 0).all()


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 3}, [3, 1, 5]),
        ({"top_p": 0.55}, [3, 1]),  # 0.4 + 0.25 is the first to reach it
        ({"top_k": 3, "top_p": 0.55}, [3, 1]),
        ({"top_p": 0.4}, [3]),
    ],
)
def test_sampled_tokens_have_the_frequencies_they_should(options, keep):
    p = torch.tensor([0.05, 0.25, 0.06, 0.4, 0.1, 0.14], dtype=torch.float64)

    class Fixed(Table):
        def logits(self, row, prefix):
            return p.log() if not prefix else torch.tensor([0.0] + [-1e9] * 5, dtype=torch.float64)

    draws = 20_000
    uniforms = torch.rand(
        2, draws // 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    found = sample(LogProbs(Fixed([0, 1], 6)), Rules(END, 3), uniforms, **options)
    first = torch.where(found.lengths > 0, found.tokens[..., 0], END).flatten()
    wanted = torch.zeros(6, dtype=torch.float64)
    wanted[keep] = p[keep] ** (1 / options.get("temperature", 1.0))
    wanted /= wanted.sum()
    got = first.bincount(minlength=6).double() / draws
    assert ((got - wanted).abs() <= 4.5 * (wanted * (1 - wanted) / draws).sqrt()).all()


def test_samples_of_a_row_do_not_depend_on_the_other_rows():
    uniforms = torch.rand(6, 4, 9, dtype=torch.float64)
    whole = sample(LogProbs(Table([5, 6, 7, 8, 9, 10], 4)), Rules(END, 9), uniforms)
    for i, row in enumerate([5, 6, 7, 8, 9, 10]):
        alone = sample(LogProbs(Table([row], 4)), Rules(END, 9), uniforms[i : i + 1])
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, alone, strict=True))


def test_settings_without_meaning_are_refused():
    for wrong in (
        {"max_length": 0},
        {"max_length": 3, "min_length": 3},
        {"max_length": 3, "block_ngrams": -1},
    ):
        with pytest.raises(ValueError, match=r"(min_length|block_ngrams)="):
            Rules(END, **wrong)
    with pytest.raises(ValueError, match=r"^beams=2, num=3"):
        beam_search(Table([0], 3), Rules(END, 3), 2, num=3)
    with pytest.raises(ValueError, match=r"^temperature=0"):
        sample(Table([0], 3), Rules(END, 3), torch.rand(1, 1, 3), temperature=0)
    with pytest.raises(ValueError, match=r"^abstain=2"):
        Vote(Table([0], 3), torch.tensor([0]), END, abstain=2)


# --- voting ---------------------------------------------------------------------------------------


def voted(passages: list[int], prefix: tuple, vocabulary: int, scale: float) -> list[float]:
    """The formula of Su's post, written out."""
    p = [
        Table([row], vocabulary, scale).logits(row, prefix).softmax(0).tolist() for row in passages
    ]
    total = [sum(each[w] for each in p) for w in range(vocabulary)]
    squares = [sum(each[w] ** 2 for each in p) for w in range(vocabulary)]
    return [s / (t + 1) for s, t in zip(squares, total, strict=True)]


@pytest.mark.parametrize("extractive", [False, True])
@pytest.mark.parametrize("beams", [None, 1, 3])
def test_voting_is_the_written_formula(beams, extractive):
    vocabulary, scale, max_length = 5, 2.0, 4
    generator = torch.Generator().manual_seed(5)
    groups = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    texts_of = torch.randint(1, vocabulary, (10, 6), generator=generator)
    texts_of[3, 4:] = texts_of[7, 2:] = -1
    vote = Vote(Table(list(range(10)), vocabulary, scale), groups, END)
    scorer = Extractive(vote, texts_of, groups, END) if extractive else vote
    rules = Rules(END, max_length)
    found = greedy(scorer, rules) if beams is None else beam_search(scorer, rules, beams)
    dropped = 0
    for question in range(4):
        rows = [row for row in range(10) if groups[row] == question]
        tables = {row: Table([row], vocabulary, scale) for row in rows}
        left = [row for row in rows if tables[row].logits(row, ()).argmax() != END]
        dropped += len(rows) - len(left)
        pieces = {
            tuple(t[i:j])
            for t in texts_of[left].tolist()
            for i in range(6)
            for j in range(i, 7)
            if -1 not in t[i:j]
        }
        live, pool = [(0.0, ())], []
        for _ in range(max_length):
            grown = []
            for s, t in live:
                for w, p in enumerate(voted(left, t, vocabulary, scale)):
                    grown.append((s + torch.tensor(p + 1e-12).double().log().item(), (*t, w)))
            if extractive:
                grown = [(s, t) for s, t in grown if t[-1] == END or t in pieces]
            if beams is None:
                live = [max(grown)]
                if live[0][1][-1] == END:
                    pool = live
                    break
                continue
            pool += [item for item in grown if item[1][-1] == END]
            live = sorted((item for item in grown if item[1][-1] != END), reverse=True)[:beams]
        best = max(pool or live) if left else (0.0, (END,))
        assert texts(found, question) == [tuple(w for w in best[1] if w != END)]
        assert found.scores[question, 0].item() == pytest.approx(best[0], abs=1e-6)
    assert dropped


def test_a_question_that_no_passage_answers_gets_the_empty_answer_even_if_answers_must_be_long():
    class Silent(Table):
        def logits(self, row, prefix):
            logits = super().logits(row, prefix)
            logits[END] += 20 if row < 2 and not prefix else -20
            return logits

    for decode in (greedy, lambda scorer, rules: beam_search(scorer, rules, 3)):
        vote = Vote(Silent([0, 1, 2, 3], 5), torch.tensor([0, 0, 1, 1]), END)
        found = decode(vote, Rules(END, 4, min_length=2))
        assert found.lengths[0, 0] == 0 and found.finished[0, 0] and found.scores[0, 0] == 0
        assert found.lengths[1, 0] >= 2


def test_abstain_sets_from_which_probability_a_passage_has_no_answer():
    rows, groups = list(range(12)), torch.arange(12)
    p = torch.stack([Table([row], 4).logits(row, ()).softmax(0)[END] for row in rows])
    for threshold in (0.0, 0.2, 0.4, 1.0):
        found = greedy(Vote(Table(rows, 4), groups, END, threshold), Rules(END, 5))
        assert torch.equal(found.lengths[:, 0] == 0, p >= threshold)


def test_extractive_answers_without_a_vote_are_pieces_of_the_text():
    generator = torch.Generator().manual_seed(2)
    passages = torch.randint(1, 9, (8, 7), generator=generator)
    scorer = Extractive(LogProbs(Table(list(range(8)), 9)), passages, torch.arange(8), END)
    found = beam_search(scorer, Rules(END, 7, min_length=2), 4, num=2)
    for row in range(8):
        pieces = {tuple(passages[row, i:j].tolist()) for i in range(7) for j in range(i, 8)}
        continues = {piece[:-1] for piece in pieces if piece}
        assert set(texts(found, row)) <= pieces
        assert all(len(text) >= 2 or text not in continues for text in texts(found, row))

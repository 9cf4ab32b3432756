"""Decoding by captured steps: what is written without, a capture a shape, and no trace in the
network.

On the CPU a stand-in plays the graph, which runs the step again at each replay; with -m gpu it is
CUDA's.
"""

import copy
import gc
import io
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from genlab.models.seq2seq import captured_steps, decoding
from genlab.models.seq2seq.bert import BERT
from genlab.models.seq2seq.generation import CachedScorer, Decoding, GuidedScorer, write

V, C = 45, 6
Graphed = partial(CachedScorer, graph=True)


def stand_in(step):
    result = step()
    return (lambda: result.copy_(step())), result


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    """The device, and how often a step was captured there."""
    found = SimpleNamespace(device=request.param, captures=0)
    real = stand_in if request.param == "cpu" else captured_steps.capture

    def capture(step):
        found.captures += 1
        return real(step)

    monkeypatch.setattr(captured_steps, "capture", capture)
    if request.param == "cpu":
        monkeypatch.setattr(captured_steps, "memory_limit", lambda device: 2**30)
        monkeypatch.setattr(decoding, "drops_rows", lambda alive: False)
    return found


def made(place, seed=0, dtype=torch.float64, **options) -> BERT:
    torch.manual_seed(seed)
    net = BERT(V, 16, 2, 2, 32, 60, 3, dropout=0.0, attention_dropout=0.0, init_std=0.8, **options)
    with torch.no_grad():
        net.head.bias[3] = 2.0  # texts of all lengths
        for name, parameter in net.named_parameters():
            if name.endswith(("gain.weight", "shift.weight", "project.out.weight")):
                parameter.normal_(0, 0.5)
    return net.to(place.device, dtype).eval().requires_grad_(False)


def sources(place, lengths):
    ids = [torch.randint(5, V, (n,)) for n in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(ids, True, 0).to(place.device)
    return ids, torch.zeros_like(ids), torch.tensor(lengths, device=place.device)


LENGTHS = [9, 3, 12, 2, 7, 4, 4, 10, 5]


@pytest.mark.parametrize("answers", [None, "generative", "extractive"])
def test_a_graph_generates_what_no_cache_does(place, decoding, answers, recomputed):
    net = made(place)
    how = Decoding(**decoding | ({"extractive": answers == "extractive"} if answers else {}))
    lengths_found = set()
    for lengths in (LENGTHS, [n + 2 for n in reversed(LENGTHS)], [31] * 9):  # one padded length
        rows = sources(place, lengths)
        options = {"end": 3, "max_length": 6, "banned": [0, 1, 2, 4], "target_segment": 2}
        if answers:
            options["groups"] = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 4], device=place.device)
            inside = torch.arange(rows[0].shape[1], device=place.device) < rows[2][:, None]
            options["passages"] = rows[0].masked_fill(~inside, -1)
        options["uniforms"] = torch.rand(
            5 if answers else 9, how.num, 6, dtype=torch.float64, device=place.device
        )
        found, expected = (
            write(net, rows, how, **options, scorer=scorer) for scorer in (Graphed, recomputed)
        )
        for name in ("tokens", "lengths", "finished"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert torch.allclose(found.scores, expected.scores, rtol=0, atol=1e-10)
        lengths_found |= set(found.lengths.flatten().tolist())
    assert place.captures == 1
    # On CUDA torch's random numbers may be of another version.
    assert place.device == "cuda" or len(lengths_found) > 1


@pytest.mark.parametrize(
    ("by", "guidance"),
    [(None, None), ("layer_norm", None), ("layer_norm", 2.5), ("prefix", 2.5), ("embedding", 2.5)],
)
@pytest.mark.parametrize("target_segment", [0, 1])
def test_steps_with_rows_that_leave_and_beams_that_move(
    place, by, guidance, target_segment, recomputed
):
    net = made(place, condition_dim=C if by else 0, condition_by=by or "layer_norm")
    for lengths in ([2, 7, 4, 1], [3, 1, 8, 8]):
        ids, segments, lengths = sources(place, lengths)
        c = torch.randn(8, C, dtype=torch.float64, device=place.device) if by else None
        kept = []
        for kind in (Graphed, recomputed):
            if guidance is None:
                scorer = kind(
                    net, ids, segments, lengths, 3, 9, target_segment, None if c is None else c[:4]
                )
            else:
                both = [torch.cat([part, part]) for part in (ids, segments, lengths)]
                scorer = GuidedScorer(kind(net, *both, 3, 9, target_segment, c), guidance)
            torch.manual_seed(3)
            found = [scorer.start()]
            count = 4
            for t in range(9):
                found.append(scorer.step(torch.randint(5, V, (count, 3)).to(place.device)).clone())
                if t in (1, 4):
                    rows = torch.tensor([3, 0, 1] if t == 1 else [2, 1], device=place.device)
                    scorer.keep(rows)
                    count = len(rows)
                scorer.reorder(torch.randint(3, (count, 3)).to(place.device))
            kept.append(found)
        for a, b in zip(*kept, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert place.captures == 1


def test_a_full_cache_is_refused(place):
    scorer = Graphed(made(place), *sources(place, [4, 2]), 1, 2, 1)
    scorer.start()
    tokens = torch.full((2, 1), 7, device=place.device)
    scorer.step(tokens), scorer.step(tokens)
    with pytest.raises(ValueError, match=r"^max_new_tokens=2"):
        scorer.step(tokens)


@pytest.fixture
def greedy_both(recomputed):
    """Asserts that a graph gives the scores of decoding without a cache."""

    def compare(net, rows, **options):
        options = {"end": 3, "max_length": 6, "target_segment": 2} | options
        found, expected = (
            write(net, rows, Decoding("greedy"), **options, scorer=scorer).scores
            for scorer in (Graphed, recomputed)
        )
        assert torch.allclose(found, expected, rtol=0, atol=1e-10)

    return compare


def test_a_shape_is_captured_once_and_other_weights_in_its_place_count(place, greedy_both):
    net, rows = made(place), sources(place, LENGTHS)
    greedy_both(net, rows)
    greedy_both(net, tuple(part[:4] for part in rows))
    assert place.captures == 2
    for parameter in net.parameters():
        parameter.add_(0.1)
    greedy_both(net, rows)
    assert place.captures == 2
    greedy_both(net, sources(place, [40] * 9))
    greedy_both(net, rows, max_length=7)
    assert place.captures == 4
    net.word.weight = torch.nn.Parameter(net.word.weight.clone(), requires_grad=False)
    greedy_both(net, rows)
    assert place.captures == 5 and len(captured_steps.IDLE[net].steps) == 1


def test_what_was_left_behind_is_not_read(place, greedy_both):
    net, rows = made(place), sources(place, LENGTHS)
    greedy_both(net, rows)
    (step,) = captured_steps.IDLE[net].steps.values()
    for part in (step.cache.memory, step.cache.bias):
        part.fill_(torch.nan)
    step.cache.positions.fill_(-1)
    greedy_both(net, rows)
    assert place.captures == 1


def test_two_that_write_at_once_do_not_share(place, recomputed):
    net = made(place)
    tokens = torch.full((3, 2), 7, device=place.device)
    alone, together = [], []
    for scorers, found in (([recomputed] * 2, alone), ([Graphed] * 2, together)):
        torch.manual_seed(5)
        both = [kind(net, *sources(place, [5, 9, 2]), 2, 4, 1) for kind in scorers]
        for scorer in both:
            scorer.start()
        for _ in range(3):
            found += [scorer.step(tokens).clone() for scorer in both]
    assert place.captures == 2
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_captured_steps_are_few_and_take_little_memory(place, monkeypatch):
    net, rows = made(place), sources(place, [3, 5])

    def writes(max_length: int, room: int | None = None) -> list[int]:
        """The lengths for which there are steps after a call."""
        if room is not None:
            monkeypatch.setattr(captured_steps, "memory_limit", lambda device: room)
        write(
            net,
            rows,
            Decoding("greedy", min_length=2),
            end=3,
            max_length=max_length,
            scorer=Graphed,
        )
        return [step.cache.max_new_tokens for step in captured_steps.IDLE[net].steps.values()]

    lengths = range(4, 4 + captured_steps.MAX_IDLE + 3)
    left = [writes(n) for n in lengths][-1]
    assert left == list(lengths)[3:] and place.captures == len(lengths)
    assert writes(left[1]) == [left[0], *left[2:], left[1]]  # the last used is the last
    assert place.captures == len(lengths)
    size = (
        captured_steps.IDLE[net]
        .steps[next(reversed(captured_steps.IDLE[net].steps))]
        .cache.memory.nbytes
    )
    assert writes(left[1], size) == [left[1]]
    assert writes(left[1], 0) == []


def test_no_trace_in_the_network_and_gone_with_it(place, greedy_both):
    net = made(place)
    before = set(vars(net))
    greedy_both(net, sources(place, LENGTHS))
    assert set(vars(net)) == before
    torch.save(net, file := io.BytesIO())
    other = copy.deepcopy(net)
    assert file.tell() and net in captured_steps.IDLE and other not in captured_steps.IDLE
    greedy_both(other, sources(place, LENGTHS))
    assert place.captures == 2
    if place.device == "cuda":  # the stand-in holds the network, a graph does not
        shelves = len(captured_steps.IDLE)
        del other
        gc.collect()
        assert len(captured_steps.IDLE) == shelves - 1


def test_under_autocast_a_step_is_another(place):
    net, rows = made(place, dtype=torch.float32), sources(place, LENGTHS)
    tokens = torch.randint(5, V, (4, 9, 1)).to(place.device)

    def logits(**options) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(place.device, torch.bfloat16, **options):
            scorer = Graphed(net, *rows, 1, 6, 1)
            return torch.stack(
                [scorer.start()[:, None], *(scorer.step(each).clone() for each in tokens)]
            ).float()

    exact, rounded = logits(enabled=False), logits()
    again = logits()  # after the end of the autocast that it was captured in
    assert place.captures == 2 and torch.allclose(rounded, again, atol=0.05)
    assert 0 < (rounded - exact).abs().mean() < 0.1 * exact.std()


def test_rows_that_are_done_stay_where_the_host_does_not_wait(place, recomputed):
    """And the search ends as soon as all are done, a step later."""

    class Counting(recomputed):
        steps = 0

        def step(self, tokens):
            Counting.steps += 1
            return super().step(tokens)

        def keep(self, rows):
            raise AssertionError

    net = made(place)
    net.head.bias[3] = 1e3  # ends at once
    write(
        net,
        sources(place, LENGTHS),
        Decoding("greedy", min_length=2),
        end=3,
        max_length=9,
        scorer=Counting,
    )
    assert Counting.steps == 3

"""LAMB against its formula, computed number by number."""

import math

import pytest
import torch

from genlab.training.lamb import LAMB


def by_hand(weights, gradients, lr, betas, eps, decay, adapt, correct):
    """The weights (a list of floats) after a step for each of `gradients`, and the last ratio."""
    m, v, ratio = [0.0] * len(weights), [0.0] * len(weights), 1.0
    for t, gradient in enumerate(gradients, 1):
        m = [betas[0] * a + (1 - betas[0]) * g for a, g in zip(m, gradient, strict=True)]
        v = [betas[1] * a + (1 - betas[1]) * g * g for a, g in zip(v, gradient, strict=True)]
        a, b = (1 - betas[0] ** t, 1 - betas[1] ** t) if correct else (1.0, 1.0)
        moments = zip(m, v, weights, strict=True)
        u = [x / a / (math.sqrt(y / b) + eps) + decay * w for x, y, w in moments]
        size, length = math.hypot(*weights), math.hypot(*u)
        ratio = size / length if adapt and size > 0 and length > 0 else 1.0
        weights = [w - lr * ratio * x for w, x in zip(weights, u, strict=True)]
    return weights, ratio


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_are_the_formulas(correct, adapt, decay):
    torch.manual_seed(1)
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}
    options = {"dtype": torch.float64, "requires_grad": True}
    weights = [torch.randn(3, 2, **options), torch.randn(4, **options)]
    start = [w.detach().flatten().tolist() for w in weights]
    gradients = [[torch.randn_like(w) for w in weights] for _ in range(5)]
    optimizer = LAMB(weights, weight_decay=decay, adapt=adapt, bias_correction=correct, **settings)
    for given in gradients:
        for w, g in zip(weights, given, strict=True):
            w.grad = g.clone()
        optimizer.step()
    for i, w in enumerate(weights):
        given = [gradient[i].flatten().tolist() for gradient in gradients]
        switches = {"decay": decay, "adapt": adapt, "correct": correct}
        expected, ratio = by_hand(start[i], given, **switches, **settings)
        expected = torch.tensor(expected, dtype=torch.float64)
        assert torch.allclose(w.detach().flatten(), expected, rtol=1e-12, atol=1e-12)
        assert (ratio != 1.0) == adapt


def test_a_tensor_or_an_update_of_zeros_has_ratio_one():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = LAMB([w], lr=0.1)
    w.grad = torch.ones_like(w)
    optimizer.step()
    u = 0.1 / (0.001**0.5 + 1e-6)
    assert torch.allclose(w.detach(), torch.full((3,), -0.1 * u, dtype=torch.float64))
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = LAMB([w], lr=0.1, weight_decay=0.0)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert torch.equal(w.detach(), torch.ones(3, dtype=torch.float64))


def test_a_restored_optimiser_continues_exactly():
    torch.manual_seed(0)
    runs = []
    for stop in (False, True):
        w = torch.ones(5, requires_grad=True)
        optimizer = LAMB([w], lr=0.1, bias_correction=True)
        for step in range(6):
            if stop and step == 3:
                state = optimizer.state_dict()
                optimizer = LAMB([w], lr=0.1, bias_correction=True)
                optimizer.load_state_dict(state)
            w.grad = torch.sin(w.detach() * (step + 1))
            optimizer.step()
        runs.append(w.detach())
    assert torch.equal(*runs)


def test_wrong_settings_are_refused():
    for wrong in ({"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1e-8}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match=r"^LAMB: "):
            LAMB([torch.zeros(1, requires_grad=True)], **wrong)

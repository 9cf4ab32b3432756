"""The table of codes: Adam a row, projections, the fitted Gaussian, and its size on loading."""

import math

import pytest
import torch
from torch import nn

from genlab.systems.latent.codes import Codes, draw


def table(count=9, dim=5, space="sphere"):
    codes = Codes(dim, space).double()
    codes.allocate(torch.randn(count, dim, dtype=torch.double))
    return codes


def test_each_row_moves_as_adam_would_move_it_alone():
    codes = table()
    alone = [nn.Parameter(row.clone()) for row in codes.values]
    adams = [torch.optim.Adam([row], lr=0.1, betas=(0.5, 0.999)) for row in alone]
    for step in range(12):
        index = torch.randperm(9)[: 3 + step % 4]
        gradient = torch.randn(len(index), 5, dtype=torch.double)
        lr = 0.1 / (1 + step)
        codes.move(index, gradient, lr)
        for i, g in zip(index.tolist(), gradient, strict=True):
            alone[i].grad, adams[i].param_groups[0]["lr"] = g, lr
            adams[i].step()
    torch.testing.assert_close(
        codes.values, torch.stack([row.detach() for row in alone]), rtol=1e-12, atol=1e-12
    )


def test_only_the_batchs_rows_move_moments_and_all():
    codes = table()
    codes.move(torch.arange(9), torch.randn(9, 5).double(), 0.1)
    before = {name: value.clone() for name, value in codes.state_dict().items()}
    codes.move(torch.tensor([7, 2]), torch.randn(2, 5).double(), 0.1)
    for name, value in codes.state_dict().items():
        moved = (value != before[name]).view(9, -1).any(1)
        assert moved.nonzero()[:, 0].tolist() == [2, 7], name


def test_rows_are_copies_that_a_gradient_can_be_taken_of():
    codes = table()
    z = codes(torch.tensor([3, 3, 0]))
    (2 * z[0] + z[2].square()).sum().backward()
    torch.testing.assert_close(
        z.grad, torch.stack([torch.full((5,), 2.0), torch.zeros(5), 2 * codes.values[0]]).double()
    )
    assert z.is_leaf and not codes.values.requires_grad


@pytest.mark.parametrize("space", ["sphere", "ball"])
def test_codes_are_projected_onto_the_sphere_or_into_the_ball(space):
    codes = table(200, 2, space)
    inside, norm = codes.inside(codes.values), codes.values.norm(dim=1)
    if space == "sphere":
        torch.testing.assert_close(inside.norm(dim=1), torch.ones(200).double())
        torch.testing.assert_close(codes.point(codes.values), inside)
    else:
        within = norm <= 1
        assert within.any() and not within.all()
        assert torch.equal(inside[within], codes.values[within])
        torch.testing.assert_close(inside[~within], codes.values[~within] / norm[~within, None])
        codes.move(torch.arange(200), -codes.values, 5.0)  # after every move
        assert codes.values.norm(dim=1).max() <= 1 + 1e-12
    codes.project()
    torch.testing.assert_close(codes.inside(codes.values), codes.values)


def test_the_norm_is_a_constant_for_the_gradient():
    codes = table()
    z = codes(torch.arange(9))
    (3 * codes.point(z)).sum().backward()
    torch.testing.assert_close(z.grad, (3 / z.detach().norm(dim=1, keepdim=True)).expand(-1, 5))


def test_between_two_codes_the_arc_is_walked_evenly():
    codes = table()
    a, b = codes.inside(torch.randn(4, 5).double()), codes.inside(torch.randn(4, 5).double())
    arc = codes.between(a, b, 6)
    torch.testing.assert_close(arc[:, 0], a)
    torch.testing.assert_close(arc[:, -1], b)
    torch.testing.assert_close(arc.norm(dim=2), torch.ones(4, 6).double())
    angles = (arc[:, 1:] * arc[:, :-1]).sum(2).acos()
    torch.testing.assert_close(angles, (a * b).sum(1).acos()[:, None].expand(-1, 5) / 5)
    assert codes.between(a, a, 3).isfinite().all() and codes.between(a, -a, 3).isfinite().all()
    ball = table(space="ball")
    torch.testing.assert_close(ball.between(a, b, 3)[:, 1], (a + b) / 2)


def test_the_gaussian_is_that_of_the_projected_codes():
    codes = table(500)
    mean, root = codes.fit_gaussian()
    projected = codes.inside(codes.values)
    torch.testing.assert_close(mean, projected.mean(0))
    torch.testing.assert_close(root @ root, torch.cov(projected.T, correction=0))
    torch.testing.assert_close(root, root.T)


def test_a_table_takes_the_size_of_what_is_loaded():
    codes, other = table(), Codes(5).double()
    codes.move(torch.tensor([1]), torch.ones(1, 5).double(), 0.1)
    other.load_state_dict(codes.state_dict())
    assert len(other) == 9 and all(
        torch.equal(a, other.state_dict()[n]) for n, a in codes.state_dict().items()
    )
    codes.fix()
    other.load_state_dict(codes.state_dict())
    assert len(other) == 9 and len(other.mean) == 0


def test_fixed_codes_give_the_memory_of_the_moments_back():
    codes = table()
    held = codes.mean
    codes.fix()
    assert held.untyped_storage().nbytes() == 0 and len(codes.square) == len(codes.moves) == 0
    torch.testing.assert_close(codes.values.norm(dim=1), torch.ones(9).double())


def test_forgetting_starts_adam_anew():
    codes, fresh = table(), table()
    fresh.allocate(codes.values.clone())
    codes.move(torch.arange(9), torch.randn(9, 5).double(), 0.0)
    codes.forget()
    for each in (codes, fresh):
        each.move(torch.arange(9), torch.ones(9, 5).double(), 0.1)
    assert torch.equal(codes.values, fresh.values)


def test_noise_is_a_function_of_its_seed_whatever_the_number():
    assert torch.equal(draw(40, 7, 3)[:13], draw(13, 7, 3)) and not torch.equal(
        draw(13, 7, 3), draw(13, 7, 4)
    )
    assert math.isclose(draw(20_000, 2, 0).std().item(), 1, rel_tol=0.02)


def test_an_unknown_space_is_refused_by_key():
    with pytest.raises(ValueError, match=r"^model\.space='cube'"):
        Codes(4, "cube")

import math

import pytest
import torch
from torch import nn

from genlab.data.points import PointSet
from genlab.evaluation.density import (
    area_under_roc,
    density_on_grid,
    evaluate_density,
    histogram_distance,
)
from genlab.models.flow.glow import Glow
from genlab.systems.flow.flow import Flow

VIEW = (-6.0, 6.0, -6.0, 6.0)


class Scaled(nn.Module):
    """z = x / std."""

    def __init__(self, *std: float, shape=(2,)):
        super().__init__()
        self.std, self.shape, self.dims = torch.tensor(std), shape, math.prod(shape)

    def forward(self, x):
        return (x / self.std).flatten(1), -self.std.log().expand(x.shape[1:]).sum().expand(len(x))

    def inverse(self, z):
        return z.unflatten(1, self.shape) * self.std


def flow(net: nn.Module, **options) -> Flow:
    return Flow(net, torch.optim.Adam, 1e-3, **options).eval()


def test_the_area_under_the_curve_is_that_of_all_pairs():
    a, b = torch.randint(20, (50,)).double(), torch.randint(25, (70,)).double()
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert area_under_roc(a, b) == pytest.approx(pairs.mean().item(), abs=1e-12)
    assert area_under_roc(a, b) == pytest.approx(1 - area_under_roc(b, a), abs=1e-12)
    assert area_under_roc(torch.ones(3), torch.zeros(2)) == 1


def test_a_density_on_a_grid_has_rows_of_constant_y():
    density = density_on_grid(flow(Scaled(0.5, 1.0)), VIEW, 200)
    y = ((torch.arange(200).double() + 0.5) / 200 - 0.5) * 12
    normal = torch.distributions.Normal(0.0, torch.tensor([0.5, 1.0]))
    expected = normal.log_prob(torch.stack([y * 0 + y[60], y], 1)).sum(1)
    assert torch.allclose(density[:, 60], expected.exp().double(), atol=1e-6)
    assert density.sum().item() * (12 / 200) ** 2 == pytest.approx(1, abs=1e-4)


def test_samples_of_another_density_are_far_from_it():
    density = density_on_grid(flow(Scaled(1.0, 1.0)), VIEW, 600)
    right, floor = histogram_distance(density, torch.randn(20_000, 2).double(), VIEW, 0)
    wrong, _ = histogram_distance(density, 1.5 * torch.randn(20_000, 2).double(), VIEW, 0)
    outside, _ = histogram_distance(density, torch.full((100, 2), 9.0).double(), VIEW, 0)
    assert abs(right - floor) < 0.02 and wrong > 0.25 and outside > 0.99


def test_a_flow_of_points_is_measured_whole():
    data = PointSet("eight_gaussians", num_test=3000)
    other = PointSet("checkerboard", num_test=2000)
    found = evaluate_density(flow(Scaled(2.0, 2.0)), data, num_samples=2000, ood=other, view=VIEW)
    values = {name: entry["value"] for name, entry in found.results.items()}
    points = data.arrays("test").double()
    nll = (points.square().sum(1) / 8 + math.log(2 * math.pi * 4)).mean().item()
    assert values["nll"] == pytest.approx(nll, abs=1e-5)
    assert values["nll_floor"] < values["nll"]
    error = (points.square().sum(1) / 8).std().item() / 3000**0.5
    assert found.results["nll"]["standard_error"] == pytest.approx(error, 1e-4)
    assert values["integral"] == pytest.approx(1, abs=0.02)
    assert values["reconstruction_error"] < 1e-5
    assert 0 <= values["ood_auroc"] <= 1 and len(found.scores["checkerboard"]) == 2000
    assert abs(values["histogram_distance"] - values["histogram_floor"]) < 0.05
    assert {"value", "split", "count", "seed", "features"} <= found.results["integral"].keys()


def test_a_likelihood_without_a_bijection_is_measured_alone():
    class Gaussian:
        modality, measure, device = "point", "nll", torch.device("cpu")

        def eval(self):
            return self

        def log_prob(self, inputs, seed=0):
            return torch.distributions.Normal(0, 2).log_prob(inputs).sum(1)

        def scaled(self, log_prob):
            return -log_prob

    data = PointSet("moons", num_test=50)
    found = evaluate_density(Gaussian(), data, view=VIEW)
    assert list(found.results) == ["nll"] and found.results["nll"]["dims"] == 2
    assert found.density is None and found.certificate is None


def test_an_inverse_that_is_none_is_seen():
    class Wrong(Scaled):
        def inverse(self, z):
            return super().inverse(z) + 0.25

    data = PointSet("moons", num_test=50)
    found = evaluate_density(flow(Wrong(1.0, 1.0)), data, num_samples=10, view=VIEW)
    assert found.results["reconstruction_error"]["value"] == pytest.approx(0.25, abs=1e-5)
    assert found.results["reconstruction_error_noise"]["value"] == pytest.approx(0.25, abs=1e-5)


def test_what_a_network_certifies_and_how_its_inverse_went_are_measured():
    class Certified(Scaled):
        def certificate(self):
            return {"lipschitz": 0.5, "layers": [{"bound": 0.5}]}

        def inversions(self):
            return {"iterations": 3}

    data = PointSet("moons", num_test=50)
    found = evaluate_density(flow(Certified(1.0, 1.0)), data, num_samples=10, view=VIEW)
    assert found.results["certificate_lipschitz"]["value"] == 0.5
    assert found.results["inverse_iterations"]["value"] == 3
    assert found.certificate["layers"] == [{"bound": 0.5}]


def test_a_trained_glow_is_a_density():
    """After some steps on moons: the integral over the plane is 1, and samples fall where the
    density says.
    """
    torch.manual_seed(0)
    data, system = PointSet("moons"), flow(Glow((2,), num_steps=8, hidden_dim=32))
    optimizer = torch.optim.Adam(system.net.parameters(), 5e-3)
    system.train()
    for part in data.arrays("train")[: 150 * 256].split(256):
        optimizer.zero_grad()
        loss = -system.log_prob_of(part).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(system.net.parameters(), 1.0)
        optimizer.step()
    found = evaluate_density(system, data, num_samples=10_000, view=VIEW)
    values = {name: entry["value"] for name, entry in found.results.items()}
    assert values["nll"] < 2.9  # of a Gaussian with the covariance of the moons: 3.3
    assert values["integral"] == pytest.approx(1, abs=1e-2)
    assert values["histogram_distance"] < values["histogram_floor"] + 0.02
    assert values["reconstruction_error"] < 1e-4

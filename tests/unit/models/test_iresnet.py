import math

import pytest
import torch
from torch.autograd.functional import jacobian

from genlab.models.flow.iresnet import IResNet
from genlab.models.flow.iresnet_classifier import IResNetClassifier
from genlab.models.flow.residual_flow import ResidualFlow
from genlab.nn.bijection import Bijection, Certified, ClassifiesCodes, Estimated
from genlab.nn.certificate import BoundViolated, certificate
from genlab.nn.lipschitz import LipschitzMap, apply_map
from genlab.nn.log_det import Exact, Roulette, Truncated, Within

MAKE = {
    "points": lambda **o: IResNet([2], 3, 8, **o),
    "image": lambda **o: IResNet([1, 4, 4], 2, 4, **o),
    "odd channels": lambda **o: IResNet(
        [3, 4, 4], [1, 2], 4, squeeze_first=False, actnorm="after", dense_blocks=1, **o
    ),
    "residual flow": lambda **o: ResidualFlow([1, 4, 4], 1, 4, dense_blocks=2, dense_width=8, **o),
    "residual flow of points": lambda **o: ResidualFlow([3], 2, 8, num_layers=1, **o),
}


def started(name, **options):
    """A network in float64 with initialised ActNorms and weights away from their start, and its
    inputs.
    """
    net = MAKE[name](**options).double()
    x = torch.randn(16, *net.shape).double() * 0.7 + 0.3
    net.train()(x)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, LipschitzMap):
                layer.weight.mul_(3)
    net.refresh()
    return net, x


@pytest.mark.parametrize("name", MAKE)
def test_log_det_is_that_of_the_jacobian_and_the_inverse_is_one(name):
    net, x = started(name, log_det=Exact(), tolerance=1e-12)
    assert isinstance(net, Bijection) and isinstance(net, Certified)
    z, log_det = net(x)
    assert z.shape == (16, net.dims) and log_det.shape == (16,)
    for i in range(3):
        whole = jacobian(lambda t: net(t[None])[0][0], x[i]).flatten(1)
        assert abs(torch.linalg.slogdet(whole).logabsdet - log_det[i]) < 1e-8
    for inputs in (x, torch.randn_like(x), 50 * torch.randn_like(x)):
        error = (net.inverse(net(inputs)[0].detach()) - inputs).abs().max()
        assert error < 1e-9 * max(1, inputs.abs().max())
    assert net.inversions()["iterations"] >= len(net.blocks()) and net.inversions()["error"] < 1e-9


@pytest.mark.parametrize("name", MAKE)
def test_evaluation_is_within_four_standard_errors_of_the_exact_value_and_repeats(name):
    net, x = started(name, log_det=Roulette(), eval_log_det=Within(1e-5), eval_num_probes=16)
    x = x[:4]
    exact = MAKE[name](log_det=Exact()).double()
    exact.load_state_dict(net.state_dict())
    net.eval()
    expected, values = exact.eval()(x)[1], torch.stack([net(x)[1] for _ in range(12)])
    assert ((values.mean(0) - expected).abs() < 5 * values.std(0) / math.sqrt(12) + 1e-3).all()
    torch.manual_seed(1)
    first = net(x)[1]
    torch.manual_seed(1)
    assert torch.equal(net(x)[1], first)


@pytest.mark.parametrize("name", MAKE)
def test_every_parameter_gets_a_gradient_from_the_likelihood(name):
    net, x = started(name, log_det=Truncated(3))
    z, log_det = net(x)
    (0.5 * z.square().sum(1) - log_det).mean().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), parameter_name
    net.zero_grad()
    net(x)[1].mean().backward()  # and each weight from the log-determinant alone
    for parameter_name, parameter in net.named_parameters():
        if parameter_name.endswith("weight"):
            assert (parameter.grad != 0).any(), parameter_name


def test_a_reloaded_network_is_the_same_and_still_certified():
    net, x = started("image", log_det=Truncated(3))
    again = MAKE["image"](log_det=Truncated(3)).double()
    assert certificate(again)["lipschitz"] < 1
    again.load_state_dict(net.state_dict())
    for mode in (False, True):  # a batch in training mode must not initialise the ActNorms again
        net.train(mode)
        again.train(mode)
        torch.manual_seed(7)
        one = net(3 * x)
        torch.manual_seed(7)
        other = again(3 * x)
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert again.certificate() == net.certificate()


def test_the_certificate_bounds_the_operators_and_the_whole():
    net, _ = started("image", log_det=Truncated(5), eval_log_det=Truncated(20))
    found = net.certificate()
    layers = {entry["name"]: entry for entry in found["layers"]}
    for name, layer in net.named_modules():
        if not isinstance(layer, LipschitzMap):
            continue
        weight = layer.normalised().detach()
        size = layer.size if weight.dim() == 4 else ()
        basis = torch.eye(layer.dims).double().view(layer.dims, -1, *size)
        norm = torch.linalg.matrix_norm(apply_map(basis, weight).flatten(1), 2).item()
        entry = layers[name]
        assert entry["exact"] == pytest.approx(norm, rel=1e-9)
        assert entry["fft"] >= norm * (1 - 1e-12)
        assert entry["estimate"] <= norm * (1 + 1e-9) <= 0.9 * (1 + 1e-3)
    for block, entry in zip(net.blocks(), found["blocks"], strict=True):
        a, b = (torch.randn(64, *_shape(block)).double() for _ in range(2))
        tensors = block.branch.tensors()
        difference = block.branch.linear(a, tensors)[0] - block.branch.linear(b, tensors)[0]
        moved = difference.flatten(1).norm(dim=1)
        assert (moved / (a - b).flatten(1).norm(dim=1)).max() <= entry["lipschitz"] < 1
    assert 0 < found["bias_bits_per_dim"] < 0.02
    assert found["iterations"] == sum(block["iterations"] for block in found["blocks"])


def _shape(block):
    weight, size = block.branch.maps[0].weight, block.branch.maps[0].size
    return (weight.shape[1], *size) if weight.dim() == 4 else (weight.shape[1],)


def test_a_violated_bound_is_an_error():
    net, _ = started("image", log_det=Truncated(3))
    with torch.no_grad():
        net.blocks()[1].branch.maps[0].weight.normal_(0, 1)  # without a refresh
    with pytest.raises(BoundViolated, match=r"above its coeff 0\.9"):
        net.certificate()
    net.refresh()
    assert net.certificate()["lipschitz"] < 1
    with pytest.raises(BoundViolated, match="Lipschitz bound"):
        loose = MAKE["image"](log_det=Truncated(3), coeff=None)
        for block in loose.blocks():
            for layer in block.branch.maps:
                layer.weight.data.mul_(10)
        loose.certificate()


def test_bounds_hold_for_averaged_weights_once_refreshed():
    net, x = started("image", log_det=Truncated(3))
    optimizer = torch.optim.Adam(net.parameters(), 3e-2)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    for _ in range(20):
        z, log_det = net(x)
        optimizer.zero_grad()
        (0.5 * z.square().sum(1) - log_det).mean().backward()
        optimizer.step()
        net.refresh()
        assert net.certificate()["lipschitz"] < 1
    averaged = {
        k: (start[k] + v) / 2 if v.is_floating_point() else v for k, v in net.state_dict().items()
    }
    net.load_state_dict(averaged)
    net.refresh()
    assert net.certificate()["lipschitz"] < 1


def test_surrogate_is_the_biased_series_in_training_alone():
    net = MAKE["points"](log_det=Truncated(3))
    assert isinstance(net, Estimated) and net.surrogate and not net.eval().surrogate
    for series in (Exact(), Roulette()):
        assert not MAKE["points"](log_det=series).surrogate


def test_the_classifier_gives_the_image_back_and_refuses_a_density_of_added_channels():
    net = IResNetClassifier([1, 4, 4], 3, 1, 4, inject=3, tolerance=1e-12).double()
    x = torch.randn(8, 1, 4, 4).double()
    z, log_det = net.train()(x)
    assert z.shape == (8, 64) and log_det.isnan().all() and net.bounded
    assert isinstance(net, ClassifiesCodes) and net.logits(z).shape == (8, 3)
    assert (net.inverse(z) - x).abs().max() < 1e-9
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    torch.nn.functional.cross_entropy(net.logits(z), labels).backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.head.parameters())
    assert not IResNetClassifier([1, 4, 4], 3, 1, 4, coeff=None).bounded
    for options, key in (
        ({"inject": 1, "log_det": Exact()}, r"^net\.inject=1"),
        ({"head": "mean"}, r"^net\.head="),
        ({"factor_out": True}, r"^net\.factor_out="),
    ):
        with pytest.raises(ValueError, match=key):
            IResNetClassifier([1, 4, 4], 3, 1, 4, **options)


def test_what_is_refused():
    for make, key in (
        (lambda: IResNet([2], 3, 8, num_scales=2), r"^net\.num_scales=2"),
        (lambda: IResNet([1, 8, 8], [1, 1], 8, num_scales=3), r"^net\.num_blocks="),
        (lambda: IResNet([1, 6, 6], 1, 8, num_scales=3), r"^net\.shape="),
    ):
        with pytest.raises(ValueError, match=key):
            make()

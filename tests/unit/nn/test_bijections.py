"""Every exact bijection against a brute-force Jacobian in float64: a wrong sign would pass a round
trip.
"""

import copy
import math

import pytest
import torch
from torch import nn

from genlab.models.flow.glow import Glow, max_halvings
from genlab.models.flow.realnvp import RealNVP, checkerboard
from genlab.nn.actnorm import ActNorm
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.coupling import ConditionalGaussian, Coupling, MaskedCoupling, conv_net, mlp
from genlab.nn.invertible_linear import InvertibleLinear
from genlab.nn.pixels import Pixels, bits_per_dim
from genlab.nn.squeeze import Squeeze, squeezed


def small_conv(inputs: int, outputs: int) -> nn.Module:
    return conv_net(inputs, 6, outputs)


def small_mlp(inputs: int, outputs: int) -> nn.Module:
    return mlp(inputs, 6, outputs)


KINDS = ("additive", "sigmoid", "tanh")
IMAGE, POINT = (4, 2, 4), (5,)
LAYERS = {
    "actnorm image": (lambda: ActNorm(4), IMAGE),
    "actnorm point": (lambda: ActNorm(5), POINT),
    "squeeze": (Squeeze, IMAGE),
    "linear lu image": (lambda: InvertibleLinear(4), IMAGE),
    "linear lu point": (lambda: InvertibleLinear(5), POINT),
    "linear plain image": (lambda: InvertibleLinear(4, lu=False), IMAGE),
    "linear plain point": (lambda: InvertibleLinear(5, lu=False), POINT),
    "chain": (
        lambda: Chain([ActNorm(5), InvertibleLinear(5), Coupling(5, small_mlp, "tanh")]),
        POINT,
    ),
    "factor out": (
        lambda: MultiScale([Chain([ActNorm(4)]), Chain([ActNorm(2)])], [IMAGE, (2, 2, 4)]),
        IMAGE,
    ),
    "realnvp image": (lambda: RealNVP((1, 4, 4), hidden_dim=6, num_blocks=1), (1, 4, 4)),
    "realnvp odd channels": (
        lambda: RealNVP((3, 4, 4), hidden_dim=4, num_blocks=1, num_scales=2),
        (3, 4, 4),
    ),
    "realnvp point": (lambda: RealNVP((2,), num_couplings=4, hidden_dim=6), (2,)),
    "glow image": (lambda: Glow((1, 4, 4), num_steps=2, hidden_dim=6, num_scales=2), (1, 4, 4)),
    "glow colour": (lambda: Glow((3, 4, 2), num_steps=1, hidden_dim=4, lu=False), (3, 4, 2)),
    "glow point": (lambda: Glow((2,), num_steps=4, hidden_dim=6), (2,)),
    "glow three numbers": (lambda: Glow((3,), num_steps=3, hidden_dim=6), (3,)),
}
for kind in KINDS:
    for swap in (False, True):
        LAYERS[f"coupling {kind} {swap}"] = (
            lambda k=kind, s=swap: Coupling(5, small_mlp, k, s),
            POINT,
        )
    LAYERS[f"coupling of images {kind}"] = (lambda k=kind: Coupling(4, small_conv, k), IMAGE)
    LAYERS[f"masked {kind}"] = (
        lambda k=kind: MaskedCoupling(checkerboard(IMAGE), small_conv, k),
        IMAGE,
    )


def shaken(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The module in float64, with initialised ActNorms and every parameter moved from its start:
    zeros would hide errors.
    """
    module = module.double().train()
    module(torch.randn(16, *shape).double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_that_of_the_jacobian_and_the_inverse_is_one(name):
    make, shape = LAYERS[name]
    module = shaken(make(), shape)
    x = torch.randn(3, *shape).double()
    y, log_det = module(x)
    assert log_det.shape == (3,) and log_det.dtype == torch.float64
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: module(one[None])[0].flatten(), x[i]
        ).flatten(1)
        assert jacobian.shape[0] == jacobian.shape[1]
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det[i], atol=1e-8)
    assert torch.allclose(module.inverse(y), x, atol=1e-9)
    z = x.reshape(y.shape)
    assert torch.allclose(module(module.inverse(z))[0], z, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "squeeze"])
def test_every_parameter_receives_a_gradient_of_the_likelihood(name):
    make, shape = LAYERS[name]
    module = shaken(make(), shape)
    z, log_det = module(torch.randn(16, *shape).double())
    (0.5 * z.square().sum() - log_det.sum()).backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(
    "name",
    ["coupling sigmoid False", "coupling tanh True", "masked tanh", "coupling of images sigmoid"],
)
def test_the_log_det_alone_trains_the_network_of_a_coupling(name):
    make, shape = LAYERS[name]
    module = shaken(make(), shape)
    (-module(torch.randn(16, *shape).double())[1].sum()).backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters())


def test_a_conditional_gaussian_is_a_bijection_of_what_leaves():
    module = ConditionalGaussian(2, 3).double()
    for p in module.parameters():
        p.data += 0.3 * torch.randn_like(p)
    kept, out = torch.randn(2, 2, 2, 2).double(), torch.randn(2, 3, 2, 2).double()
    z, log_det = module(kept, out)
    jacobian = torch.autograd.functional.jacobian(
        lambda one: module(kept[:1], one[None])[0].flatten(), out[0]
    ).flatten(1)
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det[0], atol=1e-10)
    assert torch.allclose(module.inverse(kept, z), out, atol=1e-12)
    mean, log_std = module._moments(kept)
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(out).flatten(1).sum(1)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    assert torch.allclose(standard + log_det, density, atol=1e-10)


def test_recomputing_changes_no_gradient():
    stored, saved = (
        Glow((1, 4, 4), num_steps=2, hidden_dim=4, recompute=again).double()
        for again in (False, True)
    )
    saved.load_state_dict(stored.state_dict())
    x, gradients = torch.randn(4, 1, 4, 4).double(), []
    for net in (stored, saved):
        net.train()
        z, log_det = net(x)
        (z.square().sum() - log_det.sum()).backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


# --- ActNorm --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 4, 4)])
def test_actnorm_standardises_its_first_training_batch_and_no_other(shape):
    norm, x = ActNorm(3).double(), 3 * torch.randn(*shape).double() + 2
    assert torch.equal(norm.eval()(x)[0], x) and not norm.initialised  # evaluation learns nothing
    y, _ = norm.train()(x)
    dims = [d for d in range(x.dim()) if d != 1]
    assert torch.allclose(y.mean(dims), torch.zeros(3).double(), atol=1e-12)
    assert torch.allclose(y.var(dims, correction=0), torch.ones(3).double(), atol=1e-12)
    scale = norm.log_scale.clone()
    norm(100 * x)
    assert torch.equal(norm.log_scale, scale)


def test_actnorm_remembers_in_its_state_that_it_is_initialised():
    norm = ActNorm(2).train()
    norm(5 * torch.randn(32, 2))
    other = ActNorm(2).train()
    other.load_state_dict(norm.state_dict())
    x = torch.randn(8, 2)
    assert torch.equal(other(x)[0], norm(x)[0])
    other.load_state_dict(ActNorm(2).state_dict())  # and that it did not
    other(x)
    assert other.initialised and not torch.equal(other.log_scale, norm.log_scale)


def test_the_network_of_a_coupling_is_its_layers_one_after_another():
    net = conv_net(2, 6, 4).double().train()
    layers = copy.deepcopy(net)

    def one_by_one(x):
        for layer in layers:
            x = layer(x)[0] if isinstance(layer, ActNorm) else layer(x)
        return x

    for _ in range(2):  # the first initialises the ActNorms
        x = torch.randn(5, 2, 4, 4).double()
        torch.testing.assert_close(net(x), one_by_one(x))
        for started, expected in zip(net.parameters(), layers.parameters(), strict=True):
            torch.testing.assert_close(started, expected)
            started.data += (change := 0.1 * torch.randn_like(started))
            expected.data += change


def test_actnorm_bounds_the_scale_of_a_constant_feature():
    norm = ActNorm(2, variance_floor=0.01).train()
    norm(torch.stack([torch.ones(8), torch.randn(8)], 1))
    assert torch.allclose(norm.log_scale[0].exp(), torch.tensor(10.0)) and norm.shift[0] == -1


# --- shapes ---------------------------------------------------------------------------------------


def test_squeeze_refuses_what_does_not_divide():
    assert squeezed((1, 28, 28)) == (4, 14, 14)
    with pytest.raises(ValueError, match=r"^net\.shape="):
        squeezed((1, 7, 7))


def test_halvings_stop_at_two_pixels_or_an_odd_side():
    assert [max_halvings([1, side, side]) for side in (4, 8, 28, 32)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Glow((2,), num_scales=2), "net.num_scales"),
        (lambda: Glow((1,)), "net.shape"),
        (lambda: Glow((2, 2)), "net.shape"),
        (lambda: Glow((2,), num_steps=0), "net.num_steps"),
        (lambda: Glow((2,), num_steps=1, hidden_dim=2, coupling="spline"), "net.coupling"),
        (lambda: RealNVP((2,), num_scales=3), "net.num_scales"),
        (lambda: RealNVP((2,), num_blocks=3), "net.num_blocks"),
        (lambda: RealNVP((1, 4, 4), num_couplings=3), "net.num_couplings"),
        (lambda: RealNVP((1, 6, 6), num_scales=3), "net.shape"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_key(make, key):
    with pytest.raises(ValueError, match=key):
        make()


# --- pixels ---------------------------------------------------------------------------------------


def test_a_uniform_density_has_log2_of_the_grey_values_bits():
    pixels = Pixels(256, alpha=0)
    images = torch.randint(256, (4, 1, 28, 28)) / 127.5 - 1
    _, log_det = pixels(images, torch.rand(4, 1, 28, 28))
    # log p of the uniform density on [-0.5, 0.5] is 0.
    assert torch.allclose(bits_per_dim(log_det, 784), torch.full((4,), 8.0), atol=1e-6)


def test_a_known_gaussian_has_its_closed_form():
    pixels, std = Pixels(256, alpha=0).double(), 0.2
    images = torch.randint(256, (2, 3, 4, 4)).double() / 127.5 - 1
    x, log_det = pixels(images, 0.5)
    log_prob = torch.distributions.Normal(0.0, std).log_prob(x).flatten(1).sum(1) + log_det
    u = ((images + 1) * 127.5 + 0.5) / 256 - 0.5
    nats = u**2 / (2 * std**2) + math.log(std * math.sqrt(2 * math.pi) * 256)
    expected = nats / math.log(2)
    assert torch.allclose(bits_per_dim(log_prob, 48), expected.flatten(1).mean(1), atol=1e-10)


@pytest.mark.parametrize("num_bins", [2, 17, 256])
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05])
def test_dequantised_values_stay_in_their_bin_and_come_back(num_bins, alpha):
    pixels = Pixels(num_bins, alpha).double()
    values = torch.arange(num_bins).double().repeat(3).view(1, 1, 3, num_bins)
    images = values / (num_bins - 1) * 2 - 1
    for noise in (0.0, 0.5, 1 - 1e-6, torch.rand_like(images)):
        x, _ = pixels(images, noise)
        assert torch.allclose(pixels.inverse(x + 1e-9), images, atol=1e-12)
    x, log_det = pixels(images, 0.5)
    jacobian = torch.autograd.functional.jacobian(
        lambda u: pixels(images, u)[0].flatten(), torch.full((1,), 0.5).double()
    )
    # d x / d noise is diagonal.
    assert torch.allclose(jacobian.abs().log().sum(), log_det[0], atol=1e-8)
    assert torch.allclose(pixels.inverse(torch.full_like(x, 50.0)), torch.ones_like(x))


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_what_overflowed_is_an_image_all_the_same(alpha):
    overflowed = torch.tensor([math.inf, -math.inf, math.nan])
    white, black, grey = Pixels(256, alpha).inverse(overflowed).tolist()
    assert (white, black) == (1, -1) and abs(grey) < 0.01


def test_stored_digits_are_their_17_values():
    stored = (torch.arange(17) * 255 + 8) // 16  # as genlab.data.images.sets scales them to bytes
    values = Pixels(17).values(stored.view(1, 1, 1, 17) / 127.5 - 1)
    assert torch.equal(values.flatten(), torch.arange(17.0))


def test_the_number_of_grey_values_is_in_the_state():
    pixels = Pixels(17)
    again = Pixels()
    again.load_state_dict(pixels.state_dict())
    assert again.levels == 17


@pytest.mark.parametrize(
    ("options", "key"), [({"alpha": 0.5}, "model.alpha"), ({"num_bins": 1}, "model.num_bins")]
)
def test_pixels_refuse_what_makes_no_sense(options, key):
    with pytest.raises(ValueError, match=key):
        Pixels(**options)

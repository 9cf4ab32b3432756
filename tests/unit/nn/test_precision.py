"""TF32 is off where an inverse or its gradient is computed, and is what it was before elsewhere."""

from functools import partial

import pytest
import torch
from torch import nn

from genlab.models.flow.glow import Glow
from genlab.models.flow.iresnet_classifier import IResNetClassifier
from genlab.models.flow.realnvp import RealNVP
from genlab.nn.log_det import Exact
from genlab.nn.precision import float32_convolutions
from genlab.systems.flow.classifier import InvertibleClassifier
from genlab.systems.flow.flow import Flow

ADAM = partial(torch.optim.Adam)
NETS = {
    "glow": lambda: Glow([1, 4, 4], num_steps=1, hidden_dim=4),
    "realnvp": lambda: RealNVP([1, 4, 4], hidden_dim=4, num_blocks=1),
    "iresnet": lambda: IResNetClassifier([1, 4, 4], 3, 1, 4, log_det=Exact()),
}


@pytest.fixture(params=[True, False], autouse=True)
def setting(request, monkeypatch):
    """What the process has chosen."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


@pytest.fixture
def seen(monkeypatch):
    """The setting at each convolution."""
    found = []
    plain = nn.functional.conv2d

    def conv2d(*arguments, **options):
        found.append(torch.backends.cudnn.allow_tf32)
        return plain(*arguments, **options)

    monkeypatch.setattr("genlab.nn.lipschitz.conv2d", conv2d)
    monkeypatch.setattr(nn.functional, "conv2d", conv2d)
    monkeypatch.setattr(
        nn.Conv2d,
        "_conv_forward",
        lambda self, x, w, b: conv2d(
            x, w, b, self.stride, self.padding, self.dilation, self.groups
        ),
    )
    return found


def test_the_old_value_is_back_on_exit_and_on_an_error(setting):
    with pytest.raises(KeyError), float32_convolutions():
        assert torch.backends.cudnn.allow_tf32 is False
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 is setting


@pytest.mark.parametrize("name", NETS)
def test_networks_convolve_without_tf32(name, seen, setting):
    net = NETS[name]().train()
    assert torch.backends.cudnn.allow_tf32 is setting  # a constructor changes nothing
    z, _ = net(torch.randn(8, 1, 4, 4))
    net.eval().inverse(z.detach())
    if name == "iresnet":
        net.logits(z)
        net.refresh()
        net.certificate()
    assert seen and not any(seen)
    assert torch.backends.cudnn.allow_tf32 is setting


@pytest.mark.parametrize("system", [Flow, InvertibleClassifier])
def test_systems_go_backward_without_tf32(system, setting, seen):
    system = system(NETS["iresnet"](), ADAM, 1e-3)
    found = []
    weight = system.net.blocks()[0].branch.maps[0].weight
    weight.register_hook(lambda gradient: found.append(torch.backends.cudnn.allow_tf32))
    batch = {"image": torch.rand(4, 1, 4, 4) * 2 - 1, "label": torch.tensor([0, 1, 2, 0])}
    system.log = system.log_dict = lambda *arguments, **options: None
    system.backward(system.train().training_step(batch, 0))
    assert found == [False] and seen and not any(seen)
    assert torch.backends.cudnn.allow_tf32 is setting

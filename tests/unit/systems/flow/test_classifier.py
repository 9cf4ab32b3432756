from functools import partial

import pytest
import torch

from genlab.models.flow.iresnet import IResNet
from genlab.models.flow.iresnet_classifier import IResNetClassifier
from genlab.nn.log_det import Exact
from genlab.systems.flow.classifier import HybridFlow, InvertibleClassifier, shifted

ADAM = partial(torch.optim.Adam)


def images(num=6):
    return torch.randint(0, 17, (num, 1, 4, 4)) / 16 * 2 - 1.0


def classifier(**options):
    net = IResNetClassifier([1, 4, 4], 3, 1, 4, inject=3, **options)
    system = InvertibleClassifier(net, ADAM, 1e-3)
    system.pixels.levels.fill_(17)
    system.train().outputs(images(16))
    return system.eval()


def test_a_classifier_is_exactly_invertible_and_makes_no_images():
    system, x = classifier(), images()
    codes = system.encode(x)
    assert codes.shape == (6, system.latent_dim) == (6, 64)
    assert torch.equal(system.decode(codes), x) and torch.equal(system.reconstruct(x), x)
    assert system.classify(x).shape == (6, 3)
    assert not any(hasattr(system, verb) for verb in ("sample", "log_prob", "interpolate"))


def test_shifted_moves_whole_images_by_at_most_as_many_pixels():
    x = torch.full((200, 1, 7, 7), -1.0)
    x[:, :, 3, 3] = 1
    moved = shifted(x, 2)
    rows, columns = (moved[:, 0] > 0).nonzero()[:, 1:].T
    assert len(rows) == 200 and (moved > 0).sum() == 200
    assert rows.min() == columns.min() == 1 and rows.max() == columns.max() == 5
    assert torch.equal(shifted(x, 0), x)


def test_the_hybrid_loss_is_cross_entropy_and_bits():
    net = IResNetClassifier([1, 4, 4], 3, 1, 4, head="conv", log_det=Exact())
    system = HybridFlow(net, ADAM, 1e-3, num_bins=17, likelihood_weight=2.0)
    x, y, logged = images(), torch.tensor([0, 1, 2, 0, 1, 2]), {}
    system.log_dict = logged.update
    torch.manual_seed(1)
    loss = system.train().training_step({"image": x, "label": y}, 0)
    torch.manual_seed(1)
    noise = torch.rand_like(x)
    bits = system.scaled(system.log_prob_of(x, noise)).mean()
    entropy = torch.nn.functional.cross_entropy(net.logits(system(x, noise)[0]), y)
    torch.testing.assert_close(loss, entropy / torch.log(torch.tensor(2.0)) + 2 * bits)
    assert {"train/cross_entropy", "train/accuracy", "train/bits_per_dim"} <= logged.keys()
    loss.backward()
    assert all(p.grad is not None for p in system.parameters())


def test_what_is_refused():
    net = IResNetClassifier([1, 4, 4], 3, 1, 4, inject=1)
    with pytest.raises(ValueError, match=r"^net: "):
        HybridFlow(net, ADAM, 1e-3)
    with pytest.raises(ValueError, match=r"^net: "):
        HybridFlow(IResNet([1, 4, 4], 1, 4, log_det=Exact()), ADAM, 1e-3)
    with pytest.raises(ValueError, match=r"^model\.likelihood_weight=0"):
        HybridFlow(net, ADAM, 1e-3, likelihood_weight=0.0)
    with pytest.raises(ValueError, match=r"^model\.shift=-1"):
        InvertibleClassifier(net, ADAM, 1e-3, shift=-1)
    with pytest.raises(ValueError, match=r"^model\.num_decay_steps=5"):
        InvertibleClassifier(net, ADAM, 1e-3, num_warmup_steps=9, num_decay_steps=5)

"""A flow of images in one direction, as modules that can be exported."""

import copy

import torch
from torch import Tensor, nn

from genlab.nn.invertible_linear import InvertibleLinear, apply_matrix
from genlab.nn.residual import ResidualBlock, without_log_det

__all__ = ["flow_graphs"]


def flow_graphs(pixels: nn.Module, net: nn.Module) -> dict[str, nn.Module]:
    """`encode`, and `decode` unless the network inverts by an iteration.

    Args:
        pixels: genlab.nn.pixels.Pixels, the map before the network.
        net: A genlab.nn.bijection.Bijection.
    """
    graphs: dict[str, nn.Module] = {"encode": Encoder(pixels, net)}
    if not any(isinstance(module, ResidualBlock) for module in net.modules()):
        graphs["decode"] = Decoder(pixels, net)
    return graphs


class Encoder(nn.Module):
    """Images -> codes, without the log-determinant."""

    def __init__(self, pixels: nn.Module, net: nn.Module):
        super().__init__()
        self.pixels = pixels
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        with without_log_det(self.net):
            return self.net(self.pixels(images)[0])[0]


class Decoder(nn.Module):
    """Codes -> images, without the log-determinant."""

    def __init__(self, pixels: nn.Module, net: nn.Module):
        super().__init__()
        self.pixels = pixels
        self.net = for_inverse(net)

    def forward(self, codes: Tensor) -> Tensor:
        return self.pixels.inverse(self.net.inverse(codes))


class Inverted(nn.Module):
    """The inverse of a trained InvertibleLinear.

    Its matrix is inverted here, once, because ONNX cannot invert a matrix.
    """

    def __init__(self, linear: InvertibleLinear):
        super().__init__()
        weight, _ = linear.matrix()
        self.register_buffer("weight", torch.linalg.inv(weight.detach().double()).to(weight.dtype))

    def inverse(self, y: Tensor) -> Tensor:
        return apply_matrix(self.weight, y)


def for_inverse(net: nn.Module) -> nn.Module:
    """A copy of `net` that serves for its inverse only."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, InvertibleLinear):
                setattr(module, name, Inverted(child))
    return net

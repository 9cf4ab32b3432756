"""Attention of every pixel to every other."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """x (B, C, H, W) -> x + gamma o(softmax(theta(x)^T phi(x)) g(x)), H and W even.

    "Self-Attention Generative Adversarial Networks", Zhang et al. 2019, arXiv 1805.08318, in the
    form that its authors ran (brain-research/self-attention-gan, BigGAN), which the paper does not
    describe: theta and phi are 1x1 convolutions to C/8 channels, g one to C/2 and o one back to C,
    none with a bias; phi and g are max-pooled by 2, so the softmax is over H W / 4 keys; the scores
    are not scaled. gamma starts at 0, the layer as the identity. Below C = 8 the projections keep
    one channel.
    """

    def __init__(self, num_features: int):
        super().__init__()
        narrow, wide = max(1, num_features // 8), max(1, num_features // 2)
        self.theta = nn.Conv2d(num_features, narrow, 1, bias=False)
        self.phi = nn.Conv2d(num_features, narrow, 1, bias=False)
        self.g = nn.Conv2d(num_features, wide, 1, bias=False)
        self.o = nn.Conv2d(wide, num_features, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)
        key, value = (max_pool2d(layer(x), 2).flatten(2) for layer in (self.phi, self.g))
        # Not scaled_dot_product_attention: its fused kernels have no second derivative, which a
        # gradient penalty needs.
        weights = (query.transpose(1, 2) @ key).softmax(-1)
        h = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return torch.addcmul(x, self.gamma, self.o(h))

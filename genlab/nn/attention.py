"""Attention of every pixel to every other."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """x (B, C, H, W) -> x + gamma o(softmax(theta(x)^T phi(x)) g(x)), H and W even.

    theta and phi are 1x1 convolutions to C/8 channels (at least one), g is one to C/2, o one back
    to C, all without a bias. phi and g are max-pooled by 2, so the softmax goes over H W / 4 keys;
    its scores are not scaled. gamma starts at 0, where the layer is the identity. The paper does
    not describe this form; its authors ran it (brain-research/self-attention-gan, BigGAN).

    "Self-Attention Generative Adversarial Networks", Zhang et al. 2019, arXiv 1805.08318.

    Args:
        num_features: C.
    """

    def __init__(self, num_features: int):
        super().__init__()
        narrow = max(1, num_features // 8)
        wide = max(1, num_features // 2)
        self.theta = nn.Conv2d(num_features, narrow, 1, bias=False)
        self.phi = nn.Conv2d(num_features, narrow, 1, bias=False)
        self.g = nn.Conv2d(num_features, wide, 1, bias=False)
        self.o = nn.Conv2d(wide, num_features, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)  # (B, C/8, H W)
        key = max_pool2d(self.phi(x), 2).flatten(2)  # (B, C/8, H W / 4)
        value = max_pool2d(self.g(x), 2).flatten(2)  # (B, C/2, H W / 4)
        # Not scaled_dot_product_attention: its fused kernels have no second derivative, which a
        # gradient penalty needs.
        weights = (query.transpose(1, 2) @ key).softmax(-1)  # (B, H W, H W / 4)
        h = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # (B, C/2, H, W)
        return torch.addcmul(x, self.gamma, self.o(h))

"""Attention to a cache, and sums with a layer norm, in one decoding step.

One Triton kernel does each where it can, torch's own operations elsewhere.
"""

import os
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.nn import functional as F

from genlab.nn.conditional_norm import LayerNorm

__all__ = ["add_norm", "attend"]

# Triton comes with torch for CUDA. It builds the launcher of a kernel with a C compiler, which not
# every machine has.
COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")
TRITON = find_spec("triton") is not None and any(map(which, COMPILERS))


def fits(x: Tensor) -> bool:
    """Whether the kernels take x."""
    return TRITON and x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def attend(heads: Tensor, memory: Tensor, bias: Tensor, slots: Tensor, filled: int) -> Tensor:
    """Attention of K beams to the cache of their source, to which their own tokens are added.

    Args:
        heads: (3, B, H, K, Dh) query, key and value of the beams' next tokens.
        memory: (2, B, H, S, Dh) keys and values, changed in place.
        bias: (B, 1, K, S), 0 where a beam sees a place, its own token's among them, -inf elsewhere.
        slots: (K,) where the keys and values of each beam go: the first K places that are free.
        filled: The number of places that are filled then, or more; the others are not read.

    Returns:
        (B, H, K, Dh).
    """
    heads, dim = heads.to(memory.dtype), heads.shape[-1]
    if fits(heads) and dim >= 16 and dim.bit_count() == 1 and heads.stride(-1) == 1:
        from genlab.nn import decoder_kernels

        return decoder_kernels.attend(heads, memory, bias, slots)
    memory.index_copy_(3, slots, heads[1:])
    return F.scaled_dot_product_attention(heads[0], *memory[:, :, :, :filled], bias[..., :filled])


def add_norm(norm: torch.nn.Module, h: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
    """norm(h + x, c) of h and x (B, L, D)."""
    if fits(h) and type(norm) is LayerNorm and not torch.is_grad_enabled():
        from genlab.nn import decoder_kernels

        return decoder_kernels.add_norm(h, x, norm.weight, norm.bias, norm.eps)
    return norm(h + x, c)

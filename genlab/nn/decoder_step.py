"""A decoding step's attention to a cache and its sums: by one Triton kernel where that fits, else
by torch's own.
"""

import os
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.nn import functional as F

from genlab.nn.conditional_norm import LayerNorm

__all__ = ["add_norm", "attend"]

# It comes with torch for CUDA, and builds what launches a kernel with a C compiler, which not every
# machine has.
TRITON = find_spec("triton") is not None and any(
    map(which, (os.environ.get("CC", "cc"), "gcc", "clang"))
)


def fits(x: Tensor) -> bool:
    """Whether the kernels take x."""
    return TRITON and x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def attend(heads: Tensor, memory: Tensor, bias: Tensor, slots: Tensor, filled: int) -> Tensor:
    """Query, key and value (3, B, H, K, Dh) of K beams a source -> what they attend to, (B, H, K,
    Dh).

    memory (2, B, H, S, Dh): keys and values, to which those of beam k are added at place slots[k],
    the first K that are not filled; from place `filled` on nothing is, where the host knows that.
    bias (B, 1, K, S): 0 where a beam sees a place, its own token's among them, and -inf where not.
    """
    heads, dim = heads.to(memory.dtype), heads.shape[-1]
    if fits(heads) and dim >= 16 and dim.bit_count() == 1 and heads.stride(-1) == 1:
        from genlab.nn import decoder_kernels as decode_kernels

        return decode_kernels.attend(heads, memory, bias, slots)
    memory.index_copy_(3, slots, heads[1:])
    return F.scaled_dot_product_attention(heads[0], *memory[:, :, :, :filled], bias[..., :filled])


def add_norm(norm: torch.nn.LayerNorm, h: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
    """norm(h + x, c) of h and x (B, L, D)."""
    if fits(h) and type(norm) is LayerNorm and not torch.is_grad_enabled():
        from genlab.nn import decoder_kernels as decode_kernels

        return decode_kernels.add_norm(h, x, norm.weight, norm.bias, norm.eps)
    return norm(h + x, c)

"""Triton kernels of a decoding step: attention to a cache, and a sum with its layer norm.

SDPA's kernels are made for many queries. For the one to few queries of a source they read keys and
values at half of the memory's rate, after a separate copy of the new ones into the cache. Import
this through genlab.nn.decoder_step, which checks that Triton is there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["add_norm", "attend"]

BLOCK = 32  # places that a program reads at a time


@triton.jit
def _attend(
    heads,
    memory,
    bias,
    slots,
    out,
    scale,
    part,  # stride of heads from query to key, and from key to value
    source,  # stride of heads, as the next two
    head,
    beam,
    half,  # stride of memory from keys to values
    num_heads,
    places,
    BEAMS: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    b = row // num_heads
    h = row % num_heads
    k = tl.arange(0, ROWS)
    d = tl.arange(0, DIM)
    j = tl.arange(0, BLOCK)
    real = k[:, None] < BEAMS
    own = heads + b * source + h * head + k[:, None] * beam + d[None]
    query = tl.load(own, mask=real, other=0.0)
    key = tl.load(own + part, mask=real, other=0.0)
    value = tl.load(own + 2 * part, mask=real, other=0.0)
    first = tl.load(slots)  # all places before it are filled
    keys = memory + row * places * DIM
    values = keys + half
    place = (first + k)[:, None] * DIM + d[None]
    tl.store(keys + place, key, mask=real)
    tl.store(values + place, value, mask=real)
    # The softmax is computed block by block. It begins with the beam's own token, which the beam
    # always sees.
    most = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1) * scale
    total = tl.full((ROWS,), 1.0, tl.float32)
    result = value.to(tl.float32)
    seen = bias + (b * BEAMS + k)[:, None] * places
    for start in range(0, first, BLOCK):
        at = start + j
        filled = at < first
        where = at[:, None] * DIM + d[None]
        block = tl.load(keys + where, mask=filled[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(block), input_precision="ieee") * scale
        scores += tl.load(seen + at[None], mask=real & filled[None], other=0.0).to(tl.float32)
        scores = tl.where(filled[None], scores, float("-inf"))
        new = tl.maximum(most, tl.max(scores, 1))
        weight = tl.exp(scores - new[:, None])
        faded = tl.exp(most - new)
        block = tl.load(values + where, mask=filled[:, None], other=0.0)
        result = result * faded[:, None] + tl.dot(
            weight.to(block.dtype), block, input_precision="ieee"
        )
        total = total * faded + tl.sum(weight, 1)
        most = new
    result = (result / total[:, None]).to(query.dtype)
    tl.store(out + ((b * BEAMS + k)[:, None] * num_heads + h) * DIM + d[None], result, mask=real)


def attend(heads: Tensor, memory: Tensor, bias: Tensor, slots: Tensor) -> Tensor:
    """As genlab.nn.decoder_step.attend, up to the rounding of a softmax computed block by block."""
    _, batch, num_heads, beams, dim = heads.shape
    out = heads.new_empty(batch, beams, num_heads, dim)
    rows = max(16, triton.next_power_of_2(beams))
    sizes = (memory.stride(0), num_heads, memory.shape[3])
    _attend[(batch * num_heads,)](
        heads,
        memory,
        bias,
        slots,
        out,
        dim**-0.5,
        *heads.stride()[:4],
        *sizes,
        BEAMS=beams,
        ROWS=rows,
        DIM=dim,
        BLOCK=BLOCK,
    )
    return out.transpose(1, 2)


@triton.jit
def _add_norm(x, y, weight, bias, out, dim, eps, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * dim
    i = tl.arange(0, WIDTH)
    there = i < dim
    h = tl.load(x + row + i, mask=there, other=0.0).to(tl.float32)
    h += tl.load(y + row + i, mask=there, other=0.0).to(tl.float32)
    centred = tl.where(there, h - tl.sum(h, 0) / dim, 0.0)
    normal = centred / tl.sqrt(tl.sum(centred * centred, 0) / dim + eps)
    gain = tl.load(weight + i, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(bias + i, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row + i, (normal * gain + shift).to(out.dtype.element_ty), mask=there)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The layer norm of x + y, both (..., D), with weight and bias (D,).

    It is computed in float32; the result has the wider of the two types.
    """
    x, y = x.contiguous(), y.contiguous()
    dim = x.shape[-1]
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, y.dtype))
    _add_norm[(x.numel() // dim,)](
        x, y, weight, bias, out, dim, eps, WIDTH=triton.next_power_of_2(dim)
    )
    return out

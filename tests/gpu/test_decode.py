"""On a CUDA device: the kernels of a decoding step are the formulas."""

import pytest
import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from genlab.nn import decode
from genlab.nn.conditional_norm import LayerNorm

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

CLOSE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 5e-3}


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture
def kernels(monkeypatch):
    """How often a Triton kernel was asked for."""
    from genlab.nn import decode_kernels

    asked = []
    for name in ("attend", "add_norm"):
        real = getattr(decode_kernels, name)
        monkeypatch.setattr(decode_kernels, name, lambda *given, real=real, name=name: asked.append(name) or real(*given))
    return asked


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(
    ("beams", "num_heads", "dim", "places", "first"),
    [(1, 12, 64, 320, 256), (4, 3, 32, 96, 65), (20, 2, 16, 64, 3), (2, 2, 48, 64, 30)],
)
def test_attention_to_a_cache(kernels, dtype, beams, num_heads, dim, places, first):
    heads = torch.randn(5, beams, 3, num_heads, dim, device="cuda", dtype=dtype).permute(2, 0, 3, 1, 4)
    memory = torch.randn(2, 5, num_heads, places, dim, device="cuda", dtype=dtype)
    slots = torch.arange(first, first + beams, device="cuda")
    bias = torch.zeros(5, 1, beams, places, device="cuda", dtype=dtype)
    bias[torch.rand(bias.shape, device="cuda") < 0.3] = -torch.inf
    bias[..., first:] = -torch.inf
    bias.scatter_(3, slots[:, None].expand(5, 1, beams, 1), 0.0)
    expected = memory.clone()
    expected[:, :, :, first : first + beams] = heads[1:]
    found = decode.attend(heads, memory, bias, slots, places)
    assert torch.equal(memory, expected)
    keys, values = expected.double()
    assert off(found, scaled_dot_product_attention(heads[0].double(), keys, values, bias.double())) < CLOSE[dtype]
    assert kernels == (["attend"] if dtype != torch.float64 and dim != 48 else [])


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("dim", [768, 96, 2000])
def test_a_sum_and_its_layer_norm(kernels, dtype, dim):
    norm = LayerNorm(dim, eps=1e-12).to("cuda", dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    h, x = torch.randn(2, 7, 3, dim, device="cuda", dtype=dtype)
    with torch.no_grad():
        found = decode.add_norm(norm, h, x, None)
        expected = layer_norm(h.double() + x.double(), (dim,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert found.dtype == dtype and off(found, expected) < CLOSE[dtype]
    assert kernels == (["add_norm"] if dtype != torch.float64 else [])
    assert decode.add_norm(norm, h, x, None).requires_grad  # training goes torch's way

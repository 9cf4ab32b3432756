"""The kernels of a decoding step are the formulas: run by Triton's interpreter, and with -m gpu on
a CUDA device.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from genlab.nn import decoder_step as decode
from genlab.nn.conditional_norm import LayerNorm

CLOSE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 5e-3}


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


# Triton reads this when it is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    """The device, and the names of the kernels that ran."""
    if request.param == "interpreted" and not INTERPRETED:
        pytest.skip("runs in a process of its own")
    found = SimpleNamespace(device="cpu" if INTERPRETED else "cuda", ran=[])
    if INTERPRETED:
        monkeypatch.setattr(decode, "fits", lambda x: x.dtype == torch.float32)
    from genlab.nn import decoder_kernels

    for name in ("attend", "add_norm"):
        kernel = getattr(decoder_kernels, name)

        def recorded(*arguments, kernel=kernel, name=name):
            found.ran.append(name)
            return kernel(*arguments)

        monkeypatch.setattr(decoder_kernels, name, recorded)
    return found


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA")
@pytest.mark.skipif(INTERPRETED, reason="is in that process")
def test_all_of_this_by_tritons_interpreter():
    options = ["-q", "-p", "no:cacheprovider", "-m", "not gpu"]
    command = [sys.executable, "-m", "pytest", __file__, *options]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "21 passed" in done.stdout, done.stdout


def takes(place, dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or (dtype == torch.bfloat16 and place.device == "cuda")


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(
    ("beams", "num_heads", "dim", "places", "first"),
    [(1, 12, 64, 320, 256), (4, 3, 32, 96, 65), (20, 2, 16, 64, 3), (2, 2, 48, 64, 30)],
)
def test_attention_to_a_cache(place, dtype, beams, num_heads, dim, places, first):
    heads = torch.randn(5, beams, 3, num_heads, dim, device=place.device, dtype=dtype).permute(
        2, 0, 3, 1, 4
    )
    memory = torch.randn(2, 5, num_heads, places, dim, device=place.device, dtype=dtype)
    slots = torch.arange(first, first + beams, device=place.device)
    bias = torch.zeros(5, 1, beams, places, device=place.device, dtype=dtype)
    bias[torch.rand(bias.shape, device=place.device) < 0.3] = -torch.inf
    bias[..., first:] = -torch.inf
    bias.scatter_(3, slots[:, None].expand(5, 1, beams, 1), 0.0)
    expected = memory.clone()
    expected[:, :, :, first : first + beams] = heads[1:]
    found = decode.attend(heads, memory, bias, slots, places)
    assert torch.equal(memory, expected)
    keys, values = expected.double()
    assert (
        off(found, scaled_dot_product_attention(heads[0].double(), keys, values, bias.double()))
        < CLOSE[dtype]
    )
    assert place.ran == (["attend"] if takes(place, dtype) and dim != 48 else [])


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("dim", [768, 96, 2000])
def test_a_sum_and_its_layer_norm(place, dtype, dim):
    norm = LayerNorm(dim, eps=1e-12).to(place.device, dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    h, x = torch.randn(2, 7, 3, dim, device=place.device, dtype=dtype)
    with torch.no_grad():
        found = decode.add_norm(norm, h, x, None)
        expected = layer_norm(
            h.double() + x.double(), (dim,), norm.weight.double(), norm.bias.double(), norm.eps
        )
    assert found.dtype == dtype and off(found, expected) < CLOSE[dtype]
    assert place.ran == (["add_norm"] if takes(place, dtype) else [])
    assert decode.add_norm(norm, h, x, None).requires_grad  # training goes torch's way

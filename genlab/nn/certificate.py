"""What is certain about an invertible residual network: bounds of its layers' norms, of its blocks
and of its inverse.
"""

import math
from typing import Any

from torch import nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.fixed_point import iterations_needed
from genlab.nn.lipschitz import LipschitzMap, exact_norm, fft_bound
from genlab.nn.residual import ResidualBlock

__all__ = ["BoundViolated", "certificate"]

SLACK = 1e-3  # of the power iteration's tolerance


class BoundViolated(ValueError):
    """A layer's norm or a block's bound is above what makes the network invertible."""


def certificate(network: nn.Module, exact_dims: int = 256, max_dims: int = 4096) -> dict[str, Any]:
    """Bounds in float64 of every LipschitzMap and ResidualBlock of `network`, as its weights are
    now.

    layers: {name, coeff, estimate, fft, exact, bound}; fft bounds the norm of the normalised map,
    exact is the norm itself, for maps one side of which has at most `exact_dims` dimensions (else
    null), and bound is the smaller. Where fft, up to a tenth too large on small images, does not
    certify a block, exact is found up to `max_dims`. blocks: {name, lipschitz, iterations, error}:
    the product of the layers' bounds L < 1, at most how many fixed-point iterations its inverse
    takes to the tolerance from a distance of 1, and the error that is left (root mean square).
    lipschitz: the largest of the blocks'. iterations: of all blocks together. log10_inverse: of the
    Lipschitz bound of the whole inverse, ActNorms included, which multiplies an error in z. Raises
    BoundViolated, naming what is wrong, if a block may not be invertible, or if a layer is above
    its coeff by more than a thousandth.
    """
    layers, blocks, wrong, log10 = [], [], [], 0.0
    for name, module in network.named_modules():
        if isinstance(module, ActNorm):
            log10 += (-module.log_scale).max().item() / math.log(10)
        if not isinstance(module, ResidualBlock):
            continue
        found = [_layer(layer, exact_dims) for layer in module.branch.maps]
        if not math.prod(entry["bound"] for entry in found) < 1:
            found = [_layer(layer, max_dims) for layer in module.branch.maps]
        lipschitz = math.prod(entry["bound"] for entry in found)
        for i, entry in enumerate(found):
            entry["name"] = f"{name}.branch.maps.{i}"
            layers.append(entry)
            norm = max(entry["estimate"], entry["exact"] or 0.0)
            if entry["coeff"] is not None and norm > entry["coeff"] * (1 + SLACK):
                wrong.append(
                    f"{entry['name']} has norm {norm:.5f}, above its coeff {entry['coeff']}"
                )
        if not lipschitz < 1:
            wrong.append(
                f"{name} has Lipschitz bound {lipschitz:.4f}, and only below 1 is its inverse certain"
            )
            continue
        log10 -= math.log10(1 - lipschitz)
        iterations = iterations_needed(lipschitz, module.tolerance)
        blocks.append(
            {
                "name": name,
                "lipschitz": lipschitz,
                "iterations": iterations,
                "error": module.tolerance,
            }
        )
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise BoundViolated(
            f"not certified invertible: {shown}. Refresh u and v (genlab.nn.lipschitz.refresh), or train with a lower "
            "net.coeff= (null has no bound at all)"
        )
    return {
        "lipschitz": max((block["lipschitz"] for block in blocks), default=0.0),
        "largest_norm": max((layer["bound"] for layer in layers), default=0.0),
        "iterations": sum(block["iterations"] for block in blocks),
        "error": max((block["error"] for block in blocks), default=0.0),
        "log10_inverse": log10,
        "layers": layers,
        "blocks": blocks,
    }


def _layer(layer: LipschitzMap, max_dims: int) -> dict[str, Any]:
    weight = layer.normalised().detach()
    fft = fft_bound(weight, layer.size)
    exact = exact_norm(weight, layer.size, max_dims) if layer.kernel_size > 1 else fft
    estimate = (
        0.0
        if layer.coeff is None
        else layer.sigma().item() / max(1.0, layer.sigma().item() / layer.coeff)
    )
    return {
        "coeff": layer.coeff,
        "estimate": estimate,
        "fft": fft,
        "exact": exact,
        "bound": fft if exact is None else min(fft, exact),
    }

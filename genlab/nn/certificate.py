"""Proven bounds of an invertible residual network: of the norms of its layers, of its blocks and of
its inverse.
"""

import math
from typing import Any

from torch import nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.fixed_point import iterations_needed
from genlab.nn.lipschitz import LipschitzMap, exact_norm, fft_bound
from genlab.nn.residual import ResidualBlock

__all__ = ["BoundViolated", "certificate"]

SLACK = 1e-3  # relative, of the power iteration
MAX_SHOWN = 5  # violations in an error


class BoundViolated(ValueError):
    """The norm of a layer or of a block is too large for a proof that the network is invertible."""


def certificate(network: nn.Module, exact_dims: int = 256, max_dims: int = 4096) -> dict[str, Any]:
    """Bounds of every LipschitzMap and ResidualBlock of a network, for its present weights, in
    float64.

    Args:
        network: With ResidualBlocks, and ActNorms between them.
        exact_dims: The norm of a map is computed exactly where one side of it has at most that many
            dimensions.
        max_dims: The same, of maps of blocks that `fft`, up to a tenth too large on small images,
            does not certify.

    Returns:
        layers: A list of {name, coeff, estimate, fft, exact, bound}. estimate is the power
            iteration's norm of the normalised map, fft an upper bound of it, exact the norm itself
            or None, bound the smaller of the last two.
        blocks: A list of {name, lipschitz, iterations, error}. lipschitz is L < 1, the product of
            the bounds of the layers; iterations the most that the inverse takes from a distance of
            1; error what is left then (root mean square).
        lipschitz, largest_norm, error: The largest of all blocks or layers.
        iterations: Of all blocks together.
        log10_inverse: log10 of the Lipschitz bound of the whole inverse, ActNorms included, which
            multiplies an error in z.

    Raises:
        BoundViolated: A block may not be invertible, or a layer is above its coeff by more than a
            thousandth.
    """
    layers = []
    blocks = []
    wrong = []
    log10_inverse = 0.0
    for name, module in network.named_modules():
        if isinstance(module, ActNorm):
            log10_inverse += (-module.log_scale).max().item() / math.log(10)
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
                f"{name} has Lipschitz bound {lipschitz:.4f}; its inverse is certain only below 1"
            )
            continue
        log10_inverse -= math.log10(1 - lipschitz)
        blocks.append(
            {
                "name": name,
                "lipschitz": lipschitz,
                "iterations": iterations_needed(lipschitz, module.tolerance),
                "error": module.tolerance,
            }
        )
    if wrong:
        more = f"; and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        raise BoundViolated(
            f"not certified invertible: {'; '.join(wrong[:MAX_SHOWN])}{more}. "
            "Call genlab.nn.lipschitz.refresh if the weights have changed since; else train with a "
            "lower net.coeff= (null sets no bound)"
        )
    return {
        "lipschitz": max((block["lipschitz"] for block in blocks), default=0.0),
        "largest_norm": max((layer["bound"] for layer in layers), default=0.0),
        "iterations": sum(block["iterations"] for block in blocks),
        "error": max((block["error"] for block in blocks), default=0.0),
        "log10_inverse": log10_inverse,
        "layers": layers,
        "blocks": blocks,
    }


def _layer(layer: LipschitzMap, max_dims: int) -> dict[str, Any]:
    weight = layer.normalised().detach()
    fft = fft_bound(weight, layer.size)
    exact = exact_norm(weight, layer.size, max_dims) if layer.kernel_size > 1 else fft
    estimate = 0.0
    if layer.coeff is not None:
        sigma = layer.sigma().item()
        estimate = sigma / max(1.0, sigma / layer.coeff)
    return {
        "coeff": layer.coeff,
        "estimate": estimate,
        "fft": fft,
        "exact": exact,
        "bound": fft if exact is None else min(fft, exact),
    }

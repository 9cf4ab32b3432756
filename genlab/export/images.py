"""Exports a trained image model: safetensors, and `decode` and `encode` for torch.export and ONNX.

Shapes: N inputs; codes (N, Z); images (N, C, H, W) in [-1, 1]; labels (N,) int64.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genlab import runs
from genlab.files import writing
from genlab.systems.base import Decodes, HasGraphs, num_classes
from genlab.tensors import save_safetensors, writing_torch

__all__ = ["OPSET", "Verb", "graphs", "to_onnx", "to_safetensors", "to_torch_export"]

OPSET = 18
OUTPUTS = {"decode": "images", "encode": "codes"}
NUM_EXAMPLES = 8
TOLERANCE = 1e-3  # between ONNX and torch, relative to the range of the output


class Verb(nn.Module):
    """One verb of a system as a module of tensors only: on the CPU, in float32 and eval mode.

    `inputs` has the names of its inputs. The first is codes or images; a decoder with classes also
    takes labels.

    Args:
        network: What the system decodes or encodes with; it is copied.
        verb: decode or encode.
        example: Values (N, ...) of the first input, N >= 5.
        num_classes: Of a decoder with classes, else 0.
    """

    def __init__(self, network: nn.Module, verb: str, example: Tensor, num_classes: int = 0):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self.verb = verb
        self.num_classes = num_classes
        first = "codes" if verb == "decode" else "images"
        self.inputs = (first, "labels") if num_classes else (first,)
        self.register_buffer("first", example, persistent=False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.network(x, labels) if self.num_classes else self.network(x)

    def example(self, num: int = 2) -> tuple[Tensor, ...]:
        """`num` inputs, to trace and to compare with."""
        labels = (torch.arange(num) % self.num_classes,) if self.num_classes else ()
        return (self.first[:num].clone(), *labels)


def graphs(system: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Verb]:
    """The verbs of a system that are one pass of tensors.

    Codes found by gradient descent (GLO, GLANN) and the inverse of a residual flow, which iterates
    to a fixed point, are none.

    Args:
        system: A trained system.
        image_shape: (C, H, W).

    Returns:
        {"decode": Verb, "encode": Verb}, or one of the two.

    Raises:
        ValueError: The system has no such verb.
    """
    name = type(system).__name__
    if system.modality != "image":
        raise ValueError(
            f"{name} is a {system.modality} model; graphs can be exported of image models only"
        )
    networks = system.graphs() if isinstance(system, HasGraphs) else {}
    if not networks:
        raise ValueError(f"{name} neither decodes nor encodes in one pass, so it has no graph")
    generator = torch.Generator().manual_seed(0)
    latent_dim = system.latent_dim if isinstance(system, Decodes) else 1
    codes = torch.randn(NUM_EXAMPLES, latent_dim, generator=generator)
    images = torch.rand(NUM_EXAMPLES, *image_shape, generator=generator) * 2 - 1
    found = {}
    if "decode" in networks:
        found["decode"] = Verb(networks["decode"], "decode", codes, num_classes(system))
    if "encode" in networks:
        found["encode"] = Verb(networks["encode"], "encode", images)
    return found


def to_safetensors(system: nn.Module, folder: Path, config: Mapping[str, Any]) -> Path:
    """Writes <folder>/model.safetensors and config.yaml, which `genlab.load(folder)` reads.

    Args:
        system: Its present weights are written, averaged or raw.
        folder: Is created where it is missing.
        config: The run's config, as plain containers.

    Returns:
        The path of model.safetensors.
    """
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in system.state_dict().items()
    }
    runs.save_config(folder, dict(config))
    about = {"format": "pt", "system": type(system).__name__}
    return save_safetensors(state, folder / "model.safetensors", about)


def to_torch_export(verb: Verb, path: Path) -> Path:
    """Writes `verb` as a torch.export program of any batch size; returns `path`.

    torch.export.load(path).module() reads it.
    """
    with torch.no_grad():
        program = torch.export.export(
            verb, verb.example(), dynamic_shapes=_dynamic_shapes(verb), strict=False
        )
    with writing_torch(path) as file:
        torch.export.save(program, file)
    return path


def to_onnx(verb: Verb, path: Path) -> Path:
    """Writes `verb` as an ONNX graph of any batch size and checks it; returns `path`.

    Raises:
        ValueError: The extra `export` is not installed, the graph cannot be made, or the outputs of
            onnxruntime and torch differ by more than 1e-3 of their range.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX: {error}; pip install 'genlab[export]'") from None
    options = {
        "dynamo": True,
        "opset_version": OPSET,
        "external_data": False,
        "verbose": False,
        "optimize": True,
        "dynamic_shapes": _dynamic_shapes(verb),
        "input_names": list(verb.inputs),
        "output_names": [OUTPUTS[verb.verb]],
    }
    with torch.no_grad(), writing(path) as temporary:
        torch.onnx.export(verb, verb.example(), temporary, **options)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        for num in (1, 5):
            inputs = verb.example(num)
            expected = verb(*inputs)
            feed = {name: value.numpy() for name, value in zip(verb.inputs, inputs, strict=True)}
            output = torch.from_numpy(session.run(None, feed)[0])
            error = (output - expected).abs().max().item()
            # `not <=`, so that a NaN is an error as well
            if not error <= TOLERANCE * max(1.0, expected.abs().max().item()):
                raise ValueError(
                    f"ONNX: {verb.verb} of {num} differs from torch by {error:.3g}; "
                    "no file was written"
                )
    return path


def _dynamic_shapes(verb: Verb) -> tuple:
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in verb.inputs)

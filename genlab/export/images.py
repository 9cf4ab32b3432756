"""A trained image model as safetensors, torch.export programs and ONNX graphs of `decode` and
`encode`.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genlab import runs
from genlab.files import writing
from genlab.losses.code import standardise
from genlab.nn.invertible_linear import InvertibleLinear, apply_matrix
from genlab.nn.residual import without_log_det
from genlab.systems.latent.codes import Codes
from genlab.tensors import save_safetensors, writing_torch

__all__ = ["OPSET", "Verb", "graphs", "to_onnx", "to_safetensors", "to_torch_export"]

OPSET = 18
OUTPUTS = {"decode": "images", "encode": "codes"}


class Verb(nn.Module):
    """One verb of a system as a module of tensors alone, on the CPU, in eval mode and float32.

    network: a copy of what the system decodes or encodes with. inputs: their names; the first is
    codes (N, Z), or images (N, C, H, W) in [-1, 1]; then labels (N,) int64 of a decoder with
    classes. example: of the first, (N >= 5, ...).
    """

    def __init__(self, network: nn.Module, verb: str, example: Tensor, num_classes: int = 0):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        self.verb, self.num_classes = verb, num_classes
        self.inputs = (
            "codes" if verb == "decode" else "images",
            *(["labels"] if num_classes else []),
        )
        self.register_buffer("first", example, persistent=False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.network(x, labels) if self.num_classes else self.network(x)

    def example(self, num: int = 2) -> tuple[Tensor, ...]:
        """`num` inputs to trace and compare with."""
        labels = (torch.arange(num) % self.num_classes,) if self.num_classes else ()
        return (self.first[:num].clone(), *labels)


class Generator(nn.Module):
    """G(point(z), y): the codes of GLO and GLANN go where they belong first."""

    def __init__(self, generator: nn.Module, codes: Codes | None):
        super().__init__()
        self.generator = generator
        self.codes = (
            None if codes is None else Codes(codes.values.shape[1], codes.space)
        )  # its space alone

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z if self.codes is None else self.codes.inside(z), labels)


class Encoder(nn.Module):
    """N(E(x)), the code of O-GAN."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        return standardise(self.discriminator(images, None))


class Inverted(nn.Module):
    """The inverse of a trained InvertibleLinear, its matrix inverted once: ONNX has no inverse of a
    matrix.
    """

    def __init__(self, linear: InvertibleLinear):
        super().__init__()
        weight, _ = linear.matrix()
        self.register_buffer("weight", torch.linalg.inv(weight.detach().double()).to(weight.dtype))

    def inverse(self, y: Tensor) -> Tensor:
        return apply_matrix(self.weight, y)


def inverted_once(net: nn.Module) -> nn.Module:
    """A copy of `net`, for its inverse alone."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, InvertibleLinear):
                setattr(module, name, Inverted(child))
    return net


class Bijection(nn.Module):
    """A flow of images either way, without its log-determinant."""

    def __init__(self, pixels: nn.Module, net: nn.Module, verb: str):
        super().__init__()
        self.pixels, self.net, self.verb = (
            pixels,
            inverted_once(net) if verb == "decode" else net,
            verb,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.verb == "decode":
            return self.pixels.inverse(self.net.inverse(x))
        with without_log_det(self.net):
            return self.net(self.pixels(x)[0])[0]


def graphs(system: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Verb]:
    """The verbs of `system` that are one pass of tensors: {"decode": ..., "encode": ...} where it
    has them.

    image_shape: (C, H, W). ValueError where there is none. Not among them: codes that a descent
    finds (glo, glann), and the inverse of a residual flow, which is an iteration until it has
    converged.
    """
    name = type(system).__name__
    if getattr(system, "modality", "image") != "image":
        raise ValueError(
            f"{name}: is a model of {system.modality}s, and graphs are of image models"
        )
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(8, getattr(system, "latent_dim", 1), generator=generator)
    images = torch.rand(8, *image_shape, generator=generator) * 2 - 1
    found = {}
    if hasattr(system, "generator"):
        if not getattr(system, "batch_statistics", False):  # one picture is no batch
            network = Generator(system.generator, getattr(system, "codes", None))
            found["decode"] = Verb(network, "decode", codes, getattr(system, "num_classes", 0))
        if hasattr(system, "encode") and hasattr(system, "discriminator"):
            found["encode"] = Verb(Encoder(system.discriminator), "encode", images)
    elif hasattr(system, "pixels"):
        if not hasattr(system.net, "certificate"):
            found["decode"] = Verb(Bijection(system.pixels, system.net, "decode"), "decode", codes)
        found["encode"] = Verb(Bijection(system.pixels, system.net, "encode"), "encode", images)
    if not found:
        raise ValueError(
            f"{name}: neither decodes nor encodes in one pass of tensors, so there is no graph of it"
        )
    return found


def to_safetensors(system: nn.Module, folder: Path, config: Mapping[str, Any]) -> Path:
    """Writes <folder>/model.safetensors and config.yaml, which `genlab.load(folder)` reads; returns
    the former.

    The weights are those that `system` has now, averaged or raw. config: the run's, as plain
    containers.
    """
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in system.state_dict().items()
    }
    runs.save_config(folder, dict(config))
    return save_safetensors(
        state, folder / "model.safetensors", {"format": "pt", "system": type(system).__name__}
    )


def to_torch_export(verb: Verb, path: Path) -> Path:
    """Writes `verb` as a torch.export program of any batch size, for
    torch.export.load(path).module(); returns `path`.
    """
    with torch.no_grad():
        program = torch.export.export(
            verb, verb.example(), dynamic_shapes=_dynamic(verb), strict=False
        )
    with writing_torch(path) as file:
        torch.export.save(program, file)
    return path


def to_onnx(verb: Verb, path: Path) -> Path:
    """Writes `verb` as an ONNX graph of any batch size and checks that onnxruntime gives what torch
    gives; returns `path`.

    ValueError naming the extra where onnx is not installed, or where the graph cannot be made or
    differs by more than 1e-3 of the output's range.
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
    }
    names = {"input_names": list(verb.inputs), "output_names": [OUTPUTS[verb.verb]]}
    with torch.no_grad(), writing(path) as temporary:
        torch.onnx.export(
            verb, verb.example(), temporary, dynamic_shapes=_dynamic(verb), **names, **options
        )
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        for num in (1, 5):
            inputs = verb.example(num)
            want = verb(*inputs)
            fed = {name: value.numpy() for name, value in zip(verb.inputs, inputs, strict=True)}
            error = (torch.from_numpy(session.run(None, fed)[0]) - want).abs().max().item()
            if not error <= 1e-3 * max(1.0, want.abs().max().item()):
                raise ValueError(
                    f"ONNX: {verb.verb} of {num} differs from torch by {error:.3g}; no file was written"
                )
    return path


def _dynamic(verb: Verb) -> tuple:
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in verb.inputs)

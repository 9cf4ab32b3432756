"""A verb's graph as a short list of simple operations and float16 weights, for report/runtime.js to
run.
"""

import base64
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from genlab.export.images import Verb

__all__ = ["Unknown", "program"]

SAME = {"alias", "clone", "detach", "_to_copy"}
SHAPED = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"}
UNARY = {
    "relu",
    "tanh",
    "sigmoid",
    "exp",
    "log",
    "log1p",
    "neg",
    "abs",
    "sqrt",
    "rsqrt",
    "floor",
    "round",
}
BINARY = {"mul", "div", "minimum", "maximum", "lt", "gt", "le", "ge", "eq"}  # and add, sub
NOTHING = {"_assert_tensor_metadata", "_assert_scalar"}


class Unknown(ValueError):
    """An operation that the page's runtime does not have."""


def program(verb: Verb) -> dict[str, Any]:
    """`verb` for one picture at a time, as plain containers.

    {"inputs": the numbers of the values that are given, "output": of what comes out, "shapes": the
    shape of each value, "constants": [[number, scale], ...] in the order in which "weights", base64
    of float16 numbers in little endian, holds them, "ops": [[name, the numbers of its inputs, that
    of its output, {its settings}], ...]}.

    What does not depend on the inputs is computed here: the scales of a batch norm, the norm of a
    spectral one. Raises Unknown for an operation that there is none for.
    """
    with torch.no_grad():
        return Lowering(
            torch.export.export(verb, verb.example(1), strict=False).run_decompositions()
        ).written()


@dataclass(frozen=True)
class Value:
    """What is computed in the page; whatever is a Tensor here is known already."""

    number: int
    shape: tuple[int, ...]


class Lowering:
    """The graph of `exported` (core ATen, all shapes known), an operation after the other."""

    def __init__(self, exported: torch.export.ExportedProgram):
        self.shapes: list[list[int]] = []
        self.ops: list[list] = []
        self.constants: dict[int, tuple[int, Tensor]] = {}  # by the tensor's id
        signature, values, self.inputs = exported.graph_signature, {}, []
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        held = {**exported.constants, **exported.state_dict}
        for node in exported.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                values[node] = held[names[node.name]].detach()
            elif node.op == "placeholder":
                values[node] = self.new(node.meta["val"].shape)
                self.inputs.append(values[node].number)
            elif node.op == "output":
                self.output = self.number(values[node.args[0][0]])
            else:
                args, options = (
                    fx.map_arg(part, values.__getitem__) for part in (node.args, node.kwargs)
                )
                values[node] = self.call(node, args, options)

    def written(self) -> dict[str, Any]:
        """See `program`."""
        constants, parts = [], []
        for number, tensor in self.constants.values():
            tensor = tensor.detach().double()
            scale = (
                2.0 ** math.ceil(math.log2(most)) if (most := tensor.abs().max().item()) else 1.0
            )  # exact for integers
            constants.append([number, scale])
            parts.append((tensor / scale).to(torch.float16).flatten())
        weights = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float16)
        made = {
            "inputs": self.inputs,
            "output": self.output,
            "shapes": self.shapes,
            "constants": constants,
            "ops": self.ops,
        }
        return made | {
            "weights": base64.b64encode(weights.numpy().astype("<f2").tobytes()).decode()
        }

    # --- values -----------------------------------------------------------------------------------

    def new(self, shape: Sequence[int]) -> Value:
        self.shapes.append([int(size) for size in shape])
        return Value(len(self.shapes) - 1, tuple(self.shapes[-1]))

    def number(self, value: Value | Tensor) -> int:
        if isinstance(value, Value):
            return value.number
        if id(value) not in self.constants:
            self.constants[id(value)] = (self.new(value.shape).number, value)
        return self.constants[id(value)][0]

    def op(
        self, name: str, inputs: Sequence[Value | Tensor], shape: Sequence[int], **settings
    ) -> Value:
        numbers = [self.number(value) for value in inputs]
        out = self.new(shape)
        self.ops.append([name, numbers, out.number, settings])
        return out

    def binary(self, name: str, a, b) -> Value | Tensor:
        """An operation on two values or numbers, each repeated where the other is longer."""
        a, b = (x if isinstance(x, Value | Tensor) else torch.tensor(float(x)) for x in (a, b))
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return getattr(torch, name)(a, b)
        return self.op(name, [a, b], torch.broadcast_shapes(a.shape, b.shape))

    def reduce(self, kind: str, x: Value, dims: Sequence[int], keep: bool = True) -> Value:
        dims = sorted(dim % len(x.shape) for dim in (dims or range(len(x.shape))))
        kept = [1 if i in dims else size for i, size in enumerate(x.shape)]
        made = self.op("reduce", [x], kept, kind=kind, dims=dims)
        return (
            made
            if keep
            else self.op("view", [made], [s for i, s in enumerate(x.shape) if i not in dims])
        )

    def normed(self, x: Value, dims: Sequence[int], eps: float) -> Value:
        """x less its mean over `dims`, divided by its standard deviation there."""
        x = self.binary("sub", x, self.reduce("mean", x, dims))
        variance = self.reduce("mean", self.binary("mul", x, x), dims)
        root = self.op("rsqrt", [self.binary("add", variance, eps)], variance.shape)
        return self.binary("mul", x, root)

    def affine(self, x: Value, weight, bias, shape: Sequence[int]) -> Value:
        """weight x + bias, either of which may be None, in `shape`."""
        for name, by in (("mul", weight), ("add", bias)):
            if by is not None:
                by = by.reshape(shape) if isinstance(by, Tensor) else self.op("view", [by], shape)
                x = self.binary(name, x, by)
        return x

    # --- one operation of the graph ---------------------------------------------------------------

    def call(self, node: fx.Node, args: tuple, options: dict) -> Any:
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = node.target._schema.name.removeprefix("aten::")
        if name in NOTHING:
            return None
        given: list = []
        fx.node.map_aggregate((args, options), given.append)
        if not any(isinstance(value, Value) for value in given):
            return node.target(*args, **options)
        made = node.meta["val"]
        shape = list(made.shape) if isinstance(made, Tensor) else None
        if name in SAME and made.dtype.is_floating_point:
            return args[0]
        if name in SHAPED:
            return self.op("view", args[:1], shape)
        if name in UNARY:
            return self.op(name, args, shape)
        if name in BINARY and not options:
            return self.binary(name, *args)
        lower = getattr(self, f"_{name.lstrip('_')}", None)
        if lower is None:
            raise Unknown(f"{node.target}: an operation that the page does not know")
        return lower(shape, *args, **options)

    def _add(self, shape, a, b, alpha=1):
        return self.binary("add", a, b if alpha == 1 else self.binary("mul", b, alpha))

    def _sub(self, shape, a, b, alpha=1):
        return self.binary("sub", a, b if alpha == 1 else self.binary("mul", b, alpha))

    def _pow(self, shape, x, exponent):
        return self.binary("mul", x, x) if exponent == 2 else self.binary("pow", x, exponent)

    def _leaky_relu(self, shape, x, slope=0.01):
        return self.op("leaky", [x], shape, slope=slope)

    def _clamp(self, shape, x, low=None, high=None):
        return self.op("clamp", [x], shape, low=low, high=high)

    def _where(self, shape, condition, a, b):
        return self.op("where", [condition, a, b], shape)

    def _mm(self, shape, a, b):
        return self.op("matmul", [a, b], shape)

    _bmm = _mm

    def _addmm(self, shape, bias, a, b):
        return self.binary("add", self._mm(shape, a, b), bias)

    def _convolution(
        self, shape, x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    ):
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y = self.op("deconv" if transposed else "conv", [x, weight], shape, **settings)
        return self.affine(y, None, bias, [1, shape[1], 1, 1])

    def _native_batch_norm_legit_no_training(
        self, shape, x, weight, bias, mean, var, momentum, eps
    ):
        scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        return [self.affine(x, scale, shift, [1, -1, *[1] * (len(x.shape) - 2)])]

    def _native_batch_norm_legit(self, shape, x, weight, bias, training, momentum, eps):
        """Without statistics: of an instance norm, whose batch is that of all its channels."""
        y = self.normed(x, [0, *range(2, len(x.shape))], eps)
        return [self.affine(y, weight, bias, [1, x.shape[1], *[1] * (len(x.shape) - 2)])]

    def _native_group_norm(self, shape, x, weight, bias, n, channels, size, groups, eps):
        y = self.normed(self.op("view", [x], [n, groups, -(-channels // groups) * size]), [2], eps)
        return [
            self.affine(
                self.op("view", [y], x.shape),
                weight,
                bias,
                [1, channels, *[1] * (len(x.shape) - 2)],
            )
        ]

    def _native_layer_norm(self, shape, x, sizes, weight, bias, eps):
        return [self.affine(self.normed(x, range(-len(sizes), 0), eps), weight, bias, sizes)]

    def _sum(self, shape, x, dims=None, keep=False):
        return self.reduce("sum", x, dims, keep)

    def _mean(self, shape, x, dims=None, keep=False):
        return self.reduce("mean", x, dims, keep)

    def _amax(self, shape, x, dims=(), keep=False):
        return self.reduce("max", x, dims, keep)

    def _softmax(self, shape, x, dim, half):
        e = self.op("exp", [self.binary("sub", x, self.reduce("max", x, [dim]))], shape)
        return self.binary("div", e, self.reduce("sum", e, [dim]))

    def _permute(self, shape, x, dims):
        return self.op("permute", [x], shape, dims=[dim % len(dims) for dim in dims])

    def _expand(self, shape, x, size):
        return self.op("expand", [x], shape)

    def _slice(self, shape, x, dim=0, start=None, end=None, step=1):
        start = 0 if start is None else start + (x.shape[dim] if start < 0 else 0)
        return self.op(
            "slice", [x], shape, dim=dim % len(x.shape), start=min(start, x.shape[dim]), step=step
        )

    def _select(self, shape, x, dim, index):
        part = [1 if i == dim % len(x.shape) else size for i, size in enumerate(x.shape)]
        return self.op("view", [self._slice(part, x, dim, index)], shape)

    def _split_with_sizes(self, shape, x, sizes, dim=0):
        dim, start, parts = dim % len(x.shape), 0, []
        for size in sizes:
            part = [size if i == dim else other for i, other in enumerate(x.shape)]
            parts.append(self._slice(part, x, dim, start))
            start += size
        return parts

    def _cat(self, shape, tensors, dim=0):
        return self.op("cat", tensors, shape, dim=dim % len(shape))

    def _embedding(self, shape, weight, index, *ignored):
        return self.op("rows", [weight, index], shape)

    def _upsample_nearest2d(self, shape, x, *ignored):
        return self.op("nearest", [x], shape)

    def _upsample_bilinear2d(self, shape, x, size, align_corners, *ignored):
        if align_corners:
            raise Unknown(
                "upsample_bilinear2d with align_corners=True: an operation that the page does not know"
            )
        return self.op("bilinear", [x], shape)

    def _max_pool2d_with_indices(
        self, shape, x, kernel, stride=None, padding=(0, 0), dilation=(1, 1), ceil=False
    ):
        shape = [
            *x.shape[:2],
            *(self._pooled(x.shape[i], kernel, stride, padding, i) for i in (2, 3)),
        ]
        return [
            self._pool("maxpool", shape, x, kernel, stride, padding, ceil or set(dilation) != {1})
        ]

    def _avg_pool2d(
        self,
        shape,
        x,
        kernel,
        stride=None,
        padding=(0, 0),
        ceil=False,
        count_padding=True,
        divisor=None,
    ):
        return self._pool(
            "avgpool",
            shape,
            x,
            kernel,
            stride,
            padding,
            ceil or any(padding) or divisor is not None,
        )

    def _pool(self, name: str, shape, x, kernel, stride, padding, strange: bool):
        if strange:
            raise Unknown(
                f"{name} with padding, dilation, ceil_mode or a divisor: an operation that the page does not know"
            )
        return self.op(
            name,
            [x],
            shape,
            kernel=list(kernel),
            stride=list(stride or kernel),
            padding=list(padding),
        )

    @staticmethod
    def _pooled(size: int, kernel, stride, padding, i: int) -> int:
        return (size + 2 * padding[i - 2] - kernel[i - 2]) // (stride or kernel)[i - 2] + 1

"""Lowers a verb to simple operations and float16 weights, which report/runtime.js runs.

In the lowering functions `shape` is the shape of the output; the other arguments are those of the
ATen operation.
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

# ATen operations that change nothing here
SAME = {"alias", "clone", "detach", "_to_copy"}
# That only change the shape
SHAPED = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"}
# That the runtime has under the same name
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
CHECKS = {"_assert_tensor_metadata", "_assert_scalar"}


class Unknown(ValueError):
    """The page's runtime does not have an operation."""


def program(verb: Verb) -> dict[str, Any]:
    """`verb` for one picture at a time, as plain containers.

    Whatever does not depend on the inputs is computed here, such as the scales of a batch norm or
    the norms of spectral normalisation.

    Args:
        verb: A decoder or an encoder.

    Returns:
        Values are numbered; the keys are

        - inputs: numbers of the inputs,
        - output: number of the output,
        - shapes: the shape of each value,
        - constants: [[number, scale], ...],
        - weights: the constants, each divided by its scale, as base64 of little-endian float16,
        - ops: [[name, [numbers of its inputs], number of its output, {its settings}], ...].

    Raises:
        Unknown: The runtime does not have one of the operations.
    """
    with torch.no_grad():
        exported = torch.export.export(verb, verb.example(1), strict=False)
        return Lowering(exported.run_decompositions()).as_program()


@dataclass(frozen=True)
class Value:
    """A value that the page computes. Values that are known already are Tensors instead."""

    number: int
    shape: tuple[int, ...]


class Lowering:
    """Lowers the graph of an exported program one operation after the other.

    Args:
        exported: In core ATen operations, all shapes known.
    """

    def __init__(self, exported: torch.export.ExportedProgram):
        self.shapes: list[list[int]] = []
        self.ops: list[list] = []
        self.constants: dict[int, tuple[int, Tensor]] = {}  # by the tensor's id
        self.inputs: list[int] = []
        values: dict[fx.Node, Any] = {}
        signature = exported.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        tensors = {**exported.constants, **exported.state_dict}
        for node in exported.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                values[node] = tensors[names[node.name]].detach()
            elif node.op == "placeholder":
                values[node] = self.new(node.meta["val"].shape)
                self.inputs.append(values[node].number)
            elif node.op == "output":
                self.output = self.number(values[node.args[0][0]])
            else:
                args = fx.map_arg(node.args, values.__getitem__)
                options = fx.map_arg(node.kwargs, values.__getitem__)
                values[node] = self.call(node, args, options)

    def as_program(self) -> dict[str, Any]:
        """The lowered graph, as `program` returns it."""
        constants = []
        parts = [torch.zeros(0, dtype=torch.float16)]
        for number, tensor in self.constants.values():
            tensor = tensor.detach().double()
            largest = tensor.abs().max().item()
            # A power of two, so that dividing by it loses no digit
            scale = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
            constants.append([number, scale])
            parts.append((tensor / scale).to(torch.float16).flatten())
        weights = torch.cat(parts).numpy().astype("<f2").tobytes()
        return {
            "inputs": self.inputs,
            "output": self.output,
            "shapes": self.shapes,
            "constants": constants,
            "ops": self.ops,
            "weights": base64.b64encode(weights).decode(),
        }

    # --- values -----------------------------------------------------------------------------------

    def new(self, shape: Sequence[int]) -> Value:
        """A new value of that shape."""
        self.shapes.append([int(size) for size in shape])
        return Value(len(self.shapes) - 1, tuple(self.shapes[-1]))

    def number(self, value: Value | Tensor) -> int:
        """The number of a value; a tensor becomes a constant at its first use."""
        if isinstance(value, Value):
            return value.number
        if id(value) not in self.constants:
            self.constants[id(value)] = (self.new(value.shape).number, value)
        return self.constants[id(value)][0]

    def op(
        self, name: str, inputs: Sequence[Value | Tensor], shape: Sequence[int], **settings
    ) -> Value:
        """Appends an operation of the runtime; returns its output."""
        numbers = [self.number(value) for value in inputs]
        out = self.new(shape)
        self.ops.append([name, numbers, out.number, settings])
        return out

    def binary(self, name: str, a, b) -> Value | Tensor:
        """An operation on two values or numbers, which are broadcast; computed here if known."""
        a, b = (x if isinstance(x, Value | Tensor) else torch.tensor(float(x)) for x in (a, b))
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return getattr(torch, name)(a, b)
        return self.op(name, [a, b], torch.broadcast_shapes(a.shape, b.shape))

    def reduce(self, kind: str, x: Value, dims: Sequence[int], keep: bool = True) -> Value:
        """The sum, mean or max over `dims` (all if there are none)."""
        dims = sorted(dim % len(x.shape) for dim in (dims or range(len(x.shape))))
        ones = [1 if i in dims else size for i, size in enumerate(x.shape)]
        out = self.op("reduce", [x], ones, kind=kind, dims=dims)
        if keep:
            return out
        return self.op("view", [out], [size for i, size in enumerate(x.shape) if i not in dims])

    def normalise(self, x: Value, dims: Sequence[int], eps: float) -> Value:
        """x minus its mean over `dims`, divided by its standard deviation over them."""
        x = self.binary("sub", x, self.reduce("mean", x, dims))
        variance = self.reduce("mean", self.binary("mul", x, x), dims)
        root = self.op("rsqrt", [self.binary("add", variance, eps)], variance.shape)
        return self.binary("mul", x, root)

    def affine(self, x: Value, weight, bias, shape: Sequence[int]) -> Value:
        """weight * x + bias, both viewed in `shape`; either may be None."""
        for name, factor in (("mul", weight), ("add", bias)):
            if isinstance(factor, Tensor):
                x = self.binary(name, x, factor.reshape(shape))
            elif factor is not None:
                x = self.binary(name, x, self.op("view", [factor], shape))
        return x

    # --- one operation of the graph ---------------------------------------------------------------

    def call(self, node: fx.Node, args: tuple, options: dict) -> Any:
        """The value of one node of the graph, whose inputs are `args` and `options`."""
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = node.target._schema.name.removeprefix("aten::")
        if name in CHECKS:
            return None
        inputs: list = []
        fx.node.map_aggregate((args, options), inputs.append)
        if not any(isinstance(value, Value) for value in inputs):
            return node.target(*args, **options)
        meta = node.meta["val"]
        shape = list(meta.shape) if isinstance(meta, Tensor) else None
        if name in SAME and meta.dtype.is_floating_point:
            return args[0]
        if name in SHAPED:
            return self.op("view", args[:1], shape)
        if name in UNARY:
            return self.op(name, args, shape)
        if name in BINARY and not options:
            return self.binary(name, *args)
        lower = getattr(self, f"_{name.lstrip('_')}", None)
        if lower is None:
            raise Unknown(f"{node.target}: the page does not have this operation")
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
        """Without running statistics: this is what an instance norm becomes."""
        y = self.normalise(x, [0, *range(2, len(x.shape))], eps)
        return [self.affine(y, weight, bias, [1, x.shape[1], *[1] * (len(x.shape) - 2)])]

    def _native_group_norm(self, shape, x, weight, bias, n, channels, size, groups, eps):
        grouped = self.op("view", [x], [n, groups, -(-channels // groups) * size])
        y = self.op("view", [self.normalise(grouped, [2], eps)], x.shape)
        return [self.affine(y, weight, bias, [1, channels, *[1] * (len(x.shape) - 2)])]

    def _native_layer_norm(self, shape, x, sizes, weight, bias, eps):
        return [self.affine(self.normalise(x, range(-len(sizes), 0), eps), weight, bias, sizes)]

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
        start = min(start, x.shape[dim])
        return self.op("slice", [x], shape, dim=dim % len(x.shape), start=start, step=step)

    def _select(self, shape, x, dim, index):
        part = [1 if i == dim % len(x.shape) else size for i, size in enumerate(x.shape)]
        return self.op("view", [self._slice(part, x, dim, index)], shape)

    def _split_with_sizes(self, shape, x, sizes, dim=0):
        dim = dim % len(x.shape)
        start = 0
        parts = []
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
            raise Unknown("upsample_bilinear2d: the page does not have align_corners=True")
        return self.op("bilinear", [x], shape)

    def _max_pool2d_with_indices(
        self, shape, x, kernel, stride=None, padding=(0, 0), dilation=(1, 1), ceil=False
    ):
        steps = stride or kernel
        sizes = [(x.shape[2 + i] - kernel[i]) // steps[i] + 1 for i in (0, 1)]
        refused = ceil or any(padding) or set(dilation) != {1}
        return [self._pool("maxpool", [*x.shape[:2], *sizes], x, kernel, steps, refused)]

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
        refused = ceil or any(padding) or divisor is not None
        return self._pool("avgpool", shape, x, kernel, stride or kernel, refused)

    def _pool(self, name: str, shape, x, kernel, stride, refused: bool):
        if refused:
            raise Unknown(f"{name}: the page has no padding, dilation, ceil_mode or divisor")
        return self.op(name, [x], shape, kernel=list(kernel), stride=list(stride))

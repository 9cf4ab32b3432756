"""What the network of a flow can do: one Protocol a capability, checked with `isinstance`.

Members are methods or plain attributes, never submodules: from Python 3.12 on, `isinstance` with a
Protocol does not see what torch keeps in `_modules`.

Shapes: x (B, *shape) is a batch of inputs, z (B, D) are its codes.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Bijection", "Certified", "ClassifiesCodes", "Estimated"]


@runtime_checkable
class Bijection(Protocol):
    """Maps inputs to codes of a standard normal prior, and back."""

    shape: tuple[int, ...]  # of one input: (C, H, W) of an image, (D,) of a point
    dims: int  # D, of a code

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes z (B, D), and log |det dz/dx| (B,) in nats."""
        ...

    def inverse(self, z: Tensor) -> Tensor:
        """Inputs x (B, *shape) of codes z (B, D)."""
        ...


@runtime_checkable
class Estimated(Protocol):
    """Estimates its log-determinant."""

    # Whether the log-determinant of the present mode has a useful gradient but is no estimate of
    # the value: a training loss made of it is no likelihood, and is logged as surrogate_loss.
    surrogate: bool

    def estimates(self) -> dict[str, Tensor]:
        """Scalars about the estimates of the last training batch, by the name to log them under."""
        ...


@runtime_checkable
class Certified(Protocol):
    """Inverts by an iteration, and proves bounds of its norm and of its inverse."""

    def certificate(self) -> dict[str, Any]:
        """Bounds for the present weights, as genlab.nn.certificate has them."""
        ...

    def inversions(self) -> dict[str, float]:
        """Of the last inverse: its iterations, its last step and its error bound."""
        ...


@runtime_checkable
class ClassifiesCodes(Protocol):
    """Has a classifier of its codes."""

    num_classes: int
    inject: int  # zero channels that are added to an image; with any there is no density

    def logits(self, z: Tensor) -> Tensor:
        """Logits (B, num_classes) of codes z (B, D)."""
        ...

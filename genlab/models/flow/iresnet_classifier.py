"""The invertible ResNet as a classifier: what it decides by is all of the image, and gives the
image back.
"""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from genlab.models.flow.iresnet import IResNet
from genlab.ranges import Depth, NonNegativeInt, PositiveInt

__all__ = ["IResNetClassifier"]


class IResNetClassifier(IResNet):
    """Images of `shape` (C, H, W) <-> z (B, D) by an IResNet that keeps all channels, and class
    logits (B, num_classes) of z.

    inject: zero channels added to the image first, for more features; then D is larger than the
    image, `inverse` drops them again, and there is no density: ValueError with a log_det. head:
    pool is normalise, ReLU, average over pixels, dense, as the source; conv has a 3x3 convolution
    to 256 channels before it, as Residual Flow's hybrid. Other options: IResNet's.

    "Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995, section 5.1 and appendix
    C.2.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_classes: NonNegativeInt,
        num_blocks: Depth | list[Depth],
        width: PositiveInt,
        inject: NonNegativeInt = 0,
        head: Literal["pool", "conv"] = "pool",
        log_det: Any = None,
        factor_out: bool = False,
        prior: Literal["diagonal", "standard"] = "standard",
        dense_blocks: Literal[0] | Depth = 0,
        **options: Any,
    ):
        if len(shape) != 3:
            raise ValueError(
                f"net.shape={list(shape)}: expected (C, H, W); the classifier is for images"
            )
        if inject and log_det is not None:
            raise ValueError(
                f"net.inject={inject}: added channels leave no density; set net.inject=0 or net.log_det=null"
            )
        if head not in ("pool", "conv"):
            raise ValueError(f"net.head={head!r}: expected pool or conv")
        if factor_out or dense_blocks or prior != "standard":
            raise ValueError(
                "net: the head looks at all channels; leave factor_out, dense_blocks and prior as they are"
            )
        options |= {"factor_out": False, "prior": "standard"}
        super().__init__([shape[0] + inject, *shape[1:]], num_blocks, width, log_det, **options)
        self.shape, self.inject, self.num_classes = tuple(shape), inject, num_classes
        self.last = self.flow.shapes[-1]
        channels = self.last[0] if head == "pool" else 256
        first = [] if head == "pool" else [nn.Conv2d(self.last[0], channels, 3, padding=1)]
        norm = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.head = nn.Sequential(*first, *norm, nn.Linear(channels, num_classes))

    @property
    def bounded(self) -> bool:
        """Whether each layer's norm has a bound, without which there is no inverse to speak of."""
        return all(
            layer.coeff is not None for block in self.blocks() for layer in block.branch.maps
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z (B, D), log det (B,)), which is NaN without a log_det."""
        return super().forward(pad(x, (0, 0, 0, 0, 0, self.inject)))

    def logits(self, z: Tensor) -> Tensor:
        """Logits (B, num_classes) of z (B, D)."""
        return self.head(z.unflatten(1, self.last))

    def inverse(self, z: Tensor) -> Tensor:
        return super().inverse(z)[:, : self.shape[0]]

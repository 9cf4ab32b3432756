"""The invertible ResNet as a classifier: what it decides by is all of the image, and gives the image back."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from genlab.models.flow.iresnet import IResNet

__all__ = ["IResNetClassifier"]


class IResNetClassifier(nn.Module):
    """Images of `shape` (C, H, W) <-> z (B, D) by an IResNet that keeps all channels, and class logits (B, num_classes)
    of z.

    inject: zero channels added to the image first, for more features; then D is larger than the image, `inverse` drops them
    again, and there is no density: ValueError with a log_det. head: pool is normalise, ReLU, average over pixels, dense, as
    the source; conv has a 3x3 convolution to 256 channels before it, as Residual Flow's hybrid. Other options: IResNet's.

    "Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995, section 5.1 and appendix C.2.
    """

    def __init__(
        self,
        shape: list[int],
        num_classes: int,
        num_blocks: int | list[int],
        width: int,
        inject: int = 0,
        head: Literal["pool", "conv"] = "pool",
        log_det: Any = None,
        **options: Any,
    ):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"net.shape={list(shape)}: expected (C, H, W); the classifier is for images")
        if not num_classes:
            raise ValueError("model.num_classes: these data have no labels to learn; choose others (data=)")
        if inject and log_det is not None:
            raise ValueError(
                f"net.inject={inject}: with added channels there is no density; set net.inject=0 or net.log_det=null"
            )
        if head not in ("pool", "conv"):
            raise ValueError(f"net.head={head!r}: expected pool or conv")
        self.shape, self.inject, self.num_classes = tuple(shape), inject, num_classes
        padded = [shape[0] + inject, *shape[1:]]
        options = {"factor_out": False, "prior": "standard"} | options
        self.trunk = IResNet(padded, num_blocks, width, log_det, **options)
        if options["factor_out"] or options.get("dense_blocks"):
            raise ValueError("net.factor_out and net.dense_blocks: the head looks at all channels; set them to false and 0")
        self.dims, self.last = self.trunk.dims, self.trunk.flow.shapes[-1]
        channels = self.last[0] if head == "pool" else 256
        first = [] if head == "pool" else [nn.Conv2d(self.last[0], channels, 3, padding=1)]
        norm = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.head = nn.Sequential(*first, *norm, nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z (B, D), log det (B,)), which is NaN without a log_det."""
        return self.trunk(pad(x, (0, 0, 0, 0, 0, self.inject)))

    def logits(self, z: Tensor) -> Tensor:
        """Logits (B, num_classes) of z (B, D)."""
        return self.head(z.unflatten(1, self.last))

    def inverse(self, z: Tensor) -> Tensor:
        return self.trunk.inverse(z)[:, : self.shape[0]]

    @property
    def surrogate(self) -> bool:
        return self.trunk.surrogate

    def estimates(self) -> dict[str, Tensor]:
        return self.trunk.estimates()

    def refresh(self) -> int:
        return self.trunk.refresh()

    def bounds(self) -> dict[str, Any]:
        return self.trunk.bounds()

    def certificate(self) -> dict[str, float]:
        return self.trunk.certificate()

"""The invertible ResNet as a classifier: its code decides the class and still holds all of the
image.
"""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from genlab.models.flow.iresnet import IResNet
from genlab.nn.chain import MultiScale
from genlab.nn.precision import float32_convolutions
from genlab.ranges import Depth, NonNegativeInt, PositiveInt

__all__ = ["IResNetClassifier"]

CONV_HEAD_CHANNELS = 256


class IResNetClassifier(IResNet):
    """Images (B, C, H, W) <-> z (B, D) by an IResNet that keeps all channels, and class logits
    (B, num_classes) of z.

    "Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995, section 5.1 and appendix
    C.2.

    Args:
        shape: (C, H, W) of the images.
        num_classes: Classes of the data.
        num_blocks: Residual blocks at each scale: one number, or a list of one for each.
        hidden_dim: Channels of the hidden layers of a block.
        inject: Zero channels added to the image first, for more features. With them D is larger
            than the image, `inverse` drops them, and there is no density.
        head: pool normalises, applies ReLU, averages over pixels and has a dense layer, as in the
            paper. conv has a 3x3 convolution to 256 channels before that, as in the hybrid model of
            "Residual Flows".
        log_det: As of IResNet; null where channels are injected.
        factor_out: Has to be false: the head needs all channels.
        prior: Has to be standard.
        dense_blocks: Has to be 0.
        **options: Other arguments of IResNet.
    """

    flow: MultiScale  # of images

    def __init__(
        self,
        shape: list[PositiveInt],
        num_classes: NonNegativeInt,
        num_blocks: Depth | list[Depth],
        hidden_dim: PositiveInt,
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
                f"net.shape={list(shape)}: expected (C, H, W); only images have a classifier"
            )
        if inject and log_det is not None:
            raise ValueError(
                f"net.inject={inject}: there is no density with injected channels; set "
                "net.inject=0 or net.log_det=null"
            )
        if head not in ("pool", "conv"):
            raise ValueError(f"net.head={head!r}: expected pool or conv")
        if factor_out or dense_blocks or prior != "standard":
            raise ValueError(
                f"net.factor_out={factor_out}, net.dense_blocks={dense_blocks}, net.prior={prior}: "
                "the head needs all channels; expected false, 0 and standard"
            )
        super().__init__(
            [shape[0] + inject, *shape[1:]],
            num_blocks,
            hidden_dim,
            log_det,
            factor_out=False,
            prior="standard",
            **options,
        )
        self.shape = tuple(shape)
        self.inject = inject
        self.num_classes = num_classes
        self.last = self.flow.shapes[-1]  # (C, H, W) of z
        channels = self.last[0]
        layers: list[nn.Module] = []
        if head == "conv":
            layers.append(nn.Conv2d(channels, CONV_HEAD_CHANNELS, 3, padding=1))
            channels = CONV_HEAD_CHANNELS
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.head = nn.Sequential(*layers, nn.Linear(channels, num_classes))

    @property
    def bounded(self) -> bool:
        """Whether the norm of each layer has a bound; without one there need be no inverse."""
        maps = [layer for block in self.blocks() for layer in block.branch.maps]
        return all(layer.coeff is not None for layer in maps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D), and log det (B,) in nats, which is NaN without a log_det."""
        return super().forward(pad(x, (0, 0, 0, 0, 0, self.inject)))

    @float32_convolutions()
    def logits(self, z: Tensor) -> Tensor:
        """Logits (B, num_classes) of z (B, D)."""
        return self.head(z.unflatten(1, self.last))

    def inverse(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of z (B, D)."""
        return super().inverse(z)[:, : self.shape[0]]

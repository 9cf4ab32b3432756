"""Residual Flow: the invertible ResNet with an unbiased log-determinant, LipSwish and a bound close
to 1.
"""

from typing import Any, Literal

from genlab.models.flow.iresnet import IResNet
from genlab.ranges import Depth, OpenFraction, PositiveInt

__all__ = ["ResidualFlow"]


class ResidualFlow(IResNet):
    """An IResNet as its successors built it: an ActNorm first and after each block, no squeeze
    before the first scale, all numbers through all blocks, dense blocks on all of them at the end,
    a standard normal prior.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735, section
    5 and appendix E, and rtqichen/residual-flows. Their log-determinant: Roulette of two exact
    terms, and of twenty in evaluation.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_blocks: Depth | list[Depth],
        width: PositiveInt,
        log_det: Any,
        activation: Literal["elu", "softplus", "lipswish"] = "lipswish",
        coeff: OpenFraction | None = 0.98,
        squeeze_first: bool = False,
        factor_out: bool = False,
        norm: Literal["before", "after"] = "after",
        prior: Literal["diagonal", "standard"] = "standard",
        dense_blocks: Literal[0] | Depth = 4,
        **options: Any,
    ):
        arrangement = {
            "squeeze_first": squeeze_first,
            "factor_out": factor_out,
            "norm": norm,
            "prior": prior,
        }
        arrangement |= {"activation": activation, "coeff": coeff, "dense_blocks": dense_blocks}
        super().__init__(shape, num_blocks, width, log_det, **arrangement, **options)

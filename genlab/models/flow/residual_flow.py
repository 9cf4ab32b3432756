"""Residual Flow: the invertible ResNet with an unbiased log-determinant, LipSwish and a bound close
to 1.
"""

from typing import Any, Literal

from genlab.models.flow.iresnet import IResNet
from genlab.ranges import Depth, OpenFraction, PositiveInt

__all__ = ["ResidualFlow"]


class ResidualFlow(IResNet):
    """An IResNet with other defaults: an ActNorm first and after each block, no squeeze before the
    first scale, all numbers through all blocks, dense blocks on all of them at the end, and a
    standard normal prior.

    The paper's log-determinant is genlab.nn.log_det.Roulette: of two exact terms in training, of
    twenty in evaluation.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735, section
    5 and appendix E, and rtqichen/residual-flows.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_blocks: Depth | list[Depth],
        hidden_dim: PositiveInt,
        log_det: Any,
        activation: Literal["elu", "softplus", "lipswish"] = "lipswish",
        coeff: OpenFraction | None = 0.98,
        squeeze_first: bool = False,
        factor_out: bool = False,
        actnorm: Literal["before", "after"] = "after",
        prior: Literal["diagonal", "standard"] = "standard",
        dense_blocks: Literal[0] | Depth = 4,
        **options: Any,
    ):
        super().__init__(
            shape,
            num_blocks,
            hidden_dim,
            log_det,
            activation=activation,
            coeff=coeff,
            squeeze_first=squeeze_first,
            factor_out=factor_out,
            actnorm=actnorm,
            prior=prior,
            dense_blocks=dense_blocks,
            **options,
        )

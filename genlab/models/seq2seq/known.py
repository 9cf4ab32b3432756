"""How a decoder learns which rows are done without waiting for the device."""

import torch
from torch import Tensor

__all__ = ["Told", "leaves"]


def leaves(alive: Tensor) -> bool:
    """Whether rows that are done leave at once; on CUDA the host would have to wait for each token
    to know them.
    """
    return not alive.is_cuda


class Told:
    """A flag of the device, which the host reads later without a wait for what is asked of the
    device in between.
    """

    def __init__(self, flag: Tensor):
        self.flag, self.event = (
            flag.to("cpu", non_blocking=True),
            torch.cuda.Event() if flag.is_cuda else None,
        )
        if self.event is not None:
            self.event.record()

    def __bool__(self) -> bool:
        if self.event is not None:
            self.event.synchronize()
        return bool(self.flag)

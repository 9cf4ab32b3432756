"""How a decoder learns which rows are finished without waiting for the device."""

import torch
from torch import Tensor

__all__ = ["DeviceFlag", "drops_rows"]


def drops_rows(alive: Tensor) -> bool:
    """Whether finished rows are dropped at once.

    Not on CUDA, where the host would have to wait for every token to know them.
    """
    return not alive.is_cuda


class DeviceFlag:
    """A boolean scalar of the device that the host reads later.

    Its value is copied in the background, so reading it does not wait for work that was launched
    after it.
    """

    def __init__(self, flag: Tensor):
        self.flag = flag.to("cpu", non_blocking=True)
        self.event = torch.cuda.Event() if flag.is_cuda else None
        if self.event is not None:
            self.event.record()

    def __bool__(self) -> bool:
        if self.event is not None:
            self.event.synchronize()
        return bool(self.flag)

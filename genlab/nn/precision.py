"""The precision of convolutions on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["float32_convolutions"]


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Context or decorator in which cuDNN convolves in float32 rather than TF32.

    TF32 keeps three digits of a convolution, too few for an inverse that is found to six. On exit
    the setting of the process is what it was before.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

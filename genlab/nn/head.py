"""What a discriminator makes of its last features."""

from torch import Tensor, nn

__all__ = ["Head"]


class Head(nn.Module):
    """Features h (B, F) -> outputs (B, out_dim), dense, plus <v_y, h> on every output where there
    are classes.

    The added term is "cGANs with Projection Discriminator", Miyato and Koyama 2018, arXiv
    1802.05637, equation 3. It moves the mean of the outputs, which is the score, and nothing else:
    O-GAN's code is blind to it, so an encoder reads images without their labels (y=None leaves it
    out).
    """

    def __init__(self, num_features: int, out_dim: int, num_classes: int = 0):
        super().__init__()
        self.dense = nn.Linear(num_features, out_dim)
        self.embedding = nn.Embedding(num_classes, num_features) if num_classes else None

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        outputs = self.dense(h)
        if self.embedding is None or y is None:
            return outputs
        return outputs + (self.embedding(y) * h).sum(1, keepdim=True)

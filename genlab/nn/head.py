"""The last layer of a discriminator."""

from torch import Tensor, nn

__all__ = ["Head"]


class Head(nn.Module):
    """Features h (B, F) -> outputs (B, out_dim): dense, plus <v_y, h> where there are labels.

    The added term is the projection of "cGANs with Projection Discriminator", Miyato and Koyama
    2018, arXiv 1802.05637, equation 3. It is the same number for every output, so it moves their
    mean, which is the score, and not O-GAN's code. An encoder therefore reads images without labels
    (y=None leaves the term out).

    Args:
        num_features: F.
        out_dim: How many outputs.
        num_classes: 0 without labels.
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

"""One latent code per training image, moved by an Adam that updates only the rows of a batch.

Shapes: N training images, Z latent_dim, B rows of a batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genlab.losses.gan import AdversarialLoss

__all__ = ["Codes", "Rows", "check_parts", "draw", "initial_codes", "principal_directions"]

MAX_PCA_IMAGES = 10_000
BLOCK = 1 << 16  # codes that are projected at a time, to save memory


class Rows(nn.Module):
    """A module whose buffers take the shape of what is loaded into them.

    Their length is that of a data set, which need not be there when a checkpoint is loaded.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Codes(Rows):
    """N codes (N, Z), each with an Adam of its own.

    A row that is not in the batch does not move, and neither do its moments. On the sphere, a code
    stands for z / |z|, and `project` makes it so; in the ball, |z| <= 1 is restored after every
    move. Codes and moments take the memory of three tables (N, Z).

    "Adam: A Method for Stochastic Optimization", Kingma and Ba 2015, arXiv 1412.6980, with a step
    count for each row.

    Args:
        latent_dim: Z.
        space: sphere or ball.
        betas: Decay rates of Adam's two moments.

    Raises:
        ValueError: Another space.
    """

    def __init__(
        self, latent_dim: int, space: str = "sphere", betas: tuple[float, float] = (0.5, 0.999)
    ):
        super().__init__()
        if space not in ("sphere", "ball"):
            raise ValueError(f"model.space={space!r}: expected sphere or ball")
        self.space = space
        self.betas = tuple(betas)
        self.eps = 1e-8
        for name in ("values", "mean", "square"):  # mean and square: the moments
            self.register_buffer(name, torch.zeros(0, latent_dim))
        self.register_buffer("moves", torch.zeros(0, dtype=torch.int32))  # steps of each row

    def __len__(self) -> int:
        return len(self.values)

    @property
    def moving(self) -> bool:
        """Whether the codes still move: `fix` has not been called."""
        return len(self.moves) == len(self)

    def allocate(self, values: Tensor) -> None:
        """Starts anew from `values` (N, Z)."""
        self.values = values.to(self.values)
        self.forget()

    def forget(self) -> None:
        """Resets Adam's state, in place where there is one."""
        if self.moving:
            for state in (self.mean, self.square, self.moves):
                state.zero_()
            return
        self.mean = torch.zeros_like(self.values)
        self.square = torch.zeros_like(self.values)
        self.moves = torch.zeros(len(self), dtype=torch.int32, device=self.values.device)

    def fix(self) -> None:
        """Projects the codes and frees the memory of Adam's state: they do not move any more."""
        self.project()
        for name in ("mean", "square", "moves"):
            state = getattr(self, name)
            setattr(self, name, state[:0].clone())
            state.untyped_storage().resize_(0)  # a distributed wrapper may keep the tensor

    def forward(self, index: Tensor) -> Tensor:
        """A copy (B, Z) of the rows `index` (B,), as a leaf that takes a gradient."""
        return self.values[index].requires_grad_()

    def point(self, z: Tensor) -> Tensor:
        """The generator's input for codes z (B, Z): on the sphere z / |z|.

        The norm is a constant for the gradient, as in yedidh/glann.
        """
        if self.space == "ball":
            return z
        return z / z.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)

    def inside(self, z: Tensor) -> Tensor:
        """Codes z (B, Z) projected onto the sphere or into the ball."""
        norm = z.norm(dim=1, keepdim=True)
        return z / (norm.clamp_min(1.0) if self.space == "ball" else norm.clamp_min(1e-12))

    @torch.no_grad()
    def move(self, index: Tensor, gradient: Tensor, lr: float | Tensor) -> None:
        """Does one step of Adam on some rows.

        Args:
            index: The rows (B,), all different.
            gradient: Their gradient (B, Z).
            lr: Learning rate.
        """
        b1, b2 = self.betas
        gradient = gradient.to(self.values.dtype)
        self.moves[index] += 1
        count = self.moves[index, None].to(self.values.dtype)
        mean = self.mean[index].lerp_(gradient, 1 - b1)
        square = self.square[index].lerp_(gradient.square(), 1 - b2)
        self.mean[index] = mean
        self.square[index] = square
        step = mean / (1 - b1**count) / ((square / (1 - b2**count)).sqrt() + self.eps)
        moved = self.values[index] - lr * step
        self.values[index] = self.inside(moved) if self.space == "ball" else moved

    @torch.no_grad()
    def project(self) -> None:
        """Projects all codes onto the sphere or into the ball, in place."""
        for part in self.values.split(BLOCK):
            part.copy_(self.inside(part))

    def between(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """Codes between pairs of codes: on the sphere's arc, or on a line in the ball.

        Args:
            start: Projected codes (B, Z).
            end: Projected codes (B, Z).
            num: Codes per pair, ends included.

        Returns:
            Codes (B, num, Z).
        """
        a = start[:, None]  # (B, 1, Z)
        b = end[:, None]
        t = torch.linspace(0, 1, num, dtype=start.dtype, device=start.device)[None, :, None]
        if self.space == "ball":
            return (1 - t) * a + t * b
        angle = (a * b).sum(2, keepdim=True).clamp(-1, 1).acos().clamp(1e-4, torch.pi - 1e-4)
        arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
        return arc / arc.norm(dim=2, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def fit_gaussian(self) -> tuple[Tensor, Tensor]:
        """Fits a Gaussian of full covariance to the projected codes.

        Returns:
            The mean (Z,) and a symmetric square root (Z, Z) of the covariance, both float64.
        """
        count, dim = self.values.shape
        total = self.values.new_zeros(dim, dtype=torch.float64)
        outer = self.values.new_zeros(dim, dim, dtype=torch.float64)
        for part in self.values.split(BLOCK):
            z = self.inside(part).double()
            total += z.sum(0)
            outer += z.T @ z
        mean = total / count
        values, vectors = torch.linalg.eigh(outer / count - mean.outer(mean))
        return mean, (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def draw(num: int, dim: int, seed: int) -> Tensor:
    """Normal vectors (num, dim) on the CPU.

    Args:
        num: How many; the first vectors do not depend on it.
        dim: Of a vector.
        seed: Of the noise.
    """
    whole = num + -num % 16  # torch fills an incomplete last block of 16 numbers differently
    return torch.randn(whole, dim, generator=torch.Generator().manual_seed(seed))[:num]


def principal_directions(points: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The first principal directions of centred points, the same at each call.

    Args:
        points: (N, D), of mean zero.
        num: How many directions.

    Returns:
        Singular values (num,) and directions (D, num).
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        _, values, vectors = torch.pca_lowrank(points, q=min(num + 10, *points.shape), niter=4)
    return values[:num], vectors[:, :num]


def initial_codes(images, dim: int, how: str, seed: int) -> Tensor:
    """The codes that training starts from.

    Args:
        images: uint8 (N, C, H, W), a tensor or another table that is indexed by rows.
        dim: Z.
        how: normal: N(0, 0.01^2). pca: the images' first principal components, taken from at most
            10,000 of them, on the unit sphere.
        seed: Of normal codes.

    Returns:
        Codes (N, Z).

    Raises:
        ValueError: Another `how`, or images with fewer principal components than `dim`.
    """
    count = len(images)
    if how == "normal":
        return 0.01 * draw(count, dim, seed)
    if how != "pca":
        raise ValueError(f"model.code_init={how!r}: expected normal or pca")

    def pixels(rows: Tensor) -> Tensor:
        return images[rows].cpu().flatten(1).float()

    some = pixels(torch.linspace(0, count - 1, min(count, MAX_PCA_IMAGES)).long())
    if dim > min(some.shape):
        raise ValueError(
            f"model.code_init=pca: {len(some)} images of {some.shape[1]} numbers have no {dim} "
            f"principal components; use model.latent_dim={min(some.shape)} or less, or "
            "model.code_init=normal"
        )
    mean = some.mean(0)
    _, vectors = principal_directions(some, dim)
    codes = torch.cat([(pixels(rows) - mean) @ vectors for rows in torch.arange(count).split(1024)])
    return codes / codes.norm(dim=1, keepdim=True).clamp_min(1e-12)


def check_parts(name: str, net: Mapping[str, nn.Module], loss) -> None:
    """Checks the network and the loss of a model without a discriminator.

    Args:
        name: Of the model, for messages.
        net: Its networks by name.
        loss: Its loss.

    Raises:
        ValueError: There is a discriminator, or the loss is no distance between images.
    """
    if net.get("discriminator") is not None:
        raise ValueError(f"net.discriminator: {name} trains none; use net.discriminator=null")
    if isinstance(loss, AdversarialLoss) or not callable(loss):
        raise ValueError(
            f"loss: {name} needs a distance between images: loss=laplacian, l1, l2, vgg or features"
        )

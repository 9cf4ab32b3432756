"""One latent code for each training image, and the state of the optimiser that moves a batch's rows
alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Codes", "Rows", "check_parts", "draw", "initial_codes", "principal_directions"]

MOST = 10_000  # images that principal components are taken of


class Rows(nn.Module):
    """A module whose buffers take the shape of what is loaded into them: tables as long as a set
    that is not at hand.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name, buffer in self._buffers.items():
            if (
                loaded := state_dict.get(prefix + name)
            ) is not None and loaded.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Codes(Rows):
    """N codes (N, Z), each moved by an Adam of its own: a row that is not in the batch rests, and
    so do its moments.

    space: sphere, where a code means z / |z| and `project` makes it so, or ball, where it is held
    at |z| <= 1 after every move. Adam (Kingma and Ba 2015, arXiv 1412.6980) counts each row's own
    moves. The memory is that of the codes and their two moments.
    """

    def __init__(
        self, latent_dim: int, space: str = "sphere", betas: tuple[float, float] = (0.5, 0.999)
    ):
        super().__init__()
        if space not in ("sphere", "ball"):
            raise ValueError(f"model.space={space!r}: expected sphere or ball")
        self.space, self.betas, self.eps = space, tuple(betas), 1e-8
        for name in ("values", "mean", "square"):
            self.register_buffer(name, torch.zeros(0, latent_dim))
        self.register_buffer("moves", torch.zeros(0, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def moving(self) -> bool:
        """Not fixed."""
        return len(self.moves) == len(self)

    def allocate(self, values: Tensor) -> None:
        """Starts anew from `values` (N, Z)."""
        self.values = values.to(self.values)
        self.forget()

    def forget(self) -> None:
        """Adam's state as it was before the first move; in its place where it has one."""
        if self.moving:
            for state in (self.mean, self.square, self.moves):
                state.zero_()
            return
        self.mean, self.square = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.moves = torch.zeros(len(self), dtype=torch.int32, device=self.values.device)

    def fix(self) -> None:
        """Projects the codes and gives the memory of Adam's state back: they will not move any
        more.
        """
        self.project()
        for name in ("mean", "square", "moves"):
            state = getattr(self, name)
            setattr(self, name, state[:0].clone())
            state.untyped_storage().resize_(0)  # a distributed wrapper may hold on to the tensor

    def forward(self, index: Tensor) -> Tensor:
        """A copy (B, Z) of the rows `index` (B,) that a gradient can be taken of."""
        return self.values[index].requires_grad_()

    def point(self, z: Tensor) -> Tensor:
        """What G sees of z (B, Z): on the sphere z / |z|, its norm a constant for the gradient, as
        in yedidh/glann.
        """
        if self.space == "ball":
            return z
        return z / z.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)

    def inside(self, z: Tensor) -> Tensor:
        """z (B, Z) projected onto the sphere or into the ball."""
        norm = z.norm(dim=1, keepdim=True)
        return z / (norm.clamp_min(1.0) if self.space == "ball" else norm.clamp_min(1e-12))

    @torch.no_grad()
    def move(self, index: Tensor, gradient: Tensor, lr: float | Tensor) -> None:
        """One step of Adam on the rows `index` (B,), all different, with their gradient (B, Z)."""
        (b1, b2), gradient = self.betas, gradient.to(self.values.dtype)
        self.moves[index] += 1
        count = self.moves[index, None].to(self.values.dtype)
        mean = self.mean[index].lerp_(gradient, 1 - b1)
        square = self.square[index].lerp_(gradient.square(), 1 - b2)
        self.mean[index], self.square[index] = mean, square
        step = mean / (1 - b1**count) / ((square / (1 - b2**count)).sqrt() + self.eps)
        moved = self.values[index] - lr * step
        self.values[index] = self.inside(moved) if self.space == "ball" else moved

    @torch.no_grad()
    def project(self) -> None:
        """Puts all codes where they belong, a part at a time."""
        for part in self.values.split(1 << 16):
            part.copy_(self.inside(part))

    def between(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """(B, num, Z) from each code of `start` (B, Z) to that of `end`: on the sphere's arc, or on
        the ball's line.
        """
        a, b = start[:, None], end[:, None]
        t = torch.linspace(0, 1, num, dtype=start.dtype, device=start.device)[None, :, None]
        if self.space == "ball":
            return (1 - t) * a + t * b
        angle = (a * b).sum(2, keepdim=True).clamp(-1, 1).acos().clamp(1e-4, torch.pi - 1e-4)
        arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
        return arc / arc.norm(dim=2, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """The mean (Z,) of the projected codes and a symmetric root (Z, Z) of their covariance,
        float64.
        """
        count, dim = self.values.shape
        total = self.values.new_zeros(dim, dtype=torch.float64)
        outer = self.values.new_zeros(dim, dim, dtype=torch.float64)
        for part in self.values.split(1 << 16):
            z = self.inside(part).double()
            total += z.sum(0)
            outer += z.T @ z
        mean = total / count
        values, vectors = torch.linalg.eigh(outer / count - mean.outer(mean))
        return mean, (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def draw(num: int, dim: int, seed: int) -> Tensor:
    """`num` normal vectors (num, dim) on the CPU: a function of `seed`, the same for every `num`."""
    whole = num + -num % 16  # torch fills its last, incomplete block of 16 numbers in another way
    return torch.randn(whole, dim, generator=torch.Generator().manual_seed(seed))[:num]


def principal_directions(points: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The singular values (num,) of centred points (N, D) and their directions (D, num), the same
    at each call.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        _, values, vectors = torch.pca_lowrank(points, q=min(num + 10, *points.shape), niter=4)
    return values[:num], vectors[:, :num]


def initial_codes(images, dim: int, how: str, seed: int) -> Tensor:
    """The codes (N, dim) that training begins with, of N images uint8 (N, C, H, W).

    how: normal, of standard deviation 0.01, or pca, what the first `dim` principal components of at
    most 10,000 of the images say of each, on the unit sphere. ValueError for another, or for images
    that have fewer than `dim`.
    """
    count = len(images)
    if how == "normal":
        return 0.01 * draw(count, dim, seed)
    if how != "pca":
        raise ValueError(f"model.code_init={how!r}: expected normal or pca")

    def numbers(rows: Tensor) -> Tensor:
        return images[rows].cpu().flatten(1).float()

    some = numbers(torch.linspace(0, count - 1, min(count, MOST)).long())
    if dim > min(some.shape):
        raise ValueError(
            f"model.code_init=pca: {len(some)} images of {some.shape[1]} numbers have no {dim} principal components; use "
            f"model.latent_dim={min(some.shape)} or less, or model.code_init=normal"
        )
    mean, (_, vectors) = some.mean(0), principal_directions(some, dim)
    codes = torch.cat(
        [(numbers(rows) - mean) @ vectors for rows in torch.arange(count).split(1024)]
    )
    return codes / codes.norm(dim=1, keepdim=True).clamp_min(1e-12)


def check_parts(name: str, net: Mapping[str, nn.Module], loss) -> None:
    """ValueError unless there is a generator and no discriminator, and the loss is a distance
    between images.
    """
    if net.get("discriminator") is not None:
        raise ValueError(f"net.discriminator: {name} trains none; give net.discriminator=null")
    if not callable(loss):
        raise ValueError(
            f"loss: {name} needs a distance between images, loss=laplacian, l1, l2, vgg or features"
        )

"""GLANN: GLO's codes, then a mapping from noise to them by IMLE, in one run."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from genlab.metrics.neighbours import nearest
from genlab.nn.norm import batch_statistics
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat
from genlab.systems.latent.codes import Rows, draw
from genlab.systems.latent.glo import GLO
from genlab.training.distributed import check_unused
from genlab.training.schedules import halving

__all__ = ["GLANN"]

BLOCK = 1 << 14  # noise vectors that are mapped at a time


class Matches(Rows):
    """The noise (N, E) whose mapping is nearest to each code, and when the second stage began.

    `begun` counts the batches before the second stage.
    """

    def __init__(self, noise_dim: int):
        super().__init__()
        self.register_buffer("noise", torch.zeros(0, noise_dim))
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.noise)


class GLANN(GLO):
    """GLO for `glo_steps` steps; then a mapping T that minimises the mean of |T(e_i) - z_i|^2.

    e_i is, among many noise vectors, the one with T(e_i) nearest to the code z_i. At each epoch of
    the second stage, num_candidates N noise vectors are drawn and matched anew; codes and generator
    do not change. Every code has a nearest noise vector, so none is dropped. Samples are G(T(e)), e
    ~ N(0, 1); before T is trained they are GLO's.

    "Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik
    2019, arXiv 1812.08985. IMLE: "Implicit Maximum Likelihood Estimation", Li and Malik 2018, arXiv
    1809.09087.

    The other arguments are those of GLO.

    Args:
        net: {"generator": ..., "mapping": T}.
        glo_steps: Steps of the first stage.
        num_candidates: Noise vectors per code.
        mapping_lr: Learning rate of T.
        mapping_weight_decay: Weight decay of T.
        mapping_halve_every: mapping_lr is halved after this many epochs of the second stage; 0:
            never.

    Raises:
        ValueError: There is no mapping, a number is out of range, or as for GLO.
    """

    samplers = ("mapping", "gaussian")

    def __init__(
        self,
        *args,
        glo_steps: NonNegativeInt,
        num_candidates: PositiveFloat = 2.0,
        mapping_lr: NonNegativeFloat = 1e-3,
        mapping_weight_decay: NonNegativeFloat = 1e-5,
        mapping_halve_every: NonNegativeInt = 50,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        net: dict[str, nn.Module] = kwargs.get("net") or args[0]
        if net.get("mapping") is None:
            raise ValueError(
                "net.mapping: GLANN needs a mapping from noise to codes "
                "(genlab.models.glann.Mapping)"
            )
        if glo_steps < 0:
            raise ValueError(f"model.glo_steps={glo_steps}: expected a number of steps")
        if num_candidates <= 0:
            raise ValueError(
                f"model.num_candidates={num_candidates}: expected a positive number of noise "
                "vectors per code"
            )
        self.mapping = net["mapping"]
        self.matches = Matches(self.mapping.noise_dim)
        self.glo_steps = glo_steps
        self.num_candidates = num_candidates
        self.mapping_lr = mapping_lr
        self.mapping_weight_decay = mapping_weight_decay
        self.mapping_halve_every = mapping_halve_every

    # --- training ---------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """The stage of the next step, for the progress line."""
        return "GLO" if self.global_step < self.glo_steps else "IMLE"

    @property
    def batches_of_stage(self) -> int:
        """Batches of the second stage so far."""
        return self.batch_count - int(self.matches.begun)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_unused(self.trainer, "each stage of GLANN trains one network")

    def graph_key(self) -> tuple:
        return *super().graph_key(), self.stage

    def groups(self) -> list[dict]:
        mapping = {
            "params": list(self.mapping.parameters()),
            "lr": self.mapping_lr,
            "name": "mapping",
            "weight_decay": self.mapping_weight_decay,
        }
        return [*super().groups(), mapping]

    def rates(self) -> dict[str, float]:
        epochs = self.batches_of_stage // self.batches_per_epoch if len(self.matches) else 0
        factor = halving(epochs, self.mapping_halve_every)
        return super().rates() | {"mapping": factor * self.mapping_lr}

    def on_train_batch_start(self, batch, batch_idx) -> None:
        if self.stage == "GLO":
            return super().on_train_batch_start(batch, batch_idx)
        if not len(self.matches):
            self.codes.fix()
            self.matches.begun.fill_(self.batch_count)
        if self.batches_of_stage % self.batches_per_epoch == 0:
            if self.reset_optimizer:
                self.forget()
            self.match()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.stage == "GLO":
            return super().training_step(batch, batch_idx)
        index = batch["index"]
        loss = mse_loss(self.mapping(self.matches.noise[index]), self.codes.values[index])
        self.log("train/mapping", loss.detach())
        return loss

    @torch.no_grad()
    def match(self) -> None:
        """Draws noise vectors and keeps the one whose mapping is nearest to each code.

        One process searches for all. The mapping uses its batch statistics.
        """
        if self.trainer.is_global_zero:
            codes = self.codes.values
            count = round(self.num_candidates * len(codes))
            least = codes.new_full((len(codes),), float("inf"), dtype=torch.float64)
            noise = codes.new_zeros(len(codes), self.mapping.noise_dim)
            with batch_statistics(self.mapping):
                for size in block_sizes(count):
                    e = torch.randn(size, noise.shape[1], device=self.device, dtype=self.dtype)
                    distances, rows = (part[:, 0] for part in nearest(codes, self.mapping(e)))
                    better = distances < least
                    least[better] = distances[better]
                    noise[better] = e[rows[better]]
            if len(self.matches):
                self.matches.noise.copy_(noise)  # in place, because a captured step reads it
            else:
                self.matches.noise = noise
            self.log("train/match_distance", least.mean().float(), rank_zero_only=True)
        if self.trainer.world_size > 1:
            self.matches.noise = self.trainer.strategy.broadcast(self.matches.noise).to(self.device)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, Z) of the sampler.

        Args:
            num: How many.
            seed: Of the noise.
            temperature: Factor on the noise, or on the spread; below 1 truncates.
        """
        sampler = self.sampler or ("mapping" if len(self.matches) else "gaussian")
        draw_codes = self.map_noise if sampler == "mapping" else self.draw_gaussian
        return draw_codes(num, seed, temperature)

    @torch.no_grad()
    def map_noise(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, Z) that T makes of noise, projected. Arguments as for `prior`."""
        size = num + -num % 256 if self.batch_statistics else num  # only whole batches
        noise = temperature * draw(size, self.mapping.noise_dim, seed)
        with self._statistics(self.mapping):
            parts = [self.mapping(e.to(self.device, self.dtype)) for e in noise.split(256)]
        return self.codes.inside(torch.cat(parts)[:num])


def block_sizes(count: int) -> list[int]:
    """`count` in blocks of at most BLOCK, as equal as possible.

    A short last block would have poor batch norm statistics.
    """
    num = -(-count // BLOCK)
    return [count // num + (i < count % num) for i in range(num)]

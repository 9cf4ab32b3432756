"""GLANN: GLO's codes, then a mapping from noise onto them by IMLE, in one run."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from genlab.metrics.neighbours import nearest
from genlab.nn.norm import batch_statistics
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat
from genlab.systems.latent.codes import Rows, draw
from genlab.systems.latent.glo import GLO

__all__ = ["GLANN"]

BLOCK = 1 << 14  # candidates at a time


class Matches(Rows):
    """The noise (N, E) whose code lies nearest to each stored code, and the batch with which the
    second stage began.
    """

    def __init__(self, noise_dim: int):
        super().__init__()
        self.register_buffer("noise", torch.zeros(0, noise_dim))
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.noise)


class GLANN(GLO):
    """GLO for `glo_steps` steps; then min_T of the mean over i of |T(e_i) - z_i|^2, e_i the nearest
    of many noises to z_i.

    "Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik
    2019, arXiv 1812.08985;
    IMLE: "Implicit Maximum Likelihood Estimation", Li and Malik 2018, arXiv 1809.09087. Every code
    is somebody's nearest, so none is dropped. At each pass of the second stage num_candidates N
    noises are drawn and each code finds its nearest; codes and generator rest. Samples are G(T(e)),
    e ~ N(0, 1); until T is trained they are GLO's.

    net: {"generator": ..., "mapping": T}. mapping_lr is halved after every mapping_halve_every
    passes of the second stage.
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
                "net.mapping: GLANN needs one, from noise to codes (genlab.models.glann.Mapping)"
            )
        if glo_steps < 0 or num_candidates <= 0:
            raise ValueError(
                f"model.glo_steps={glo_steps}, model.num_candidates={num_candidates}: expected a number of steps, and how "
                "many noises to draw for each code"
            )
        self.mapping = net["mapping"]
        self.matches = Matches(self.mapping.noise_dim)
        self.glo_steps, self.num_candidates, self.mapping_lr = glo_steps, num_candidates, mapping_lr
        self.mapping_weight_decay, self.mapping_halve_every = (
            mapping_weight_decay,
            mapping_halve_every,
        )

    # --- training ---------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """What is trained now, for the progress bar."""
        return "GLO" if self.global_step < self.glo_steps else "IMLE"

    @property
    def batches_of_stage(self) -> int:
        """Batches of the second stage so far."""
        return self.batch_count - int(self.matches.begun)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not getattr(self.trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True}).get(
            "find_unused_parameters"
        ):
            raise ValueError(
                "trainer.strategy.find_unused_parameters=false: each stage of GLANN trains one network, which distributed "
                "training must be told: trainer.strategy.find_unused_parameters=true"
            )

    def graph_key(self) -> tuple:
        return *super().graph_key(), self.stage

    def groups(self) -> list[dict]:
        mapping = {
            "params": list(self.mapping.parameters()),
            "lr": self.mapping_lr,
            "name": "mapping",
        }
        return [*super().groups(), mapping | {"weight_decay": self.mapping_weight_decay}]

    def rates(self) -> dict[str, float]:
        passes = self.batches_of_stage // self.batches_a_pass
        factor = (
            0.5 ** (passes // self.mapping_halve_every)
            if self.mapping_halve_every and len(self.matches)
            else 1.0
        )
        return super().rates() | {"mapping": factor * self.mapping_lr}

    def on_train_batch_start(self, batch, batch_idx) -> None:
        if self.stage == "GLO":
            return super().on_train_batch_start(batch, batch_idx)
        if not len(self.matches):
            self.codes.fix()
            self.matches.begun.fill_(self.batch_count)
        if self.batches_of_stage % self.batches_a_pass == 0:
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
        """Draws noises and keeps the nearest to each code; one process searches for all. T has its
        batch statistics.
        """
        if self.trainer.is_global_zero:
            codes, count = self.codes.values, round(self.num_candidates * len(self.codes))
            least, noise = (
                codes.new_full((len(codes),), float("inf"), dtype=torch.float64),
                self.matches.noise,
            )
            noise = codes.new_zeros(len(codes), self.mapping.noise_dim)
            with batch_statistics(self.mapping):
                for size in block_sizes(count):
                    e = torch.randn(size, noise.shape[1], device=self.device, dtype=self.dtype)
                    distances, rows = (part[:, 0] for part in nearest(codes, self.mapping(e)))
                    better = distances < least
                    least[better], noise[better] = distances[better], e[rows[better]]
            if len(self.matches):
                self.matches.noise.copy_(noise)  # where a captured step reads it
            else:
                self.matches.noise = noise
            self.log("train/match_distance", least.mean().float(), rank_zero_only=True)
        if self.trainer.world_size > 1:
            self.matches.noise = self.trainer.strategy.broadcast(self.matches.noise).to(self.device)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` codes (num, Z) of the sampler: a function of `seed`. temperature: on the noise or
        spread; < 1 truncates.
        """
        sampler = self.sampler or ("mapping" if len(self.matches) else "gaussian")
        return (
            self.mapped(num, seed, temperature)
            if sampler == "mapping"
            else self.gaussian(num, seed, temperature)
        )

    @torch.no_grad()
    def mapped(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` codes (num, Z) that T makes of noise, projected."""
        size = (
            num + -num % 256 if self.batch_statistics else num
        )  # a batch's statistics want a batch
        noise = temperature * draw(size, self.mapping.noise_dim, seed)
        with batch_statistics(self.mapping) if self.batch_statistics else nullcontext():
            parts = [self.mapping(e.to(self.device, self.dtype)) for e in noise.split(256)]
        return self.codes.inside(torch.cat(parts)[:num])


def block_sizes(count: int) -> list[int]:
    """`count` in blocks of at most BLOCK, as equal as can be: a batch norm's statistics want no
    short last one.
    """
    num = -(-count // BLOCK)
    return [count // num + (i < count % num) for i in range(num)]

"""A Frechet distance on the validation split during training: cheap, needs no weights, comparable
within one run.
"""

from typing import Annotated

import torch
from lightning.pytorch import Callback

from genlab.metrics.features import random
from genlab.metrics.frechet import Moments, frechet_distance
from genlab.metrics.neighbours import spread
from genlab.ranges import Range

__all__ = ["Quality"]


class Quality(Callback):
    """Logs val/fid_random, the Frechet distance of as many samples as there are validation images
    to those images, and val/diversity, how far the samples lie apart beside how far the images do
    (1: as far).

    Over fixed random convolutions, so only differences within one data set and `num` mean anything.
    `num` bounds the images used. A code correlation can look well while all samples are alike:
    val/diversity cannot.
    """

    def __init__(self, num: Annotated[int, Range(ge=2)] = 1000):
        self.num = num
        self.features = None

    def on_validation_epoch_end(self, trainer, system) -> None:
        if self.features is None:
            self._measure_real(trainer.datamodule, system.device)
        samples = self._features(system.sample(self.count, seed=1))
        fake = Moments(self.features.dim).to(samples.device)
        fake.update(samples)
        # The mean over processes, so that all of them come to one decision on the best checkpoint.
        distance = frechet_distance(fake.compute(), self.real)
        system.log("val/fid_random", distance.float(), sync_dist=True)
        system.log("val/diversity", spread(samples) / self.real_spread, sync_dist=True)

    def _measure_real(self, data, device: torch.device) -> None:
        self.features = random(data=data).to(device)
        images = torch.cat([batch["image"] for batch in data.loader("val", batch_size=250)])[
            : self.num
        ]
        real = self._features(images.to(device))
        moments = Moments(self.features.dim).to(device)
        moments.update(real)
        self.count, self.real, self.real_spread = len(images), moments.compute(), spread(real)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.features(part) for part in images.split(250)])

"""A Frechet distance on the validation split during training.

It is cheap and needs no pretrained weights, but its values compare only within one data set.
"""

from typing import Annotated

import torch
from lightning.pytorch import Callback

from genlab.metrics.features import random
from genlab.metrics.frechet import Moments, frechet_distance
from genlab.metrics.neighbours import spread
from genlab.ranges import Range

__all__ = ["Quality"]

BATCH_SIZE = 250


class Quality(Callback):
    """Logs val/fid_random and val/diversity at each validation, over fixed random convolutions.

    val/fid_random is the Frechet distance between validation images and as many samples.
    val/diversity is the spread of the samples divided by the spread of the images, so 1 means
    equally diverse; it shows mode collapse, which a good code correlation can hide. Compare values
    of one data set and one `num` only.

    Args:
        num: Validation images to use at most.
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
        distance = frechet_distance(fake.compute(), self.real)
        # The mean over processes, so that all of them agree on the best checkpoint
        system.log("val/fid_random", distance.float(), sync_dist=True)
        system.log("val/diversity", spread(samples) / self.real_spread, sync_dist=True)

    def _measure_real(self, data, device: torch.device) -> None:
        self.features = random(data=data).to(device)
        batches = [batch["image"] for batch in data.loader("val", batch_size=BATCH_SIZE)]
        images = torch.cat(batches)[: self.num]
        real = self._features(images.to(device))
        moments = Moments(self.features.dim).to(device)
        moments.update(real)
        self.count = len(images)
        self.real = moments.compute()
        self.real_spread = spread(real)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.features(batch) for batch in images.split(BATCH_SIZE)])

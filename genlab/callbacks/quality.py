"""A Frechet distance on the validation split during training: cheap, needs no weights, comparable within one run."""

import torch
from lightning.pytorch import Callback

from genlab.metrics.features import random
from genlab.metrics.frechet import FrechetDistance

__all__ = ["Quality"]


class Quality(Callback):
    """Logs val/fid_random, the Frechet distance of as many samples as there are validation images to those images.

    Over fixed random convolutions, so only differences within one data set and `num` mean anything. `num` bounds the
    images used.
    """

    def __init__(self, num: int = 1000):
        self.num = num
        self.features = None

    def on_validation_epoch_end(self, trainer, system) -> None:
        data, device = trainer.datamodule, system.device
        if self.features is None:
            self.features = random(data=data).to(device)
            self.real = FrechetDistance(self.features.dim).to(device)
            num = 0
            for batch in data.loader("val", batch_size=250):
                images = batch["image"][: self.num - num]
                self.real.update(self.features(images.to(device)), real=True)
                num += len(images)
                if num >= self.num:
                    break
            self.count = num
        distance = self.real.clone()
        with torch.no_grad():
            for images in system.sample(self.count, seed=1).split(250):
                distance.update(self.features(images.to(device)), real=False)
        # The mean over processes, so that all of them come to one decision on the best checkpoint.
        system.log("val/fid_random", distance.compute().float(), sync_dist=True)
        system.log("step", float(trainer.global_step), rank_zero_only=True)

"""Gradients of two gloo processes on halves of a batch equal those of one process on the whole."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from genlab.losses.gan import GANQP
from genlab.models.gan.dcgan import Discriminator, Generator
from genlab.systems.gan import updates
from genlab.systems.gan.ogan import OGAN


class Unnormed(nn.Identity):
    def __init__(self, num_features, latent_dim, num_classes):
        super().__init__()

    def forward(self, h, z, y):
        return h


def build(update):
    torch.manual_seed(0)
    net = {
        "generator": Generator(16, 1, 6, hidden_dim=8, norm=Unnormed),
        "discriminator": Discriminator(16, 1, 6, hidden_dim=8, norm="group"),
    }
    return OGAN(
        net, GANQP(), 6, partial(torch.optim.SGD), 1e-3, 1e-3, out_dim=6, update=update
    ).double()


class Step(nn.Module):
    """What Lightning wraps: one training step as the module's forward."""

    def __init__(self, system, update):
        super().__init__()
        self.system, self.update = system, update

    def forward(self, x, z):
        return getattr(updates, self.update)(self.system, x, z)[0]


def worker(folder: Path, update: str, rank: int):
    """One of the two processes: this file, run as a script."""
    x, z = torch.load(folder / "batch.pt", weights_only=True)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    step = nn.parallel.DistributedDataParallel(Step(build(update), update), broadcast_buffers=False)
    step(x[rank::2], z[rank::2]).backward()
    if rank == 0:
        torch.save([p.grad for p in step.parameters()], folder / "gradients.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("update", ["shared", "single"])
def test_gradients_of_two_processes(update, tmp_path):
    torch.manual_seed(1)
    x, z = torch.rand(8, 1, 16, 16).double() * 2 - 1, torch.randn(8, 6).double()
    torch.save((x, z), tmp_path / "batch.pt")
    commands = [[sys.executable, __file__, str(tmp_path), update, str(rank)] for rank in range(2)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    system = build(update)
    Step(system, update)(x, z).backward()
    for parameter, gradient in zip(system.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


if __name__ == "__main__":
    worker(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

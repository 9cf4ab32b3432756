"""Gradients of two gloo processes on halves of a batch equal those of one process on the whole."""

from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from genlab.losses.gan import GANQP
from genlab.models.gan.dcgan import Discriminator, Generator
from genlab.systems import updates
from genlab.systems.ogan import OGAN


class Unnormed(nn.Identity):
    def __init__(self, num_features, latent_dim, num_classes):
        super().__init__()

    def forward(self, h, z, y):
        return h


def build(update):
    torch.manual_seed(0)
    net = {
        "generator": Generator(16, 1, 6, width_multiple=1, norm=Unnormed),
        "discriminator": Discriminator(16, 1, 6, width_multiple=1, norm="group"),
    }
    return OGAN(net, GANQP(), 6, partial(torch.optim.SGD), 1e-3, 1e-3, out_dim=6, update=update).double()


class Step(nn.Module):
    """What Lightning wraps: one training step as the module's forward."""

    def __init__(self, system, update):
        super().__init__()
        self.system, self.update = system, update

    def forward(self, x, z):
        return getattr(updates, self.update)(self.system, x, z)[0]


def worker(rank, update, port, x, z, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    step = nn.parallel.DistributedDataParallel(Step(build(update), update), broadcast_buffers=False)
    step(x[rank::2], z[rank::2]).backward()
    if rank == 0:
        queue.put([p.grad.numpy() for p in step.parameters()])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("update", ["shared", "single"])
def test_gradients_of_two_processes(update):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.manual_seed(1)
    x, z = torch.rand(8, 1, 16, 16).double() * 2 - 1, torch.randn(8, 6).double()
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, update, port, x, z, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    gradients = queue.get(timeout=120)
    for process in processes:
        process.join(60)
    system = build(update)
    Step(system, update)(x, z).backward()
    for parameter, gradient in zip(system.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, torch.from_numpy(gradient), rtol=1e-10, atol=1e-13)

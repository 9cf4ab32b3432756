"""Time and memory of a step and of the inverse of residual flows, against normflows.

    pip install normflows
    python benchmarks/flow_step.py
    python benchmarks/flow_step.py --channels 4 --size 14 --width 64 --blocks 4 --batch 64 --terms 5

Both have the same weights (checked: equal outputs), LipSwish, c 0.97, and products of J to the
power `terms` in the gradient of the log-determinant: normflows with n_power_series = terms, genlab
with num_terms = terms + 1, so that its value is the longer series. Each step has its optimiser and
its power iterations: five in normflows, up to its tolerance in genlab. The cases:

    normflows          both of the paper's tricks (reduce_memory)
    normflows, naive   none of them
    store              genlab: the Neumann gradient, with all of the pass kept
    recompute          genlab: the Neumann gradient, with the pass computed again
    naive              genlab's layers, the series differentiated term by term, as in figure 3 of
                       "Residual Flows", Chen et al. 2019

Each case runs in its own process. The cases take turns, and the median counts. genlab's processes
keep freed memory as `genlab train` does on a CPU, those of normflows as a script would (--keep: as
genlab's). Memory is the peak of a step above what lies in memory between steps, in another process
(Linux with glibc), or the peak of the allocator (CUDA).

The inverse is of blocks at their bound, as training makes them: weights without signs, images of
mean 2. normflows stops at its own tolerance, and at one that leaves errors like genlab's. Freed
memory is kept for both.
"""

import argparse
import os
from functools import partial

import timing
import torch
from rich.console import Console
from rich.table import Table
from series_log_det import series_log_det
from torch import nn

from genlab.nn.chain import Chain
from genlab.nn.lipschitz import refresh
from genlab.nn.log_det import Truncated, draw_probes
from genlab.nn.residual import ResidualBlock, conv_branch
from genlab.training.trainer import keep_freed_memory

CASES = ("normflows", "normflows, naive", "naive", "store", "recompute")


class Naive(ResidualBlock):
    """The series by autograd, a graph through every term."""

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        tensors = self.branch.tensors()
        v = draw_probes(x.detach(), 1)[0]
        weights = self.series.draw(self.lipschitz, self.branch.dims)
        log_det = series_log_det(lambda t: self.branch.linear(t, tensors)[0], x, v, weights)
        return x + self.branch.linear(x, tensors)[0], log_det


def build(case: str, a, at_bound: bool = False) -> nn.Module:
    """The network of a case, x -> (z, log det); its weights depend on the sizes alone."""
    torch.manual_seed(0)
    size, options = (a.size, a.size), {"coeff": 0.97}
    branches = [
        conv_branch(a.channels, a.width, size, "lipswish", True, **options) for _ in range(a.blocks)
    ]
    if at_bound:
        with torch.no_grad():
            for layer in (layer for branch in branches for layer in branch.maps):
                layer.weight.abs_().mul_(20)
    refresh(nn.ModuleList(branches))
    if not case.startswith("normflows"):
        kind = Naive if case == "naive" else ResidualBlock
        options = {
            "backward": "store" if case == "store" else "recompute",
            "tolerance": a.tolerance,
            "anderson": 5,
        }
        return Chain(kind(b, Truncated(a.terms + 1), **options) for b in branches)
    import normflows

    nets = [
        normflows.nets.LipschitzCNN([a.channels, a.width, a.width, a.channels], [3, 1, 3], 0.97)
        for _ in branches
    ]
    x = torch.randn(2, a.channels, a.size, a.size)
    for net, branch in zip(nets, branches, strict=True):
        net(x)  # its layers find their sizes in the first pass
        layers = [
            m for m in net.modules() if isinstance(m, normflows.nets.lipschitz.InducedNormConv2d)
        ]
        for layer, own in zip(layers, branch.maps, strict=True):
            layer.weight.data.copy_(own.weight.data)
            layer.bias.data.copy_(own.bias.data)
            layer.compute_weight(update=True, n_iterations=100)
        assert torch.allclose(net(x), branch.linear(x, branch.tensors())[0], atol=1e-3)
    flows = [
        normflows.flows.Residual(net, n_power_series=a.terms, reduce_memory=case == "normflows")
        for net in nets
    ]
    return nn.ModuleList(flows)


def training_step(case: str, a):
    """A function that does one training step of a case."""
    net = build(case, a).to(a.device).train()
    x = torch.randn(a.batch, a.channels, a.size, a.size, device=a.device)
    theirs = case.startswith("normflows")

    def forward(x):
        if not theirs:
            return net(x)
        total = 0.0
        for flow in net:
            # The direction from data to latent, whose log-determinant has normflows' own sign.
            x, term = flow.inverse(x)
            total = total - term
        return x, total

    optimizer = torch.optim.Adam(net.parameters(), 1e-4)

    def step():
        z, log_det = forward(x)
        loss = (0.5 * z.flatten(1).square().sum(1) - log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if theirs:
            import normflows

            normflows.utils.update_lipschitz(net, 5)
        else:
            refresh(net)

    return step


@torch.no_grad()
def inverse_of(case: str, a):
    """(the inverse z -> x, z, and the x that z was computed from) of a case."""
    theirs = case.startswith("normflows")
    # normflows' tolerances are of squared steps.
    stop = {"atol": 1e-12, "rtol": 0.0} if case.endswith("as exact") else {}
    net = build(case, a, at_bound=True).to(a.device).eval()
    x = torch.randn(a.batch, a.channels, a.size, a.size, device=a.device) + 2
    z = x
    for part in net:
        z = z + (part.iresblock.nnet(z) if theirs else part.branch.value(z, part.branch.tensors()))

    @torch.no_grad()
    def inverse(y):
        for part in reversed(list(net)):
            y = part.iresblock._inverse_fixed_point(y, **stop) if theirs else part.inverse(y)
        return y

    return inverse, z, x


def timed_step(case: str, a):
    if a.device == "cpu" and (a.keep or not case.startswith("normflows")):
        keep_freed_memory()
    return training_step(case, a)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "channels": 4,
        "size": 14,
        "width": 64,
        "blocks": 4,
        "batch": 64,
        "terms": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--tolerance", type=float, default=1e-6, help="of genlab's inverse; normflows' is fixed"
    )
    parser.add_argument(
        "--keep", action="store_true", help="freed memory stays with normflows' process, too"
    )
    a = timing.arguments(parser, rounds=7)
    times = timing.medians_apart(timed_step, CASES, a.rounds, a, device=a.device)
    if a.device == "cpu":
        keep_freed_memory()
    inverses = {
        case: inverse_of(case, a) for case in ("normflows", "normflows, as exact", "recompute")
    }
    inverse_times = timing.medians(
        {case: partial(f, z) for case, (f, z, _) in inverses.items()}, a.rounds, a.device
    )
    # For the processes below: freed tensors leave the resident set.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    memory = timing.memories(training_step, CASES, a, device=a.device)
    table = Table(box=None)
    for column in ("case", "ms a step", "times as fast as normflows", "MiB a step"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case, ms in times.items():
        table.add_row(case, f"{ms:.1f}", f"{times['normflows'] / ms:.2f}", f"{memory[case]:.1f}")
    console = Console()
    print(f"{timing.machine(a.device)}, {vars(a)}")
    console.print(table)
    for case, (f, z, x) in inverses.items():
        error = (f(z) - x).abs().max()
        console.print(f"inverse, {case}: {inverse_times[case]:.1f} ms, largest error {error:.1e}")
    timing.save(a.json, {"residual flow": {"baseline": "normflows", "ms": times, "mib": memory}})


if __name__ == "__main__":
    main()

"""Time and memory of a training step and of the inverse of residual flows, against normflows on the same network.

    pip install normflows; python benchmarks/flow_step.py [--channels 4 --size 14 --width 64 --blocks 4 --batch 64 --terms 5]

Both have the same weights (checked: equal outputs), LipSwish, c 0.97, and products of J to the power `terms` in the gradient
of the log-determinant: normflows' n_power_series = terms, genlab's num_terms = terms + 1, so its value is the longer series.
Each step has its optimiser and its power iterations: normflows' five, genlab's to its tolerance. normflows has both of the
paper's tricks (reduce_memory) or none; genlab has the Neumann gradient with all of the pass kept (store) or computed again
(recompute), and for comparison the series differentiated term by term (naive), as figure 3 of "Residual Flows", Chen et al.
2019. Cases share a process and take turns; the median counts. Memory is what a step adds at its peak to what lies in memory
between steps, in a process of its own (Linux with glibc), or the allocator's peak (CUDA).
"""

import argparse
import os
import statistics
import time

import timing
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from genlab.nn.chain import Chain
from genlab.nn.lipschitz import refresh
from genlab.nn.log_det import Truncated, draw_probes, series_log_det
from genlab.nn.residual import ResidualBlock, conv_branch

CASES = ("normflows", "normflows, naive", "naive", "store", "recompute")


class Naive(ResidualBlock):
    """The series by autograd, a graph through every term."""

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        tensors = self.branch.tensors()
        v = draw_probes(x.detach(), 1)[0]
        weights = self.series.draw(self.lipschitz, self.branch.dims)
        return x + self.branch.linear(x, tensors)[0], series_log_det(
            lambda t: self.branch.linear(t, tensors)[0], x, v, weights
        )


def build(case: str, a) -> nn.Module:
    """The network of a case, x -> (z, log det), with weights that depend on nothing but the sizes."""
    torch.manual_seed(0)
    size, options = (a.size, a.size), {"coeff": 0.97}
    branches = [conv_branch(a.channels, a.width, size, "lipswish", True, **options) for _ in range(a.blocks)]
    refresh(nn.ModuleList(branches))
    if not case.startswith("normflows"):
        kind, inverse = Naive if case == "naive" else ResidualBlock, {"tolerance": a.tolerance, "anderson": 5}
        return Chain(
            kind(b, Truncated(a.terms + 1), backward="store" if case == "store" else "recompute", **inverse)
            for b in branches
        )
    import normflows

    nets = [normflows.nets.LipschitzCNN([a.channels, a.width, a.width, a.channels], [3, 1, 3], 0.97) for _ in branches]
    x = torch.randn(2, a.channels, a.size, a.size)
    for net, branch in zip(nets, branches, strict=True):
        net(x)  # its layers find their sizes in the first pass
        layers = [m for m in net.modules() if isinstance(m, normflows.nets.lipschitz.InducedNormConv2d)]
        for layer, own in zip(layers, branch.maps, strict=True):
            layer.weight.data.copy_(own.weight.data), layer.bias.data.copy_(own.bias.data)
            layer.compute_weight(update=True, n_iterations=100)
        assert torch.allclose(net(x), branch.linear(x, branch.tensors())[0], atol=1e-3)
    flows = [normflows.flows.Residual(net, n_power_series=a.terms, reduce_memory=case == "normflows") for net in nets]
    return nn.ModuleList(flows)


def step_of(case: str, a):
    """A function that does one training step of a case, and one that inverts (z -> x), and the network's z of x."""
    net, x = build(case, a).to(a.device).train(), torch.randn(a.batch, a.channels, a.size, a.size, device=a.device)
    theirs = case.startswith("normflows")

    def forward(x):
        if not theirs:
            return net(x)
        total = 0.0
        for flow in net:
            x, term = flow.inverse(x)  # normflows' direction from data to latent, with the sign of its own log-det
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

    @torch.no_grad()
    def there_and_back():
        net.eval()
        y = x
        for part in net:
            y = y + (part.iresblock.nnet(y) if theirs else part.branch.linear(y, part.branch.tensors())[0])
        start = time.perf_counter()
        for part in reversed(list(net)):
            y = part.iresblock._inverse_fixed_point(y) if theirs else part.inverse(y)
        seconds = time.perf_counter() - start
        net.train()
        return 1e3 * seconds, (y - x).abs().max().item()

    return step, there_and_back


def training_step(case: str, a):
    return step_of(case, a)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"channels": 4, "size": 14, "width": 64, "blocks": 4, "batch": 64, "terms": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of genlab's inverse; normflows' is fixed")
    a = timing.arguments(parser, rounds=7)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # of the processes below: freed tensors leave the resident set
    cases = {case: step_of(case, a) for case in CASES}
    times = timing.medians({case: step for case, (step, _) in cases.items()}, a.rounds, a.device)
    inverses = {case: [cases[case][1]() for _ in range(a.rounds)] for case in ("normflows", "recompute")}
    memory = timing.memories(training_step, CASES, a, device=a.device)
    table = Table(box=None)
    for column in ("case", "ms a step", "times as fast as normflows", "MiB a step"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case, ms in times.items():
        table.add_row(case, f"{ms:.1f}", f"{times['normflows'] / ms:.2f}", f"{memory[case]:.1f}")
    console = Console()
    print(f"{timing.machine(a.device)}, {vars(a)}")
    console.print(table)
    for case, values in inverses.items():
        ms, error = statistics.median(v[0] for v in values), max(v[1] for v in values)
        console.print(f"inverse, {case}: {ms:.1f} ms, largest error {error:.1e}")
    timing.save(a.json, {"residual flow": {"baseline": "normflows", "ms": times, "mib": memory}})


if __name__ == "__main__":
    main()

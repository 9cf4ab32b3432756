"""Time of a training step of Glow, against normflows' Glow of the same shape.

    pip install normflows
    python benchmarks/glow_step.py
    python benchmarks/glow_step.py --size 32 --num_steps 8 --hidden_dim 64 --num_scales 3 --batch 64

Both have the same number of scales, steps and channels, affine couplings (sigmoid), ActNorms in the
networks of the couplings, mixing matrices as P L U and Adamax; half of the channels leave after
each scale. In normflows, channels that leave have a plain Gaussian. In genlab, their Gaussian
depends on the channels that stay, which is one more convolution a scale. `recompute` is
net.recompute=true, for memory.
"""

import argparse

import timing
import torch

from genlab.models.flow.glow import Glow

CASES = ("normflows", "genlab", "genlab, recompute")


def theirs(a):
    import normflows as nf

    bases = []
    merges = []
    flows = []
    for scale in range(a.num_scales):  # normflows counts scales from the latent side
        channels = a.channels * 2 ** (a.num_scales + 1 - scale)
        size = a.size // 2 ** (a.num_scales - scale)
        steps = [
            nf.flows.GlowBlock(channels, a.hidden_dim, split_mode="channel", net_actnorm=True)
            for _ in range(a.num_steps)
        ]
        flows.append(torch.nn.ModuleList([*steps, nf.flows.Squeeze()]))
        if scale:
            merges.append(nf.flows.Merge())
        shape = (channels if not scale else channels // 2, size, size)
        bases.append(nf.distributions.DiagGaussian(shape))
    net = nf.MultiscaleFlow(bases, flows, merges)
    return net, lambda x: net.forward_kld(x)


def ours(a, recompute: bool):
    net = Glow(
        [a.channels, a.size, a.size],
        num_steps=a.num_steps,
        hidden_dim=a.hidden_dim,
        num_scales=a.num_scales,
        recompute=recompute,
    )

    def loss(x):
        z, log_det = net(x)
        return (0.5 * z.square().sum(1) - log_det).mean()

    return net, loss


def step_of(case: str, a):
    torch.manual_seed(0)
    net, loss = theirs(a) if case == "normflows" else ours(a, "recompute" in case)
    net.to(a.device).train()
    x = torch.randn(a.batch, a.channels, a.size, a.size, device=a.device)
    with torch.no_grad():
        loss(x)  # the ActNorms start from the first batch
    optimizer = torch.optim.Adamax(net.parameters(), 1e-4)

    def step():
        value = loss(x)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    step.num_parameters = sum(p.numel() for p in net.parameters())
    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "channels": 1,
        "size": 32,
        "num_steps": 8,
        "hidden_dim": 64,
        "num_scales": 3,
        "batch": 64,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = timing.arguments(parser, rounds=5)
    cases = {case: step_of(case, a) for case in CASES}
    times = timing.medians(cases, a.rounds, a.device)
    memory = timing.memories(step_of, CASES, a, device=a.device)
    print(f"{timing.machine(a.device)}, {vars(a)}")
    for case, ms in times.items():
        size = f"{cases[case].num_parameters:,} parameters"
        ratio = times["normflows"] / ms
        print(f"{case:<20}{ms:9.1f} ms  ratio {ratio:5.2f}  {memory[case]:8.1f} MiB  {size}")
    timing.save(a.json, {"glow": {"baseline": "normflows", "ms": times, "mib": memory}})


if __name__ == "__main__":
    main()

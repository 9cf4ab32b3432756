"""Time of one step of a GAN with each model.update, against the loop that most code writes.

    python benchmarks/gan_step.py
    python benchmarks/gan_step.py net=selfmod data.image_size=64
    python benchmarks/gan_step.py --recipes [sngan sagan ...]

The first measures O-GAN at 32x32 with widths C 128 and 256, batch 64; the second takes any
overrides of `genlab train`; --recipes measures GAN recipes at 32x32, batch 64, without a penalty.

The baseline is the plain alternating eager loop: contiguous tensors, one default Adam a network,
the discriminator left trainable in the generator's step, the fakes of the discriminator's step made
with a graph. The others run as in `genlab train`: channels last, one fused Adam; `shared, bf16` is
shared with trainer.precision=bf16-mixed. All cases share one process and take turns, so that other
load affects all of them; the median counts. Memory is what a step adds to the resident set at its
peak, in a process of its own (CPU), or the allocator's peak (CUDA).
"""

import argparse
from functools import partial

import timing
import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from genlab import config
from genlab.losses.code import pearson
from genlab.systems.gan import updates

BASELINE = "plain loop"
CASES = (BASELINE, "alternating", "single", "scaled", "shared", "shared, bf16")
RECIPES = ("ogan", "dcgan", "selfmod", "stylegan", "sndcgan", "sngan", "sagan", "biggan", "pggan")


def build(overrides: list[str], update: str, channels_last: bool):
    """The system of `genlab train <overrides>`, with fresh weights, on the default device."""
    config.from_run("train", [])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        words = [*overrides, "optimizer=adam", "name=benchmark", f"model.update={update}"]
        cfg = config.resolve(compose("train", words))
    cfg["model"]["channels_last"] = channels_last
    torch.manual_seed(0)
    return config.build_system(cfg).train(), cfg


def make_step(case: str, overrides: list[str], device: torch.device):
    """Returns a function that does one whole step of `case`, optimiser included.

    Raises ValueError where the update is refused.
    """
    plain, (update, _, precision) = case == BASELINE, case.partition(", ")
    system, cfg = build(overrides, "shared" if plain else update, channels_last=not plain)
    system.to(device)
    data = cfg["data"]
    shape = (data["batch_size"], data["channels"], data["image_size"], data["image_size"])
    x = (torch.rand(shape, device=device) * 2 - 1).to(memory_format=system.memory_format)
    if plain:
        return partial(plain_step, system, *players(system), x)
    optimizer = system.configure_optimizers()

    def apply(loss) -> None:
        optimizer.zero_grad()
        system.backward(loss)
        optimizer.step()

    def step() -> None:
        turns = ("discriminator_turn", "generator_turn") if update == "alternating" else (update,)
        for turn in turns:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss, _ = getattr(updates, turn)(system, x, system.draw(len(x)))
            apply(loss)

    return step


def players(system):
    return (
        torch.optim.Adam(system.discriminator.parameters(), lr=2e-4),
        torch.optim.Adam(system.generator.parameters(), lr=2e-4),
    )


def plain_step(system, optimizer_d, optimizer_g, x) -> None:
    """The textbook step: D on detached fakes, then G through a D that still collects gradients."""
    generator, discriminator = system.generator, system.discriminator

    def code(z, outputs):
        return (
            system.code_weight * pearson(z, outputs).mean()
            if hasattr(system, "code_weight")
            else 0.0
        )

    z = system.draw(len(x))
    fake = generator(z).detach()
    real_out, fake_out = discriminator(x), discriminator(fake)
    loss = system.loss.discriminator(system.score(real_out), system.score(fake_out), x, fake).mean()
    optimizer_d.zero_grad()
    (loss - code(z, fake_out)).backward()
    optimizer_d.step()
    z = system.draw(len(x))
    fake_out = discriminator(generator(z))
    optimizer_g.zero_grad()
    (
        system.loss.generator(system.score(real_out.detach()), system.score(fake_out)).mean()
        - code(z, fake_out)
    ).backward()
    optimizer_g.step()


def run(overrides: list[str], rounds: int, device: torch.device, console: Console) -> dict:
    steps, refused = {}, {}
    for case in CASES:
        try:
            steps[case] = make_step(case, overrides, device)
        except ValueError as error:
            refused[case] = str(error)
    batch_size = build(overrides, "shared", True)[1]["data"]["batch_size"]
    times = timing.medians(steps, rounds, device)
    memory = timing.memories(make_step, times, overrides, device, device=device)
    table = Table(title=" ".join(overrides), title_justify="left", box=None)
    for name in ("update", "ms a step", "images/s", "x plain loop", "peak MiB"):
        table.add_column(name, justify="left" if name == "update" else "right")
    for case, ms in times.items():
        table.add_row(
            case,
            f"{ms:.1f}",
            f"{1e3 * batch_size / ms:.0f}",
            f"{times[BASELINE] / ms:.2f}",
            f"{memory[case]:.0f}",
        )
    console.print(table)
    for case, why in refused.items():
        short = why.partition(":")[2].strip().partition(",")[0]
        console.print(f"  {case}: refused ({short})", highlight=False)
    return {"baseline": BASELINE, "batch_size": batch_size, "ms": times, "mib": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", help="overrides of `genlab train`; C 128 and 256 of O-GAN if none"
    )
    parser.add_argument(
        "--recipes", nargs="*", metavar="MODEL", help="GAN recipes at 32x32; all if none is named"
    )
    arguments = timing.arguments(parser, rounds=15)
    device = torch.device(arguments.device)
    console = Console(width=max(100, Console().width))
    print(f"{timing.machine(device)}, median of {arguments.rounds} interleaved rounds\n")
    if arguments.recipes is not None:
        chosen = [
            [f"model={name}", "~penalty", "data.batch_size=64"]
            for name in arguments.recipes or RECIPES
        ]
    elif arguments.overrides:
        chosen = [arguments.overrides]
    else:
        chosen = [
            ["model=ogan", f"net.generator.hidden_dim={dim}", "data.batch_size=64"]
            for dim in (32, 64)
        ]
    results = {}
    for overrides in chosen:
        results[" ".join(overrides)] = run(overrides, arguments.rounds, device, console)
        console.print()
    timing.save(arguments.json, results)


if __name__ == "__main__":
    main()

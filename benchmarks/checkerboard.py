"""The checkerboard that each upsampler draws, seen in the spectrum of a generator's images.

    python benchmarks/checkerboard.py docs/images/checkerboard.png
    python benchmarks/checkerboard.py out.png run=<dir> run=<dir> ...

The first takes freshly initialised DCGAN generators, the second trained generators of run
directories. A stride of two leaves its mark at half of the sampling frequency, those of the layers
before it at a quarter, an eighth and so on. `peak` is the geometric mean of the power at these
frequencies over the power right beside them: 1 is an image without a grid ("Deconvolution and
Checkerboard Artifacts", Odena et al. 2016, doi 10.23915/distill.00003).
"""

import argparse
from pathlib import Path
from typing import get_args

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

import genlab
from genlab.models.gan.dcgan import Generator
from genlab.nn.upsample import Upsampling


def spectrum(images: Tensor) -> Tensor:
    """Mean power (H, W) of images (N, C, H, W) minus their means, frequency 0 in the middle."""
    images = images.mean(1)
    images = images - images.mean((1, 2), keepdim=True)
    return torch.fft.fftshift(torch.fft.fft2(images).abs().square().mean(0))


def peak(power: Tensor) -> float:
    """The power at eighths of the sampling frequency over the power beside them.

    It is the geometric mean over the lattice of these frequencies.
    """
    size = power.shape[0]
    power = torch.fft.ifftshift(power)
    lattice = [(i * size // 8, j * size // 8) for i in range(8) for j in range(8) if i or j]
    around = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj]
    ratios = []
    for i, j in lattice:
        beside = torch.stack([power[(i + di) % size, (j + dj) % size] for di, dj in around]).mean()
        ratios.append((power[i, j] / beside).log())
    return torch.stack(ratios).mean().exp().item()


@torch.no_grad()
def initialised(upsample: str, num_networks: int = 8) -> Tensor:
    """Images (8 * 64, 1, 64, 64) of freshly initialised generators."""
    images = []
    for seed in range(num_networks):
        torch.manual_seed(seed)
        generator = Generator(64, 1, 32, hidden_dim=16, kernel_size=5, upsample=upsample)
        images.append(generator(torch.randn(64, 32)))
    return torch.cat(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the figure, a PNG")
    parser.add_argument(
        "runs", nargs="*", metavar="run=<dir>", help="trained runs; fresh generators if none"
    )
    arguments = parser.parse_args()
    if arguments.runs:
        folders = [Path(run.removeprefix("run=")) for run in arguments.runs]
        images = {folder.name: genlab.load(folder).sample(512) for folder in folders}
    else:
        images = {mode: initialised(mode) for mode in get_args(Upsampling)}
    table = Table("upsampler", "peak", box=None)
    figure = Figure(figsize=(2.2 * len(images), 4.6), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for (name, x), (top, bottom) in zip(images.items(), axes.T, strict=True):
        power = spectrum(x)
        table.add_row(name, f"{peak(power):.2f}")
        top.imshow(x[0].mean(0), cmap="gray")
        top.set_title(name, fontsize="medium")
        bottom.imshow(power.clamp_min(1e-12).log10(), cmap="magma")
        bottom.set_title(f"peak {peak(power):.2f}", fontsize="medium")
        for axis in (top, bottom):
            axis.set_axis_off()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=100)
    Console().print(table)
    print(f"figure  {arguments.out}")


if __name__ == "__main__":
    main()

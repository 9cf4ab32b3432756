"""How times grow with sizes: a GAN's step, BERT's step, and a batch from a memory map.

    python benchmarks/growth.py docs/images/growth.png

It takes a few minutes of two idle cores. O-GAN is that of `genlab train model=ogan` (128 channels
at 4x4 at every size), over image size and batch; BERT has 4 layers of 256 with its UNILM mask, over
length and vocabulary; batches of 64 are read from a memory map of 10^3 to 10^7 images of 32x32 (a
sparse file: pages that were never written take no disk space). A slope is that of log(ms) over
log(size), of the last doubling and of the whole curve.
"""

import argparse
import itertools
import math
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import timing
import torch
from bert_step import by_genlab
from gan_step import make_step

from genlab.data.images.arrays import Arrays, ImageBatches, MappedImages
from genlab.data.sampler import StepSampler

matplotlib.use("agg")
import matplotlib.pyplot as plt


def gan(image_size: int, batch_size: int, device: torch.device):
    sizes = {
        "data.image_size": image_size,
        "data.batch_size": batch_size,
        "net.generator.hidden_dim": 1024 // image_size,
    }
    return make_step(
        "shared", ["model=ogan", *(f"{key}={value}" for key, value in sizes.items())], device
    )


def bert(length: int, vocab: int, device: torch.device):
    target = length // 8
    a = argparse.Namespace(
        dim=256,
        layers=4,
        heads=4,
        batch=8,
        target=target,
        length=length,
        vocab=vocab,
        device=device,
    )
    return by_genlab(a, [[(length - target, target)] * a.batch])


def items(count: int, folder: Path):
    file = folder / f"{count}.u8"
    with file.open("wb") as sparse:
        sparse.truncate(count * 3 * 32 * 32)
    images = MappedImages(file, (count, 3, 32, 32), np.arange(count))
    draws = itertools.chain.from_iterable(
        itertools.repeat(StepSampler(count, 64, seed=0, flip=True))
    )
    batches = ImageBatches(Arrays(images))
    return lambda: batches[next(draws)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, nargs="?", default=Path("growth.png"))
    a = timing.arguments(parser, rounds=5)
    device, results = torch.device(a.device), {}
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            "O-GAN, image size (batch 16)": ((16, 32, 64, 128), lambda n: gan(n, 16, device)),
            "O-GAN 32x32, batch": ((8, 16, 32, 64, 128, 256), lambda n: gan(32, n, device)),
            "BERT step, length (batch 8)": (
                (64, 128, 256, 512, 1024),
                lambda n: bert(n, 8000, device),
            ),
            "BERT step, vocabulary (8 x 128)": (
                (2000, 8000, 32000, 128000),
                lambda n: bert(128, n, device),
            ),
            "a batch of 64 of a memory map, items": (
                (10**3, 10**4, 10**5, 10**6, 10**7),
                lambda n: items(n, Path(folder)),
            ),
        }
        figure, axes = plt.subplots(
            1, len(curves), figsize=(4 * len(curves), 3.4), layout="constrained"
        )
        print(timing.machine(device))
        for (name, (sizes, make)), axis in zip(curves.items(), axes, strict=True):
            rounds = 10 * a.rounds if "items" in name else a.rounds
            ms = [timing.medians({"": make(size)}, rounds, device, warmup=1)[""] for size in sizes]
            slope = [math.log(ms[-1] / ms[i]) / math.log(sizes[-1] / sizes[i]) for i in (-2, 0)]
            print(
                f"{name:<40}", "  ".join(f"{s}: {t:.1f} ms" for s, t in zip(sizes, ms, strict=True))
            )
            print(f"{'':<40} slope {slope[0]:.2f} at the end, {slope[1]:.2f} over all", flush=True)
            axis.loglog(sizes, ms, "o-", base=10)
            labels = [f"{s:,}" if s < 10**6 else f"{s // 10**6} M" for s in sizes]
            times = [f"{t:.2g}" if t < 1 else f"{t:,.0f}" for t in ms]
            axis.set(
                title=name,
                ylabel="ms",
                xticks=sizes,
                xticklabels=labels,
                yticks=ms,
                yticklabels=times,
            )
            axis.minorticks_off()
            results[name] = {
                "baseline": "first",
                "ms": dict(zip(map(str, sizes), ms, strict=True)),
                "slope": slope,
            }
    figure.savefig(a.picture, dpi=80)
    timing.save(a.json, results)
    print(f"picture  {a.picture}")


if __name__ == "__main__":
    main()

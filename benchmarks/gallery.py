"""Trains what README and docs show, and makes their images and tables.

    make gallery
    python benchmarks/gallery.py --list
    python benchmarks/gallery.py ogan_mnist5k
    python benchmarks/gallery.py ogan_mnist5k --run <dir>
    python benchmarks/gallery.py ogan_mnist5k --with trainer.max_steps=20 --images /tmp/images

The first makes everything, in about eleven hours of two idle cores; --list prints the entries with
their hours and commands; with a name it makes one entry, of all its seeds; --run takes its images
and its row from an existing run; the last line is a rehearsal.

Hours are those of the experiments' headers; gan_comparison's are computed from the images a second
in its page. Runs are in outputs/gallery/<entry>/<seed>. A finished run is used as it is and a
stopped one is resumed, so the command can be repeated after any interruption. Images are of the
first seed. The rows of README's tables are printed.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

METRICS = (
    "fid",
    "class_agreement",
    "reconstruction_mse",
    "code_correlation",
    "bits_per_dim",
    "accuracy",
)
SAMPLES = "mode=grid num=64"
PAIRS = "mode=reconstruct num=32"
LINES = "mode=interpolate num=4"


class Entry(NamedTuple):
    """A recipe.

    train: the overrides. hours: of two cores, for all seeds. pictures: the end of an image's name
    -> how it is sampled.
    """

    train: str
    hours: float
    seeds: tuple[int, ...]
    pictures: dict[str, str]


ENTRIES = {
    "ogan_mnist5k": Entry(
        "experiment=ogan_mnist5k",
        0.4,
        (1, 2, 3),
        {"samples": SAMPLES, "reconstructions": PAIRS, "interpolations": LINES},
    ),
    "ogan": Entry("model=ogan", 0.4, (1, 2, 3), {}),
    "ogan_fashion": Entry(
        "experiment=ogan_fashion trainer.precision=bf16-mixed",
        0.5,
        (1,),
        {"samples": SAMPLES, "reconstructions": PAIRS},
    ),
    # No reconstructions: they would show images of CIFAR-10, which has no licence to publish them.
    "ogan_cifar10": Entry(
        "experiment=ogan_cifar10 trainer.precision=bf16-mixed", 0.7, (1, 2, 3), {"samples": SAMPLES}
    ),
    "glann_mnist5k": Entry("experiment=glann_mnist5k", 0.6, (1, 2, 3), {"samples": SAMPLES}),
    "glann_fashion10k": Entry("experiment=glann_fashion10k", 2.7, (1, 2, 3), {"samples": SAMPLES}),
    "iresnet_mnist5k": Entry("experiment=iresnet_mnist5k", 0.8, (1,), {"samples": SAMPLES}),
    "glow_mnist5k": Entry("experiment=glow_mnist5k", 0.6, (1, 2, 3), {"samples": SAMPLES}),
    "residual_flow_digits": Entry(
        "experiment=residual_flow_digits", 0.4, (1,), {"samples": SAMPLES}
    ),
}
# Entries made by a few commands: entry -> (hours, commands); {images} and {runs} are the folders,
# {more} the overrides of --with.
COMMANDS = {
    "gan_comparison": (
        4.0,
        [
            "genlab train -m experiment=gan_comparison "
            "model=dcgan,sngan,sagan,selfmod,stylegan,ogan data=fashion_mnist,cifar10 "
            "trainer.precision=bf16-mixed {more} hydra.sweep.dir={runs}/gan_comparison",
            "genlab train -m experiment=gan_comparison model=dcgan,selfmod seed=2,3 "
            "data=fashion_mnist,cifar10 trainer.precision=bf16-mixed {more} "
            "hydra.sweep.dir={runs}/gan_comparison",
            "python benchmarks/gan_step.py --recipes --json {runs}/gan_comparison/speed.json",
            "python benchmarks/gan_comparison.py {runs}/gan_comparison "
            "--speed {runs}/gan_comparison/speed.json "
            "--figure {images}/gan_comparison.png",
        ],
    ),
    "points": (
        0.5,
        [
            f"genlab train -m experiment=points_{flow} data=moons,circles,rings,checkerboard,"
            "eight_gaussians,pinwheel,swiss_roll,two_spirals "
            f"{{more}} hydra.sweep.dir={{runs}}/points_{flow}"
            for flow in ("glow", "iresnet")
        ]
        + [
            "python benchmarks/points.py {runs}/points_glow {runs}/points_iresnet "
            "--figure {images}/points.png"
        ],
    ),
    "growth": (0.1, ["python benchmarks/growth.py {images}/growth.png"]),
    "checkerboard": (0.1, ["python benchmarks/checkerboard.py {images}/checkerboard.png"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*ENTRIES, *COMMANDS]
    parser.add_argument(
        "entries", nargs="*", metavar="entry", help=f"all if none is given: {', '.join(names)}"
    )
    parser.add_argument("--run", type=Path, help="take this run instead of training; for one entry")
    parser.add_argument(
        "--with", nargs="+", default=[], dest="more", help="more overrides for training"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/gallery"), help="where runs are kept"
    )
    parser.add_argument(
        "--images", type=Path, default=Path("docs/images"), help="where pictures go"
    )
    parser.add_argument(
        "--list", action="store_true", help="say what would be done, and do nothing"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.entries) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: expected {', '.join(names)}")
    if chosen.run is not None and (len(chosen.entries) != 1 or chosen.entries[0] not in ENTRIES):
        parser.error(f"--run: give it with one of {', '.join(ENTRIES)}")
    filled = {"images": chosen.images, "runs": chosen.runs, "more": shlex.join(chosen.more)}
    rows: list[str] = []
    for name in chosen.entries or names:
        hours = ENTRIES[name].hours if name in ENTRIES else COMMANDS[name][0]
        print(f"# {name}: about {hours:g} h of two cores", flush=True)
        if name in COMMANDS:
            for command in COMMANDS[name][1]:
                call(shlex.split(command.format(**filled)), chosen.list)
            continue
        folders = (
            [chosen.run]
            if chosen.run
            else [chosen.runs / name / str(seed) for seed in ENTRIES[name].seeds]
        )
        if chosen.run is None:
            for seed, folder in zip(ENTRIES[name].seeds, folders, strict=True):
                if command := training(ENTRIES[name], seed, folder, chosen.more):
                    if (
                        command[1] == "train"
                        and not command[2].startswith("run=")
                        and not chosen.list
                    ):
                        (folder / "manifest.json").unlink(
                            missing_ok=True
                        )  # of one that ended before it saved anything
                    call(command, chosen.list)
        for picture, how in ENTRIES[name].pictures.items():
            draw(folders[0], how, chosen.images / f"{name}_{picture}.png", chosen.list)
        if not chosen.list:
            rows.append(row(name, folders))
    if rows:
        print("\n".join([f"| | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|", *rows]))


def training(entry: Entry, seed: int, folder: Path, more: list[str]) -> list[str] | None:
    """The command that trains or resumes one seed in `folder`; None where it is finished."""
    manifest = folder / "manifest.json"
    if not manifest.is_file() or not (folder / "checkpoints" / "last.ckpt").is_file():
        words = [*entry.train.split(), f"seed={seed}", *more, f"hydra.run.dir={folder}"]
        return ["genlab", "train", *words]
    if json.loads(manifest.read_text())["status"] != "finished":
        return ["genlab", "train", f"run={folder}"]
    measured = (folder / "eval" / "metrics.json").is_file()
    return None if measured else ["genlab", "eval", f"run={folder}"]


def draw(run: Path, how: str, picture: Path, dry: bool) -> None:
    """Samples from a run as `how` says, and keeps the image alone."""
    with tempfile.TemporaryDirectory() as folder:
        call(["genlab", "sample", f"run={run}", *how.split(), f"out={folder}"], dry)
        if not dry:
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(next(Path(folder).glob("*.png")), picture)
    print(f"  -> {picture}")


def row(name: str, runs: list[Path]) -> str:
    """The metrics of all seeds as a row of Markdown."""
    values = [json.loads((run / "eval" / "metrics.json").read_text()) for run in runs]
    cells = [
        ", ".join(f"{v[metric]['value']:.3g}" for v in values if metric in v) for metric in METRICS
    ]
    return f"| {name} | {' | '.join(cells)} |"


def call(command: list[str], dry: bool) -> None:
    """Prints a command and runs it with this interpreter's programs; exits if it fails."""
    print(f"  {shlex.join(command)}", flush=True)
    own = {"python": [sys.executable], "genlab": [sys.executable, "-m", "genlab.cli"]}
    if not dry:
        done = subprocess.run([*own[command[0]], *command[1:]])
        if done.returncode:
            raise SystemExit(
                f"{shlex.join(command)}: failed with exit status {done.returncode}; "
                "repeat the command to resume"
            )


if __name__ == "__main__":
    main()

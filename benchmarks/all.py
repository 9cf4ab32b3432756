"""Every benchmark in one table: genlab against a named baseline, measured in the same process.

    python benchmarks/all.py docs/benchmarks

It writes docs/benchmarks.md and docs/benchmarks.json in under 20 minutes of two idle cores. Peers
(normflows, transformers, scikit-learn, bert4torch, accelerate) are optional: rows whose peer is not
installed are left out and named.
"""

import argparse
import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import timing

HERE = Path(__file__).parent


class Row(NamedTuple):
    """A row of the table.

    work: what is timed. case: genlab's. target: how many times as fast as the baseline it should
    be. command: the script with its options. peer: the package it needs. key: stands in the name
    of its results.
    """

    work: str
    case: str
    target: float
    command: str
    peer: str | None
    key: str


OGAN = "gan_step.py --rounds 9"
GANS = "gan_step.py --recipes sngan sagan selfmod --rounds 15"
FLOW = "flow_step.py --rounds 5"
MINILM = "--dim 384 --layers 6 --heads 12 --vocab 30522"
GREEDY = f"decode.py {MINILM} --rounds 1"
BEAMS = f"decode.py {MINILM} --beams 4 --batch 4 --rounds 1"
MLM = "pretrain.py --parts trainer"
SEARCH = "nearest_neighbour.py 60000 120000 64 --rounds 1"
NEAREST = "nearest neighbours, 60,000 x 120,000 x 64"
BESIDE = "UNILM decoding, greedy, beside bert4torch"
ROWS = (
    Row("O-GAN 32x32, C 128", "shared", 1.4, OGAN, None, "hidden_dim=32"),
    Row("O-GAN 32x32, C 128, bf16", "shared, bf16", 1.8, OGAN, None, "hidden_dim=32"),
    Row("O-GAN 32x32, C 256", "shared", 1.4, OGAN, None, "hidden_dim=64"),
    Row("O-GAN 32x32, C 256, bf16", "shared, bf16", 1.8, OGAN, None, "hidden_dim=64"),
    Row("SNGAN 32x32", "shared", 1.5, GANS, None, "model=sngan "),
    Row("SAGAN 32x32", "shared", 1.5, GANS, None, "model=sagan "),
    Row("SELF-MOD 32x32", "shared", 1.5, GANS, None, "model=selfmod "),
    Row("Residual Flow step", "recompute", 2.0, FLOW, "normflows", "residual"),
    Row("Residual Flow step, all kept", "store", 2.0, FLOW, "normflows", "residual"),
    Row("Glow step", "genlab", 1.3, "glow_step.py --rounds 5", "normflows", "glow"),
    Row("UNILM decoding, greedy", "cached", 8.0, GREEDY, None, "beams 1"),
    Row("UNILM decoding, beam 4", "cached", 8.0, BEAMS, None, "beams 4"),
    Row(BESIDE, "cached", 8.0, GREEDY, None, "beams 1"),
    Row("UNILM fine-tuning step", "genlab", 1.3, "bert_step.py", "transformers", "bert step"),
    Row("MLM pretraining step", "genlab beside it", 1.2, MLM, "accelerate", "pretrain"),
    Row(NEAREST, "genlab nearest", 2.0, SEARCH, "sklearn", "nearest"),
)
# Where the baseline is not the script's own
BASELINES = {NEAREST: "scikit-learn brute force", BESIDE: "bert4torch"}


def table(found: dict[str, dict], left_out: list[str]) -> str:
    """The results so far as Markdown.

    Args:
        found: command -> its results.
        left_out: What was not measured, with the reason.
    """
    lines = [
        f"Measured {datetime.date.today()}: {timing.machine()}.",
        "A ratio is of medians of interleaved rounds in one process. Each case of Residual Flow",
        "has its own process, genlab's with freed memory kept, as `genlab train` keeps it.",
        "",
        "| work | baseline, ms | genlab, ms | times as fast | target |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        for name, result in found.get(row.command, {}).items():
            if row.key not in f"{name} ":
                continue
            base = BASELINES.get(row.work, result["baseline"])
            if base not in result["ms"]:
                left_out = [*left_out, f"{row.work} needs {base}"]
                continue
            ms = result["ms"][row.case]
            base_ms = result["ms"][base]
            ratio = f"{base_ms / ms:.2f} | {row.target}"
            lines.append(f"| {row.work} | {base}, {base_ms:.0f} | {ms:.0f} | {ratio} |")
    return "\n".join([*lines, "", *(f"Left out: {why}." for why in left_out)]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        default=Path("benchmarks-result"),
        help="the .md and .json to write, without the suffix",
    )
    out = parser.parse_args().out
    found: dict[str, dict] = {}
    left_out: list[str] = []
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    for command, peer in {row.command: row.peer for row in ROWS}.items():
        if peer and not importlib.util.find_spec(peer):
            left_out.append(f"`{command}` needs {peer}")
            continue
        print(f"\n== {command}", flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            script, *options = command.split()
            words = [sys.executable, HERE / script, *options, "--json", file.name]
            subprocess.run(words, check=True)
            found[command] = json.load(file)
        # After each script, so that an error in the next loses nothing.
        out.with_suffix(".md").write_text(table(found, left_out))
        content = {"machine": timing.machine(), "results": found}
        out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    print(table(found, left_out))
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s; {out.with_suffix('.md')}, {out.with_suffix('.json')}")


if __name__ == "__main__":
    main()

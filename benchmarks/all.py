"""Every benchmark, in one table: what genlab's own form takes, against which baseline, measured in
the same process.

    python benchmarks/all.py docs/benchmarks          writes docs/benchmarks.md and docs/benchmarks.json

It takes under 20 minutes of two idle cores. Peers (normflows, transformers, scikit-learn,
bert4torch) are optional: rows whose peer is not installed are left out and named.
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

import timing

HERE = Path(__file__).parent
MINILM = "--dim 384 --layers 6 --heads 12 --vocab 30522"
# (work, genlab's case, what it is measured against, aim, script with its options, the peer it
# needs, key of its results)
ROWS = (
    ("O-GAN 32x32, C 128", "shared", 1.4, "gan_step.py --rounds 9", None, "hidden_dim=32"),
    (
        "O-GAN 32x32, C 128, bf16",
        "shared, bf16",
        1.8,
        "gan_step.py --rounds 9",
        None,
        "hidden_dim=32",
    ),
    ("O-GAN 32x32, C 256", "shared", 1.4, "gan_step.py --rounds 9", None, "hidden_dim=64"),
    (
        "O-GAN 32x32, C 256, bf16",
        "shared, bf16",
        1.8,
        "gan_step.py --rounds 9",
        None,
        "hidden_dim=64",
    ),
    (
        "SNGAN 32x32",
        "shared",
        1.5,
        "gan_step.py --recipes sngan sagan selfmod --rounds 15",
        None,
        "model=sngan ",
    ),
    (
        "SAGAN 32x32",
        "shared",
        1.5,
        "gan_step.py --recipes sngan sagan selfmod --rounds 15",
        None,
        "model=sagan ",
    ),
    (
        "SELF-MOD 32x32",
        "shared",
        1.5,
        "gan_step.py --recipes sngan sagan selfmod --rounds 15",
        None,
        "model=selfmod ",
    ),
    ("Residual Flow step", "recompute", 2.0, "flow_step.py --rounds 5", "normflows", "residual"),
    (
        "Residual Flow step, all kept",
        "store",
        2.0,
        "flow_step.py --rounds 5",
        "normflows",
        "residual",
    ),
    ("Glow step", "genlab", 1.3, "glow_step.py --rounds 5", "normflows", "glow"),
    ("UNILM decoding, greedy", "cached", 8.0, f"decode.py {MINILM} --rounds 1", None, "beams 1"),
    (
        "UNILM decoding, beam 4",
        "cached",
        8.0,
        f"decode.py {MINILM} --beams 4 --batch 4 --rounds 1",
        None,
        "beams 4",
    ),
    (
        "UNILM decoding, greedy, beside bert4torch",
        "cached",
        8.0,
        f"decode.py {MINILM} --rounds 1",
        None,
        "beams 1",
    ),
    ("UNILM fine-tuning step", "genlab", 1.3, "bert_step.py", "transformers", "bert step"),
    (
        "MLM pretraining step",
        "genlab beside it",
        1.2,
        "pretrain.py --parts trainer",
        "accelerate",
        "pretrain",
    ),
    (
        "nearest neighbours, 60,000 x 120,000 x 64",
        "genlab nearest",
        2.0,
        "nearest_neighbour.py 60000 120000 64 --rounds 1",
        "sklearn",
        "nearest",
    ),
)
# Where the baseline is not the script's own.
BASELINES = {
    "nearest neighbours, 60,000 x 120,000 x 64": "scikit-learn brute force",
    "UNILM decoding, greedy, beside bert4torch": "bert4torch",
}


def table(found: dict[str, dict], left_out: list[str]) -> str:
    """All that has been `found` so far, as Markdown."""
    lines = [
        f"Measured {datetime.date.today()}: {timing.machine()}. A ratio is of medians of interleaved rounds in one process.",
        "Residual Flow: in processes of their own, genlab's with freed memory kept, as `genlab train` keeps it.",
        "",
        "| work | baseline, ms | genlab, ms | times as fast | aim |",
        "|---|---|---|---|---|",
    ]
    for work, case, aim, command, _, key in ROWS:
        for name, result in found.get(command, {}).items():
            if key in f"{name} ":
                base = BASELINES.get(work, result["baseline"])
                if base not in result["ms"]:
                    left_out = [*left_out, f"{work} needs {base}"]
                    continue
                ms, base_ms = result["ms"][case], result["ms"][base]
                lines.append(
                    f"| {work} | {base}, {base_ms:.0f} | {ms:.0f} | {base_ms / ms:.2f} | {aim} |"
                )
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
        help="of the .md and .json to write",
    )
    out, found, left_out, started = parser.parse_args().out, {}, [], time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    for command, peer in {row[3]: row[4] for row in ROWS}.items():
        if peer and not importlib.util.find_spec(peer):
            left_out.append(f"`{command}` needs {peer}")
            continue
        print(f"\n== {command}", flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            script, *options = command.split()
            subprocess.run(
                [sys.executable, HERE / script, *options, "--json", file.name], check=True
            )
            found[command] = json.load(file)
        # After each, so that what was measured is there whatever happens to the next.
        out.with_suffix(".md").write_text(table(found, left_out))
        out.with_suffix(".json").write_text(
            json.dumps({"machine": timing.machine(), "results": found}, indent=2) + "\n"
        )
    print(table(found, left_out))
    print(
        f"{time.monotonic() - started:.0f} s; {out.with_suffix('.md')}, {out.with_suffix('.json')}"
    )


if __name__ == "__main__":
    main()

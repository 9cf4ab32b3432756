"""`genlab <command> [key=value ...]`: the command word chooses a primary config, the rest is
Hydra's command line.
"""

import importlib
import os
import select
import signal
import sys
from functools import partial
from pathlib import Path

COMMANDS = {
    "train": "train a model, or continue a run (run=<dir>)",
    "sample": "images or texts from a trained run",
    "encode": "the codes of images",
    "eval": "measure a trained run",
    "export": "a trained run for another library",
}
USAGE = """genlab trains generative models and uses them.

usage: genlab <command> [key=value ...]

{commands}

  genlab train model=ogan                        train on digits that need no download
  genlab sample run=outputs/train/ogan/<stamp>   everything after training needs only the run directory
  genlab <command> --help                        groups, options and every key with its value

Tab completion: eval "$(genlab -sc install=bash)"
"""


def main() -> None:
    """Entry point; exits 2 on a user's error, 1 when a job of a sweep failed, 128 + signal when
    interrupted.
    """
    sys.stdout.reconfigure(
        errors="backslashreplace"
    )  # a file may have a name that no encoding knows
    try:
        run_command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        end_unread()
        raise


def end_unread() -> None:
    """Ends as a signal would if nobody reads what is printed any more (`| head`): that is no error."""
    poll = select.poll()
    poll.register(1, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(128 + signal.SIGPIPE)


def run_command(argv: list[str]) -> None:
    if "-sc" in argv or "--shell-completion" in argv:
        return complete(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {word:<8}{text}" for word, text in COMMANDS.items())
        return print(USAGE.format(commands=listing), end="")
    if argv[0] in ("--version", "-V"):
        from genlab import __version__

        return print(f"genlab {__version__}")
    for word in argv:
        if word != word.encode(errors="replace").decode():
            fail(
                f"{word.encode(errors='backslashreplace').decode()}: not UTF-8; rename the file, or give the folder it is in"
            )
    command = argv[0]
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        fail(f"'{command}' is not a command.{hint} Commands: {', '.join(COMMANDS)}.")
    if any(word.startswith(("--experimental-rerun", "-er")) for word in argv):
        fail(
            "--experimental-rerun unpickles a file, which could run anything; use genlab train run=<dir>"
        )
    words = argv[1:]
    overrides = [
        word for word in words if not word.startswith("-") and (word.startswith("~") or "=" in word)
    ]
    run_hydra(
        command, [word for word in words if word not in overrides] + overrides
    )  # argparse wants them in one piece


def fail(message: str) -> None:
    print(f"genlab: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run_hydra(command: str, rest: list[str]) -> None:
    """Composes the command's config from `rest` and runs it, once or as a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from genlab import config, explain, files, overrides
    from genlab.errors import cause
    from genlab.sweeps import jobs, summary

    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # so that Hydra raises its errors here instead of printing them
    )
    original = sys.argv
    try:
        sweep = bool({"-m", "--multirun"} & set(rest))
        rest = [overrides.literal(word, sweep) for word in rest]
        config_name, extra = config.from_run(command, rest)
        sys.argv = ["genlab", *rest, *extra, *jobs.folder_override(rest)]
        task = partial(run_task, command, original, traceback)
        hydra.main(version_base="1.3", config_path="pkg://genlab.conf", config_name=config_name)(
            task
        )()
        if not summary.finish(original):
            raise SystemExit(1)
    except Exception as error:
        over = summary.finish(original, error)
        if traceback:
            raise
        if not over:
            raise SystemExit(1) from None
        inner = (
            error.__cause__ if type(error) is ValueError else error
        )  # logging's own, about the file of a log
        if (line := files.explained(inner)) is not None:
            fail(line)
        if (
            isinstance(error, HydraException | OmegaConfBaseException | YAMLError)
            or type(error) is ValueError
        ):
            fail(explain.explain(error, command, rest))
        if isinstance(error, ValueError):
            fail(str(error))
        if line := cause(error):
            fail(line)
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 130
        if isinstance(code, int) and code > 128:  # a signal
            summary.finish(original)
        raise SystemExit(code) from None
    finally:
        sys.argv = original
        if not traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def run_task(command: str, argv: list[str], traceback: bool, cfg):
    """One job: the command word's `run(cfg, run_dir)`.

    argv is put back first: Lightning's launcher starts the other processes of a DDP run from it. It
    travels as an argument because a launcher's workers import this module anew.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from genlab import files
    from genlab.errors import cause

    hydra_cfg = HydraConfig.get()
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    sys.argv = argv
    if not traceback:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        run_dir, overrides = Path(hydra_cfg.runtime.output_dir), list(hydra_cfg.overrides.task)
        task = partial(
            importlib.import_module(f"genlab.commands.{command}").run,
            cfg,
            run_dir,
            overrides,
            sweep,
        )
        if not sweep:
            return task()
        from genlab.sweeps.jobs import run_job

        return run_job(task, run_dir, overrides, cfg.get("optimized_metric"), hydra_cfg.job.num)
    except Exception as error:
        if sweep:
            print(f"genlab: job {hydra_cfg.job.num} failed: {error}", file=sys.stderr)
        elif isinstance(error, ValueError) and not traceback:
            fail(str(error))  # here, because Hydra would add lines of its own
        elif (line := cause(error) or files.explained(error)) and not traceback:
            fail(line)
        elif isinstance(error, BrokenPipeError):
            end_unread()
        raise
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def complete(argv: list[str]) -> None:
    """Bash completion: Hydra completes a line without the command word, so the word is taken off
    here.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split() + [""] * line.endswith(" ")
    if any("query=" in word for word in argv) and len(words) <= 2:
        return print("\n".join(word for word in COMMANDS if word.startswith(words[-1])))
    command = words[1] if len(words) > 1 and words[1] in COMMANDS else "train"
    if len(words) > 1:
        shorter = " ".join([words[0], *words[2:]])
        os.environ["COMP_LINE"] = shorter
        os.environ["COMP_POINT"] = str(len(shorter))
    import hydra

    from genlab import config

    config.from_run(command, [])  # sample, encode and eval take data from a run: here from none
    sys.argv = ["genlab", *argv]
    hydra.main(version_base="1.3", config_path="pkg://genlab.conf", config_name=command)(
        lambda cfg: None
    )()


if __name__ == "__main__":
    main()

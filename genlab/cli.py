"""The command line `genlab <command> [key=value ...]`.

The command chooses a primary config; the rest is Hydra's command line.
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
    "sample": "write images, points or texts with a trained run",
    "encode": "compute codes of images, points or texts",
    "eval": "measure a trained run",
    "export": "write a trained run for another library",
}
USAGE = """genlab trains and uses generative models.

usage: genlab <command> [key=value ...]

{commands}

  genlab train model=ogan                        train on digits; nothing is downloaded
  genlab sample run=outputs/train/ogan/<stamp>   use the run; its directory is all that is needed
  genlab <command> --help                        list groups, options, and all keys with values

Tab completion: eval "$(genlab -sc install=bash)"
"""


def main() -> None:
    """Runs one command.

    Exits with 2 on a user's error, 1 when a job of a sweep failed, 128 + signal when interrupted.
    """
    # A file name may hold bytes that no encoding can print.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run_command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        end_unread()
        raise


def end_unread() -> None:
    """Exits as SIGPIPE would if nobody reads the output any more (`| head`), which is no error."""
    poll = select.poll()
    poll.register(1, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(128 + signal.SIGPIPE)


def run_command(argv: list[str]) -> None:
    """Answers `--help` and the like itself, and hands everything else to Hydra."""
    if "-sc" in argv or "--shell-completion" in argv:
        return complete(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {command:<8}{text}" for command, text in COMMANDS.items())
        return print(USAGE.format(commands=listing), end="")
    if argv[0] in ("--version", "-V"):
        from genlab import __version__

        return print(f"genlab {__version__}")
    for word in argv:
        if word != word.encode(errors="replace").decode():
            shown = word.encode(errors="backslashreplace").decode()
            fail(f"{shown}: not UTF-8; rename the file, or give the folder that contains it")
    command = argv[0]
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        fail(f"unknown command '{command}'.{hint} Commands: {', '.join(COMMANDS)}.")
    if any(word.startswith(("--experimental-rerun", "-er")) for word in argv):
        fail(
            "--experimental-rerun unpickles a file, which could run any code; "
            "use genlab train run=<dir>"
        )
    # argparse needs the overrides in one piece, behind the options.
    options, overrides = [], []
    for word in argv[1:]:
        is_override = not word.startswith("-") and (word.startswith("~") or "=" in word)
        (overrides if is_override else options).append(word)
    run_hydra(command, options + overrides)


def fail(message: str) -> None:
    """Prints `message` as the one line of a user's error and exits with 2."""
    print(f"genlab: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run_hydra(command: str, rest: list[str]) -> None:
    """Composes the command's config from `rest` and runs it, once or as a sweep."""
    import hydra

    from genlab import config, overrides
    from genlab.sweeps import jobs, summary

    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Makes Hydra raise its errors here instead of printing them
    os.environ["HYDRA_FULL_ERROR"] = "1"
    original = sys.argv
    try:
        sweep = bool({"-m", "--multirun"} & set(rest))
        rest = [overrides.literal(word, sweep) for word in rest]
        config_name, extra = config.from_run(command, rest)
        sys.argv = ["genlab", *rest, *extra, *jobs.folder_override(rest)]
        task = partial(run_task, command, original, traceback)
        decorate = hydra.main(
            version_base="1.3", config_path="pkg://genlab.conf", config_name=config_name
        )
        decorate(task)()
        if not summary.finish(original):
            raise SystemExit(1)
    except Exception as error:
        finished = summary.finish(original, error)
        if traceback:
            raise
        if not finished:
            raise SystemExit(1) from None
        message = message_of(error, command, rest)
        if message is not None:
            fail(message)
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


def message_of(error: Exception, command: str, rest: list[str]) -> str | None:
    """What to tell a user about an error outside of a job; None if it is no user's error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from genlab import files
    from genlab.errors import cause
    from genlab.explain import explain

    # logging wraps the error of a log file that it cannot open into a ValueError.
    inner = error.__cause__ if type(error) is ValueError else error
    if (line := files.explain_error(inner)) is not None:
        return line
    composing = isinstance(error, HydraException | OmegaConfBaseException | YAMLError)
    if composing or type(error) is ValueError:
        return explain(error, command, rest)
    if isinstance(error, ValueError):
        return str(error)
    return cause(error)


def run_task(command: str, argv: list[str], traceback: bool, cfg):
    """Runs one job: `run(cfg, run_dir)` of the command's module.

    Args:
        command: train, sample, encode, eval or export.
        argv: The original sys.argv, which is restored first: Lightning's launcher starts the other
            processes of a DDP run from it. It is an argument because the workers of a Hydra
            launcher import this module again.
        traceback: Whether errors are shown as they are, with their traceback.
        cfg: The composed config.
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
        run_dir = Path(hydra_cfg.runtime.output_dir)
        overrides = list(hydra_cfg.overrides.task)
        run = importlib.import_module(f"genlab.commands.{command}").run
        task = partial(run, cfg, run_dir, overrides, sweep)
        if not sweep:
            return task()
        from genlab.sweeps.jobs import run_job

        return run_job(task, run_dir, overrides, cfg.get("optimized_metric"), hydra_cfg.job.num)
    except Exception as error:
        if sweep:
            print(f"genlab: job {hydra_cfg.job.num} failed: {error}", file=sys.stderr)
        elif isinstance(error, ValueError) and not traceback:
            fail(str(error))  # here, because Hydra would add lines of its own
        elif (line := cause(error) or files.explain_error(error)) and not traceback:
            fail(line)
        elif isinstance(error, BrokenPipeError):
            end_unread()
        raise
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def complete(argv: list[str]) -> None:
    """Completes a line for bash; Hydra knows no command word, so it is removed from the line."""
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

    config.from_run(command, [])  # registers data=of_run, which sample, encode and eval choose
    sys.argv = ["genlab", *argv]
    decorate = hydra.main(version_base="1.3", config_path="pkg://genlab.conf", config_name=command)
    decorate(lambda cfg: None)()


if __name__ == "__main__":
    main()

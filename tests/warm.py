"""A warm process that runs `genlab` in forked children, so that imports are paid once.

A child can be killed at its n-th change of the file system. The process reads JSON lines from stdin
and answers each with one:

{argv, cwd, env, out, err, below, kill_at, largest_file} starts a run; the answer is {pid}.
{wait: pid, block} asks for its end; the answer is {code, changes}, with code null while it runs.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import traceback

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class KillAt:
    """Counts changes of files below a folder; SIGKILLs this process right before the kill_at-th."""

    def __init__(self, below: str, kill_at: int):
        self.below = below
        self.kill_at = kill_at
        self.process = os.getpid()
        self.count = 0
        self.busy = False
        sys.addaudithook(self.watch)

    def watch(self, event: str, arguments: tuple) -> None:
        if self.busy or os.getpid() != self.process or not self.changes(event, arguments):
            return
        self.busy = True
        path = arguments[0]
        if not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(self.below):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        self.busy = False

    @staticmethod
    def changes(event: str, arguments: tuple) -> bool:
        if event != "open":
            return event in CHANGES
        _, mode, flags = arguments
        if isinstance(mode, str):
            return bool(set(mode) & set("wax+"))
        return isinstance(flags, int) and bool(flags & WRITES)


def write_to(path: str, descriptor: int):
    """A text stream that appends to the file `path`, by way of `descriptor`."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, descriptor)
    return os.fdopen(descriptor, "w", closefd=False)


def run(wish: dict, answer: int) -> None:
    """Runs `genlab argv` and ends this process."""
    code = 99
    try:
        os.setsid()
        os.chdir(wish["cwd"])
        os.environ.clear()
        os.environ.update(wish["env"])
        sys.path[:0] = filter(None, wish["env"].get("PYTHONPATH", "").split(os.pathsep))
        sys.stdout = write_to(wish["out"], 1)
        sys.stderr = write_to(wish["err"], 2)
        if wish["largest_file"]:
            limits = (wish["largest_file"], wish["largest_file"])
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        # A shell ignores these for what it starts in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        watch = KillAt(wish["below"], wish["kill_at"]) if wish["below"] else None
        # Lightning starts the other processes of a distributed run by this name.
        sys.argv = [os.path.join(os.path.dirname(sys.executable), "genlab"), *wish["argv"]]
        try:
            importlib.import_module("genlab.cli").main()
            code = 0
        except SystemExit as stop:
            code = 0 if stop.code is None else 1
            if isinstance(stop.code, int):
                code = stop.code
        if watch is not None:
            os.write(answer, str(watch.count).encode())
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    import genlab

    for module in pkgutil.walk_packages(genlab.__path__, "genlab."):
        if "kernels" not in module.name and "conf" not in module.name.split("."):
            importlib.import_module(module.name)
    import torch

    torch.set_num_threads(1)
    answers: dict[int, int] = {}  # process -> the pipe to which it writes its number of changes
    for line in sys.stdin:
        wish = json.loads(line)
        answer = wait(answers, **wish) if "wait" in wish else start(answers, wish)
        print(json.dumps(answer), flush=True)


def start(answers: dict[int, int], wish: dict) -> dict[str, int]:
    reading, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run(wish, answer)
    os.close(answer)
    answers[child] = reading
    return {"pid": child}


def wait(answers: dict[int, int], wait: int, block: bool) -> dict[str, int | None]:
    pid, status = os.waitpid(wait, 0 if block else os.WNOHANG)
    if pid == 0:
        return {"code": None, "changes": 0}
    reading = answers.pop(pid)
    count = os.read(reading, 100)
    os.close(reading)
    return {"code": os.waitstatus_to_exitcode(status), "changes": int(count or 0)}


if __name__ == "__main__":
    serve()

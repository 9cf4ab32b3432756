"""A warm process that runs `genlab` in forked children: imports, most of a short command, are paid
once. A child can be killed at its n-th change of the file system.

Reads JSON lines from stdin and answers each with one: {argv, cwd, env, out, err, below, kill_at,
largest_file} starts a run and gives {pid}; {wait: pid, block} gives {code, changes}, of which code is
null while the run goes on.
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


class KillAt:
    """Counts changes of files below a folder, and ends this process by SIGKILL right before number
    `kill_at`.
    """

    def __init__(self, below: str, kill_at: int):
        self.below = below
        self.kill_at = kill_at
        self.process = os.getpid()
        self.count = 0
        self.busy = False
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
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
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def write_to(path: str, descriptor: int):
    """A text stream of `descriptor`, which writes at the end of the file `path` from now on."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, descriptor)
    return os.fdopen(descriptor, "w", closefd=False)


def run(wish: dict, answer: int) -> None:
    """`genlab argv` in this process, which it ends."""
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
            resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (wish["largest_file"],))
        watch = KillAt(wish["below"], wish["kill_at"]) if wish["below"] else None
        # Lightning starts the other processes of a distributed run by this name.
        sys.argv = [os.path.join(os.path.dirname(sys.executable), "genlab"), *wish["argv"]]
        try:
            importlib.import_module("genlab.cli").main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
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
    answers: dict[int, int] = {}  # process -> the pipe in which it says how many changes it made
    for line in sys.stdin:
        wish = json.loads(line)
        said = wait(answers, **wish) if "wait" in wish else start(answers, wish)
        print(json.dumps(said), flush=True)


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

"""A warm process that runs `genlab` in forked children, each killed at its n-th change of the file
system if asked.

Reads a JSON line {argv, cwd, below, kill_at, log} from stdin for each run, and answers {code,
changes}.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
import traceback

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


class KillAt:
    """Counts changes of files below a folder, and ends this process by SIGKILL right before number
    `kill_at`.
    """

    def __init__(self, below: str, kill_at: int):
        self.below, self.kill_at, self.process = below, kill_at, os.getpid()
        self.count, self.busy = 0, False
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


def run(argv: list[str], cwd: str, below: str, kill_at: int, log: str, answer: int) -> None:
    """`genlab argv` in this process, which it ends."""
    code = 99
    try:
        os.setsid()
        os.chdir(cwd)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        watch = KillAt(below, kill_at)
        sys.argv = [
            os.path.join(os.path.dirname(sys.executable), "genlab"),
            *argv,
        ]  # Lightning starts other processes by it
        try:
            importlib.import_module("genlab.cli").main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        os.write(answer, str(watch.count).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve() -> None:
    import genlab

    for module in pkgutil.walk_packages(genlab.__path__, "genlab."):
        if "kernels" not in module.name and "conf" not in module.name.split("."):
            importlib.import_module(module.name)
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        wish = json.loads(line)
        reading, answer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            run(**wish, answer=answer)
        os.close(answer)
        _, status = os.waitpid(child, 0)
        count = os.read(reading, 100)
        os.close(reading)
        print(
            json.dumps({"code": os.waitstatus_to_exitcode(status), "changes": int(count or 0)}),
            flush=True,
        )


if __name__ == "__main__":
    serve()

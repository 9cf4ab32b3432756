"""Handling of SIGINT, SIGTERM and SIGHUP: a run stops at once, or after saving its current step."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["SIGNALS", "Handler", "Interrupted", "handled", "ignored", "install"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Terminals and schedulers often send a signal twice; within this time it is the same request.
REPEAT_SECONDS = 1.0


class Interrupted(BaseException):
    """A signal asked the run to stop.

    Args:
        signum: The number of the signal.
        saved: Whether the last step is in last.ckpt.
    """

    def __init__(self, signum: int, saved: bool = False):
        super().__init__(signum)
        self.signum = signum
        self.saved = saved


class Handler:
    """Calls `note` at the first signal and raises Interrupted at a later one that is no repeat.

    Args:
        note: Called with the number of the signal; None: Interrupted is raised at once.
    """

    # When any handler was last called; a repeat may reach another handler than the first signal.
    last = -REPEAT_SECONDS

    def __init__(self, note: Callable[[int], None] | None):
        self.note = note

    def __call__(self, signum: int, frame) -> None:
        now = time.monotonic()
        if now - Handler.last < REPEAT_SECONDS:
            return
        Handler.last = now
        note, self.note = self.note, None
        if note is None:
            raise Interrupted(signum)
        note(signum)


@contextmanager
def handled(note: Callable[[int], None] | None = None) -> Iterator[None]:
    """Inside, the first signal calls `note`, a second one raises Interrupted.

    A signal that the process ignores from its start (SIGHUP under nohup) stays ignored. Python
    handles signals in the main thread only, so nothing is changed in other threads.

    Args:
        note: See `Handler`.
    """
    if note is None:
        Handler.last = -REPEAT_SECONDS
    with _handlers(Handler(note)):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Inside, the three signals are ignored: while the final status of a run is written."""
    with _handlers(signal.SIG_IGN):
        yield


def install(handler) -> dict[int, Any]:
    """Sets the handler of those of the three signals that are not ignored.

    Returns:
        {signal: its handler before}, {} in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    before = {signum: old for signum, old in before.items() if old is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handler)
    return before


@contextmanager
def _handlers(handler) -> Iterator[None]:
    before = install(handler)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)

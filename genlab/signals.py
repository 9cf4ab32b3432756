"""SIGINT, SIGTERM and SIGHUP, which ask a run to stop: at once, or once its current step is saved."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["SIGNALS", "Handler", "Interrupted", "handled", "ignored", "install"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_SECONDS = 1.0  # a terminal or a scheduler often signals a process twice; that is one request


class Interrupted(BaseException):
    """A signal asked the run to stop; saved: its last step is in last.ckpt."""

    def __init__(self, signum: int, saved: bool = False):
        super().__init__(signum)
        self.signum, self.saved = signum, saved


class Handler:
    """Hands the first signal to `note`, and raises Interrupted at a later one that is no repeat."""

    last = (
        -REPEAT_SECONDS
    )  # when any handler was last called: a repeat may meet another one than the signal did

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
    """Inside, the first signal calls `note` (None: raises Interrupted at once), a second one raises
    Interrupted.

    A signal that this process was started to ignore (SIGHUP under nohup) stays ignored. Other
    threads than the main one receive no signals, so nothing is changed there.
    """
    if note is None:
        Handler.last = -REPEAT_SECONDS
    with _handlers(Handler(note)):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Inside, the three signals are ignored: for the moment in which the end of a run is written
    down.
    """
    with _handlers(signal.SIG_IGN):
        yield


def install(handler) -> dict[int, Any]:
    """Sets the handler of the three signals, unless they are ignored; returns {signal: its handler
    before}.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN}
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

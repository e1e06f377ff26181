"""Ctrl-C and SIGTERM that wait for the end of a step: what is saved then is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what Slurm, Docker and Kubernetes send before they kill."""


class Interrupts:
    """Whether somebody wants the work to stop; the worker asks where it may."""

    def __init__(self) -> None:
        """Nobody does yet."""
        self.wanted = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is remembered, a second one stops at once."""
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


@contextlib.contextmanager
def watch_interrupts() -> Iterator[Interrupts]:
    """Takes over SIGNALS for the time of the with block; outside the main thread they stay as they are."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts.note) for number in SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

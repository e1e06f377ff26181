"""How long the device is at work for models: what a GPU's owner wants to know beside how long they were called.

On CUDA the seconds lie between two events on the stream, so nothing waits for them until they are asked for; a gap in
which the device waits for the host to launch the next kernel of a forward counts as work. Elsewhere they are seconds of
the wall. Each thread has seconds of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOST_EVENTS = 1024
"""Pairs of events that are held before they are summed: not every program that runs a model asks for its seconds."""

_now = threading.local()


@contextlib.contextmanager
def device_at_work(device: str) -> Iterator[None]:
    """Around the forward of a model, and what else is launched on its device; inside another it counts once."""
    if getattr(_now, "is_counting", False):
        yield
        return
    _now.is_counting = True
    try:
        with _between_events(device) if device.startswith("cuda") else _by_the_wall():
            yield
    finally:
        _now.is_counting = False


def seconds_at_work() -> float:
    """Seconds of this thread's work so far; waits for a GPU that has not done all of it."""
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = getattr(_now, "events", [])
    while events:
        start, end = events.pop()
        end.synchronize()
        _add(start.elapsed_time(end) / 1000)
    return getattr(_now, "seconds", 0.0)


@contextlib.contextmanager
def _between_events(device: str) -> Iterator[None]:
    import torch

    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield  # a forward that fails is not counted: its error may be the device's own
        end.record()
    if not hasattr(_now, "events"):
        _now.events = []
    _now.events.append((start, end))
    if len(_now.events) >= MOST_EVENTS:
        seconds_at_work()


@contextlib.contextmanager
def _by_the_wall() -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        _add(time.perf_counter() - started)


def _add(seconds: float) -> None:
    _now.seconds = getattr(_now, "seconds", 0.0) + seconds

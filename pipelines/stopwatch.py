"""Where the seconds of a part go: in models and on their device, in opening them, in waiting for images, or elsewhere.

Read-ahead threads decode the next images while a model works, so only what the step waits for is counted. Each thread
has seconds of its own: runners make several parts in one process, a thread a part.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from ovseg_model.device_clock import seconds_at_work

Item = TypeVar("Item")

_now = threading.local()


class Spent(NamedTuple):
    """Seconds of one part."""

    whole: float = 0.0
    in_models: float = 0.0
    """Inside the mask generator, or CLIP with the cutting of its regions."""

    on_device: float = 0.0
    """Of these, those in which their device was at work (see `device_clock`): the rest is host work it waits for."""

    for_images: float = 0.0
    """Waiting for bytes and pixels that were not there yet."""

    opening: float = 0.0
    """Opening models and data files, once a process."""


SECONDS = {
    "seconds_in_made_parts": "whole",
    "seconds_in_models": "in_models",
    "seconds_on_device": "on_device",
    "seconds_for_images": "for_images",
    "seconds_opening": "opening",
}
"""How timings.json names them."""


class Stopwatch:
    """Runs from its making on."""

    def __init__(self) -> None:
        """Starts it for this thread."""
        self._started, self._worked = time.perf_counter(), seconds_at_work()
        _now.in_models = _now.for_images = _now.opening = 0.0

    def read(self) -> Spent:
        """What was spent since, in the thread that made it."""
        on_device = seconds_at_work() - self._worked
        whole = time.perf_counter() - self._started
        return Spent(whole, _now.in_models, on_device, _now.for_images, _now.opening)


def in_models() -> contextlib.AbstractContextManager[None]:
    """Around a call of a model."""
    return _counted("in_models")


def opening() -> contextlib.AbstractContextManager[None]:
    """Around what is done once a process; inside another it counts once."""
    return _counted("opening")


@contextlib.contextmanager
def _counted(name: str) -> Iterator[None]:
    counting = f"is_counting_{name}"
    if getattr(_now, counting, False):
        yield
        return
    started = time.perf_counter()
    setattr(_now, counting, True)
    try:
        yield
    finally:
        setattr(_now, counting, False)
        setattr(_now, name, getattr(_now, name, 0.0) + time.perf_counter() - started)


def waiting_for_images(images: Iterable[Item]) -> Iterator[Item]:
    """The images as they are; what their coming takes is counted, what is done with them is not."""
    coming = iter(images)
    while True:
        started = time.perf_counter()
        try:
            image = next(coming)
        except StopIteration:
            return
        finally:
            _now.for_images = getattr(_now, "for_images", 0.0) + time.perf_counter() - started
        yield image

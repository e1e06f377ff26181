"""Where the seconds of a part go: in models, in waiting for images, or in the step itself.

Read-ahead threads decode the next images while a model works, so only what the step waits for is counted. Each thread
has seconds of its own: runners make several parts in one process, a thread a part.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

_now = threading.local()


class Spent(NamedTuple):
    """Seconds of one part."""

    whole: float = 0.0
    in_models: float = 0.0
    """Inside the mask generator, or CLIP with the cutting of its regions."""

    for_images: float = 0.0
    """Waiting for bytes and pixels that were not there yet."""


class Stopwatch:
    """Runs from its making on."""

    def __init__(self) -> None:
        """Starts it for this thread."""
        self._started = time.perf_counter()
        _now.in_models = _now.for_images = 0.0

    def read(self) -> Spent:
        """What was spent since, in the thread that made it."""
        return Spent(time.perf_counter() - self._started, _now.in_models, _now.for_images)


@contextlib.contextmanager
def in_models() -> Iterator[None]:
    """Around a call of a model."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _now.in_models = getattr(_now, "in_models", 0.0) + time.perf_counter() - started


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

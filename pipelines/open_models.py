"""Heavy things are opened once per worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

from pipelines.stopwatch import opening

Opened = TypeVar("Opened")

_opened: dict[Hashable, object] = {}
_lock = threading.RLock()  # an opener may open what it wraps


def open_once(opener: Callable[[Hashable], Opened], spec: Hashable) -> Opened:
    """`opener(spec)`, called the first time that this process asks for it.

    Steps open what they need only when a unit has to be made: a run whose parts are all there loads no model.
    """
    key = (opener.__module__, opener.__qualname__, spec)
    with _lock:
        if key not in _opened:
            with opening():
                _opened[key] = opener(spec)
        return _opened[key]  # type: ignore[return-value]

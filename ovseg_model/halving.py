"""Where memory runs out, a forward is made again in halves, down to the smallest; and it is counted.

Rows of a smaller forward may differ in their last digits: other sizes are summed in another order. So whoever promises
equal bytes says how many batches were halved, and keeps no vector of them for others.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Size = TypeVar("Size")
Result = TypeVar("Result")

_now = threading.local()


class Fitting(Generic[Size]):
    """How much goes into a forward: as much as was asked for, until memory runs out; what was halved stays so.

    Threads may share it: each forward is made, or made again, by the thread that asked for it.
    """

    def __init__(self, asked: Size, halved: Callable[[Size], Size | None], what: str) -> None:
        """halved: half as much, or None for the least there is. what: the forwards' name in the log, a plural."""
        self._asked = self._size = asked
        self._halved, self._what = halved, what

    def run(self, work: Callable[[Size], Result]) -> Result:
        """Returns work(size), for smaller sizes where memory runs out.

        Raises what `work` raises: that memory ran out only where the least did not fit either.
        """
        while True:
            tried = self._size
            try:
                result = work(tried)
            except Exception as problem:
                smaller = self._halved(tried) if is_out_of_memory(problem) else None
                if smaller is None:
                    raise
            else:
                _now.halved = halved_batches() + (tried != self._asked)
                return result
            # Outside of the handler, where the traceback no longer holds the failed forward's tensors.
            release_memory(f"{self._what} of {tried}")
            self._size = smaller


def fitting_rows(asked: int, what: str) -> Fitting[int]:
    """Returns a `Fitting` of rows, at least one."""
    return Fitting(asked, lambda rows: rows // 2 or None, what)


def halved_batches() -> int:
    """Returns how many batches this thread has made smaller than asked, so far."""
    return getattr(_now, "halved", 0)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on a GPU or here; torch's classes are told by name, so that torch need not be there."""
    names = {each.__name__ for each in type(problem).__mro__}
    return isinstance(problem, MemoryError) or "OutOfMemoryError" in names or "out of memory" in str(problem).lower()


def release_memory(tried: str) -> None:
    """Gives back what a failed batch held, and says what is halved."""
    logging.getLogger(__name__).warning("out of memory: %s are halved; smaller batches save the second try", tried)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Where memory runs out, a forward is made again in halves, down to the smallest; and it is counted.

A GPU that has failed is told apart from memory that ran out: nothing that is tried afterwards can succeed.

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

OUT_OF_MEMORY = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "device_allocation_failed",
    "unable to find a valid cudnn algorithm",
    "defaultcpuallocator",
)
"""What errors without a class of their own say, in lower case: cuDNN finds no algorithm where its workspace does not
fit, and torch's allocator on the CPU raises a RuntimeError."""

DEVICE_FAILED = (
    "cuda error",
    "cuda driver error",
    "hip error",
    "device-side assert",
    "illegal memory access",
    "cudnn_status_execution_failed",
    "cudnn_status_internal_error",
)
"""What errors of a GPU say, in lower case, after which its process can use it no more."""

_now = threading.local()


class Fitting(Generic[Size]):
    """How much goes into a forward: as much as was asked for, until memory runs out; what was halved stays so.

    Threads may share it: each forward is made, or made again, by the thread that asked for it.
    """

    def __init__(self, asked: Size, halved: Callable[[Size], Size | None], what: str) -> None:
        """halved: half as much, or None for the least there is. what: the forwards' name in the log, a plural."""
        self._asked = self._size = asked
        self._halved, self._what = halved, what
        self._lowering = threading.Lock()

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
            with self._lowering:
                if self._size == tried:  # else another thread has lowered it meanwhile
                    self._size = smaller
            release_memory(f"{self._what} of {tried}")


def fitting_rows(asked: int, what: str) -> Fitting[int]:
    """Returns a `Fitting` of rows, at least one."""
    return Fitting(asked, lambda rows: rows // 2 or None, what)


def halved_batches() -> int:
    """Returns how many batches this thread has made smaller than asked, so far."""
    return getattr(_now, "halved", 0)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, on a GPU or here; torch's classes are told by name, so that torch need not be there."""
    if isinstance(problem, MemoryError) or "OutOfMemoryError" in _class_names(problem):
        return True
    return _says(problem, OUT_OF_MEMORY)


def is_device_error(problem: BaseException) -> bool:
    """Whether a GPU failed, so that whatever this process asks of it next fails too; not where its memory ran out."""
    if is_out_of_memory(problem):  # first: cuBLAS calls that a "CUDA error" as well
        return False
    return "AcceleratorError" in _class_names(problem) or _says(problem, DEVICE_FAILED)


def _class_names(problem: BaseException) -> set[str]:
    return {each.__name__ for each in type(problem).__mro__}


def _says(problem: BaseException, words: tuple[str, ...]) -> bool:
    text = str(problem).lower()
    return any(each in text for each in words)


def release_memory(tried: str) -> None:
    """Gives back what a failed batch held, and says what is halved."""
    logging.getLogger(__name__).warning("out of memory: %s are halved; smaller batches save the second try", tried)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Pickles of plain values, read without running anything of them: any other reader of a pickle runs it as a program."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schemas.errors import UserError

ENCODINGS = ("utf-8", "latin-1")
"""How byte strings of Python 2 become text: the second takes any byte, so it comes last."""

PLAIN: Mapping[str, Callable[..., Any]] = {
    f"{module}.{name}": value
    for module in ("builtins", "__builtin__")
    for name, value in (("set", set), ("frozenset", frozenset), ("bytearray", bytearray), ("complex", complex))
}
"""What a pickle of builtins may ask for by name, as Python 3 and Python 2 call it; the rest needs no name."""


def load_restricted(path: Path, allow_numpy: bool = False) -> Any:
    """Returns what a pickle of any protocol holds: lists, tuples, dicts, sets, strings, bytes, numbers, booleans, None.

    allow_numpy: NumPy's arrays and scalars too. Byte strings of Python 2 are UTF-8 or else Latin-1; next to NumPy's,
    whose pixels are such strings, always Latin-1. Raises UserError for a file that cannot be read, is no pickle, or
    asks for anything more, which is neither looked up nor run.
    """
    allowed = {**PLAIN, **_numpy_names()} if allow_numpy else PLAIN
    try:
        return _load(path.read_bytes(), allowed, ENCODINGS[-1:] if allow_numpy else ENCODINGS)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes that are no pickle provoke nearly anything
        raise UserError(
            f"{path}: wanted a pickle of lists, dicts, strings and numbers{' or NumPy arrays' * allow_numpy}, and "
            f"ran nothing of it: {error or type(error).__name__}; fetch it again from where the data set is published"
        ) from error


def _load(data: bytes, allowed: Mapping[str, Callable[..., Any]], encodings: tuple[str, ...]) -> Any:
    for encoding in encodings[:-1]:
        try:
            return _Unpickler(data, allowed, encoding).load()
        except UnicodeDecodeError:
            continue
    return _Unpickler(data, allowed, encodings[-1]).load()


class _Unpickler(pickle.Unpickler):
    """Builds what the machine of pickle builds by itself, and calls only what is allowed by name."""

    def __init__(self, data: bytes, allowed: Mapping[str, Callable[..., Any]], encoding: str) -> None:
        """Reads from bytes; `allowed`: what may be called, by module and name."""
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands under a name. Raises UnpicklingError for one that is not allowed."""
        if f"{module}.{name}" not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.allowed[f"{module}.{name}"]


def _numpy_names() -> dict[str, Callable[..., Any]]:
    """What NumPy's arrays and scalars ask for, by the names of NumPy 1 and 2."""
    import numpy as np

    names: dict[str, Callable[..., Any]] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = _new_array
        names[f"{core}.multiarray.scalar"] = np.float64(0).__reduce__()[0]
        names[f"{core}.numeric._frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]
    return names | {"_codecs.encode": _latin_bytes}


def _new_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> Any:
    """NumPy's `_reconstruct`, for its own arrays alone and empty, as a pickle begins them."""
    import numpy as np

    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"it asks for an array of {kind!r} and shape {shape}")
    return np.ndarray(shape, dtype)


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2; no other codec is run."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin-1")

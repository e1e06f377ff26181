"""Pickles of plain values, read without running anything: a pickle from outside is a program otherwise."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from schemas.errors import UserError

ENCODINGS = ("utf-8", "latin-1")
"""How byte strings of Python 2 become text: the second takes any byte, so it comes last."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, strings and numbers; whatever else a pickle does begins with a name that it looks up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_restricted(path: Path) -> Any:
    """Returns what a pickle of any protocol holds: lists, tuples, dicts, strings, numbers, booleans, None.

    Byte strings of Python 2 are UTF-8, or else Latin-1. Raises UserError for a file that cannot be read, is no pickle,
    or asks for anything more, before that is looked up.
    """
    try:
        return _load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes that are no pickle provoke nearly anything
        raise UserError(
            f"{path}: wanted a pickle of lists, dicts, strings and numbers, and ran nothing of it: {error}"
        ) from error


def _load(data: bytes) -> Any:
    for encoding in ENCODINGS[:-1]:
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
    return _PlainUnpickler(io.BytesIO(data), encoding=ENCODINGS[-1]).load()

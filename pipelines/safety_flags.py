"""`--safety package.module:function`: a user's own safety flag of an image, in place of the input's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.open_models import open_once
from schemas import UserError

SafetyFlag = Callable[[np.ndarray], "str | None"]
"""RGB uint8 (H, W, 3) in original pixels → a text that takes the place of the input's flag, or None."""


@dataclass(frozen=True)
class SafetySpec:
    """A function that was found before the run: small and picklable; each worker process imports it once."""

    function: str
    source_sha256: str
    """Of its module's source, in hex."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides its flags, as far as anybody but the function knows."""
        return asdict(self)


def resolve_safety(name: str | None) -> SafetySpec | None:
    """The function of that name, imported now so that a mistake is one before work starts; None where none is named.

    Raises:
        UserError: it cannot be imported or called, or its module has no source file.
    """
    if name is None:
        return None
    _import_function(name)
    return SafetySpec(name, _source_sha256(name))


def open_safety(spec: SafetySpec) -> SafetyFlag:
    """The function, in this process.

    Raises:
        UserError: it cannot be had here, or its source is another one than where the run began.
    """
    function = _import_function(spec.function)
    if _source_sha256(spec.function) != spec.source_sha256:
        raise UserError(
            f"--safety {spec.function}: its module's source differs from the one that the run began with; install the "
            "same version on every machine, or give the command again"
        )
    return function


def opened_safety(spec: SafetySpec | None) -> SafetyFlag | None:
    """The function of a spec, opened once a process; None where there is none."""
    return open_once(open_safety, spec) if spec else None


def flag_image(function: SafetyFlag, image_id: str, pixels_HW3: np.ndarray) -> str | None:
    """What the function says of one image; it gets a copy of the pixels, which it may change.

    Raises:
        UserError: it raised, or returned what is neither a text nor None; an unchecked image must not pass for safe.
    """
    try:
        flag = function(pixels_HW3.copy())
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"--safety: the function failed on image {image_id}: {type(error).__name__}: {error}"
        ) from error
    if flag is not None and type(flag) is not str:
        raise UserError(f"--safety: wanted a text or None for image {image_id}, got {flag!r}")
    return flag


def _import_function(name: str) -> SafetyFlag:
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        wanted = "importable here" if colon else "with a colon"
        raise UserError(
            f"--safety {name}: wanted package.module:function, {wanted}; got {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise UserError(f"--safety {name}: wanted something to call, got a {type(found).__name__}")
    return found


def _source_sha256(name: str) -> str:
    module = importlib.import_module(name.partition(":")[0])
    try:
        with open(inspect.getsourcefile(module) or "", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, TypeError) as error:
        raise UserError(f"--safety {name}: its module has no source file, by which versions are told apart") from error

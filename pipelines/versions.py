"""Versions of what may touch a row or a byte."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

ROW_PACKAGES = (
    "ovseg-mining",
    "nltk",
    "numpy",
    "open_clip_torch",
    "pillow",
    "pyarrow",
    "pycocotools",
    "scikit-image",
    "scipy",
    "segment-anything",
    "torch",
    "torchvision",
    "transformers",
)
"""Packages whose version may touch a row or a byte."""


def versions() -> dict[str, str]:
    """Versions of Python and of all such packages."""
    return {"python": platform.python_version(), **versions_of(*ROW_PACKAGES)}


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of some packages; "absent" where one is not installed."""
    return {name: _version(name) for name in packages}


@functools.cache  # a look through all that is installed takes milliseconds, and every unit's hash asks
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"

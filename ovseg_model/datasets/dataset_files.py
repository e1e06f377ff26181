"""Files of data sets: found where they may lie, or missed in one sentence; JSON and images as they are meant.

Array names end in their axes: H and W pixels, 3 colour channels in RGB order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.images import decode_image, read_image_bytes
from schemas.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Files of a folder that are its images; others are not looked at."""

ORIENTATION = 0x0112
"""Tag of EXIF; from the value SIDEWAYS on, height and width change places."""

SIDEWAYS = 5


def find_place(title: str, candidates: Sequence[Path], source: str) -> Path:
    """Returns the first file or folder that is there.

    title: of the data set. source: where it comes from. Raises UserError naming all candidates.
    """
    for candidate in candidates:
        if candidate.exists():
            return candidate
    others = "".join(f", nor is {each}" for each in candidates[1:])
    raise UserError(f"{title}: {candidates[0]} is not there{others}; it comes from {source}")


def require_files(title: str, paths: Sequence[str], source: str) -> None:
    """Raises UserError naming the first of the files that are missing, and how many are."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise UserError(
            f"{title}: {len(missing)} of {len(paths)} files are missing, the first is {missing[0]}; "
            f"they come from {source}"
        )


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file in UTF-8 or, as old tools wrote it, Windows-1252. Raises UserError."""
    try:
        data = path.read_bytes()
        try:
            return json.loads(data)
        except UnicodeDecodeError:
            return json.loads(data.decode("cp1252"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error


def read_image(path: str) -> np.ndarray:
    """Returns an image as it is seen (EXIF orientation applied), uint8 (H, W, 3). Raises UserError."""
    options = FetchOptions()
    try:
        return decode_image(read_image_bytes(path, options), options)
    except ImageError as error:
        raise UserError(f"image {path}: {error}") from error


def image_size_px(path: str) -> tuple[int, int]:
    """Returns height and width of an image as `read_image` gives it, by its header alone. Raises UserError."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) >= SIDEWAYS
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"image {path} cannot be read: {error}") from error
    return (width, height) if sideways else (height, width)

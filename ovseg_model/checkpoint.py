"""Checkpoints of training: one file, whole or absent, that holds all that the next step depends on."""

from __future__ import annotations

import contextlib
import os
import pickle
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from schemas.errors import UserError

CHECKPOINT_FILE = "checkpoint.pt"
FORMAT_VERSION = 1


def write_checkpoint(folder: Path, made_by: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Writes the checkpoint of a folder under another name and renames it, over the one before.

    made_by: plain values that decide the training; a checkpoint goes on only with the same. state: tensors and plain
    values in dictionaries and lists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{CHECKPOINT_FILE}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, "made_by": dict(made_by), "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, folder / CHECKPOINT_FILE)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def read_checkpoint(folder: Path, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the state of a folder's checkpoint, on the CPU, or None where there is none.

    Raises UserError for one that is damaged, of another version of this tool, or made by other options.
    """
    for fragment in folder.glob(f".{CHECKPOINT_FILE}.*"):  # of a process that was killed while it wrote
        fragment.unlink(missing_ok=True)
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged and cannot be read; remove it to begin again") from error
    if checkpoint.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: is of another version of this tool; finish it with that, or remove it to begin again")
    changed = changed_names(checkpoint["made_by"], made_by)
    if changed:
        raise UserError(
            f"{path}: was made with another {', '.join(changed)}; give the same options to go on, or another --output"
        )
    return checkpoint["state"]


def changed_names(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the names whose values differ, sorted; a name that only one of them has differs too."""
    return sorted(name for name in {*one, *other} if one.get(name, ...) != other.get(name, ...))

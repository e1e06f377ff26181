"""What training writes down: a CSV that survives a restart, and TensorBoard events where that is installed."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

CSV_FILE, EVENTS_FOLDER = "training.csv", "tensorboard"


class TrainingLog:
    """Rows by step; a row has any of the columns. Reopened at a step, it forgets what was written beyond it."""

    def __init__(self, folder: Path, step: int, columns: tuple[str, ...]) -> None:
        """columns: all there may be, `step` first. step: the last that counts; later rows belong to a lost stretch."""
        self._path, self._columns = folder / CSV_FILE, columns
        self._rows = [row for row in _read(self._path) if int(row["step"]) <= step]
        self._events = _open_events(folder / EVENTS_FOLDER, step)

    def add(self, step: int, values: Mapping[str, float | str]) -> None:
        """Adds a row and writes the file, whole."""
        self._rows.append({"step": str(step), **{name: _text(value) for name, value in values.items()}})
        unfinished = self._path.with_name(f".{self._path.name}")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(unfinished, self._path)
        for name, value in values.items():
            if self._events and not isinstance(value, str):
                self._events.add_scalar(name, value, step)

    def measured(self, columns: Sequence[str]) -> list[dict[str, float]]:
        """The rows that have these columns: step and figures."""
        rows = [row for row in self._rows if all(row.get(name) for name in columns)]
        return [{"step": int(row["step"]), **{name: float(row[name]) for name in columns}} for row in rows]

    def close(self) -> None:
        """Flushes the events."""
        if self._events:
            self._events.close()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _open_events(folder: Path, step: int) -> object | None:
    """TensorBoard's writer, or None where it is not installed: the CSV holds the same."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)

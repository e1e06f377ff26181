"""Rows of ratios that benchmarks note for `benchmarks.speed`, which makes one table and one plot of them."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

PLACE = "OVSEG_BENCHMARK_RESULTS"
"""The environment variable that names the file of rows; without it nothing is noted."""

SHARE = "a share, no ratio"
"""The remark of what is no ratio of two ways."""


class Result(NamedTuple):
    """What one benchmark found."""

    what: str
    against: str
    ratio: float
    bar: float | None
    """Least ratio; None for figures that are shown only."""
    goal: float | None
    remark: str
    """What must be known beside the ratio: scaled figures, one reading, another method."""

    @property
    def is_scaled(self) -> bool:
        """Whether it was timed on fewer than it speaks of."""
        return self.remark.startswith("scaled")

    @property
    def holds(self) -> bool:
        """Whether the bar is reached."""
        return self.bar is None or self.ratio >= self.bar


def note(
    what: str, against: str, ratio: float, bar: float | None = None, goal: float | None = None, remark: str = ""
) -> None:
    """Adds a row to the file that the environment names."""
    if place := os.environ.get(PLACE):
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps(Result(what, against, ratio, bar, goal, remark)) + "\n")


def read_results(place: str) -> list[Result]:
    """All rows that were noted, in their order."""
    with open(place, encoding="utf-8") as file:
        return [Result(*json.loads(line)) for line in file]

"""Ways of doing one thing, timed in turns; what benchmarks share."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

FAILED = "benchmark failed:"

Name = TypeVar("Name", bound=Hashable)


@dataclass
class Times:
    """Seconds of one way, a turn each."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, way: Callable[[], object]) -> None:
        """Runs and times it once."""
        wall, cpu = time.perf_counter(), time.process_time()
        way()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    @property
    def wall_median(self) -> float:
        """Of wall seconds."""
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        """Of CPU seconds, with which other programs interfere least."""
        return statistics.median(self.cpu)

    def cells(self) -> str:
        """Table cells: median and spread of wall seconds, median of CPU seconds, in milliseconds."""
        spread = f"{1000 * min(self.wall):.1f} to {1000 * max(self.wall):.1f}"
        return f"{1000 * self.wall_median:.1f} | {spread} | {1000 * self.cpu_median:.1f}"


def time_in_turns(
    ways: Mapping[Name, Callable[[], object]], repeats: int, *, is_warm: bool = False
) -> dict[Name, Times]:
    """Each way `repeats` times, one after the other in each turn.

    is_warm: every way has run before, as a check of what it gives; else a first turn does not count.
    """
    for way in () if is_warm else ways.values():
        way()
    times = {name: Times() for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].run(way)
    return times


def require(holds: bool, sentence: str) -> None:
    """Ends the run where something does not hold."""
    if not holds:
        sys.exit(f"{FAILED} {sentence}")

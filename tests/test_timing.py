"""Ways are timed in turns; times by value, on a clock that is handed out."""

from __future__ import annotations

import time

import pytest

from benchmarks.timing import Times, require, time_in_turns


def test_each_way_runs_in_each_turn_after_one_that_does_not_count():
    ran = []
    times = time_in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2)
    assert ran == ["a", "b"] * 3
    assert [len(each.cpu) for each in times.values()] == [2, 2]


def test_ways_that_are_warm_are_not_run_once_more():
    ran = []
    time_in_turns({"a": lambda: ran.append("a")}, 2, is_warm=True)
    assert ran == ["a", "a"]


def test_wall_and_cpu_seconds_are_told_apart(monkeypatch):
    wall, cpu = iter([10.0, 13.0]), iter([1.0, 1.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    times = Times()
    times.run(lambda: None)
    assert (times.wall, times.cpu) == ([3.0], [0.5])


def test_medians_and_cells():
    times = Times([0.003, 0.001, 0.0025], [0.002, 0.0005, 0.001])
    assert (times.wall_median, times.cpu_median) == (0.0025, 0.001)
    assert times.cells() == "2.5 | 1.0 to 3.0 | 1.0"


def test_what_does_not_hold_ends_the_run():
    require(True, "never said")
    with pytest.raises(SystemExit, match=r"^benchmark failed: rows differ$"):
        require(False, "rows differ")

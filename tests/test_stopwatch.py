"""Where seconds go, by a clock that is set by hand."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from ovseg_model.device_clock import device_at_work
from pipelines import stopwatch
from pipelines.open_models import open_once
from pipelines.stopwatch import SECONDS, Spent, Stopwatch, in_models, opening, waiting_for_images
from pipelines.summary import seconds_lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def images(clock, seconds):
    for each in seconds:
        clock.now += each
        yield each


def test_models_and_waiting_are_told_from_the_rest(clock):
    watch = Stopwatch()
    clock.now += 1
    for _ in waiting_for_images(images(clock, [2, 3])):
        clock.now += 10
        with in_models():
            clock.now += 20
    assert watch.read() == Spent(whole=66, in_models=40, for_images=5)


def test_a_model_that_raises_has_worked(clock):
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), in_models():
        clock.now += 7
        raise ValueError("no")
    assert watch.read().in_models == 7


def test_the_next_part_starts_at_nothing(clock):
    with in_models():
        clock.now += 5
    assert Stopwatch().read() == Spent()


def test_threads_do_not_mix(clock):
    watch = Stopwatch()

    def other():
        Stopwatch()
        with in_models():
            clock.now += 30

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert watch.read() == Spent(whole=30)


def test_opening_inside_opening_counts_once(clock):
    watch = Stopwatch()
    with opening():
        clock.now += 2
        with opening():
            clock.now += 3
    assert watch.read() == Spent(whole=5, opening=5)


def test_models_are_opened_outside_of_what_they_do(clock):
    def opener(spec):
        clock.now += 8
        return spec

    watch = Stopwatch()
    assert [open_once(opener, "spec of this test") for _ in range(2)] == ["spec of this test"] * 2
    assert watch.read() == Spent(whole=8, opening=8)


def test_the_device_is_at_work_for_a_part_of_the_call():
    watch = Stopwatch()
    with in_models():
        time.sleep(0.05)
        with device_at_work("cpu"):
            time.sleep(0.02)
    spent = watch.read()
    assert 0.02 <= spent.on_device <= spent.in_models - 0.05
    assert Stopwatch().read().on_device == 0


def seconds(whole, models=0.0, device=0.0, images=0.0, opened=0.0):
    return dict(zip(SECONDS, (whole, models, device, images, opened), strict=True))


def test_the_summary_says_what_to_buy():
    nothing, masks = seconds(0.0), seconds(90.0, 72.0, 45.0, 13.5, 0.9)
    pairs = seconds(10.0, 9.0, 8.0)
    assert list(seconds_lines({"extract_nouns": nothing})) == []
    lines = list(seconds_lines({"extract_nouns": nothing, "propose_masks": masks, "match_regions": pairs}))
    assert [line.split() for line in lines[2:]] == [
        ["propose_masks", "90.0", "90%", "80%", "50%", "15%", "1%", "4%"],
        ["match_regions", "10.0", "10%", "90%", "80%", "0%", "0%", "10%"],
    ]

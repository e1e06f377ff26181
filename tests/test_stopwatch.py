"""Where seconds go, by a clock that is set by hand."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from pipelines import stopwatch
from pipelines.stopwatch import Spent, Stopwatch, in_models, waiting_for_images
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


def test_the_summary_says_what_to_buy():
    nothing = {"seconds_in_made_parts": 0.0, "seconds_in_models": 0.0, "seconds_for_images": 0.0}
    masks = {"seconds_in_made_parts": 90.0, "seconds_in_models": 72.0, "seconds_for_images": 13.5}
    pairs = {"seconds_in_made_parts": 10.0, "seconds_in_models": 9.0, "seconds_for_images": 0.0}
    assert list(seconds_lines({"extract_nouns": nothing})) == []
    lines = list(seconds_lines({"extract_nouns": nothing, "propose_masks": masks, "match_regions": pairs}))
    assert [line.split() for line in lines[2:]] == [
        ["propose_masks", "90.0", "90%", "80%", "15%", "5%"],
        ["match_regions", "10.0", "10%", "90%", "0%", "10%"],
    ]

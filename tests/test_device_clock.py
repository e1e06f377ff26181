"""Seconds that a device is at work, counted once each, a thread for itself."""

import contextlib
import threading
import time

from ovseg_model import device_clock
from ovseg_model.device_clock import device_at_work, seconds_at_work


def work(seconds=0.02):
    with device_at_work("cpu"):
        time.sleep(seconds)


def test_work_adds_up_and_what_is_between_does_not_count():
    before = seconds_at_work()
    work()
    time.sleep(0.2)
    work()
    assert 0.04 <= seconds_at_work() - before < 0.2


def test_work_inside_work_counts_once():
    before = seconds_at_work()
    started = time.perf_counter()
    with device_at_work("cpu"):
        work(0.05)
    assert 0.05 <= seconds_at_work() - before <= time.perf_counter() - started


def test_a_thread_has_seconds_of_its_own():
    before = seconds_at_work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seconds_at_work() == before


def test_a_forward_that_fails_leaves_the_clock_running():
    try:
        with device_at_work("cpu"):
            raise RuntimeError
    except RuntimeError:
        pass
    before = seconds_at_work()
    work()
    assert seconds_at_work() - before >= 0.02


class FakeEvent:
    """A CUDA event of a stream whose time goes on by 0.25 s a record."""

    clock_ms, waited = 0.0, 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.clock_ms += 250
        self.at_ms = FakeEvent.clock_ms

    def synchronize(self):
        FakeEvent.waited += 1

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


def test_on_cuda_events_are_waited_for_only_when_asked(monkeypatch):
    import torch

    used = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(
        torch.cuda, "device", lambda device: used.append(device) or device_clock.contextlib.nullcontext()
    )
    before = seconds_at_work()
    for _ in range(3):
        with device_at_work("cuda:1"):
            pass
    assert (FakeEvent.waited, used) == (0, ["cuda:1"] * 3)
    assert round(seconds_at_work() - before, 6) == 0.75
    assert FakeEvent.waited == 3


def test_events_that_nobody_asks_for_do_not_pile_up(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(device_clock, "MOST_EVENTS", 4)
    before = seconds_at_work()
    for _ in range(10):
        with device_at_work("cuda"):
            pass
    assert len(device_clock._now.events) == 2
    assert round(seconds_at_work() - before, 6) == 2.5

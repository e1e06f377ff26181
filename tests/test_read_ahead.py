"""Readers that run ahead: in order, bounded, and their errors in their turn."""

import threading

import pytest

from ovseg_model.read_ahead import read_ahead


def test_results_come_in_order_whoever_is_first():
    late = threading.Event()

    def read(item):
        if item == 0:
            late.wait(5)
        else:
            late.set()
        return 10 * item

    assert list(read_ahead(read, range(6), 2)) == [0, 10, 20, 30, 40, 50]


def test_no_more_than_twice_the_threads_wait():
    read_items = []
    results = read_ahead(lambda item: read_items.append(item), iter(range(100)), 3)
    next(results)
    assert len(read_items) <= 7


def test_an_error_comes_in_its_turn():
    results = read_ahead(lambda item: 6 / item, [1, 2, 0, 3], 2)
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(read_ahead(int, [], 2)) == []

"""Readers that run ahead: in order, bounded, and their errors in their turn."""

import threading

import pytest

from ovseg_model.read_ahead import iterate_ahead, read_ahead


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


def test_items_are_made_in_one_other_thread_in_order_and_few_ahead():
    makers, made = set(), []

    def items():
        for number in range(100):
            makers.add(threading.current_thread())
            made.append(number)
            yield number

    coming = iterate_ahead(items())
    assert [next(coming), next(coming)] == [0, 1]
    assert len(made) <= 5
    assert list(coming) == list(range(2, 100))
    assert len(makers) == 1
    assert threading.current_thread() not in makers


def test_what_making_an_item_raises_comes_in_its_turn():
    coming = iterate_ahead(6 / number for number in (1, 0, 2))
    assert next(coming) == 6
    with pytest.raises(ZeroDivisionError):
        next(coming)
    assert list(iterate_ahead([])) == []

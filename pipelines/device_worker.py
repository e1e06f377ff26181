"""The process of one device (see device_pool.py): a plan, then units, come in; the stats of their parts go out."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple, NoReturn

from pipelines.plain import run_unit
from pipelines.plan import Plan
from pipelines.units import PartStats
from schemas import UserError


class Failure(NamedTuple):
    """What a step raised: the sentence of a user's mistake, or a traceback."""

    is_users: bool
    text: str


def serve(file_descriptor: int) -> NoReturn:
    """Makes units that come through an inherited socket, until the launcher hangs up."""
    connection = Connection(file_descriptor)
    plan = connection.recv()
    units: queue.Queue[int] = queue.Queue()
    threading.Thread(target=read_units_until_hung_up, args=(connection, units), daemon=True).start()
    while True:
        connection.send(make_unit(plan, units.get()))


def make_unit(plan: Plan, unit: int) -> list[PartStats] | Failure:
    """The stats of all parts of one unit, table by table, or why there are none."""
    try:
        return [run_unit(step, unit) for step in plan.steps]
    except UserError as error:
        return Failure(True, str(error))
    except Exception:
        return Failure(False, traceback.format_exc())


def read_units_until_hung_up(connection: Connection, units: queue.Queue[int]) -> None:
    """Passes units on. A launcher that is gone, even by kill -9, ends the process, though it is amid a unit."""
    try:
        while True:
            units.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)

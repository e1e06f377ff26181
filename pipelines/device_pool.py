"""`--devices`: one process a device on this machine, without an engine; each unit goes to whichever is free.

The launcher plans and writes the manifest; a process (device_worker.py) makes all parts of the units that it is
handed. Everything it writes is a part of its own, whole or absent, so a process may die at any moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any

from pipelines.device_worker import Failure
from pipelines.guarded_units import attempts_at
from pipelines.options import RunOptions
from pipelines.plan import Plan
from pipelines.shards import end_plan
from pipelines.units import PartStats, StoredTable
from schemas import UserError

UNCOUNTED_DEATHS = 2
"""Processes that one unit may cost while no marker (see attempts.py) counts them. Counted deaths end by themselves: an
image that goes on killing is dropped. Others are the machine's, such as a driver that fails, and would never end."""

START = "import sys; from pipelines.device_worker import serve; serve(int(sys.argv[1]))"
"""A process of a device, in Python; it finds modules where the launcher finds them (see `environment_of`)."""


def run_on_devices(plan: Plan, devices: Sequence[str]) -> dict[str, Any] | None:
    """Makes every part of the plan in one process a device; returns the manifest, or None for a shard.

    Args:
        plan: planned for the kind of device that `devices` are.
        devices: as `parse_devices` returns them.

    Raises:
        UserError: a process raised one, or a unit lost its process twice.
        RuntimeError: a process raised anything else; its traceback is the text.
    """
    with DevicePool(plan, devices[: max(1, len(plan.unit_numbers))]) as pool:
        stats = pool.make_units(plan.unit_numbers)
    return end_plan(plan, stats)


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices of `--devices`: "0,1" or "cuda:0,cuda:1" is ("cuda:0", "cuda:1"), "cpu,cpu" is itself.

    A device that is named twice gets two processes.

    Raises:
        UserError: one is no device, or they are not of one kind, whose results could differ in the last digits.
    """
    found = [re.fullmatch(r"(cpu)|(?:cuda:)?(\d+)", each.strip()) for each in text.split(",")]
    if not all(found):
        raise UserError(f"--devices {text}: wanted numbers of GPUs with commas between them, as in 0,1, or cpu,cpu")
    devices = tuple(each[1] or f"cuda:{int(each[2])}" for each in found)
    if len({device.split(":")[0] for device in devices}) > 1:
        raise UserError(f"--devices {text}: wanted GPUs only or cpu only; the two round differently")
    return devices


def on_devices(options: RunOptions) -> RunOptions:
    """The options of a run, with the kind of device that `--devices` names; unchanged where it names none.

    Raises:
        UserError: there is no such device, or another option contradicts it.
    """
    if options.devices is None:
        return options
    devices = parse_devices(options.devices)
    if options.device != "auto":
        raise UserError(f"--device {options.device} and --devices {options.devices} were both given; keep one of them")
    if options.runner not in ("plain", RunOptions.runner):
        raise UserError(
            f"--devices {options.devices} needs no engine and goes without --runner {options.runner}; leave one away"
        )
    if devices[0] != "cpu":
        require_gpus(devices)
    return replace(options, device=devices[0].split(":")[0])


def require_gpus(devices: Iterable[str]) -> None:
    """Refuses GPUs that this machine has not; raises UserError naming the first."""
    from ovseg_model.clip import resolve_device

    for device in devices:
        resolve_device(device)


def environment_of(device: str, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a device's process, in which its GPU is the only one and therefore number 0.

    No spec needs to name a number then, so a unit's step is the same on all of them. A list of visible GPUs that
    was there before is respected: number 1 is its second.
    """
    environment = {**environment, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    if device == "cpu":
        return environment
    number = int(device.removeprefix("cuda:"))
    visible = [each.strip() for each in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return {**environment, "CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}


@dataclass
class Slot:
    """A device, the process that works on it now, and the unit it makes; None while it is free."""

    device: str
    process: subprocess.Popen[bytes]
    connection: Connection
    unit: int | None = None

    def make(self, unit: int | None) -> None:
        """Hands it a unit, or nothing more."""
        self.unit = unit
        if unit is not None:
            with contextlib.suppress(OSError):  # it is dead, which is found where its answer is read
                self.connection.send(unit)

    def stop(self) -> None:
        """Ends the process at once: what it was writing never appears."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


@dataclass
class DevicePool:
    """The processes of a run; leaving it stops them all, whatever happened."""

    plan: Plan
    devices: Sequence[str]
    slots: list[Slot] = field(default_factory=list)

    def __enter__(self) -> DevicePool:
        """Starts a process a device."""
        try:
            self.slots.extend(start_process(self.plan, device) for device in self.devices)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stops them."""
        for slot in self.slots:
            slot.stop()

    def make_units(self, units: Iterable[int]) -> list[PartStats]:
        """The stats of all parts of these units, in the order in which they were made.

        Raises:
            UserError: a process raised one, or a unit lost two processes and no marker says at which image.
            RuntimeError: a process raised anything else.
        """
        waiting, deaths, stats = deque(units), Deaths(self.plan), []
        for slot in self.slots:
            slot.make(next_of(waiting))
        while busy := {slot.connection: slot for slot in self.slots if slot.unit is not None}:
            for connection in wait(list(busy)):
                slot = busy[connection]
                try:
                    outcome = slot.connection.recv()
                except (EOFError, OSError):
                    self._start_again(slot, deaths)
                    continue
                stats += parts_of(outcome)
                slot.make(next_of(waiting))
        return stats

    def _start_again(self, slot: Slot, deaths: Deaths) -> None:
        """A fresh process for a device whose process died, with the same unit."""
        slot.stop()
        unit = slot.unit
        if deaths.are_hopeless(unit):
            raise UserError(sentence_of_death(slot.device, unit, slot.process.returncode))
        fresh = start_process(self.plan, slot.device)
        slot.process, slot.connection = fresh.process, fresh.connection
        print(f"unit {unit}: its process on {slot.device} died; it is made again by a new one", file=sys.stderr)
        slot.make(unit)


@dataclass
class Deaths:
    """What is known of processes that died at units."""

    plan: Plan
    counted: dict[int, int] = field(default_factory=dict)
    """By unit, the deaths that markers told after the last one."""

    uncounted: Counter[int] = field(default_factory=Counter)

    def are_hopeless(self, unit: int) -> bool:
        """Notes a death at a unit; says whether another attempt could only end as this one did."""
        counted = counted_deaths(self.plan, unit)
        self.uncounted[unit] += counted == self.counted.get(unit, 0)
        self.counted[unit] = counted
        return self.uncounted[unit] >= UNCOUNTED_DEATHS


def counted_deaths(plan: Plan, unit: int) -> int:
    """Deaths at a unit that markers tell."""
    steps = [step for step in plan.steps if not isinstance(step, StoredTable)]
    return sum(attempts_at(step, unit).deaths().total() for step in steps)


def start_process(plan: Plan, device: str) -> Slot:
    """A process that waits for units of a plan."""
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-c", START, str(theirs.fileno())]
    with theirs:
        # A session of its own: Ctrl-C reaches the launcher alone, which then stops all of them.
        process = subprocess.Popen(
            command,
            env=environment_of(device, dict(os.environ)),
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    slot = Slot(device, process, ours)
    with contextlib.suppress(OSError):  # it died already, which is found where its first answer is read
        ours.send(plan)
    return slot


def next_of(waiting: deque[int]) -> int | None:
    """The next unit, or None when all are handed out."""
    return waiting.popleft() if waiting else None


def parts_of(outcome: list[PartStats] | Failure) -> list[PartStats]:
    """What a process answered.

    Raises:
        UserError, RuntimeError: what it raised.
    """
    if isinstance(outcome, Failure):
        raise (UserError if outcome.is_users else RuntimeError)(outcome.text)
    return outcome


def sentence_of_death(device: str, unit: int, status: int) -> str:
    """What is said when a unit lost its process twice."""
    if status < 0:
        name = signal.Signals(-status).name
        how = f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    else:
        how = f"exit status {status}"
    return (
        f"unit {unit} lost its process on {device} twice ({how}), so the run was stopped; parts that were made stay, "
        "and the same command goes on where it was"
    )

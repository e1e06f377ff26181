"""Attempts at a unit: a marker file before the work and gone after it, so that whatever kills a worker is counted.

A marker whose worker runs no more is a death: kill -9, the kernel's out-of-memory killer and a crash in native code
leave one. An exception, Ctrl-C among them, takes its marker away, unless it says that memory ran out.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ovseg_model.halving import is_out_of_memory
from pipelines.write_tables import UNFINISHED_FOLDER, RunFolder

HEARTBEAT_S = 60.0
"""How often a worker says in its markers that it lives."""

FOREIGN_LIFE_S = 10 * HEARTBEAT_S
"""How long a worker of another machine, which cannot be asked, counts as alive after it last said so.

A container that the service puts in a dead one's place is such another machine. Long enough for a store that stalls, or
for native code that holds the interpreter.
"""

_live: set[tuple[RunFolder, str]] = set()
"""Markers of work that this process has under way."""

_writing = threading.Lock()
"""Held while a marker is renewed or taken away, so that none comes back."""


@dataclass(frozen=True)
class Attempts:
    """The attempts of all workers at one unit of one stage; `key` tells one way of making it from another."""

    run: RunFolder
    stage: str
    unit: int
    key: str

    @property
    def folder(self) -> str:
        """Where the markers lie in the run."""
        return f"{UNFINISHED_FOLDER}/attempts/{self.stage}-{self.unit:05d}-{self.key}"

    def deaths(self) -> Counter[str]:
        """How many workers died at each piece of work, by its name."""
        names = self.run.names(self.folder)
        return Counter(name.split(".")[0] for name in names if is_dead(self._read(name)))

    @contextlib.contextmanager
    def attempt(self, work: str) -> Iterator[None]:
        """Around a piece of work, `work` its name: letters and digits.

        A worker that the end of the process stops, as Ctrl-C stops Beam's threads, has not died either.
        """
        marker = (self.run, f"{self.folder}/{work}.{uuid.uuid4().hex}.json")
        write_marker(marker, out_of_memory=False)
        _live.add(marker)
        start_heartbeat()
        try:
            yield
        except BaseException as error:
            if is_out_of_memory(error):
                with _writing:
                    _live.discard(marker)
                    write_marker(marker, out_of_memory=True)
            raise
        finally:
            if marker in _live:
                _take_away(marker)

    def forget(self) -> None:
        """Removes all markers, when the unit's part stands."""
        self.run.remove_folder(self.folder)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return self.run.read_json(f"{self.folder}/{name}")
        except (FileNotFoundError, ValueError):
            return None


def write_marker(marker: tuple[RunFolder, str], out_of_memory: bool) -> None:
    """Says that this worker is at its work now, or that memory ran out."""
    run, name = marker
    content = {**this_worker(), "seen": time.time(), "out_of_memory": out_of_memory}
    # A lost marker costs one more attempt: it need not outlive a power cut, and so waits for no disk.
    run.write(name, json.dumps(content).encode(), durable=False)


@functools.cache
def start_heartbeat() -> None:
    """Renews this process' markers from now on, in a thread that ends with it."""
    threading.Thread(target=_beat, name="heartbeat", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        renew_markers()


def renew_markers() -> None:
    """Says in every marker of this process that it lives; a store that fails now is asked again at the next beat."""
    for marker in list(_live):
        with _writing, contextlib.suppress(Exception):
            if marker in _live:
                write_marker(marker, out_of_memory=False)


def is_dead(marker: dict[str, Any] | None) -> bool:
    """Whether the worker that wrote a marker died at its work; None is a marker that its worker took away."""
    if marker is None:
        return False
    if marker["out_of_memory"]:
        return True
    if marker["machine"] != this_machine():
        return time.time() - marker["seen"] > FOREIGN_LIFE_S
    return not is_running(marker["pid"], marker["started"])


def this_worker() -> dict[str, Any]:
    """What tells this process from any other."""
    return {"machine": this_machine(), "pid": os.getpid(), "started": started_at(os.getpid())}


@functools.cache
def this_machine() -> str:
    """Host, its boot, and its space of process ids: a pid means something only within all three."""
    places = ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid")
    return " ".join([platform.node(), *map(_text_of, places)])


def is_running(pid: int, started: str) -> bool:
    """Whether the process that once started as `pid` runs still, here; a zombie does not."""
    if os.path.exists("/proc/self/stat"):
        return bool(started) and started_at(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def started_at(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty for one that is gone or a zombie, and without a /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _text_of(path: str) -> str:
    try:
        return os.readlink(path) if os.path.islink(path) else _first_line(path)
    except OSError:
        return ""


def _first_line(path: str) -> str:
    with open(path) as file:
        return file.readline().strip()


def _take_away(marker: tuple[RunFolder, str]) -> None:
    run, name = marker
    with _writing, contextlib.suppress(FileNotFoundError):
        _live.discard(marker)
        run.file_system.rm_file(run.path(name))


@atexit.register
def _take_all_away() -> None:
    """At a normal end of the process: work that stops with it did not kill it."""
    for marker in list(_live):
        _take_away(marker)

"""A marker whose worker runs no more is a death; whoever ends otherwise takes the marker away."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import attempts
from pipelines.attempts import Attempts, is_running, started_at, this_worker
from pipelines.write_tables import RunFolder
from schemas import UserError

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def tries(tmp_path):
    return Attempts(RunFolder(str(tmp_path)), "propose_masks", 3, "abc")


def write_marker(tries, work, **facts):
    """A marker as a worker of this machine leaves it that runs no more, but for `facts`."""
    marker = {**this_worker(), "pid": 2**22 + 1, "seen": time.time(), "out_of_memory": False, **facts}
    tries.run.write(f"{tries.folder}/{work}.{len(tries.run.names(tries.folder))}.json", json.dumps(marker).encode())


def test_work_that_ends_leaves_nothing(tries):
    with tries.attempt("unit"):
        assert len(tries.run.names(tries.folder)) == 1
        assert not tries.deaths()
    assert tries.run.names(tries.folder) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("x"), ValueError("x"), SystemExit(2)])
def test_an_exception_is_no_death(tries, error):
    with pytest.raises(type(error)), tries.attempt("unit"):
        raise error
    assert tries.run.names(tries.folder) == []


def test_a_want_of_memory_is_a_death_though_the_process_lives(tries):
    with pytest.raises(MemoryError), tries.attempt("unit"):
        raise MemoryError
    assert tries.deaths() == {"unit": 1}


def test_deaths_are_counted_by_work(tries):
    for work in ("unit", "image-1", "image-1"):
        write_marker(tries, work)
    assert tries.deaths() == {"unit": 1, "image-1": 2}
    tries.forget()
    assert not tries.deaths()
    assert not os.path.exists(tries.run.path(tries.folder))


def test_a_marker_of_a_worker_that_runs_is_no_death(tries):
    write_marker(tries, "unit", pid=os.getpid(), started=started_at(os.getpid()))
    assert not tries.deaths()


def test_a_process_id_that_was_given_again_is_another_worker(tries):
    write_marker(tries, "unit", pid=os.getpid(), started="1")
    assert tries.deaths() == {"unit": 1}


def test_a_worker_of_another_machine_lives_as_long_as_it_says_so(tries):
    write_marker(tries, "unit", machine="elsewhere")
    assert not tries.deaths()
    write_marker(tries, "unit", machine="elsewhere", seen=time.time() - attempts.FOREIGN_LIFE_S - 1)
    assert tries.deaths() == {"unit": 1}


def test_a_heart_beats_while_there_is_work_and_brings_no_marker_back(tries, monkeypatch):
    with tries.attempt("unit"):
        (name,) = tries.run.names(tries.folder)
        monkeypatch.setattr(attempts.time, "time", lambda: 2.0**40)
        attempts.renew_markers()
        assert tries.run.read_json(f"{tries.folder}/{name}")["seen"] == 2.0**40
    attempts.renew_markers()
    assert tries.run.names(tries.folder) == []


def test_a_zombie_does_not_run():
    child = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    started = started_at(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(child.pid, started)
    child.wait()
    assert not is_running(child.pid, started)


def test_a_process_that_ends_takes_the_markers_of_its_threads_away(tries):
    code = """if True:
        import sys, threading
        from pipelines.attempts import Attempts
        from pipelines.write_tables import RunFolder
        tries, started = Attempts(RunFolder(sys.argv[1]), "propose_masks", 3, "abc"), threading.Event()
        def work():
            with tries.attempt("unit"):
                started.set()
                threading.Event().wait()
        threading.Thread(target=work, daemon=True).start()
        started.wait()
        print(len(tries.run.names(tries.folder)))
        raise KeyboardInterrupt
    """
    done = subprocess.run([sys.executable, "-c", code, tries.run.url], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "1"
    assert tries.run.names(tries.folder) == []

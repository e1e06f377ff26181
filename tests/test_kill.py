"""kill -9 at ten moments of one run: the same bytes as if nothing had happened, and nothing made twice."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import fake_mine
from run_files import files_of, manifest_of

from pipelines.command_line import main

TABLES = ("captions", "nouns", "masks", "pairs")


def parts_there(run):
    """Parts by path, with the time of their last writing."""
    paths = [path for table in TABLES for path in (run / table).glob("part-*.parquet")]
    return {path: path.stat().st_mtime_ns for path in paths}


def count_parts(run):
    """How many there are, asked as cheaply as can be: the run has the other core."""
    folders = [run / table for table in TABLES]
    return sum(name.startswith("part-") for folder in folders if folder.exists() for name in os.listdir(folder))


def all_files(run):
    """Every file of a run, hidden ones too."""
    return sorted(path.relative_to(run).as_posix() for path in Path(run).rglob("*") if path.is_file())


def run_until(command, run, parts, deadline_s=300):
    """Starts the command and kills it when so many parts are there."""
    process = subprocess.Popen(command, env=fake_mine.environment(), stderr=subprocess.DEVNULL)
    end = time.monotonic() + deadline_s
    while count_parts(run) < parts:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_kill_9_at_ten_random_moments_of_40_units(tmp_path, monkeypatch):
    shard = fake_mine.write_shard(tmp_path / "a.tar", 80)
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    given = fake_mine.arguments(shard, run, 2)
    written = {}
    for parts in sorted(random.Random(6).sample(range(1, 150), 10)):
        run_until(fake_mine.command(*given), run, parts)
        assert not (run / "_SUCCESS").exists()
        # Freezing is whole or made again; from then on every part is made once.
        there = parts_there(run) if (run / "units.json").exists() else {}
        assert {path: there.get(path) for path in written} == written
        written = there
    done = subprocess.run(fake_mine.command(*given), env=fake_mine.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: when for path, when in parts_there(run).items() if path in written} == written
    fake_mine.use_fakes(monkeypatch.setattr)
    assert main(fake_mine.arguments(shard, wanted, 2)) == 0
    assert manifest_of(wanted)["units"]["count"] == 40
    assert files_of(run) == files_of(wanted)
    assert all_files(run) == all_files(wanted)

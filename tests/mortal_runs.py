"""Runs whose processes are watched and killed from outside."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def masks_of(drawn):
    """`ovseg masks` on twelve drawn images in four units, by the mortal generator: a run that needs no torch."""
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "3"]
    return ["masks", *inputs, "--masks", "mortal:make", "--device", "cpu"]


def start(arguments, folder):
    """The command in a process of its own, whose generator looks into `folder`."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "MORTAL": str(folder)}
    command = [sys.executable, "-m", "pipelines", *arguments]
    # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=listen)


def workers_of(folder, count, process, timeout_s=120):
    """The ids of the first `count` processes in which the generator was called."""
    wait_until(lambda: len(list(folder.glob("pid-*"))) >= count or process.poll() is not None, timeout_s)
    assert process.poll() is None, process.communicate()[1]
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def wait_until(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid):
    """Whether a process runs; one that ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False

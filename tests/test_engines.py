"""The same corpus on every engine: the sha256 of every file is that of plain loops. `make test-engines` runs this.

An engine that is not installed skips with its reason. OVSEG_REQUIRE_ENGINES names those that must be there, with
commas between them (prism,flink), or is 1 for all of them.
"""

import os
import signal
import subprocess
import time

import mortal_runs
import pytest
import tiny_clip
from run_files import files_of

from pipelines.command_line import main
from pipelines.engines import (
    FLINK_JAR,
    FLINK_OPTION,
    PRISM,
    PRISM_OPTION,
    engine_arguments,
    find_engine,
    sentence_of_engine,
)
from schemas import UserError

INSTALLED = {"prism": ("Prism", PRISM, PRISM_OPTION), "flink": ("Flink's job server", FLINK_JAR, FLINK_OPTION)}

RUNS = {
    "FnApiRunner": ("--runner", "FnApiRunner"),
    "two-workers": ("--runner", "FnApiRunner", "--workers", "2"),
    "job-service": ("--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
    "prism": ("--runner", "PrismRunner"),
    "flink": ("--runner", "FlinkRunner", "--workers", "2"),
}
"""What is compared: the arguments of one command. Shards (several commands on one folder) join here."""


def require(name):
    """Skips, or fails where it must be there, a test of an engine that is not."""
    if name not in INSTALLED:
        return
    try:
        find_engine(*INSTALLED[name], None)
    except UserError as error:
        wanted = os.environ.get("OVSEG_REQUIRE_ENGINES", "").split(",")
        (pytest.fail if {"1", name} & set(wanted) else pytest.skip)(str(error))


@pytest.fixture(scope="module")
def corpus(drawn, tmp_path_factory):
    """Twelve drawn images in four units, and a CLIP of a few thousand weights."""
    clip = str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip")))
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "3"]
    return ["mine", *inputs, "--nouns", "lexicon", "--clip", clip, "--torch-threads", "1"]


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    """The reference: plain loops over the step functions, without Beam."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert main([*corpus, "--output", str(run), "--runner", "plain"]) == 0
    return files_of(run)


@pytest.mark.engines
@pytest.mark.parametrize("name", RUNS)
def test_an_engine_makes_the_bytes_of_plain_loops(name, request, tmp_path):
    require(name)
    corpus, plain = request.getfixturevalue("corpus"), request.getfixturevalue("plain")
    # A time limit, and nothing that an engine leaves behind in this process.
    process = mortal_runs.start([*corpus, "--output", str(tmp_path / "run"), *RUNS[name]], tmp_path)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert files_of(tmp_path / "run") == plain


def children_of(pid):
    """Ids and command lines of a process's children, and theirs."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    ids, found = {pid}, {}
    for child, parent, command in sorted(rows, key=lambda row: int(row[0])):
        if int(parent) in ids:
            ids.add(int(child))
            found[int(child)] = command
    return found


DEATHS = {
    "two-workers": "sdk_worker",
    "prism": "prism",
    "flink": "job-server",
    "flink-worker": "sdk_worker",
}
"""What is killed in the middle: a worker process, or the engine (Flink's task manager is in the job server)."""


@pytest.mark.engines
@pytest.mark.parametrize("name", DEATHS)
def test_a_run_that_loses_its_engine_fails_at_once_and_goes_on(name, drawn, tmp_path, monkeypatch):
    engine = name.removesuffix("-worker")
    require(engine)
    folder = tmp_path / "mortal"
    folder.mkdir()
    monkeypatch.setenv("MORTAL", str(folder))
    masks = mortal_runs.masks_of(drawn)
    assert main([*masks, "--output", str(tmp_path / "plain"), "--runner", "plain"]) == 0
    next(folder.glob("pid-*")).unlink()
    (folder / "wait").touch()
    command = [*masks, "--output", str(tmp_path / "run"), *RUNS[engine]]
    process = mortal_runs.start(command, folder)
    mortal_runs.workers_of(folder, 1, process)
    victim = next(pid for pid, line in children_of(process.pid).items() if DEATHS[name] in line)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    (folder / "wait").unlink()
    error = process.communicate(timeout=120)[1]
    if process.returncode:  # an engine may also restart what it lost
        assert process.returncode == 2, error
        # A thread of Beam's may still say after it that its channel closed.
        assert "the same command goes on where it was" in error
        assert time.monotonic() - killed < 90
        again = mortal_runs.start(command, folder)
        error = again.communicate(timeout=300)[1]
        assert again.returncode == 0, error
    assert files_of(tmp_path / "run") == files_of(tmp_path / "plain")


@pytest.fixture
def engines(tmp_path):
    for name in ("prism-2.77.0", "beam-runners-flink-2.2-job-server-2.77.0.jar"):
        (tmp_path / name).touch()
    return tmp_path


def test_beam_is_told_where_prism_is(engines):
    found = [f"--prism_location={engines / 'prism-2.77.0'}", "--prism_log_level=warn"]
    assert engine_arguments("PrismRunner", [], 0, str(engines)) == found
    assert engine_arguments("PrismRunner", ["--prism_location", "x"], 0, None) == []
    assert engine_arguments("PrismRunner", ["--job_endpoint=host:1"], 0, None) == []


def test_beam_is_told_where_flink_is(engines):
    jar = f"--flink_job_server_jar={engines / 'beam-runners-flink-2.2-job-server-2.77.0.jar'}"
    alone = ["--flink_master=[local]", "--parallelism=1", jar]
    assert engine_arguments("FlinkRunner", [], 0, str(engines)) == alone
    two = ["--parallelism=2", jar, "--sdk_worker_parallelism=2", "--experiments=use_loopback_process_worker"]
    assert engine_arguments("FlinkRunner", ["--flink_master", "host:8081"], 2, str(engines)) == two


def test_other_runners_are_told_nothing_but_their_workers():
    assert engine_arguments("FnApiRunner", [], 0, None) == engine_arguments("DataflowRunner", [], 0, None) == []
    assert engine_arguments("FnApiRunner", [], 3, None) == ["--direct_num_workers=3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner", "PrismRunner", "--engines", "NONE"], "Prism is not in NONE; `make engines` installs it"),
        (["--runner", "FlinkRunner", "--engines", "NONE"], "Flink's job server is not in NONE; `make engine-flink`"),
        (["--runner", "PrismRunner", "--workers", "2"], "--workers 2: wanted one of --runner FnApiRunner, FlinkRunner"),
        (["--workers", "-1"], "--workers: wanted 0 or more, got -1"),
    ],
)
def test_a_missing_engine_is_one_sentence(arguments, message, drawn, tmp_path, capsys):
    arguments = [argument.replace("NONE", str(tmp_path / "none")) for argument in arguments]
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images")]
    assert main(["nouns", "--nouns", "lexicon", *inputs, "--output", str(tmp_path / "run"), *arguments]) == 2
    assert message.replace("NONE", str(tmp_path / "none")) in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("RuntimeError: Channel closed prematurely.", True),
        ("_MultiThreadedRendezvous: <... status = StatusCode.UNAVAILABLE, details = ...>", True),
        ("RuntimeError: ValueError: odd [while running 'X']", False),
        ("RuntimeError: Traceback (most recent call last):\nConnectionError: Connection refused", False),
    ],
)
def test_a_lost_worker_is_told_from_other_errors(text, is_lost):
    assert (sentence_of_engine("FnApiRunner", text) is not None) is is_lost

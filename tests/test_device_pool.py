"""One process a device: the same bytes as one process, whoever dies."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import mortal_runs
import pytest
import tiny_clip
from run_files import files_of, made_of, manifest_of

from pipelines import device_pool, device_worker
from pipelines.command_line import main
from pipelines.device_pool import (
    environment_of,
    next_of,
    on_devices,
    parse_devices,
    parts_of,
    sentence_of_death,
)
from pipelines.device_worker import Failure, make_unit
from pipelines.options import RunOptions
from schemas import UserError


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("0", ("cuda:0",)),
        ("0,1, 3", ("cuda:0", "cuda:1", "cuda:3")),
        ("cuda:0,cuda:00", ("cuda:0", "cuda:0")),
        ("cpu,cpu", ("cpu", "cpu")),
    ],
)
def test_devices_are_read(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["", "0,", "gpu", "-1", "0;1", "cuda"])
def test_what_is_no_device_is_refused(text):
    with pytest.raises(UserError, match="wanted numbers of GPUs with commas between them, as in 0,1, or cpu,cpu"):
        parse_devices(text)


def test_kinds_are_not_mixed():
    with pytest.raises(UserError, match="wanted GPUs only or cpu only"):
        parse_devices("0,cpu")


def test_a_run_is_planned_for_the_kind_of_device(monkeypatch):
    monkeypatch.setattr("pipelines.device_pool.require_gpus", lambda devices: asked.extend(devices))
    asked = []
    options = RunOptions("RUN")
    assert on_devices(options) is options
    assert on_devices(replace(options, devices="cpu,cpu")).device == "cpu"
    assert asked == []
    assert on_devices(replace(options, devices="0,1")).device == "cuda"
    assert asked == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cpu"}, "--device cpu and --devices cpu,cpu were both given"),
        ({"runner": "FlinkRunner"}, "goes without --runner FlinkRunner"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        on_devices(RunOptions("RUN", devices="cpu,cpu", **given))


def test_a_gpu_is_the_only_one_that_its_process_sees():
    assert "CUDA_VISIBLE_DEVICES" not in environment_of("cpu", {})
    assert environment_of("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment_of("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6"})["CUDA_VISIBLE_DEVICES"] == "6"


def test_what_a_step_raises_is_answered(monkeypatch):
    plan = SimpleNamespace(steps=[0])
    for error, expected in ((UserError("no room"), "^no room$"), (ValueError("odd"), "(?s)Traceback.*ValueError: odd")):
        monkeypatch.setattr(device_worker, "run_unit", lambda step, unit, error=error: raise_(error))
        with pytest.raises(UserError if isinstance(error, UserError) else RuntimeError, match=expected):
            parts_of(make_unit(plan, 3))
    assert parts_of(["stats"]) == ["stats"]
    assert Failure(True, "no room") == make_unit_failure(monkeypatch, plan)


def raise_(error):
    raise error


def make_unit_failure(monkeypatch, plan):
    monkeypatch.setattr(device_worker, "run_unit", lambda step, unit: raise_(UserError("no room")))
    return make_unit(plan, 0)


@pytest.mark.parametrize(
    ("status", "how"),
    [(-9, r"killed by SIGKILL, as when memory runs out"), (-11, "killed by SIGSEGV"), (3, "exit status 3")],
)
def test_a_death_is_one_sentence(status, how):
    assert f"unit 7 lost its process on cuda:1 twice ({how})" in sentence_of_death("cuda:1", 7, status)


def test_two_processes_make_the_bytes_of_one(drawn, tmp_path_factory, tmp_path):
    clip = str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip")))
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "3"]
    mine = ["mine", *inputs, "--nouns", "lexicon", "--clip", clip, "--torch-threads", "1", "--output"]
    assert main([*mine, str(tmp_path / "one"), "--runner", "plain"]) == 0
    assert main([*mine, str(tmp_path / "two"), "--devices", "cpu,cpu"]) == 0
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert set(made_of(tmp_path / "two").values()) == {4, 0}
    assert main([*mine, str(tmp_path / "two"), "--devices", "cpu"]) == 0
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")  # it was finished, and stays as it is


@pytest.fixture
def mortal(drawn, tmp_path, monkeypatch):
    """The arguments of a run whose processes can be killed, and the folder that tells them."""
    folder = tmp_path / "mortal"
    folder.mkdir()
    monkeypatch.setenv("MORTAL", str(folder))
    arguments = mortal_runs.masks_of(drawn)[:-2]
    return SimpleNamespace(folder=folder, arguments=arguments, run=tmp_path / "run")


def complete(mortal):
    return main([*mortal.arguments, "--output", str(mortal.run), "--devices", "cpu,cpu"])


def test_a_process_that_dies_is_started_again_once(mortal, tmp_path, capsys):
    assert main([*mortal.arguments, "--output", str(tmp_path / "plain"), "--runner", "plain"]) == 0
    (mortal.folder / "death-0").touch()
    assert complete(mortal) == 0
    assert "its process on cpu died; it is made again by a new one" in capsys.readouterr().err
    assert len(list(mortal.folder.glob("pid-*"))) == 4, "the plain run, two processes, and one in place of the dead"
    assert files_of(mortal.run) == files_of(tmp_path / "plain")


@pytest.mark.parametrize(("deaths", "dropped"), [(2, {}), (3, {"worker_killed": 1})])
def test_an_image_that_goes_on_killing_is_dropped(mortal, deaths, dropped):
    for number in range(deaths):
        (mortal.folder / f"death-{number}").touch()
    assert complete(mortal) == 0
    assert manifest_of(mortal.run)["stages"]["propose_masks"]["totals"]["dropped"] == dropped


def test_deaths_that_nobody_counts_end_the_run(mortal, capsys, monkeypatch):
    for death in ("death-0", "death-1"):
        (mortal.folder / death).touch()
    with monkeypatch.context() as patch:
        patch.setattr(device_pool, "counted_deaths", lambda plan, unit: 0)
        assert complete(mortal) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "lost its process on cpu twice (killed by SIGKILL" in last
    assert not (mortal.run / "_SUCCESS").exists()
    assert complete(mortal) == 0
    assert manifest_of(mortal.run)["stages"]["propose_masks"]["totals"]["kept"] == 12


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_all_processes_end_with_the_launcher(mortal, sent, status):
    (mortal.folder / "wait").touch()
    arguments = [*mortal.arguments, "--output", str(mortal.run), "--devices", "cpu,cpu"]
    process = mortal_runs.start(arguments, mortal.folder)
    workers = mortal_runs.workers_of(mortal.folder, 2, process)
    process.send_signal(sent)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert sent == signal.SIGKILL or error.splitlines()[-1].endswith("stopped; the same command goes on where it was")
    mortal_runs.wait_until(lambda: not any(map(mortal_runs.is_alive, workers)))


def test_units_run_out():
    from collections import deque

    waiting = deque([4])
    assert [next_of(waiting), next_of(waiting)] == [4, None]

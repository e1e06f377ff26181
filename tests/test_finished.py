"""What makes a command the same as the one that finished a run; see test_mine_pairs for what answering costs."""

import os
import shutil

import fake_mine
import pytest
from run_files import files_of

from pipelines import finished
from pipelines.command_line import main
from pipelines.finished import Command, is_finished, stamp_of
from pipelines.mine_pairs import parse_ours
from pipelines.write_tables import open_run_folder


@pytest.fixture
def shard(tmp_path):
    return fake_mine.write_shard(tmp_path / "a.tar", 4)


@pytest.fixture
def nouns(shard, tmp_path):
    """A finished run of nouns and masks; returns the command that made the nouns."""
    command = ["nouns", "--captions", str(shard), "--nouns", "lexicon", "--images-per-unit", "2"]
    command += ["--output", str(tmp_path / "run"), "--runner", "plain"]
    assert main(command) == 0
    assert main(["masks", "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    return command


def answers(command):
    _, options, beam = parse_ours(command)
    return is_finished(open_run_folder(options.run.output), ("nouns",), Command(command[0], options, beam))


def test_the_same_command_is_known_though_another_verb_came_after(nouns, tmp_path, capsys):
    before = files_of(tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert main(nouns) == 0
    assert "is finished: this command made it; nothing was done" in capsys.readouterr().out
    assert files_of(tmp_path / "run") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == times


def test_who_runs_it_does_not_matter_but_unknown_arguments_do(nouns):
    assert answers([*nouns, "--runner", "FnApiRunner"])
    assert not answers([*nouns, "--runner", "FnApiRunner", "--direct_num_workers=2"])


def test_another_option_is_another_command(nouns):
    assert not answers([*nouns, "--captions-per-image", "1"])
    assert not answers(["masks", *nouns[1:]])


def test_an_input_that_changed_is_another_command(nouns, shard):
    os.utime(shard, ns=(1, 1))
    assert not answers(nouns)


@pytest.mark.parametrize("name", ["_SUCCESS", "masks/part-00001.parquet", "drops/part-00000-propose_masks.parquet"])
def test_what_lacks_a_file_is_not_finished(nouns, tmp_path, name):
    assert answers(nouns)
    (tmp_path / "run" / name).unlink()
    assert not answers(nouns)


def test_a_part_of_another_size_is_no_part(nouns, tmp_path):
    with (tmp_path / "run/nouns/part-00001.parquet").open("ab") as file:
        file.write(b"x")
    assert not answers(nouns)


def test_other_code_is_another_command(nouns, monkeypatch):
    monkeypatch.setattr(finished, "code_stamp", lambda: "other")
    assert not answers(nouns)


def test_a_generator_of_ones_own_is_asked_itself(shard, tmp_path, capsys):
    command = ["masks", "--captions", str(shard), "--masks", "fake_mine:make", "--device", "cpu", "--runner", "plain"]
    command += ["--output", str(tmp_path / "run")]
    for _ in range(2):
        assert main(command) == 0
        assert "nothing was done" not in capsys.readouterr().out


def test_annotations_that_changed_are_seen(shard, drawn, tmp_path, capsys):
    source = shutil.copy(drawn / "instances.json", tmp_path / "instances.json")
    command = ["masks", "--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--runner"]
    command += ["plain", "--masks", "annotations", "--mask-option", f"source={source}", "--output"]
    command += [str(tmp_path / "run")]
    for said in (False, True):
        assert main(command) == 0
        assert ("nothing was done" in capsys.readouterr().out) == said
    os.utime(source, ns=(1, 1))
    assert main(command) == 0
    assert "nothing was done" not in capsys.readouterr().out


def test_a_folder_is_stamped_by_all_that_is_in_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.bin").write_bytes(b"1")
    first = stamp_of(str(tmp_path / "a"))
    (tmp_path / "a/b.bin").write_bytes(b"12")
    assert stamp_of(str(tmp_path / "a")) != first
    assert stamp_of(str(tmp_path / "none")) is None


def test_no_resume_wants_a_new_folder(nouns, tmp_path, capsys):
    before = files_of(tmp_path / "run")
    assert main([*nouns, "--no-resume"]) == 2
    assert "--no-resume: --output" in capsys.readouterr().err
    assert files_of(tmp_path / "run") == before
    assert main([*nouns, "--resume"]) == 0
    assert main([*nouns, "--no-resume", "--output", str(tmp_path / "other")]) == 0


def test_drops_that_can_pass_are_named_and_may_be_tried(drawn, tmp_path, capsys):
    command = ["masks", "--captions", str(drawn / "captions.json"), "--images", "http://127.0.0.1:9", "--runner"]
    command += ["plain", "--allow-local-hosts", "--retries", "0", "--output", str(tmp_path / "run")]
    assert main(command) == 1
    capsys.readouterr()
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "dropped for reasons that can pass: 12 fetch_failed; --retry drops tries them again" in printed.out
    assert "propose_masks kept nothing (12 fetch_failed)" in printed.err

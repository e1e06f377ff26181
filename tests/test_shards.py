"""Several machines on one folder, without an engine: the parts of one run, and a manifest at the end."""

import json

import fake_mine
import pytest
from run_files import files_of

from pipelines.command_line import main
from pipelines.options import FreezeOptions
from pipelines.plan import unheeded_cut
from pipelines.units import Units


@pytest.fixture
def shard(tmp_path, monkeypatch):
    fake_mine.use_fakes(monkeypatch.setattr)
    return fake_mine.write_shard(tmp_path / "a.tar", 10)


@pytest.fixture
def mine(shard, tmp_path):
    """Mines five units of two images."""
    return lambda name, *more: main(fake_mine.arguments(shard, tmp_path / name, 2, *more))


def finish(tmp_path):
    return main(["mine", "--finish", "--output", str(tmp_path / "run")])


def shard_of(index, count=3):
    return ["--shard-index", str(index), "--shard-count", str(count)]


def test_shards_in_any_order_make_the_parts_of_one_run(mine, tmp_path, capsys):
    assert mine("whole") == 0
    for index, runner in ((2, "plain"), (0, "FnApiRunner"), (1, "plain")):
        assert mine("run", *shard_of(index), "--runner", runner) == 0
        assert "of 5 units are made; when all shards are done: ovseg mine --finish" in capsys.readouterr().out
        assert not (tmp_path / "run/_SUCCESS").exists()
        assert not (tmp_path / "run/run.json").exists()
    assert finish(tmp_path) == 0
    assert "match_regions" in capsys.readouterr().out
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    assert not (tmp_path / "run/.shards.json").exists()


def test_timings_are_those_of_all_shards(mine, tmp_path):
    for index in (0, 1, 2, 1):  # the second again, which makes nothing more
        mine("run", *shard_of(index))
    notes = [json.loads(path.read_text()) for path in sorted((tmp_path / "run/.unfinished/timings").iterdir())]
    assert [note["stages"]["match_regions"]["parts_made"] for note in notes] == [2, 2, 1]
    finish(tmp_path)
    timings = json.loads((tmp_path / "run/timings.json").read_text())
    assert {stage: (each["parts_made"], each["parts_there"]) for stage, each in timings["stages"].items()} == {
        "read_captions": (0, 5),
        "extract_nouns": (5, 0),
        "propose_masks": (5, 0),
        "match_regions": (5, 0),
    }
    seconds = sum(note["stages"]["propose_masks"]["seconds_in_made_parts"] for note in notes)
    assert timings["stages"]["propose_masks"]["seconds_in_made_parts"] == round(seconds, 3) > 0
    assert timings["hosts_of_shards"] == [note["host"] for note in notes]
    assert not (tmp_path / "run/.unfinished").exists()


def test_a_shard_makes_its_units_only(mine, tmp_path):
    assert mine("run", *shard_of(1)) == 0
    for table in ("nouns", "masks", "pairs"):
        names = [path.name for path in sorted((tmp_path / "run" / table).iterdir())]
        assert names == ["part-00001.parquet", "part-00004.parquet"]


def test_finish_says_what_is_missing(mine, tmp_path, capsys):
    for index in (0, 1):
        mine("run", *shard_of(index))
    (tmp_path / "run/pairs/part-00003.parquet").unlink()
    assert finish(tmp_path) == 2
    said = capsys.readouterr().err
    assert "of 5 parts a table nouns lacks 1 (unit 2); masks lacks 1 (unit 2); pairs lacks 2 (units 2, 3);" in said
    assert not (tmp_path / "run/_SUCCESS").exists()


def test_a_cut_that_is_not_heeded_is_said():
    units = Units("hash", 4, 200, "", {})
    assert unheeded_cut(units, FreezeOptions()) == []
    assert unheeded_cut(units, FreezeOptions(images_per_unit=50)) == []
    (line,) = unheeded_cut(units, FreezeOptions(images_per_unit=10))
    assert line.startswith("--images-per-unit 10: the folder is cut into 4 units already")
    assert "is cut into 16" in line


def test_finish_takes_no_other_options(tmp_path, capsys):
    command = ["mine", "--finish", "--output", str(tmp_path / "run")]
    for more in (["--nouns", "lexicon"], ["--runner", "plain"], ["--shard-count", "3"], ["--dry_run=True"]):
        assert main([*command, *more]) == 2
        assert "--finish makes nothing" in capsys.readouterr().err


def test_a_shard_with_other_options_is_refused(mine, tmp_path, capsys):
    assert mine("run", *shard_of(0)) == 0
    before = files_of(tmp_path / "run")
    assert mine("run", *shard_of(1), "--masks-per-noun", "2") == 2
    assert (
        "its shards were started with other match_regions.masks_per_noun (1 there, 2 here); give every"
        in capsys.readouterr().err
    )
    assert files_of(tmp_path / "run") == before
    assert mine("run", *shard_of(1), "--threads", "2") == 0


def test_a_finished_run_stays_finished(mine, tmp_path, capsys):
    for index in (0, 1, 2):
        assert mine("run", *shard_of(index)) == 0
    assert finish(tmp_path) == 0
    before = files_of(tmp_path / "run")
    for again in (lambda: finish(tmp_path), lambda: mine("run", *shard_of(1))):
        assert again() == 0
        assert "nothing was done" in capsys.readouterr().out.splitlines()[-1]
        assert files_of(tmp_path / "run") == before


def test_a_run_that_never_finished_says_what_is_made_again(mine, tmp_path, capsys):
    assert mine("run", *shard_of(0)) == 0
    assert mine("run", "--masks-per-noun", "2") == 0
    assert "pairs: made before with other masks_per_noun; stale parts are made again" in capsys.readouterr().err
    assert not (tmp_path / "run/.planned.json").exists()


def test_finish_wants_shards_first(mine, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert finish(tmp_path) == 2
    assert "holds nothing for --finish to finish; start its shards" in capsys.readouterr().err


def test_a_part_that_was_made_otherwise_is_missing(mine, tmp_path, capsys):
    assert mine("run", "--masks-per-noun", "2") == 0
    for index in (0, 1):
        assert mine("run", *shard_of(index)) == 0
    assert finish(tmp_path) == 2
    assert "pairs lacks 1 (unit 2);" in capsys.readouterr().err


def test_a_retry_by_shards_is_finished_when_every_shard_has_tried(mine, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OVSEG_TEST_KILL", "a/004 memory")
    for _ in range(3):
        with pytest.raises(MemoryError):
            mine("run")
    assert mine("run") == 0
    monkeypatch.delenv("OVSEG_TEST_KILL")
    for index in range(3):
        assert mine("run", *shard_of(index), "--retry", "drops") == 0
    assert finish(tmp_path) == 0
    assert mine("whole") == 0
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (shard_of(3), "--shard-index: wanted 0 to 2, since --shard-count is 3; got 3"),
        (["--shard-index", "1"], "--shard-index: wanted 0 to 0, since --shard-count is 1; got 1"),
        (["--shard-count", "0"], "--shard-count: wanted 1 or more, got 0"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(mine, capsys, arguments, sentence):
    assert mine("run", *arguments) == 2
    assert sentence in capsys.readouterr().err

"""The manifest is a sum over parts, in any order, written last."""

import json

import pytest

from pipelines.manifest import StageFacts, count_distinct, finish_run, timings, vocabulary_rows
from pipelines.units import StepOutput, StoredTable, Units, stored_part, write_output
from pipelines.write_tables import open_run_folder
from schemas import CAPTIONS, NOUNS
from schemas.examples import example_rows

STAGES = {
    "read_captions": StageFacts("captions", {"captions": ["x.json"]}, {}),
    "extract_nouns": StageFacts("captions", {"nouns": "lexicon"}, {"version": 1}),
}


@pytest.fixture
def run(tmp_path):
    run = open_run_folder(str(tmp_path))
    for unit, rows in ((0, 4), (1, 2)):
        captions, nouns = example_rows(CAPTIONS, rows, unit), example_rows(NOUNS, rows, unit)
        write_output(StoredTable(run, "read_captions", "captions"), unit, StepOutput(captions, [], rows, rows), "h")
        write_output(StoredTable(run, "extract_nouns", "nouns"), unit, StepOutput(nouns, [], rows, rows), "h")
    return run


def stats_of(run):
    tables = (StoredTable(run, "read_captions", "captions"), StoredTable(run, "extract_nouns", "nouns"))
    return [stored_part(table, unit) for table in tables for unit in (0, 1)]


def test_the_manifest_does_not_depend_on_the_order_of_parts(run):
    units = Units("hash", 2, 6, "abc", {})
    first = finish_run(run, units, STAGES, stats_of(run))
    written = run.read("run.json")
    again = finish_run(run, units, dict(reversed(STAGES.items())), stats_of(run)[::-1])
    assert first == again
    assert run.read("run.json") == written
    assert first["tables"]["nouns"]["rows"] == 6
    assert [part["rows"] for part in first["tables"]["captions"]["parts"]] == [4, 2]
    assert first["stages"]["extract_nouns"]["totals"] == {"read": 6, "kept": 6, "dropped": {}}
    assert first["stages"]["extract_nouns"]["options"] == {"nouns": "lexicon"}
    assert "pairs" not in first["tables"]
    assert run.read("_SUCCESS") == b""


def test_vocabulary_is_counted_over_parts(run):
    finish_run(run, Units("hash", 2, 6, "abc", {}), STAGES, stats_of(run))
    rows = run.read_part("vocabulary/part-00000.parquet").to_pylist()
    assert sum(row["captions"] for row in rows) == 6
    assert [row["captions"] for row in rows] == sorted((row["captions"] for row in rows), reverse=True)


def test_distinct_rows_are_counted_once():
    rows = example_rows(NOUNS, 3).take([0, 0, 1, 2])
    nouns = example_rows(NOUNS, 3)["noun"].to_pylist()
    counted = count_distinct(rows, ["noun", "image_id"])
    assert sum(counted.values()) == 3
    assert set(counted) == set(nouns)


def test_ties_in_the_vocabulary_go_by_name():
    rows = vocabulary_rows({"b": 1, "a": 1, "c": 2}, {"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 0, "c": 0})
    assert [row["noun"] for row in rows] == ["c", "a", "b"]


def test_clock_and_host_stand_in_timings_only(run):
    finish_run(run, Units("hash", 2, 6, "abc", {}), STAGES, stats_of(run))
    times = timings(stats_of(run))
    assert times["stages"]["extract_nouns"]["parts_made"] == 0
    assert times["stages"]["extract_nouns"]["parts_there"] == 2
    host = times["host"]["platform"]
    assert host not in json.dumps(run.read_json("run.json"))
    assert host in json.dumps(run.read_json("timings.json"))


def test_files_of_the_user_beside_the_parts_are_left(run):
    for name in ("pairs/part-00000.parquet", "pairs/mine.parquet", "drops/part-00000-match_regions.parquet"):
        run.write(name, b"x")
    finish_run(run, Units("hash", 2, 6, "abc", {}), STAGES, stats_of(run))
    assert run.names("pairs") == ["mine.parquet"]
    assert "part-00000-match_regions.parquet" not in run.names("drops")
    run.write("examples.png", b"mine")
    finish_run(run, Units("hash", 2, 6, "abc", {}), STAGES, stats_of(run))
    assert run.has("examples.png")

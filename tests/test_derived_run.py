"""What a run that is made of others has in common with a mined one, and what it says of those."""

import hashlib
import json
import shutil

import pyarrow as pa
import pytest
from drawn_pairs import pair_rows, write_run
from run_files import files_of, manifest_of

from pipelines.derived_run import (
    DerivedStage,
    content_sha256,
    finish_derived_run,
    input_sha256,
    is_finished,
    open_derived_run,
    open_source,
    source_entries,
    totals_of,
    unit_parts,
    weights_of,
    write_derived_drops,
    write_derived_part,
)
from pipelines.units import StepTotals
from pipelines.write_tables import RunFolder
from schemas import DROPS, PAIRS, UserError, conform_rows

STAGE = "filter_pairs"


@pytest.fixture
def mined(tmp_path):
    return write_run(tmp_path / "mined", [pair_rows(tmp_path / "images", 4)], weights=[{"name": "a", "sha256": "1"}])


def derive(source, url):
    """A run of the source's first two rows."""
    run = open_derived_run(str(url), [source], source.units, STAGE, {"version": 1, "names": ("a",)})
    rows = source.run.read_part("pairs/part-00000.parquet").slice(0, 2)
    parts = [write_derived_part(run, "pairs", 0, rows)]
    parts.append(write_derived_drops(run, STAGE, 0, DROPS.schema.empty_table()))
    stage = DerivedStage("pairs", {}, {"version": 1, "names": ("a",)}, StepTotals(2, 2, {}), 1, 0.5)
    finish_derived_run(run, source.units, [source], {STAGE: stage}, parts)
    return run


def test_a_source_is_known_by_its_manifest(mined):
    source = open_source(str(mined))
    assert source.run_sha256 == hashlib.sha256((mined / "run.json").read_bytes()).hexdigest()
    assert source.units.count == 1
    assert list(unit_parts(source.parts("pairs"))) == [(0, "pairs/part-00000.parquet")]
    assert source.parts("masks") == []


def test_a_derived_run_says_what_it_was_made_of(mined, tmp_path):
    source = open_source(str(mined))
    derive(source, tmp_path / "derived")
    manifest = manifest_of(tmp_path / "derived")
    (entry,) = manifest["sources"]
    assert entry["run_sha256"] == source.run_sha256
    assert entry["tables"] == {"pairs": {"version": PAIRS.version, "rows": 4}}
    assert manifest["weights"] == [{"name": "a", "sha256": "1"}]
    assert manifest["tables"]["pairs"]["rows"] == 2
    assert manifest["stages"][STAGE]["totals"] == {"read": 2, "kept": 2, "dropped": {}}


def test_a_derived_run_is_a_source_itself(mined, tmp_path):
    derive(open_source(str(mined)), tmp_path / "first")
    second = derive(open_source(str(tmp_path / "first")), tmp_path / "second")
    parts = [RunFolder(str(tmp_path / name)).read("pairs/part-00000.parquet") for name in ("first", "second")]
    assert parts[0] == parts[1]
    assert manifest_of(second.url)["sources"][0]["sources"][0]["run_sha256"] == open_source(str(mined)).run_sha256


def test_sources_are_listed_once_in_an_order_of_their_own(mined, tmp_path):
    derive(open_source(str(mined)), tmp_path / "other")
    one, two = open_source(str(mined)), open_source(str(tmp_path / "other"))
    assert source_entries([one, two, one]) == source_entries([two, one])
    assert len(source_entries([one, two, one])) == 2
    assert input_sha256([one, two]) == input_sha256([two, one, two]) != input_sha256([one])
    assert weights_of([one, two]) == [{"name": "a", "sha256": "1"}]


def test_the_same_command_finds_its_run_finished(mined, tmp_path):
    source = open_source(str(mined))
    run = derive(source, tmp_path / "derived")
    assert is_finished(run, [source], STAGE, {"version": 1, "names": ("a",)})
    assert not is_finished(run, [source], STAGE, {"version": 2, "names": ("a",)})
    before = files_of(tmp_path / "derived")
    derive(source, tmp_path / "derived")
    assert files_of(tmp_path / "derived") == before


def test_a_stopped_command_goes_on_and_another_is_refused(mined, tmp_path):
    source = open_source(str(mined))
    open_derived_run(str(tmp_path / "derived"), [source], source.units, STAGE, {"version": 1})
    open_derived_run(str(tmp_path / "derived"), [source], source.units, STAGE, {"version": 1})
    with pytest.raises(UserError, match="holds another run, or the same with other options; give an empty folder"):
        open_derived_run(str(tmp_path / "derived"), [source], source.units, STAGE, {"version": 2})


def test_an_output_must_be_a_folder_of_its_own(mined, tmp_path):
    source = open_source(str(mined))
    with pytest.raises(UserError, match="is one of the runs that are read"):
        open_derived_run(str(mined), [source], source.units, STAGE, {})
    with pytest.raises(UserError, match="--output is missing"):
        open_derived_run("", [source], source.units, STAGE, {})
    shutil.copytree(mined, tmp_path / "copy")
    with pytest.raises(UserError, match="holds another run"):
        open_derived_run(str(tmp_path / "copy"), [source], source.units, STAGE, {})


def change_manifest(run, **changes):
    (run / "run.json").write_text(json.dumps(manifest_of(run) | changes))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run: (run / "_SUCCESS").unlink(), "there is no finished run"),
        (lambda run: shutil.rmtree(run), "there is no finished run"),
        (lambda run: (run / "units.json").unlink(), "has no units.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json is not one of this release"),
        (lambda run: change_manifest(run, format=1), "wanted format 2, got 1"),
        (lambda run: change_manifest(run, tables={}), "has no PAIRS; make them with ovseg match"),
    ],
)
def test_what_is_no_source_is_said(mined, spoil, sentence):
    spoil(mined)
    with pytest.raises(UserError, match=sentence):
        open_source(str(mined))


def test_equal_rows_have_equal_hashes_however_arrow_holds_them(tmp_path):
    rows = conform_rows(pair_rows(tmp_path, 6, margin=lambda index: None if index % 2 else 0.5), PAIRS)
    alone = conform_rows(rows.slice(3, 2).to_pylist(), PAIRS)
    pieces = pa.concat_tables([rows.slice(3, 1), rows.slice(4, 1)])
    taken = rows.take([5, 3, 4]).slice(1)
    assert content_sha256(rows.slice(3, 2)) == content_sha256(alone) == content_sha256(pieces) == content_sha256(taken)
    assert content_sha256(rows.slice(2, 2)) != content_sha256(alone)


def test_drops_are_written_in_order(tmp_path):
    drops = [{"stage": STAGE, "key": key, "image_id": None, "reason": "not_selected", "detail": "x"} for key in "ba"]
    run = RunFolder(str(tmp_path))
    part = write_derived_drops(run, STAGE, 3, conform_rows(drops, DROPS))
    assert part.facts["path"] == "drops/part-00003-filter_pairs.parquet"
    assert run.read_part(part.facts["path"])["key"].to_pylist() == ["a", "b"]


def test_totals_add_up():
    reasons = pa.array(["not_selected", "not_assigned", "not_selected"])
    assert totals_of(5, 2, reasons) == StepTotals(5, 2, {"not_assigned": 1, "not_selected": 2})
    with pytest.raises(RuntimeError, match="lost or counted twice"):
        totals_of(6, 2, reasons)

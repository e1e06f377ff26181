"""A resumed run reads no part that the last finishing noted and that lies there unchanged."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from run_files import files_of, made_of

from benchmarks.fake_steps import main as fakes
from benchmarks.scale_simulation import counted_requests, write_references
from pipelines.part_facts import HASH_KEY, KNOWN_FILE, TOTALS_KEY, NotedPart, note_parts
from pipelines.units import part_name
from pipelines.write_tables import open_run_folder
from schemas import NOUNS
from schemas.examples import example_rows

FOOTER = {HASH_KEY: "h", TOTALS_KEY: "{}"}


@pytest.fixture
def run(tmp_path):
    """Two parts of NOUNS, both noted."""
    run = open_run_folder(str(tmp_path))
    names = [part_name("nouns", unit) for unit in (0, 1)]
    stamps = [run.write_part(name, example_rows(NOUNS, 3, unit), NOUNS, FOOTER) for unit, name in enumerate(names)]
    noted = zip(names, stamps, strict=True)
    note_parts(run, [NotedPart(name, 3, file.size_bytes, file.sha256, "h", "{}") for name, file in noted])
    return open_run_folder(str(tmp_path))


def test_what_is_noted_is_what_reading_tells(run):
    noted = [run.known.get(part_name("nouns", unit)) for unit in (0, 1)]
    Path(run.path(KNOWN_FILE)).unlink()
    read = open_run_folder(run.url)
    assert read.known.get(part_name("nouns", 0)) is None
    for unit, facts in enumerate(noted):
        found = read.part_facts(part_name("nouns", unit))
        assert facts.counts == found.counts
        assert facts.footer == FOOTER == {key: found.footer[key] for key in FOOTER}


def test_a_file_that_changed_is_read(run):
    name = part_name("nouns", 0)
    path = Path(run.path(name))
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert run.known.get(name) is None
    assert run.known.get(part_name("nouns", 1)).rows == 3
    assert run.part_facts(name).rows == 3


def test_a_part_that_is_gone_is_not_known(run):
    Path(run.path(part_name("nouns", 0))).unlink()
    assert run.known.get(part_name("nouns", 0)) is None
    assert run.read_footer(part_name("nouns", 0)) is None


def test_what_is_written_or_removed_is_forgotten(run):
    assert run.known.get(part_name("nouns", 0)) and run.known.get(part_name("nouns", 1))
    run.write_part(part_name("nouns", 0), example_rows(NOUNS, 1, 9), NOUNS, {HASH_KEY: "other"})
    run.remove(part_name("nouns", 1))
    assert run.read_footer(part_name("nouns", 0))[HASH_KEY] == "other"
    assert run.part_facts(part_name("nouns", 0)).rows == 1
    assert run.read_footer(part_name("nouns", 1)) is None


@pytest.mark.parametrize("data", [b"", b"no note", b"ARROW1\0\0"])
def test_a_note_that_cannot_be_read_says_nothing(run, data):
    Path(run.path(KNOWN_FILE)).write_bytes(data)
    assert run.known.get(part_name("nouns", 0)) is None
    assert run.part_facts(part_name("nouns", 0)).rows == 3


def test_the_note_of_another_release_says_nothing(run):
    schema = pa.schema([("name", pa.string())])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table({"name": [part_name("nouns", 0)]}, schema=schema))
    Path(run.path(KNOWN_FILE)).write_bytes(sink.getvalue())
    assert run.known.get(part_name("nouns", 0)) is None


def test_a_part_whose_file_is_not_as_noted_is_left_out(run):
    name = part_name("nouns", 0)
    absent = part_name("nouns", 7)
    note_parts(run, [NotedPart(name, 3, 1, "x", "h", "{}"), NotedPart(absent, 1, 1, "x", "h", None)])
    assert open_run_folder(run.url).known.get(name) is None


def mine(source, run):
    return ["mine", "--captions", str(source), "--output", str(run), "--runner", "plain", "--images-per-unit", "8"]


@pytest.fixture
def finished(tmp_path):
    """A finished run of four units, and the command that made it."""
    write_references(tmp_path / "references.parquet", 32)
    command = mine(tmp_path / "references.parquet", tmp_path / "run")
    assert fakes(command) == 0
    return tmp_path / "run", command


def test_a_resumed_run_makes_what_is_missing_and_ends_in_the_same_bytes(finished):
    run, command = finished
    before = files_of(run)
    (run / "_SUCCESS").unlink()
    (run / "pairs/part-00002.parquet").unlink()
    assert fakes(command) == 0
    assert files_of(run) == before
    assert made_of(run) == {"read_captions": 0, "extract_nouns": 0, "propose_masks": 0, "match_regions": 1}


def test_a_table_made_anew_counts_for_those_that_read_it(finished):
    """Noted facts of NOUNS must not outlive its parts within one command."""
    run, command = finished
    before = files_of(run)
    nouns = open_run_folder(str(run))
    rows = nouns.read_part("nouns/part-00001.parquet")
    nouns.write_part("nouns/part-00001.parquet", rows.slice(0, 2), NOUNS, {HASH_KEY: "another", TOTALS_KEY: "{}"})
    (run / "_SUCCESS").unlink()
    assert fakes(command) == 0
    assert files_of(run) == before
    assert made_of(run)["extract_nouns"] == 1


def test_vocabulary_is_counted_again_only_where_its_parts_changed(finished, monkeypatch):
    run, command = finished
    calls = []
    from pipelines import manifest

    original = manifest.write_vocabulary
    monkeypatch.setattr(manifest, "write_vocabulary", lambda *args: calls.append(args) or original(*args))
    before = files_of(run)
    (run / "_SUCCESS").unlink()
    assert fakes(command) == 0
    assert calls == []
    (run / "vocabulary/part-00000.parquet").unlink()
    assert fakes(command) == 0
    assert len(calls) == 1
    assert files_of(run) == before


def test_a_resumed_run_reads_no_part_from_a_store(tmp_path):
    write_references(tmp_path / "references.parquet", 64)
    # The report at the end reads parts on purpose.
    command = [*mine(tmp_path / "references.parquet", "memory://test-part-facts"), "--no-report"]
    assert fakes(command) == 0
    open_run_folder("memory://test-part-facts").remove("_SUCCESS")
    with counted_requests() as requests:
        assert fakes(command) == 0
    # Eight units have 64 files; run.json, and the examples at the end, take a few.
    assert requests["GET"] < 20
    assert requests["PUT"] < 8

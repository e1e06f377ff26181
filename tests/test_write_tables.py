"""A file of a run is whole or absent, on every file system, and says nothing of clock or host."""

import os
import pickle
import uuid

import pyarrow.parquet as pq
import pytest

from pipelines.write_tables import RunFolder, open_run_folder, parquet_bytes, stamp
from schemas import MASKS, NOUNS, SchemaError, UserError
from schemas.examples import example_rows


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path):
    return open_run_folder(str(tmp_path / "run") if request.param == "local" else f"memory://run-{uuid.uuid4().hex}")


def test_what_is_written_is_read(run):
    assert not run.has("a/b.txt")
    assert run.write("a/b.txt", b"kite") == stamp(b"kite")
    assert (run.has("a/b.txt"), run.read("a/b.txt"), run.names("a"), run.names("none")) == (
        True,
        b"kite",
        ["b.txt"],
        [],
    )
    run.remove("a/b.txt")
    run.remove("a/b.txt")
    assert not run.has("a/b.txt")


def test_equal_values_are_equal_json_bytes(run):
    first = run.write_json("x.json", {"b": 1, "a": "é"})
    second = run.write_json("y.json", {"a": "é", "b": 1})
    assert first == second
    assert run.read_json("x.json") == {"a": "é", "b": 1}


def test_a_part_keeps_rows_types_and_footer(run):
    rows = example_rows(MASKS, 7)
    file = run.write_part("masks/part-00000.parquet", rows, MASKS, {"ovseg.step_hash": "abc"})
    assert run.read_part("masks/part-00000.parquet").equals(rows)
    facts = run.part_facts("masks/part-00000.parquet")
    assert facts.counts == (7, file.size_bytes, file.sha256)
    assert facts.footer == {"ovseg.table": "masks", "ovseg.table_version": str(MASKS.version), "ovseg.step_hash": "abc"}
    assert run.read_footer("masks/part-00000.parquet") == facts.footer
    assert run.read_footer("masks/part-00001.parquet") is None
    assert run.read_columns("masks/part-00000.parquet", ("image_id",)).column_names == ["image_id"]


def test_rows_that_break_the_contract_are_not_written(run):
    with pytest.raises(SchemaError, match="nouns: wanted the columns"):
        run.write_part("nouns/part-00000.parquet", example_rows(MASKS, 1), NOUNS, {})
    assert run.names("nouns") == []


def test_a_broken_part_is_refused_at_reading(run):
    run.write("nouns/part-00000.parquet", parquet_bytes(example_rows(MASKS, 1), MASKS, {}))
    with pytest.raises(SchemaError, match="nouns: wanted the columns"):
        run.read_part("nouns/part-00000.parquet")


def test_a_part_is_the_same_bytes_every_time():
    rows = example_rows(MASKS, 50)
    assert parquet_bytes(rows, MASKS, {"k": "v"}) == parquet_bytes(rows.slice(0, 50), MASKS, {"k": "v"})


def test_nested_columns_have_standard_names(tmp_path):
    path = tmp_path / "masks.parquet"
    path.write_bytes(parquet_bytes(example_rows(MASKS, 1), MASKS, {}))
    schema = pq.ParquetFile(path).schema
    assert "mask.size.list.element" in [schema.column(index).path for index in range(len(schema))]


def test_a_failed_write_leaves_neither_file_nor_fragment(tmp_path, monkeypatch):
    run = open_run_folder(str(tmp_path))
    run.write("a.txt", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(UserError, match=r"a\.txt cannot be written: disk gone; mend that and give"):
        run.write("a.txt", b"new")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert run.read("a.txt") == b"old"


def test_files_being_written_are_not_listed(tmp_path):
    run = open_run_folder(str(tmp_path))
    run.write("nouns/part-00000.parquet", b"x")
    (tmp_path / "nouns" / ".part-00001.parquet.abc").write_bytes(b"half")
    assert run.names("nouns") == ["part-00000.parquet"]


def test_a_folder_travels_as_its_path_only(tmp_path):
    run = open_run_folder(str(tmp_path))
    assert run.file_system
    assert pickle.loads(pickle.dumps(run)) == RunFolder(str(tmp_path))
    assert len(pickle.dumps(run)) < 300


def test_relative_paths_become_absolute_and_unknown_places_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_run_folder("runs/a").url == str(tmp_path / "runs" / "a")
    with pytest.raises(UserError, match="--output nowhere://x: cannot open this place"):
        open_run_folder("nowhere://x")


def test_only_fragments_of_killed_writers_are_removed(tmp_path):
    run = open_run_folder(str(tmp_path / "odd [name]"))
    run.write("masks/part-00000.parquet", b"x")
    fragment = f"masks/.part-00001.parquet.{uuid.uuid4().hex}"
    spilled = ".spill-abc/bucket-000.arrows"
    others = ["masks/.part-of-mine", "src/.env.local", ".env.local", "masks/notes.txt"]
    for name in (fragment, spilled, *others):
        (tmp_path / "odd [name]" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "odd [name]" / name).write_bytes(b"x")
    run.remove_fragments()
    root = tmp_path / "odd [name]"
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert left == {"masks/part-00000.parquet", *others}


def test_a_table_whose_place_is_taken_by_a_file_has_no_part(tmp_path):
    (tmp_path / "nouns").touch()
    run = open_run_folder(str(tmp_path))
    assert run.read_footer("nouns/part-00000.parquet") is None
    with pytest.raises(UserError, match=r"nouns/part-00000\.parquet cannot be written: File exists; "):
        run.write("nouns/part-00000.parquet", b"x")

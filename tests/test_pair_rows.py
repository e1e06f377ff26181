"""Which files and rows of PAIRS a training run takes."""

import json
import pickle
import re

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_pairs import pair_rows, write_pairs, write_run

from ovseg_model import pair_rows as module
from ovseg_model.pair_files import find_pair_files, open_pair_file
from ovseg_model.pair_rows import open_pairs, seeded_hashes
from schemas import PAIRS, SchemaError, UserError, conform_columns
from schemas.examples import example_rows
from schemas.table import table


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return pair_rows(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture
def run(rows, tmp_path):
    return write_run(tmp_path / "RUN", [rows[:25], rows[25:]])


def chosen_ids(selection):
    """pair_id of every chosen row, file by file, read with nothing of the loader's."""
    found = []
    for file, group, rows_N in selection.groups:
        ids = pq.ParquetFile(selection.files[file]).read_row_group(group, columns=["pair_id"])["pair_id"].to_pylist()
        found += [ids[row] for row in rows_N.tolist()]
    return found


def ids_of(rows):
    return [row["pair_id"] for row in rows]


def test_a_run_its_folder_its_parts_and_globs_are_the_same_pairs(run, rows):
    for place in (run, run / "pairs", run / "pairs/", run / "pairs/*.parquet", run.parent / "R*", run / "p*"):
        selection = open_pairs(str(place))
        assert chosen_ids(selection) == ids_of(rows)
    assert len(open_pairs(str(run / "pairs/part-00001.parquet"))) == 15
    assert len(open_pairs(str(run / "pairs/part-0000[1-9].parquet"))) == 15


def test_a_relative_path_is_found(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert len(open_pairs("RUN/pairs")) == 40


def test_stale_and_hidden_parts_do_not_count(run, rows, tmp_path):
    write_pairs(run / "pairs/part-00002.parquet", rows[:3])
    write_pairs(run / "pairs/.part-00001.parquet.0123456789abcdef0123456789abcdef", rows[:3])
    for place in (run, run / "pairs", run / "pairs/*.parquet", run / "pairs/*"):
        assert len(open_pairs(str(place))) == 40
    copied = tmp_path / ".cache/copied"
    write_pairs(copied / "a.parquet", rows[:5])
    write_pairs(copied / "deep/b.parquet", rows[5:7])
    write_pairs(copied / ".c.parquet", rows[7:9])
    write_pairs(copied / ".trash/d.parquet", rows[7:9])
    (copied / "notes.txt").write_text("none of it")
    # A dot in what the user spelled out hides nothing.
    assert len(open_pairs(str(copied))) == 7
    assert len(open_pairs(str(copied / "*.parquet"))) == 5
    assert len(open_pairs(str(copied / ".c.parquet"))) == 2


def test_pairs_in_a_bucket(rows):
    memory = fsspec.filesystem("memory")
    for name, part in (("part-00000", rows[:25]), ("part-00001", rows[25:])):
        with fsspec.open(f"memory://bucket/RUN/pairs/{name}.parquet", "wb") as sink:
            pq.write_table(pa.Table.from_pylist(part, PAIRS.schema), sink)
    try:
        for place in ("memory://bucket/RUN/pairs", "memory://bucket/RUN/pairs/*.parquet"):
            selection = open_pairs(place, where="cosine < 0.13")
            assert selection.files == tuple(f"memory:///bucket/RUN/pairs/part-0000{n}.parquet" for n in (0, 1))
            assert (len(selection), selection.read) == (30, 40)
    finally:
        memory.rm("/bucket", recursive=True)


def refusal(url, **options):
    with pytest.raises(UserError) as caught:
        open_pairs(str(url), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_without_pairs_are_refused_in_one_sentence(run, tmp_path, rows):
    assert "there is no such file or folder" in refusal(tmp_path / "nowhere")
    assert "no Parquet file is there" in refusal(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    assert "no Parquet file is there" in refusal(tmp_path / "empty")
    assert "cannot open this place" in refusal("nosuch://bucket/x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert "is no Parquet file, or is cut short" in refusal(tmp_path / "bad.parquet")
    (run / "_SUCCESS").unlink()
    assert f"the run {run} is not finished" in refusal(run / "pairs")


def test_a_part_that_is_not_as_listed_is_refused(run, rows):
    part = run / "pairs/part-00001.parquet"
    data = part.read_bytes()
    part.write_bytes(data + b" ")
    assert f"lists pairs/part-00001.parquet with {len(data)} bytes, but it has {len(data) + 1}" in refusal(run)
    part.unlink()
    assert "but it is missing" in refusal(run)
    manifest = json.loads((run / "run.json").read_text())
    manifest["tables"].pop("pairs")
    (run / "run.json").write_text(json.dumps(manifest))
    assert "has no PAIRS; make them with ovseg match" in refusal(run / "pairs")
    (run / "run.json").write_text("{")
    assert "is not one of this release" in refusal(run)


def test_other_tables_and_versions_are_refused(rows, tmp_path):
    newer = table("pairs", PAIRS.version + 1, PAIRS.row, list(PAIRS.schema))
    sentence = refusal(write_pairs(tmp_path / "newer.parquet", rows[:2], table=newer))
    assert f"wanted version {PAIRS.version} of PAIRS, got version {PAIRS.version + 1}; mine the run again" in sentence
    nouns = table("nouns", 1, PAIRS.row, list(PAIRS.schema))
    assert "got the table nouns" in refusal(write_pairs(tmp_path / "nouns.parquet", rows[:2], table=nouns))
    bare = pa.Table.from_pylist(rows[:2], PAIRS.schema)
    pq.write_table(bare.replace_schema_metadata({}), tmp_path / "bare.parquet")
    assert "got a file whose footer names no table" in refusal(tmp_path / "bare.parquet")
    pq.write_table(bare.drop_columns(["cosine"]), tmp_path / "fewer.parquet")
    assert "column cosine: wanted float, got no such column" in refusal(tmp_path / "fewer.parquet")


def test_a_filter_and_what_it_drops(run, rows):
    selection = open_pairs(str(run), where="cosine > 0.11 and noun in ['ball', 'kite']")
    wanted = [row for index, row in enumerate(rows) if index > 10 and row["noun"] in ("ball", "kite")]
    assert chosen_ids(selection) == ids_of(wanted)
    assert selection.nouns == {"ball": 7, "kite": 7}
    assert (selection.read, selection.dropped) == (40, {"filter": 26, "cap": 0})
    assert len(selection) + sum(selection.dropped.values()) == selection.read
    assert selection.text().splitlines() == [
        f"PAIRS of {run}: 40 read, 14 kept, filter 26; 2 nouns in 2 row groups of 2 files",
        "most frequent nouns: ball 7, kite 7",
    ]


def test_an_empty_result_says_what_each_condition_keeps_alone(run):
    sentence = refusal(run, where="cosine > 0.11 and cosine < 0.105 and noun == 'ball'")
    assert "none of the 40 rows" in sentence
    assert "cosine > 0.11 keeps 29, cosine < 0.105 keeps 5, noun == 'ball' keeps 10" in sentence
    assert "has no column nuon; did you mean noun?" in refusal(run, where="nuon == 'ball'")


def test_an_empty_table_is_refused(tmp_path):
    assert "the table has no rows" in refusal(write_pairs(tmp_path / "none.parquet", []))


def test_meaningless_rows_are_for_plumbing_only(rows, tmp_path):
    some = [row | {"meaningless": index == 3} for index, row in enumerate(rows[:8])]
    path = write_pairs(tmp_path / "some.parquet", some)
    assert "whose scorer had random weights" in refusal(path)
    assert len(open_pairs(str(path), allow_meaningless=True)) == 8
    assert len(open_pairs(str(path), where="not meaningless")) == 7


def test_the_cap_keeps_the_lowest_hashes_of_each_noun(run, rows):
    selection = open_pairs(str(run), cap=3, seed=5)
    hashes = dict(zip(ids_of(rows), seeded_hashes(5, ids_of(rows)).tolist(), strict=True))
    wanted = set()
    for noun in ("ball", "box", "kite", "tree"):
        wanted |= set(sorted((id_ for id_ in ids_of(r for r in rows if r["noun"] == noun)), key=hashes.get)[:3])
    assert set(chosen_ids(selection)) == wanted
    assert selection.nouns == {"ball": 3, "box": 3, "kite": 3, "tree": 3}
    assert selection.dropped == {"filter": 0, "cap": 28}
    assert set(chosen_ids(open_pairs(str(run), cap=3, seed=6))) != wanted
    assert len(open_pairs(str(run), cap=100)) == 40
    assert "--cap: wanted 1 or more" in refusal(run, cap=0)


def test_the_cap_does_not_depend_on_files_row_groups_or_memory(run, rows, tmp_path, monkeypatch):
    wanted = set(chosen_ids(open_pairs(str(run), cap=3)))
    backwards = write_pairs(tmp_path / "backwards.parquet", rows[::-1], rows_per_group=7)
    assert set(chosen_ids(open_pairs(str(backwards), cap=3))) == wanted
    monkeypatch.setattr(module, "ROWS_BEFORE_CAP", 6)
    monkeypatch.setattr(module, "ROWS_PER_READ", 4)
    assert set(chosen_ids(open_pairs(str(backwards), cap=3))) == wanted
    assert open_pairs(str(run), cap=3).nouns == {"ball": 3, "box": 3, "kite": 3, "tree": 3}


def test_rows_are_found_in_their_row_groups(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_READ", 5)
    path = write_pairs(tmp_path / "small.parquet", rows, rows_per_group=8)
    selection = open_pairs(str(path), where="noun == 'kite' and (cosine < 0.104 or cosine > 0.13)")
    # Rows 2, 34 and 38; row 30 has cosine 0.13 exactly.
    assert [(group.group, group.rows_N.tolist()) for group in selection.groups] == [(0, [2]), (4, [2, 6])]
    assert chosen_ids(selection) == [rows[index]["pair_id"] for index in (2, 34, 38)]


def test_choosing_reads_neither_masks_nor_crops(run, monkeypatch):
    read = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, *a, **k: read.append(set(k["columns"])) or real(self, *a, **k)
    )
    open_pairs(str(run), where="cosine > 0.1", cap=2)
    assert set().union(*read) == {"pair_id", "noun", "meaningless", "cosine"}


def test_a_selection_travels_to_workers(run):
    selection = open_pairs(str(run), where="noun == 'kite'")
    travelled = pickle.loads(pickle.dumps(selection))
    assert travelled.text() == selection.text()
    assert all(np.array_equal(a.rows_N, b.rows_N) for a, b in zip(travelled.groups, selection.groups, strict=True))


def test_files_are_sorted_and_opened_checked(run):
    files = find_pair_files(str(run))
    assert [re.sub(".*/", "", name) for name in files] == ["part-00000.parquet", "part-00001.parquet"]
    with open_pair_file(files[0]) as file:
        assert file.metadata.num_rows == 25


def test_some_columns_conform_as_far_as_they_go():
    rows = example_rows(PAIRS, 3)
    some = rows.select(["mask", "noun", "cosine"])
    assert conform_columns(some, PAIRS) is some
    for bad, wanted in (
        (some.append_column("x", pa.array([1, 2, 3])), "unknown: x"),
        (some.set_column(2, "cosine", pa.array([0.1, 0.2, 0.3])), "column cosine: wanted float, got double"),
        (some.set_column(2, "cosine", pa.array([0.1, 2, 0.3], pa.float32())), "row 1: wanted a number from -1 to 1"),
        (some.set_column(1, "noun", pa.array(["a", None, "b"])), "column noun, row 1: wanted string, got null"),
    ):
        with pytest.raises(SchemaError, match=wanted):
            conform_columns(bad, PAIRS)

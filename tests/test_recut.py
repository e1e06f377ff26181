"""Rows by the units of another cut: of finer runs, of coarser ones, and of runs along shards."""

import hashlib

import pyarrow as pa
import pytest
from drawn_pairs import pair_rows, write_run

from pipelines import recut
from pipelines.derived_run import open_source
from pipelines.recut import RowSpill, SourceRows, digests, of_unit, units_in_order
from pipelines.units import Units
from pipelines.write_tables import RunFolder
from schemas import DROPS, PAIRS, conform_rows


def unit_of(name, count):
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % count


def run_of(folder, rows, scheme, count):
    """A finished run with PAIRS: cut by hash, or dealt out one after the other as a shard's images are."""
    units = [unit_of(row["image_id"], count) if scheme == "hash" else index % count for index, row in enumerate(rows)]
    write_run(folder, [[row for row, unit in zip(rows, units, strict=True) if unit == each] for each in range(count)])
    Units(scheme, count, len(rows), "0" * 64, {}).save(RunFolder(str(folder)))
    return open_source(str(folder))


@pytest.fixture
def rows(tmp_path):
    return pair_rows(tmp_path / "images", 40)


def test_the_digest_is_the_images_or_the_keys_of_a_drop_without_one():
    drop = {"stage": "read_captions", "reason": "not_json", "detail": ""}
    drops = [{**drop, "key": "file:1", "image_id": None}, {**drop, "key": "file:2", "image_id": "7"}]
    found = digests(conform_rows(drops, DROPS))
    assert [int(each) % 1000 for each in found] == [unit_of("file:1", 1000), unit_of("7", 1000)]
    assert digests(DROPS.schema.empty_table()).tolist() == []


@pytest.mark.parametrize(("scheme", "count"), [("hash", 1), ("hash", 4), ("hash", 8), ("shards", 3)])
def test_every_row_is_in_its_images_unit_and_once(rows, tmp_path, scheme, count):
    source = run_of(tmp_path / "run", rows, scheme, count)
    (tmp_path / "spill").mkdir()
    reader = SourceRows("0", source, 8, RowSpill(str(tmp_path / "spill"), 8))
    found = {unit: reader.read("pairs", unit) for unit in units_in_order(8)}
    wanted = {unit: sorted(row["pair_id"] for row in rows if unit_of(row["image_id"], 8) == unit) for unit in range(8)}
    assert {unit: sorted(table["pair_id"].to_pylist()) for unit, table in found.items()} == wanted
    assert all(table.schema.equals(PAIRS.schema, check_metadata=False) for table in found.values())
    ids = {unit: sorted(reader.read_columns("pairs", unit, ("image_id",))["image_id"].to_pylist()) for unit in found}
    assert ids == {unit: sorted(table["image_id"].to_pylist()) for unit, table in found.items()}


def test_a_spill_of_few_buckets_and_many_flushes_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(recut, "BUCKETS", 2)
    monkeypatch.setattr(recut, "BUFFER_BYTES", 1)
    spill = RowSpill(str(tmp_path), 8)
    drop = {"stage": "propose_masks", "reason": "no_masks", "detail": ""}
    for number in range(30):
        spill.add("drops", conform_rows([{**drop, "key": str(number), "image_id": str(number)}], DROPS))
    assert len(list(tmp_path.iterdir())) == 2
    assert list(units_in_order(8)) == [0, 2, 4, 6, 1, 3, 5, 7]
    found = [spill.read("drops", "propose_masks", unit)["key"].to_pylist() for unit in range(8)]
    assert found == [[str(each) for each in range(30) if unit_of(str(each), 8) == unit] for unit in range(8)]


def test_what_was_never_spilled_has_no_rows(tmp_path):
    assert RowSpill(str(tmp_path), 2).read("moved", "pairs", 1).equals(PAIRS.schema.empty_table())


def test_rows_of_a_unit_keep_their_order():
    names = [str(number) for number in range(20)]
    kept = of_unit(pa.table({"image_id": names}), 1, 4)["image_id"].to_pylist()
    assert kept == [name for name in names if unit_of(name, 4) == 1]

"""Records come back from their buckets as they went in."""

import os

import pyarrow as pa
import pytest

from pipelines import spill
from pipelines.spill import BUCKETS, Spill
from pipelines.units import image_digest
from schemas import UserError

SCHEMA = pa.schema([("digest", pa.uint64()), ("image_id", pa.string()), ("text", pa.string())])


def records(count):
    ids = [f"image-{number % 700}" for number in range(count)]
    return [(image_digest(image_id), image_id, f"caption {number}") for number, image_id in enumerate(ids)]


def as_tuples(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def test_every_record_lies_in_the_bucket_of_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "ROWS_PER_FLUSH", 300)
    wanted = records(2000)
    with Spill(SCHEMA, str(tmp_path)) as spilled:
        spilled.add(iter(wanted))
        assert spilled.count_images() == 700
        read = []
        for bucket in range(BUCKETS):
            rows = as_tuples(spilled.read([bucket]))
            assert {digest % BUCKETS for digest, *_ in rows} <= {bucket}
            assert rows == [row for row in wanted if row[0] % BUCKETS == bucket]
            read += rows
    assert sorted(read) == sorted(wanted)


def test_no_records_are_an_empty_table():
    with Spill(SCHEMA) as spilled:
        spilled.add([])
        assert spilled.read(range(BUCKETS)).num_rows == 0
        assert spilled.count_images() == 0


def test_the_folder_is_removed_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError, match="disk"), Spill(SCHEMA, str(tmp_path)) as spilled:
        spilled.add(records(5))
        assert len(os.listdir(tmp_path)) == 1
        raise RuntimeError("disk")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    """/dev/full answers every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(Spill, "_path", lambda spilled, bucket: "/dev/full")
    with (
        pytest.raises(UserError, match=r"spill-\w+ cannot be written: No space left on device; free space there and "),
        Spill(SCHEMA, str(tmp_path)) as spilled,
    ):
        spilled.add(records(2000))
    assert os.listdir(tmp_path) == []

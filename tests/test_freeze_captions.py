"""Freezing: every record lands in its unit or in DROPS, and neither order nor place of the input matters."""

import json
import tarfile

import pytest

from ovseg_model.images import FetchOptions, read_image_bytes
from pipelines import spill
from pipelines.freeze_captions import (
    SPILL_SCHEMA,
    freeze_captions,
    freeze_image,
    freeze_rows,
    ranges_of_images,
    spilled,
)
from pipelines.options import FreezeOptions
from pipelines.read_captions import BadRow, CaptionRow, ReadOptions
from pipelines.units import drops_name, image_digest, part_name, read_units
from pipelines.write_tables import open_run_folder
from schemas import UserError


def row(image_id, order, caption, uri="a.png"):
    values = CaptionRow(image_id, uri, order, caption, None, None)
    names = (
        "digest",
        "image_id",
        "image_uri",
        "order",
        "caption",
        "source_url",
        "licence",
        "safety",
        "drop_key",
        "reason",
        "detail",
    )
    return dict(zip(names, spilled(values), strict=True))


def kept(rows):
    return [(each["image_id"], each["caption_index"], each["caption"]) for each in rows]


def test_captions_of_an_image_are_numbered_by_order_then_hash():
    rows = [row("b", 0, "z"), row("a", 9, "first id is lower"), row("a", 3, "comes first"), row("b", 0, "y")]
    for permutation in (rows, rows[::-1]):
        output = freeze_rows(permutation, 0)
        assert kept(output.rows.to_pylist()) == [
            ("a", 0, "comes first"),
            ("a", 1, "first id is lower"),
            ("b", 0, "z"),
            ("b", 1, "y"),
        ]


def test_what_is_not_kept_has_a_reason():
    rows = [row("a", 0, "one"), row("a", 1, "one"), row("a", 2, "two", "b.png"), row("a", 3, "three")]
    rows_kept, drops = freeze_image(rows, limit=1)
    assert kept(rows_kept) == [("a", 0, "one")]
    assert [(each["key"], each["reason"]) for each in drops] == [
        ("a#1", "duplicate_caption"),
        ("a#2", "conflicting_image_uri"),
        ("a#3", "over_caption_limit"),
    ]
    assert "wanted a.png, got b.png" in drops[1]["detail"]


def test_a_bad_row_is_a_drop():
    bad = dict(zip(SPILL_SCHEMA.names, spilled(BadRow("t.jsonl:7", "not_json", "got '{'")), strict=True))
    output = freeze_rows([bad, row("a", 0, "x")], 0)
    assert (output.read, output.kept, len(output.drops)) == (2, 1, 1)
    assert output.drops[0] == {
        "stage": "read_captions",
        "key": "t.jsonl:7",
        "image_id": None,
        "reason": "not_json",
        "detail": "got '{'",
    }


def test_a_shard_is_cut_between_images():
    rows = [row(image, order, "x") for image, order in (("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1), ("d", 0))]
    cut = [[each["image_id"] for each in unit] for unit in ranges_of_images(rows, 2)]
    assert cut == [["a", "a", "b"], ["c", "c", "d"]]
    assert list(ranges_of_images([], 2)) == []


def write_jsonl(path, images, captions=2):
    lines = [
        json.dumps({"image": f"{image}.jpg", "caption": f"caption {number}"})
        for image in range(images)
        for number in range(captions)
    ]
    path.write_text("\n".join(lines) + "\n")
    return ReadOptions((str(path),))


@pytest.mark.parametrize(("images", "per_unit", "count"), [(40, 10, 4), (700, 1, 512), (3, 64, 1)])
def test_units_hold_exactly_the_images_of_their_hash(tmp_path, monkeypatch, images, per_unit, count):
    monkeypatch.setattr(spill, "ROWS_PER_FLUSH", 50)
    run = open_run_folder(str(tmp_path / "run"))
    read = write_jsonl(tmp_path / "captions.jsonl", images)
    units = freeze_captions(run, read, FreezeOptions(images_per_unit=per_unit))
    assert (units.scheme, units.count, units.images) == ("hash", count, images)
    seen = []
    for unit in range(count):
        ids = run.read_part(part_name("captions", unit))["image_id"].to_pylist()
        assert {image_digest(image_id) % count for image_id in ids} <= {unit}
        assert ids == sorted(ids)
        seen += ids
    assert sorted(seen) == sorted([f"{image}.jpg" for image in range(images)] * 2)
    assert [name for name in (tmp_path / "run").iterdir() if name.name.startswith(".spill")] == []


def test_a_frozen_input_is_not_read_again(tmp_path, monkeypatch):
    run = open_run_folder(str(tmp_path / "run"))
    read = write_jsonl(tmp_path / "captions.jsonl", 5)
    units = freeze_captions(run, read, FreezeOptions())
    monkeypatch.setattr("pipelines.freeze_captions.read_rows", lambda read: pytest.fail("read again"))
    assert freeze_captions(run, read, FreezeOptions()) == units


def test_the_same_content_from_a_touched_file_is_the_same_input(tmp_path):
    run = open_run_folder(str(tmp_path / "run"))
    read = write_jsonl(tmp_path / "captions.jsonl", 5)
    units = freeze_captions(run, read, FreezeOptions())
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[::-1]))
    assert freeze_captions(run, read, FreezeOptions()).input_sha256 == units.input_sha256
    write_jsonl(path, 6)
    with pytest.raises(UserError, match="holds a run of another input"):
        freeze_captions(run, read, FreezeOptions())
    assert read_units(run).images == 5


def test_an_unfinished_freezing_leaves_nothing_behind(tmp_path):
    run = open_run_folder(str(tmp_path / "run"))
    run.write(part_name("captions", 7), b"of another cut")
    run.write(drops_name("read_captions", 7), b"of another cut")
    freeze_captions(run, write_jsonl(tmp_path / "captions.jsonl", 3), FreezeOptions())
    assert run.names("captions") == ["part-00000.parquet"]


def test_an_input_without_captions_is_refused(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": " "}\n')
    run = open_run_folder(str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"no caption could be read \(1 empty_caption\)"):
        freeze_captions(run, ReadOptions((str(tmp_path / "captions.jsonl"),)), FreezeOptions())
    assert read_units(run) is None


def test_shards_are_cut_along_themselves(tmp_path, drawn):
    for shard, numbers in (("00000", range(5)), ("00001", range(5, 8))):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in numbers:
                (tmp_path / "caption.txt").write_text(f"a red kite {number}")
                tar.add(drawn / "images" / f"{number:05d}.png", f"{number:05d}.png")
                tar.add(tmp_path / "caption.txt", f"{number:05d}.txt")
    run = open_run_folder(str(tmp_path / "run"))
    units = freeze_captions(run, ReadOptions((str(tmp_path / "*.tar"),)), FreezeOptions(images_per_unit=2))
    assert (units.scheme, units.count, units.images) == ("shards", 5, 8)
    ids = [run.read_part(part_name("captions", unit))["image_id"].to_pylist() for unit in range(5)]
    assert ids == [
        ["00000/00000", "00000/00001"],
        ["00000/00002", "00000/00003"],
        ["00000/00004"],
        ["00001/00005", "00001/00006"],
        ["00001/00007"],
    ]
    uri = run.read_part(part_name("captions", 0))["image_uri"][0].as_py()
    assert uri.startswith(f"{tmp_path}/00000.tar#member=00000.png&offset=")
    assert read_image_bytes(uri, FetchOptions()) == (drawn / "images/00000.png").read_bytes()

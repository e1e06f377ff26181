"""`ovseg filter` from command to run: rows by value, counts, and the same bytes in any order."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cosine_tables import rows_of_table
from drawn_pairs import pair_rows, write_run
from run_files import files_of, manifest_of, parts_of

from ovseg_model.pair_files import find_pair_files, open_pair_file
from pipelines import filter_pairs, unit_groups, write_tables
from pipelines.command_line import main
from pipelines.excluded_images import ExcludedImages
from pipelines.write_tables import RunFolder
from schemas import UserError, conform_rows
from schemas.image_hashes import IMAGE_HASHES


@pytest.fixture
def mined(tmp_path):
    """Eight rows in two parts: ball, box, kite, tree twice, cosines 0.100 to 0.107; odd ones are abstract."""
    rows = pair_rows(tmp_path / "images", 8, abstract=lambda index: index % 2 == 1)
    return write_run(tmp_path / "mined", [rows[:4], rows[4:]])


def filtered(source, output, *options):
    assert main(["filter", str(source), *options, "--output", str(output)]) == 0
    return output


def rows_of(run, table="pairs"):
    names = [part["path"] for part in manifest_of(run)["tables"][table]["parts"]]
    return [row for name in names for row in RunFolder(str(run)).read_part(name).to_pylist()]


def test_rows_that_hold_the_condition_are_kept_as_they_are(mined, tmp_path):
    run = filtered(mined, tmp_path / "run", "--where", "not abstract and cosine > 0.1005")
    rows = rows_of(mined)
    assert rows_of(run) == [rows[2], rows[4], rows[6]]
    dropped = {row["key"]: row["detail"] for row in rows_of(run, "drops")}
    wanted = {rows[index]["pair_id"]: "not so: not abstract" for index in (1, 3, 5, 7)}
    assert dropped == wanted | {rows[0]["pair_id"]: "not so: cosine > 0.1005"}


def test_what_is_read_is_kept_or_dropped(mined, tmp_path, capsys):
    run = filtered(mined, tmp_path / "run", "--where", "not abstract", "--cap", "1")
    assert manifest_of(run)["stages"]["filter_pairs"]["totals"] == {
        "read": 8,
        "kept": 2,
        "dropped": {"not_selected": 4, "over_noun_cap": 2},
        "measured": {"nouns_read": 4, "nouns_kept": 2},
    }
    printed = capsys.readouterr().out
    assert "nouns with pairs: 4 before, 2 after" in printed
    assert printed.endswith(f"run: {run}\n")
    assert "over_noun_cap         2" in printed


def test_the_cap_is_over_the_whole_run(mined, tmp_path):
    best = filtered(mined, tmp_path / "best", "--cap", "1")
    rows = rows_of(mined)
    assert rows_of(best) == rows[4:]  # of higher cosine than the same nouns' rows of the first part
    lowest = filtered(mined, tmp_path / "lowest", "--cap", "1", "--cap-by", "hash")
    by_noun = [min(rows[noun::4], key=lambda row: row["pair_id"]) for noun in range(4)]
    assert sorted(row["pair_id"] for row in rows_of(lowest)) == sorted(row["pair_id"] for row in by_noun)
    assert {row["detail"] for row in rows_of(best, "drops")} == {"--cap 1 keeps others of its noun, by cosine"}


def test_vocabulary_before_and_after_the_cap(mined, tmp_path):
    run = filtered(mined, tmp_path / "run", "--where", "noun != 'tree'", "--cap", "1")
    counted = [
        (row["noun"], row["captions"], row["images"], row["pairs"], row["pairs_kept"])
        for row in rows_of(run, "vocabulary")
    ]
    images = {
        noun: len({row["image_id"] for row in rows_of(mined) if row["noun"] == noun}) for noun in ("ball", "tree")
    }
    assert images == {"ball": 2, "tree": 2}
    assert counted == [("ball", 2, 2, 2, 1), ("box", 2, 2, 2, 1), ("kite", 2, 2, 2, 1), ("tree", 2, 2, 0, 0)]


def test_captions_and_images_of_a_mined_vocabulary_stay(mined, tmp_path):
    first = filtered(mined, tmp_path / "first", "--where", "noun == 'ball'")
    second = filtered(first, tmp_path / "second", "--cap", "1")
    counted = {row["noun"]: (row["captions"], row["pairs"], row["pairs_kept"]) for row in rows_of(second, "vocabulary")}
    assert counted == {"ball": (2, 2, 1), "box": (2, 0, 0), "kite": (2, 0, 0), "tree": (2, 0, 0)}


def test_a_filtered_run_is_filtered_again_and_tells_its_history(mined, tmp_path):
    first = filtered(mined, tmp_path / "first", "--where", "not abstract")
    second = filtered(first, tmp_path / "second", "--where", "cosine > 0.1005")
    both = filtered(mined, tmp_path / "both", "--where", "not abstract and cosine > 0.1005")
    assert parts_of(second, "pairs") == parts_of(both, "pairs")
    (source,) = manifest_of(second)["sources"]
    assert source["stages"]["filter_pairs"]["options"]["where"] == "not abstract"
    assert source["tables"]["pairs"]["rows"] == 4
    assert len(source["sources"]) == 1


def competing(tmp_path, order=slice(None)):
    """A run of two images in which two nouns want the same mask; parts in another order are units in another order."""
    tables = [
        rows_of_table([[0.9, 0.8, 0.1], [0.8, 0.1, 0.2]], ["dog", "cat"], image_id="a"),
        rows_of_table([[0.5, 0.4], [0.6, 0.1]], ["dog", "cow"], image_id="b"),
        rows_of_table([[0.3, 0.2]], ["dog"], image_id="c"),
    ]
    return write_run(tmp_path, [table.to_pylist() for table in tables][order])


def test_everything_at_once_in_any_order_of_parts(tmp_path):
    options = ("--where", "cosine > 0.15", "--near-duplicate-masks", "0.9", "--assign", "hungarian", "--cap", "2")
    forth = filtered(competing(tmp_path / "1"), tmp_path / "forth", *options)
    back = filtered(competing(tmp_path / "2", slice(None, None, -1)), tmp_path / "back", *options)
    by_image = [sorted(rows_of(run), key=lambda row: (row["image_id"], row["start_char"])) for run in (forth, back)]
    assert by_image[0] == by_image[1]
    assert [(row["image_id"], row["noun"], row["mask_index"]) for row in by_image[0]] == [
        ("a", "dog", 1),
        ("a", "cat", 0),
        ("b", "dog", 1),
        ("b", "cow", 0),
    ]
    assert parts_of(forth, "vocabulary") == parts_of(back, "vocabulary")


@pytest.mark.parametrize(("way", "dog"), [("greedy", 3), ("hungarian", 3), ("mutual", None)])
def test_a_near_duplicate_that_went_does_not_come_back_as_a_runner_up(tmp_path, way, dog):
    # Masks 0 and 1 are nearly one, 3 is another. The dog's pair with mask 1 goes; then the cat takes mask 0.
    cosines = [[0.9, 0.8, 0.1, 0.2], [0.99, 0.1, 0.1, 0.2]]
    rows = rows_of_table(cosines, ["dog", "cat"], masks_per_noun=2).to_pylist()
    run = filtered(
        write_run(tmp_path / "mined", [rows]),
        tmp_path / "run",
        *("--near-duplicate-masks", "0.5", "--assign", way, "--where", "cosine > 0.15"),
    )
    masks = {row["noun"]: row["mask_index"] for row in rows_of(run)}
    assert masks == {"cat": 0} | ({"dog": dog} if dog else {})
    kept, dropped = {row["pair_id"] for row in rows_of(run)}, {row["key"] for row in rows_of(run, "drops")}
    assert not kept & dropped
    assert len(rows_of(run)) + len(rows_of(run, "drops")) == len(rows)


@pytest.mark.parametrize("rows_per_group", [1, 3, 10_000])
def test_how_many_units_are_selected_from_together_changes_nothing(tmp_path, monkeypatch, rows_per_group):
    source = competing(tmp_path / "source")
    options = ("--assign", "hungarian", "--cap", "2")
    wanted = files_of(filtered(source, tmp_path / "wanted", *options))
    monkeypatch.setattr(unit_groups, "ROWS_PER_GROUP", rows_per_group)
    assert files_of(filtered(source, tmp_path / "run", *options)) == wanted


def test_near_duplicate_images_are_found_across_parts(mined, tmp_path):
    source = hashed(mined, tmp_path)
    run = filtered(source, tmp_path / "run", "--near-duplicate-images", "1")
    shas = {row["image_id"]: row["image_sha256"] for row in rows_of(mined)}
    stays, goes = sorted(["0000", "0002"], key=lambda name: shas[name])
    assert {row["image_id"] for row in rows_of(run)} == {stays, "0001", "0003"}
    assert {row["detail"] for row in rows_of(run, "drops")} == {f"kept: image {stays}, 1 bits away"}
    assert {row["image_id"] for row in rows_of(run, "drops")} == {goes}


def test_an_image_without_pairs_that_hold_the_condition_is_no_ones_twin(mined, tmp_path):
    parts = [[row | {"image_phash": "0" * 16} for row in rows_of(mined)]]
    source = write_run(tmp_path / "hashed", parts)
    (first, *_) = sorted({row["image_sha256"] for row in parts[0]})
    condition = f"image_sha256 != '{first}'"
    run = filtered(source, tmp_path / "run", "--where", condition, "--near-duplicate-images", "0")
    assert manifest_of(run)["stages"]["filter_pairs"]["totals"]["kept"] == 2


HASHES = {
    "0000": "00000000000000ff",
    "0001": "ff00000000000000",
    "0002": "00000000000000fe",
    "0003": "0000ffff00000000",
}


def hashed(mined, tmp_path):
    """The run with hashes of known distances: 0000 and 0002 are one bit apart."""
    rows = [row | {"image_phash": HASHES[row["image_id"]]} for row in rows_of(mined)]
    return write_run(tmp_path / "hashed", [rows[:4], rows[4:]])


def hash_list(path, *rows):
    """A list of images of a set "val": file name, sha256 and hash."""
    names = ("file_name", "image_sha256", "image_phash")
    listed = [{"set_name": "val", **dict(zip(names, row, strict=True))} for row in rows]
    pq.write_table(conform_rows(listed, IMAGE_HASHES), path)
    return str(path)


def test_pairs_of_images_on_a_list_are_dropped(mined, tmp_path):
    source = hashed(mined, tmp_path)
    sha256 = next(row["image_sha256"] for row in rows_of(source) if row["image_id"] == "0003")
    copies = hash_list(
        tmp_path / "copies.parquet", ("same.jpg", sha256, "f" * 16), ("near.jpg", "0" * 64, "0" * 15 + "7")
    )
    run = filtered(source, tmp_path / "run", "--where", "noun != 'tree'", "--exclude-images", copies)
    # 0000 is 5 bits from near.jpg and 0002 is 6; the distance is 4 unless it is given.
    assert {row["image_id"] for row in rows_of(run)} == {"0000", "0001", "0002"}
    totals = manifest_of(run)["stages"]["filter_pairs"]["totals"]
    assert (totals["read"], totals["kept"]) == (8, 5)
    assert totals["dropped"] == {"not_selected": 2, "excluded_image": 1}
    wider = filtered(source, tmp_path / "wider", "--exclude-images", copies, "--exclude-distance", "5")
    assert {row["image_id"] for row in rows_of(wider)} == {"0001", "0002"}
    assert {(row["image_id"], row["stage"], row["reason"], row["detail"]) for row in rows_of(wider, "drops")} == {
        ("0000", "filter_pairs", "excluded_image", "val: near.jpg, perceptual hashes 5 of 64 bits apart"),
        ("0003", "filter_pairs", "excluded_image", "val: same.jpg, the same bytes"),
    }
    by_image = [row["pair_id"] for row in rows_of(source) if row["image_id"] in ("0000", "0003")]
    assert sorted(row["key"] for row in rows_of(wider, "drops")) == sorted(by_image)


def test_an_excluded_image_stays_in_nobodys_place(mined, tmp_path):
    source = hashed(mined, tmp_path)
    shas = {row["image_id"]: row["image_sha256"] for row in rows_of(source)}
    first, other = sorted(["0000", "0002"], key=lambda image_id: shas[image_id])
    listed = hash_list(tmp_path / "list.parquet", ("x.jpg", shas[first], "f" * 16))
    options = ("--exclude-images", listed, "--near-duplicate-images", "1")
    assert other in {row["image_id"] for row in rows_of(filtered(source, tmp_path / "run", *options))}


def test_each_image_is_looked_up_once(mined, tmp_path, monkeypatch):
    looked_up = []
    monkeypatch.setattr(ExcludedImages, "find", lambda _, sha256, phash: looked_up.append(sha256))
    listed = hash_list(tmp_path / "list.parquet", ("x.jpg", "0" * 64, "0" * 16))
    everything = ("--near-duplicate-images", "0", "--cap", "1", "--assign", "greedy")
    filtered(hashed(mined, tmp_path), tmp_path / "run", "--exclude-images", listed, *everything)
    assert sorted(looked_up) == sorted({row["image_sha256"] for row in rows_of(mined)})


def test_a_list_is_known_by_what_it_says_not_by_its_place(mined, tmp_path, capsys):
    listed = hash_list(tmp_path / "list.parquet", ("x.jpg", "0" * 64, "0" * 16))
    run = filtered(mined, tmp_path / "run", "--exclude-images", listed)
    before = files_of(run)
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(listed, tmp_path / "moved/list.parquet")
    assert files_of(filtered(mined, run, "--exclude-images", str(moved))) == before
    other = hash_list(tmp_path / "other.parquet", ("y.jpg", "0" * 64, "0" * 16))
    assert main(["filter", str(mined), "--exclude-images", other, "--output", str(run)]) == 2
    assert "holds another run, or the same with other options" in capsys.readouterr().err
    fingerprint = manifest_of(run)["stages"]["filter_pairs"]["fingerprint"]
    sha256 = hashlib.sha256((tmp_path / "list.parquet").read_bytes()).hexdigest()
    assert fingerprint["excluded"] == {"lists": [sha256], "distance": 4}
    assert (
        "excluded"
        not in manifest_of(filtered(mined, tmp_path / "cap", "--cap", "1"))["stages"]["filter_pairs"]["fingerprint"]
    )


def test_the_same_command_answers_at_once_and_another_is_refused(mined, tmp_path, capsys, monkeypatch):
    run = filtered(mined, tmp_path / "run", "--cap", "1")
    before, printed = files_of(run), capsys.readouterr().out
    monkeypatch.setattr(filter_pairs, "filter_run", None)
    filtered(mined, run, "--cap", "1")
    assert capsys.readouterr().out == printed
    assert files_of(run) == before
    assert main(["filter", str(mined), "--cap", "2", "--output", str(run)]) == 2
    assert "holds another run, or the same with other options" in capsys.readouterr().err


def test_a_command_that_was_stopped_ends_in_the_same_bytes(mined, tmp_path, monkeypatch):
    wanted = files_of(filtered(mined, tmp_path / "wanted", "--cap", "1"))
    with monkeypatch.context() as patched:
        patched.setattr(filter_pairs, "finish_derived_run", interrupt)
        assert main(["filter", str(mined), "--cap", "1", "--output", str(tmp_path / "run")]) == 130
    with pytest.raises(UserError, match="is not finished"):
        find_pair_files(str(tmp_path / "run"))
    assert files_of(filtered(mined, tmp_path / "run", "--cap", "1")) == wanted


def interrupt(*_):
    raise KeyboardInterrupt


def test_finetuning_reads_a_filtered_run(mined, tmp_path):
    run = filtered(mined, tmp_path / "run", "--where", "not abstract")
    files = find_pair_files(str(run))
    assert [name.rsplit("/", 1)[1] for name in files] == ["part-00000.parquet", "part-00001.parquet"]
    assert sum(open_pair_file(name).metadata.num_rows for name in files) == 4


def test_duckdb_reads_a_filtered_run(mined, tmp_path):
    import duckdb

    run = filtered(mined, tmp_path / "run", "--where", "not abstract")
    query = f"select noun, count(*) from '{run}/pairs/*.parquet' group by noun order by noun"
    assert duckdb.sql(query).fetchall() == [("ball", 2), ("kite", 2)]


def test_nothing_kept_is_said(mined, tmp_path, capsys):
    run = filtered(mined, tmp_path / "run", "--where", "cosine > 0.9")
    assert "NOTHING was kept" in capsys.readouterr().out
    assert rows_of(run) == []


def test_the_plot_has_both_lines(mined, tmp_path):
    from io import BytesIO

    from PIL import Image

    from pipelines.draw_vocabulary import COLOURS, draw_pairs_per_noun

    data = draw_pairs_per_noun({"before": {"a": 100, "b": 10, "c": 1}, "after": {"a": 10, "b": 10}})
    pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    for colour in COLOURS:
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (pixels == rgb).all(axis=2).sum() > 100
    assert draw_pairs_per_noun({"before": {}, "after": {}})[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "nothing to select by; give --where"),
        (("--cap-by", "hash"), "nothing to select by"),
        (("--where", "colour == 'red'"), "PAIRS has no column colour|pairs has no column colour"),
        (("--where", "cosine >"), "is no condition"),
        (("--where", ""), "is empty"),
        (("--cap", "0"), "nothing to select by"),
        (("--cap", "-1"), "--cap: wanted 0 or more, got -1"),
        (("--exclude-distance", "2"), "nothing to select by; give .*--exclude-images"),
        (("--exclude-images", "nowhere.parquet"), "nowhere.parquet: cannot be read"),
        (("--cap", "1", "--exclude-distance", "64"), "--exclude-distance: wanted 0 to 63 bits, got 64"),
        (("--near-duplicate-images", "17"), "wanted 0 to 16 bits, got 17"),
        (("--near-duplicate-masks", "0"), "wanted an IoU above 0 and up to 1, got 0"),
        (("--near-duplicate-masks", "nan"), "wanted an IoU above 0 and up to 1, got nan"),
        (("--assign", "best"), "invalid choice: 'best'"),
    ],
)
def test_options_that_are_none_are_said(mined, tmp_path, capsys, options, sentence):
    import re

    assert main(["filter", str(mined), *options, "--output", str(tmp_path / "run")]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_options_that_are_left_out_are_said(mined, capsys):
    assert main(["filter", "--cap", "1"]) == 2
    assert "RUN is missing; give the folder of a finished run" in capsys.readouterr().err
    assert main(["filter", str(mined), "--cap", "1"]) == 2
    assert "--output is missing" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [lambda part: part.unlink(), lambda part: part.write_bytes(b"PAR1")])
def test_a_damaged_part_is_said(mined, tmp_path, capsys, spoil):
    spoil(mined / "pairs/part-00001.parquet")
    assert main(["filter", str(mined), "--where", "abstract", "--output", str(tmp_path / "run")]) == 2
    assert "part-00001.parquet: cannot be read" in capsys.readouterr().err


def test_rows_that_break_the_contract_are_said(mined, tmp_path, capsys):
    path = mined / "pairs/part-00000.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(0, rows.schema.field(0), pa.array(["short"] * 4)), path)
    assert main(["filter", str(mined), "--where", "abstract", "--output", str(tmp_path / "run")]) == 2
    assert "wanted 32 hex digits, got 'short'" in capsys.readouterr().err


def test_a_filter_keeps_its_sources_units(mined, tmp_path):
    run = filtered(mined, tmp_path / "run", "--cap", "1")
    units, before = (json.loads((folder / "units.json").read_text()) for folder in (run, mined))
    assert units | {"input_sha256": ""} == before | {"input_sha256": ""}
    assert units["input_sha256"] != before["input_sha256"]


def test_a_source_need_not_be_writable(mined, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(write_tables, "require_writable_folder", lambda *place: asked.append(place))
    filtered(mined, tmp_path / "run", "--cap", "1")
    assert asked == [(str(tmp_path / "run"), "--output")]


def test_files_in_memory_serve_as_well(mined, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(mined), "/filter-source", recursive=True)
    assert main(["filter", "memory://filter-source", "--cap", "1", "--output", "memory://filter-run"]) == 0
    local = filtered(mined, tmp_path / "run", "--cap", "1")
    wanted = (local / "pairs/part-00001.parquet").read_bytes()
    assert memory.cat_file("/filter-run/pairs/part-00001.parquet") == wanted

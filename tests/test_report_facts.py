"""What a report reads: samples, regions, captions and drops, by hand."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
from drawn_pairs import image_of, pair_rows, write_run
from PIL import Image

from ovseg_model.fetch_options import FetchOptions
from pipelines import report_facts
from pipelines.report_facts import (
    SCORE_COLUMNS,
    area_shares,
    choose_regions,
    lowest_keys,
    mark_captions,
    parts_by_stage,
    read_facts,
    read_sample,
    rows_at,
    spread,
)
from pipelines.write_tables import open_run_folder
from schemas import UserError
from schemas.drops import REASONS


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return pair_rows(tmp_path_factory.mktemp("images"), 24)


@pytest.fixture
def run(rows, tmp_path):
    write_run(tmp_path / "run", [rows[:10], rows[10:], []])
    return open_run_folder(str(tmp_path / "run"))


def parts(*rows):
    return [{"path": f"pairs/part-{number:05d}.parquet", "rows": count} for number, count in enumerate(rows)]


def test_small_tables_are_read_whole(run):
    sample = read_sample(run, parts(10, 14), SCORE_COLUMNS)
    assert sample.is_whole
    assert sample.rows["part"].to_pylist() == [0] * 10 + [1] * 14
    assert sample.rows["row"].to_pylist() == [*range(10), *range(14)]


def test_of_large_tables_every_nth_part_is(monkeypatch):
    monkeypatch.setattr(report_facts, "SAMPLE_ROWS", 100)
    assert spread(parts(*[50] * 6)) == parts(*[50] * 6)[::3]
    assert len(spread(parts(100))) == 1


def test_of_many_small_parts_every_nth_is(monkeypatch):
    monkeypatch.setattr(report_facts, "SAMPLE_PARTS", 2)
    assert spread(parts(1, 1, 1, 1, 1)) == parts(1, 1, 1, 1, 1)[::3]


def test_a_sample_says_what_it_left_out(run, monkeypatch):
    monkeypatch.setattr(report_facts, "SAMPLE_ROWS", 12)
    sample = read_sample(run, parts(10, 14), SCORE_COLUMNS)
    assert not sample.is_whole
    assert (sample.rows.num_rows, sample.rows_there, len(sample.paths), sample.parts_there) == (10, 24, 1, 2)


def test_areas_are_shares_of_images():
    rows = pa.table({"area_px": [6, 24], "height": [4, 4], "width": [6, 6]})
    assert area_shares(rows).tolist() == [0.25, 1.0]


def test_regions_are_the_best_middle_worst_and_smallest_hashes():
    cosines = [0.5, 0.1, 0.4, 0.2, 0.3, 0.2]
    hashes = ["c", "b", "f", "e", "d", "a"]
    pairs = pa.table({"cosine": pa.array(cosines, pa.float32()), "pair_id": hashes, "part": [0] * 6})
    assert choose_regions(pairs, 2) == {"best": [0, 2], "median": [4, 5], "worst": [1, 3], "random": [5, 1]}


def test_fewer_pairs_than_are_shown_are_all_in_every_group():
    pairs = pa.table({"cosine": pa.array([0.1, 0.2], pa.float32()), "pair_id": ["a", "b"], "part": [0, 0]})
    assert choose_regions(pairs) == {"best": [1, 0], "median": [1, 0], "worst": [0, 1], "random": [0, 1]}


def test_rows_are_found_again_in_their_parts(run, rows):
    sample = read_sample(run, parts(10, 14), SCORE_COLUMNS)
    assert [row["image_uri"] for row in rows_at(run, sample, [23, 0, 11])] == [
        rows[number]["image_uri"] for number in (23, 0, 11)
    ]


def test_the_facts_of_a_run_that_has_pairs_alone(run, rows):
    facts = read_facts(run, FetchOptions())
    assert (facts.name, facts.masks, facts.vocabulary, facts.captions, facts.timings) == ("run", None, None, [], {})
    assert [each.row["cosine"] for each in facts.regions["best"]] == pytest.approx([0.123 - n / 1000 for n in range(8)])
    assert [each.row["noun"] for each in facts.regions["worst"]] == [row["noun"] for row in rows[:8]]
    assert facts.left_out == {}
    jpeg = facts.regions["best"][0].jpeg
    assert jpeg[:2] == b"\xff\xd8"


def test_pictures_that_are_gone_changed_or_broken_are_left_out_and_counted(rows, tmp_path):
    shutil.copytree(rows[0]["image_uri"].rsplit("/", 1)[0], tmp_path / "images")
    moved = [{**row, "image_uri": str(tmp_path / "images" / row["image_uri"].rsplit("/", 1)[1])} for row in rows[:6]]
    moved[4]["mask"] = {"size": [24, 36], "counts": "0000"}
    (tmp_path / "images/0000.png").unlink()
    Image.fromarray(255 - image_of(1)).save(tmp_path / "images/0001.png")
    write_run(tmp_path / "run", [moved])
    facts = read_facts(open_run_folder(str(tmp_path / "run")), FetchOptions())
    changed, gone = (REASONS[reason].meaning for reason in ("image_changed", "image_missing"))
    assert facts.left_out == {"the mask is damaged": 1, changed: 2, gone: 2}
    assert [each.row["image_id"] for each in facts.regions["random"]] == ["0002"]


def test_a_part_that_is_damaged_is_one_sentence(run, tmp_path):
    (tmp_path / "run/pairs/part-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"part-00001.parquet: cannot be read .* give the command that made the run"):
        read_facts(run, FetchOptions())


def test_captions_get_their_own_nouns():
    captions = pa.table({"image_id": ["a", "a"], "caption_index": [0, 1], "caption": ["a kite", "sky"]})
    nouns = {"image_id": ["a", "a", "b"], "caption_index": [0, 1, 0], "noun": ["kite", "sky", "dog"]}
    marked = {each.text: [noun["noun"] for noun in each.nouns] for each in mark_captions(captions, pa.table(nouns))}
    assert marked == {"a kite": ["kite"], "sky": ["sky"]}


def test_a_few_captions_are_taken_by_hash_whatever_the_order():
    keys = np.arange(100)
    captions = pa.table({"image_id": [str(key) for key in keys], "caption_index": keys * 0, "caption": ["x"] * 100})
    none = pa.table({"image_id": pa.array([], pa.string()), "caption_index": pa.array([], pa.int32())})
    taken = [each.image_id for each in mark_captions(captions, none)]
    assert len(taken) == 12
    assert taken == [each.image_id for each in mark_captions(captions.take(keys[::-1]), none)]
    assert taken != [str(key) for key in keys[:12]]


def test_drops_are_shown_by_their_lowest_keys():
    rows = pa.table({"key": list("gfedcba"), "detail": ["x"] * 7})
    assert [row["key"] for row in lowest_keys(rows)] == list("abcde")


def test_parts_of_drops_say_their_stage():
    found = parts_by_stage([{"path": "drops/part-00000-own.parquet"}, {"path": "drops/part-00001-own.parquet"}])
    assert {stage: len(parts) for stage, parts in found.items()} == {"own": 2}

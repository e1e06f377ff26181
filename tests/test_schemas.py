"""The contract: conforming data pass unchanged, anything else is refused by table, column, row, wanted and got."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco_mask

from schemas import CAPTIONS, DROPS, MASKS, PAIRS, TABLES, VOCABULARY, SchemaError, conform, conform_rows
from schemas.drops import REASONS, STAGES, stages_in_order
from schemas.examples import draw_examples, example_rows, full_mask
from schemas.run import RUN_FORMAT, RUN_KEYS, check_run
from schemas.table import describe

CAPTION = {
    "image_id": "7",
    "image_uri": "a.png",
    "caption_index": 0,
    "caption": "a red kite",
    "source_url": None,
    "licence": None,
    "safety": None,
}


def masks_with(**changed):
    row = {**example_rows(MASKS, 1).to_pylist()[0], **changed}
    return conform_rows([row], MASKS)


def test_there_are_six_tables_and_every_column_is_described():
    assert list(TABLES) == ["captions", "nouns", "masks", "pairs", "vocabulary", "drops"]
    for table in TABLES.values():
        assert all(len(describe(field)[0]) > 8 for field in table.schema)


@pytest.mark.parametrize("name", ["height", "area_px", "box_xywh_px"])
def test_lengths_and_areas_say_their_unit(name):
    assert describe(MASKS.schema.field(name))[1] == "px"


def test_rows_become_a_table_with_the_schemas_metadata():
    table = conform_rows([CAPTION], CAPTIONS)
    assert table.schema.equals(CAPTIONS.schema, check_metadata=True)
    assert table.to_pylist() == [CAPTION]


def test_columns_may_come_in_any_order():
    shuffled = conform_rows([CAPTION], CAPTIONS).select(sorted(CAPTIONS.schema.names))
    assert conform(shuffled, CAPTIONS).column_names == CAPTIONS.schema.names


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_example_rows_conform_and_depend_on_the_seed_only(table):
    assert example_rows(table, 5, seed=3).equals(example_rows(table, 5, seed=3))
    assert example_rows(table, 5).num_rows == 5
    assert example_rows(table, 0).num_rows == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": None}, "captions, column caption, row 1: wanted string, got null"),
        ({"caption": ""}, "captions, column caption, row 1: wanted at least one character, got ''"),
        ({"caption_index": -1}, "captions, column caption_index, row 1: wanted 0 or more, got -1"),
        ({"caption_index": "two"}, "captions, column caption_index, row 1: wanted int32, got 'two'"),
        ({"caption_index": 2**40}, "captions, column caption_index, row 1: wanted int32, got 1099511627776"),
        ({"colour": "red"}, "captions, row 1: wanted the columns .* missing: none; unknown: colour"),
    ],
)
def test_a_broken_row_is_named(changed, message):
    with pytest.raises(SchemaError, match=message):
        conform_rows([CAPTION, {**CAPTION, **changed}], CAPTIONS)


def test_a_missing_column_and_another_type_are_named():
    table = conform_rows([CAPTION], CAPTIONS)
    with pytest.raises(SchemaError, match=r"captions: wanted the columns .* missing: caption;"):
        conform(table.drop_columns("caption"), CAPTIONS)
    other = table.set_column(2, "caption_index", pa.array([0], pa.int64()))
    with pytest.raises(SchemaError, match="captions, column caption_index: wanted int32, got int64"):
        conform(other, CAPTIONS)


def test_a_mask_of_another_size_than_its_image_is_refused():
    assert masks_with(height=4, width=6, mask=full_mask(4, 6), box_xywh_px=[0, 0, 6, 4], area_px=24).num_rows == 1
    with pytest.raises(
        SchemaError, match=r"masks, column mask, row 0: wanted size \(height, width\).*'size': \[6, 4\]"
    ):
        masks_with(height=4, width=6, mask=full_mask(6, 4), box_xywh_px=[0, 0, 6, 4], area_px=24)


@pytest.mark.parametrize("box", [[0, 0, 0, 1], [-1, 0, 1, 1], [0, 0, 100, 1], [0, 0, 1, 100]])
def test_a_box_outside_its_image_is_refused(box):
    with pytest.raises(SchemaError, match="masks, column box_xywh_px, row 0: wanted a box with an area, inside"):
        masks_with(box_xywh_px=box)


def test_masks_are_checked_in_slices_too():
    rows = example_rows(MASKS, 4)
    assert conform(rows.slice(2, 2), MASKS).num_rows == 2


def test_pairs_check_scores():
    row = example_rows(PAIRS, 1).to_pylist()[0]
    for column, value in (("cosine", 1.5), ("cosine", float("nan")), ("mask_rank", 0), ("noun_rank", 0)):
        with pytest.raises(SchemaError, match=f"pairs, column {column}, row 0"):
            conform_rows([{**row, column: value}], PAIRS)
    assert conform_rows([{**row, "margin": None}], PAIRS)["margin"].null_count == 1


def test_vocabulary_keeps_no_more_than_there_is():
    row = {"noun": "kite", "captions": 2, "images": 1, "pairs": 1, "pairs_kept": 2}
    with pytest.raises(SchemaError, match="vocabulary, column pairs_kept, row 0: wanted no more than pairs, got 2"):
        conform_rows([row], VOCABULARY)


def test_drops_have_a_closed_list_of_reasons():
    row = example_rows(DROPS, 1).to_pylist()[0]
    with pytest.raises(SchemaError, match=r"drops, column reason, row 0: .* got 'bad_luck'"):
        conform_rows([{**row, "reason": "bad_luck"}], DROPS)
    with pytest.raises(SchemaError, match="drops, column stage"):
        conform_rows([{**row, "stage": "lunch"}], DROPS)
    assert all(reason.meaning for reason in REASONS.values())
    assert len(STAGES) == 7


def test_full_mask_is_cocos_code():
    for height, width in ((1, 1), (4, 6), (31, 33), (480, 640)):
        decoded = coco_mask.decode(full_mask(height, width))
        assert decoded.shape == (height, width)
        assert decoded.all()


def test_drawn_examples_are_the_same_every_time_and_fit_their_instances(tmp_path):
    folder = draw_examples(tmp_path / "a", 3, size_px=64)
    again = draw_examples(tmp_path / "b", 3, size_px=64)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert [str(name) for name in names][:2] == ["captions.json", "images/00000.png"]
    hashes = [hashlib.sha256((root / name).read_bytes()).hexdigest() for root in (folder, again) for name in names]
    assert hashes[: len(names)] == hashes[len(names) :]


def test_a_drawn_thing_is_where_its_polygon_is(tmp_path):
    import json

    from PIL import Image

    folder = draw_examples(tmp_path, 1, size_px=64)
    last = json.loads((folder / "instances.json").read_text())["annotations"][-1]
    pixels = np.asarray(Image.open(folder / "images/00000.png"))
    inside = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(last["segmentation"], 64, 64))).astype(bool)
    _, counts = np.unique(pixels[inside], axis=0, return_counts=True)
    assert counts.max() / inside.sum() > 0.9


def manifest(**changed):
    run = {
        "format": RUN_FORMAT,
        "units": {},
        "stages": {"extract_nouns": {"totals": {"read": 3, "kept": 2, "dropped": {"no_nouns": 1}}}},
        "tables": {"nouns": {"rows": 2, "parts": [{"rows": 2}]}},
        "weights": [],
        "sources": [],
        "versions": {},
        "meaningless": False,
    }
    return {**run, **changed}


def test_a_manifest_adds_up():
    assert check_run(manifest()).keys() == RUN_KEYS.keys()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 99}, f"wanted format {RUN_FORMAT}, got 99"),
        ({"more": 1}, r"unknown keys \['more'\]"),
        ({"stages": {"x": {"totals": {"read": 3, "kept": 1, "dropped": {}}}}}, "stage x: kept 1 and dropped 0 are not"),
        ({"tables": {"nouns": {"rows": 3, "parts": [{"rows": 2}]}}}, "table nouns: wanted 3 rows, its parts have 2"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(changed, message):
    with pytest.raises(SchemaError, match=message):
        check_run(manifest(**changed))


def test_a_mask_in_two_pieces_may_have_less_area_than_its_box_is_long():
    """As an occluded thing has it: two pixels in the corners of a box of six by four."""
    rows = masks_with(height=4, width=6, mask=full_mask(4, 6), box_xywh_px=[0, 0, 6, 4], area_px=2)
    assert rows["area_px"].to_pylist() == [2]
    for area in (0, 25):
        with pytest.raises(SchemaError, match="wanted a pixel or more, no more than the tight box"):
            masks_with(height=4, width=6, mask=full_mask(4, 6), box_xywh_px=[0, 0, 6, 4], area_px=area)


def test_stages_stand_in_the_order_of_the_data():
    assert stages_in_order({"match_regions", "own", "read_captions"}) == ["read_captions", "match_regions", "own"]

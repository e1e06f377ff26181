"""Class tables: names and raw ids as published, and which classes are seen, by a rule."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from ovseg_model.datasets.benchmark import (
    IGNORE,
    LABEL_MAP_BENCHMARKS,
    BenchmarkClass,
    check_count,
    open_benchmark_split,
    open_label_map_benchmark,
    positions_by_raw_id,
)
from ovseg_model.datasets.seen_classes import seen_classes
from schemas.errors import UserError

REPOSITORY = Path(__file__).parent.parent
CLASSES = {
    "ade20k-150": 150,
    "ade20k-847": 847,
    "pascal-context-59": 59,
    "pascal-context-459": 459,
    "pascal-voc-20": 20,
    "coco-stuff-171": 171,
    "scenes": 44,
}
LISTS = {
    "ade20k-150": "ade150",
    "ade20k-847": "ade847",
    "pascal-context-59": "pc59",
    "pascal-context-459": "pc459",
    "pascal-voc-20": "voc20",
    "coco-stuff-171": "coco",
}
RAW_IDS = {
    "ade20k-847": "ade20k_847_ids",
    "pascal-context-59": "pascal_context_59_ids",
    "coco-stuff-171": "coco_stuff_171_ids",
}


def catseg_classes(name):
    benchmark = open_label_map_benchmark(name)
    order = benchmark.catseg_order or range(len(benchmark.classes))
    return [benchmark.classes[position] for position in order]


@pytest.mark.parametrize("name", LABEL_MAP_BENCHMARKS)
def test_every_class_stands_once_under_each_of_its_names(name):
    classes = open_label_map_benchmark(name).classes
    for column in range(3):
        assert len({each[column] for each in classes}) == len(classes) == CLASSES[name]


@pytest.mark.parametrize("name", LISTS)
def test_catseg_names_are_catsegs(name, test_data):
    published = json.loads((test_data / "class_lists" / f"{LISTS[name]}.json").read_text())
    assert [each.catseg_name for each in catseg_classes(name)] == published


@pytest.mark.parametrize("name", RAW_IDS)
def test_raw_ids_are_the_published_ones(name, test_data):
    published = json.loads((test_data / "class_lists" / f"{RAW_IDS[name]}.json").read_text())
    assert [row["train_id"] for row in published] == list(range(CLASSES[name]))
    assert [each.raw_id for each in catseg_classes(name)] == [row["raw_id"] for row in published]


@pytest.mark.parametrize("name", ["ade20k-150", "pascal-context-459", "pascal-voc-20"])
def test_raw_ids_count_from_one_where_zero_is_no_class(name):
    assert [each.raw_id for each in open_label_map_benchmark(name).classes] == list(range(1, CLASSES[name] + 1))


def test_names_stand_verbatim():
    ade = open_label_map_benchmark("ade20k-150")
    assert [ade.names()[position] for position in (6, 7, 8, 36)] == ["road, route", "bed", "window ", "lamp"]
    assert [ade.names("catseg")[position] for position in (6, 7, 8)] == ["road", "bed ", "windowpane"]
    assert {"pottedplant", "diningtable", "tvmonitor"} < set(open_label_map_benchmark("pascal-voc-20").names())
    assert {"wall-brick", "building-other"} < set(open_label_map_benchmark("coco-stuff-171").names())
    assert open_label_map_benchmark("ade20k-847").names()[4] == "road, route"


def test_pascal_context_is_ordered_in_two_ways():
    fifty_nine = open_label_map_benchmark("pascal-context-59")
    assert fifty_nine.names()[:3] == ("aeroplane", "bicycle", "bird")
    assert [each.name for each in catseg_classes("pascal-context-59")][:3] == ["aeroplane", "bag", "bed"]
    assert fifty_nine.classes[10] == BenchmarkClass(397, "table", "diningtable")
    full = open_label_map_benchmark("pascal-context-459")
    assert full.catseg_order is None
    assert full.classes[2] == BenchmarkClass(3, "air conditioner", "airconditioner")
    assert [each.catseg_name.replace(" ", "") for each in full.classes] == [
        each.name.replace(" ", "") for each in full.classes
    ]


def test_both_contexts_mean_the_same_by_a_raw_id():
    full = {each.raw_id: each.name for each in open_label_map_benchmark("pascal-context-459").classes}
    for each in open_label_map_benchmark("pascal-context-59").classes:
        assert full[each.raw_id] == each.name


def test_raw_values_that_are_no_class_are_ignored():
    classes = [BenchmarkClass(3, "a", "a"), BenchmarkClass(1, "b", "b")]
    assert positions_by_raw_id(classes, 5).tolist() == [IGNORE, 1, IGNORE, 0, IGNORE]
    assert positions_by_raw_id(classes, 5).dtype == np.uint16


def test_seen_is_any_synonym_glued_or_before_a_dash():
    names = [
        "buffet, counter",  # a synonym
        "pottedplant",  # glued
        "Fire-Hydrant",  # capitals and hyphen
        "door",  # door-stuff
        "brick wall",  # wall-brick
        "sofa",  # couch
        "brick",  # only a kind of wall there
        "shelves",  # a plural
        "andiron, firedog, dog, dog-iron",  # no dog
    ]
    assert seen_classes(BenchmarkClass(0, name, "") for name in names) == set(names[:6])


def test_all_of_voc_and_of_the_taxonomy_itself_is_seen():
    for name in ("pascal-voc-20", "coco-stuff-171"):
        benchmark = open_label_map_benchmark(name)
        assert benchmark.seen == set(benchmark.names())


def test_the_documented_table_is_the_truth():
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    for name in LABEL_MAP_BENCHMARKS:
        benchmark = open_label_map_benchmark(name)
        counts = f"{benchmark.official_images:,} | {len(benchmark.classes)} | {len(benchmark.seen)}"
        assert f"| `{name}` | {counts} | {benchmark.settings.clip_weight} |" in page


def test_weights_of_clip_are_ovsegs():
    weights = {name: open_label_map_benchmark(name).settings.clip_weight for name in CLASSES}
    assert weights == {
        "ade20k-150": 0.7,
        "ade20k-847": 0.7,
        "pascal-context-59": 0.6,
        "pascal-context-459": 0.6,
        "pascal-voc-20": 0.45,
        "coco-stuff-171": 0.6,
        "scenes": 0.6,
    }


def test_a_split_is_named_behind_a_colon():
    benchmark, split = open_benchmark_split("ade20k-150:train")
    assert (benchmark.name, split) == ("ade20k-150", "train")
    assert open_benchmark_split("scenes")[1] == "test"
    with pytest.raises(UserError, match="ade20k-150 has no split 'test': wanted one of val, train"):
        open_benchmark_split("ade20k-150:test")
    with pytest.raises(UserError, match="benchmark 'ade20k' is not known: wanted one of ade20k-150, "):
        open_benchmark_split("ade20k:val")


def test_another_number_of_images_is_said():
    ade, context = open_label_map_benchmark("ade20k-150"), open_label_map_benchmark("pascal-context-59")
    assert check_count(ade, 2000) is None
    assert check_count(ade, 20_210, "train") is None
    assert check_count(ade, 1) == (
        "ade20k-150: 1 images of val, officially it has 2,000; "
        "numbers of another set of images compare with no published ones"
    )
    assert check_count(context, 5105) is None
    assert "5,104 images of val, officially it has 5,105; 5,104 is the number of published logs" in check_count(
        context, 5104
    )
    assert "compare with no published ones" in check_count(context, 5104, "train")


def test_class_tables_are_packed_with_the_code():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["ovseg_model.datasets"] == ["class_tables/*.tsv"]

"""Regions of known classes: from drawn scenes, COCO's JSON, and the label maps of a benchmark."""

import json

import numpy as np
import pytest
from PIL import Image

from ovseg_model import labelled_regions
from ovseg_model.datasets.benchmark import (
    IGNORE,
    BenchmarkClass,
    LabelledSample,
    LabelMapBenchmark,
    OvsegSettings,
)
from ovseg_model.datasets.scene_check import SIZE_PX
from ovseg_model.datasets.scene_files import write_scenes
from ovseg_model.datasets.scenes import draw_scene, numbers
from ovseg_model.labelled_regions import label_map_regions, open_labelled_set
from schemas.errors import UserError

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]  # columns 1 and 2, rows 1 and 2
COLUMN = {"size": [4, 6], "counts": [0, 4, 20]}  # the first column
SLIVER = [[1, 1, 1, 1, 1, 1]]  # no pixel


def annotation(number, image_id, category_id, segmentation, crowd=0):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


ANNOTATIONS = [
    annotation(1, 2, 90, SQUARE),
    annotation(2, 1, 90, SQUARE, crowd=1),
    annotation(3, 1, 4, SLIVER),
    annotation(4, 3, 4, SQUARE),
    annotation(5, 3, 90, SLIVER),
    annotation(6, 3, 90, COLUMN),
    annotation(7, 4, 4, COLUMN, crowd=1),
]
NAMES = {1: "c.png", 2: "b.png", 3: "a.png", 4: "d.png"}


def write_coco(root, annotations=ANNOTATIONS, categories=((90, "toothbrush"), (4, "car"))):
    images = [{"id": number, "file_name": name, "height": 4, "width": 6} for number, name in NAMES.items()]
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (root / "instances.json").write_text(json.dumps(document))
    (root / "images").mkdir(exist_ok=True)
    for number, name in NAMES.items():
        Image.new("RGB", (6, 4), (number, 0, 0)).save(root / "images" / name)
    return f"coco:{root}/instances.json:{root}/images"


def regions(labelled):
    return [
        (int(image.image_HW3[0, 0, 0]), image.masks_NHW.astype(int).tolist(), image.truth_N.tolist())
        for image in labelled.images()
    ]


def test_coco_annotations_are_regions_without_crowds_and_empty_masks(tmp_path):
    labelled = open_labelled_set(write_coco(tmp_path), 10)
    assert labelled.classes == ("toothbrush", "car")
    square = [[0] * 6, [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6]
    column = [[1, 0, 0, 0, 0, 0]] * 4
    # By file name: a.png is image 3, b.png image 2; c.png and d.png have nothing but a sliver and crowds.
    assert regions(labelled) == [(3, [square, column], [1, 0]), (2, [square], [0])]
    assert regions(labelled) == regions(labelled)
    image = next(labelled.images())
    assert (image.masks_NHW.dtype, image.truth_N.dtype, image.image_HW3.shape) == (bool, np.int64, (4, 6, 3))


def test_a_limit_counts_images_with_regions_and_looks_no_further(tmp_path):
    name = write_coco(tmp_path, [*ANNOTATIONS[:6], annotation(9, 4, 4, [[1, 2]])])
    assert [image for image, _, _ in regions(open_labelled_set(name, 2))] == [3, 2]
    with pytest.raises(UserError, match="annotation 9: a polygon wants three points or more"):
        open_labelled_set(name, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": [annotation(1, 7, 4, SQUARE)]}, "annotation 1 is of image 7, which is not among"),
        ({"annotations": [annotation(1, 1, 5, SQUARE)]}, "annotation 1 is of category 5, which is not among"),
        ({"annotations": [annotation(1, 1, 4, [])]}, "annotation 1 has a box only"),
        ({"annotations": [{"id": 1}]}, "wanted a COCO instances JSON: .*KeyError: 'image_id'"),
        ({"categories": [(90, "car"), (4, "car")]}, "two categories are called 'car'"),
    ],
)
def test_a_json_that_is_wrong_is_refused_before_any_work(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        open_labelled_set(write_coco(tmp_path, **changed), 10)


def test_images_that_are_missing_or_of_another_size_are_refused(tmp_path):
    name = write_coco(tmp_path)
    Image.new("RGB", (4, 6)).save(tmp_path / "images" / "a.png")
    labelled = open_labelled_set(name, 10)
    with pytest.raises(UserError, match=r"a\.png is 6 x 4, its annotations are of 4 x 6 \(height x width\)"):
        next(labelled.images())
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files are missing, the first is .*b\.png"):
        open_labelled_set(name, 10)
    with pytest.raises(UserError, match=r"wanted coco:INSTANCES\.json:IMAGES_FOLDER"):
        open_labelled_set(f"coco:{tmp_path}/instances.json", 10)


def test_the_real_sample_opens(test_data):
    folder = test_data / "coco_sample"
    labelled = open_labelled_set(f"coco:{folder}/instances.json:{folder}/images", 1000)
    document = json.loads((folder / "instances.json").read_text())
    named = {row["id"]: row["name"] for row in document["categories"]}
    wanted = sorted(named[each["category_id"]] for each in document["annotations"] if not each["iscrowd"])
    got = [labelled.classes[each] for image in labelled.images() for each in image.truth_N]
    assert len(got) == 953
    assert sorted(got) == wanted


LABEL_MAPS = {
    "a": [[0, 0, IGNORE], [2, 2, 0]],
    "b": [[IGNORE, IGNORE, IGNORE], [1, 1, 1]],
    "c": [[IGNORE] * 3] * 2,
}


def fake_benchmark():
    return LabelMapBenchmark(
        name="fake-3",
        title="Fake",
        classes=tuple(BenchmarkClass(number, name, name) for number, name in enumerate(("wall", "road, route", "sky"))),
        splits={"val": 3},
        default_split="val",
        read_split=lambda root, split: [LabelledSample(name, f"{root}/{name}.jpg", name) for name in LABEL_MAPS],
        read_labels=lambda sample: np.array(LABEL_MAPS[sample.name], np.uint16),
        read_image=lambda sample: np.full((2, 3, 3), ord(sample.name), np.uint8),
        settings=OvsegSettings(0.7),
    )


def test_a_label_map_gives_a_region_for_each_class_that_it_has(tmp_path):
    labelled = label_map_regions(fake_benchmark(), tmp_path, 10)
    assert (labelled.name, labelled.classes) == (f"fake-3@{tmp_path}", ("wall", "road, route", "sky"))
    assert regions(labelled) == [
        (ord("a"), [[[1, 1, 0], [0, 0, 1]], [[0, 0, 0], [1, 1, 0]]], [0, 2]),
        (ord("b"), [[[0, 0, 0], [1, 1, 1]]], [1]),
        (ord("c"), [], []),
    ]
    *_, empty = labelled.images()
    assert (empty.masks_NHW.shape, empty.masks_NHW.dtype, empty.truth_N.dtype) == ((0, 2, 3), bool, np.int64)
    assert len(regions(label_map_regions(fake_benchmark(), tmp_path, 1))) == 1


def test_a_benchmark_is_named_with_its_root(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        labelled_regions, "open_label_map_benchmark", lambda name: asked.append(name) or fake_benchmark()
    )
    (tmp_path / "data@home").mkdir()
    labelled = open_labelled_set(f"ade20k-150@{tmp_path}/data@home", 10)
    assert asked == ["ade20k-150"]
    assert labelled.name == f"fake-3@{tmp_path}/data@home"


def test_drawn_scenes_and_their_folder_are_the_same(tmp_path):
    shown = list(numbers("test", 2))
    write_scenes(tmp_path, (draw_scene(number, SIZE_PX, "painted") for number in shown))
    drawn, stored = open_labelled_set("scenes", 2), open_labelled_set(str(tmp_path), 2)
    assert drawn.classes == stored.classes
    for one, other in zip(drawn.images(), stored.images(), strict=True):
        assert (one.image_HW3 == other.image_HW3).all()
        assert (one.masks_NHW == other.masks_NHW).all()
        assert (one.truth_N == other.truth_N).all()


def test_a_name_that_is_no_set_says_which_are(tmp_path):
    with pytest.raises(UserError, match=r"labelled set .*nowhere: wanted scenes, scenes:ink, coco:.*ade20k-150.*or a"):
        open_labelled_set(str(tmp_path / "nowhere"), 10)
    with pytest.raises(UserError, match="labelled set ade20k-15@data: wanted scenes"):
        open_labelled_set("ade20k-15@data", 10)
    with pytest.raises(UserError, match="scenes:watercolour: wanted one of"):
        open_labelled_set("scenes:watercolour", 10)

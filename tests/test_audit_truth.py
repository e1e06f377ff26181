"""Labels of people, each kind as pixels of labels and single things, and what lies under a mask."""

import json

import numpy as np
import pytest
from PIL import Image

from ovseg_model import rle
from ovseg_model.datasets.scene_files import write_scenes
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import SPLITS, draw_scene
from pipelines.audit_truth import (
    NO_LABEL,
    first_pixel,
    labels_under,
    open_instances,
    open_label_maps,
    open_scenes,
    read_names,
    truth_of_map,
    truth_of_things,
)
from schemas import UserError


def mask(rows, columns, size=(4, 10)):
    """An RLE of a rectangle."""
    pixels = np.zeros((1, *size), bool)
    pixels[0, rows, columns] = True
    return rle.encode_masks(pixels)[0]


ALL = slice(None)
MASKS = [mask(ALL, slice(0, 2)), mask(ALL, slice(1, 3)), mask(ALL, slice(5, 9))]
TRUTH = truth_of_things((4, 10), [3, 3, 1], MASKS, [False, True, False])


def test_things_of_a_label_join_and_crowds_are_no_things():
    assert TRUTH.labels == (1, 3)
    assert rle.areas_px(TRUTH.regions).tolist() == [16, 12]
    assert TRUTH.thing_labels == (3, 1)


@pytest.mark.parametrize(
    ("columns", "min_cover", "label"),
    [
        (slice(0, 2), 0.5, 3),
        (slice(1, 5), 0.5, 3),  # half of it labelled, all of that 3
        (slice(2, 6), 0.5, NO_LABEL),  # a quarter 3, a quarter 1, half of it nothing
        (slice(2, 9), 0.5, 1),
        (slice(3, 5), 0.5, NO_LABEL),
        (slice(1, 5), 0.6, NO_LABEL),
        (slice(4, 6), 0.0, 1),  # as much labelled as not: the label counts
        (slice(3, 6), 0.0, NO_LABEL),  # more of it nothing than anything
    ],
)
def test_the_label_under_a_mask_has_most_of_its_pixels(columns, min_cover, label):
    assert labels_under([mask(ALL, columns)], TRUTH, min_cover).tolist() == [label]


def test_of_equal_shares_the_first_label_counts_and_without_labels_there_is_none():
    split = truth_of_map(np.repeat([[1, 0]], 2, axis=0).repeat(2, axis=1).astype(np.uint8), 2)
    assert labels_under([mask(ALL, ALL, (2, 4))], split, 0.5).tolist() == [0]
    blank = truth_of_map(np.full((2, 4), 255, np.uint8), 2)
    assert labels_under([mask(ALL, ALL, (2, 4))], blank, 0.0).tolist() == [NO_LABEL]
    assert labels_under([], split, 0.5).tolist() == []


def test_the_things_of_a_map_are_its_regions():
    truth = truth_of_map(np.array([[0, 2, 255], [0, 2, 2]], np.uint8), 3)
    assert (truth.labels, truth.thing_labels) == ((0, 2), (0, 2))
    assert rle.areas_px(truth.things).tolist() == [2, 3]


@pytest.mark.parametrize(("rows", "columns", "place"), [(0, 0, 0), (2, 3, 23), (slice(1, 3), slice(4, 6), 14)])
def test_the_first_pixel_of_a_mask(rows, columns, place):
    assert first_pixel(mask(rows, columns)) == place


@pytest.fixture
def instances(tmp_path):
    """One image of two annotations, one without; category ids are not in order of the list."""
    box = [[0, 0, 2, 0, 2, 4, 0, 4]]
    size, dog = {"height": 4, "width": 10}, {"image_id": 7, "segmentation": box}
    document = {
        "images": [{"id": 7, "file_name": "a/dog.jpg", **size}, {"id": 8, "file_name": "b.jpg", **size}],
        "annotations": [{"id": 1, "category_id": 18, **dog}, {"id": 2, "category_id": 2, "iscrowd": 1, **dog}],
        "categories": [{"id": 18, "name": "Dog"}, {"id": 2, "name": "wine glass"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_images_of_a_coco_json_are_found_by_id_or_file_name(instances):
    truth = open_instances(instances)
    assert truth.names == (("dog",), ("wine glass",))
    by_id = truth.image("7", "elsewhere/x.png")
    assert by_id == truth.image("no id", "/images/dog.png")
    assert (by_id.size, by_id.labels, by_id.thing_labels) == ((4, 10), (0, 1), (0,))
    assert truth.image("8", "").labels == ()
    assert truth.image("9", "x.jpg") is None
    assert truth.describe() == {"kind": "annotations", "source": "instances.json", "images": 2, "annotations": 2}


def test_an_unknown_category_is_one_sentence(instances):
    instances.write_text(instances.read_text().replace('"id": 18', '"id": 19'))
    with pytest.raises(UserError, match="annotation 1 is of category 18, which is not among"):
        open_instances(instances)


@pytest.fixture
def maps(tmp_path):
    """A folder with the map a.png, and two names."""
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.array([[0, 1, 255], [0, 1, 7]], np.uint8)).save(tmp_path / "maps/a.png")
    (tmp_path / "names.txt").write_text("Road, route\nsky\n")
    return tmp_path


def test_a_folder_of_label_maps(maps):
    truth = open_label_maps(str(maps / "maps"), str(maps / "names.txt"), (255, 7))
    assert truth.names == (("road", "route"), ("sky",))
    assert truth.image("any", "/images/a.jpg").labels == (0, 1)
    assert truth.image("any", "/images/b.jpg") is None


def test_a_value_without_a_name_is_refused(maps):
    truth = open_label_maps(str(maps / "maps"), str(maps / "names.txt"), ())
    with pytest.raises(UserError, match="a has the value 7, and --class-names has 2 lines"):
        truth.image("any", "/images/a.jpg")


def test_names_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path / "gone.txt")
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no name"):
        read_names(tmp_path / "names.txt")


def test_a_scene_has_no_gaps_and_its_visible_regions_are_things(tmp_path):
    scene = draw_scene(SPLITS["val"][0], 48)
    write_scenes(tmp_path, [scene])
    truth = open_scenes(tmp_path)
    found = truth.image(str(scene.number), "")
    clutter = len(NAMES)
    assert truth.names[clutter] == ("clutter",)
    assert found.labels == tuple(np.unique(np.minimum(scene.labels_HW, clutter)).tolist())
    assert sum(rle.areas_px(found.regions)) == 48 * 48
    values = [value for value in np.unique(scene.instances_HW) if value]
    assert len(found.things) == len(values) > 0
    assert list(found.thing_labels) == [int(scene.labels_HW[scene.instances_HW == value][0]) for value in values]


def test_a_folder_of_other_pictures_is_no_scenes(tmp_path):
    with pytest.raises(UserError, match=r"has no classes.json; give the folder that ovseg draw-scenes wrote"):
        open_scenes(tmp_path)

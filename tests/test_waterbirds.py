"""Waterbirds in group_DRO's own files, small and by hand."""

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.waterbirds import FOLDER, GROUPS, WATERBIRDS, BirdSample, read_region, region_note
from schemas.errors import UserError

HEADER = "img_id,img_filename,y,split,place,place_filename"
ROWS = [
    "1,001.Albatross/A_1.jpg,1,2,0,/b/bamboo_forest/1.jpg",
    "2,002.Wren/W_1.jpg,0,0,0,/b/bamboo_forest/2.jpg",
    "3,002.Wren/W_2.jpg,0,2,1,/o/ocean/3.jpg",
    "4,001.Albatross/A_2.jpg,1,0,1,/o/ocean/4.jpg",
    "5,002.Wren/W_3.jpg,0,0,0,/b/bamboo_forest/5.jpg",
    "6,002.Wren/W_4.jpg,0,1,0,/b/bamboo_forest/6.jpg",
]


def write_birds(root, rows=ROWS, header=HEADER, folder=FOLDER):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    for row in rows:
        image = root / folder / row.split(",")[1]
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(image)
    return root


def write_mask(root, name, values, mode="L"):
    path = root / "segmentations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).convert(mode).save(path)
    return path


def test_a_split_has_its_birds_in_order_with_group_and_files(tmp_path):
    samples = WATERBIRDS.find_samples(write_birds(tmp_path), "test")
    assert samples == [
        BirdSample("001.Albatross/A_1", str(tmp_path / FOLDER / "001.Albatross/A_1.jpg"), None, 1, 0),
        BirdSample("002.Wren/W_2", str(tmp_path / FOLDER / "002.Wren/W_2.jpg"), None, 0, 1),
    ]
    assert [GROUPS[sample.group] for sample in samples] == ["waterbird on land", "landbird on water"]
    assert [WATERBIRDS.classes[sample.label] for sample in samples] == ["waterbird", "landbird"]
    assert region_note(samples).startswith("The region is the whole image")
    assert read_region(samples[0], 2, 3).tolist() == [[True] * 3] * 2


def test_the_folder_itself_may_be_the_root(tmp_path):
    assert [each.name for each in WATERBIRDS.find_samples(write_birds(tmp_path, folder="."), "val")] == ["002.Wren/W_4"]


def test_training_images_of_each_group_are_counted_whatever_the_split(tmp_path):
    assert WATERBIRDS.train_group_counts(write_birds(tmp_path)).tolist() == [2, 0, 0, 1]


def test_another_count_of_a_group_is_said(tmp_path):
    samples = WATERBIRDS.find_samples(write_birds(tmp_path), "test")
    assert WATERBIRDS.count_warning("test", samples).startswith(
        "Waterbirds test has (2255, 2255, 642, 642) images a group, here are (0, 1, 1, 0): "
    )
    official = [BirdSample("", "", None, group // 2, group % 2) for group in range(4)]
    counts = zip(official, WATERBIRDS.splits["val"], strict=True)
    assert WATERBIRDS.count_warning("val", [sample for sample, count in counts for _ in range(count)]) == ""


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_the_region_is_what_most_people_marked(tmp_path, mode):
    write_mask(write_birds(tmp_path), "001.Albatross/A_1.png", [[0, 102, 153], [127, 128, 255]], mode)
    write_mask(tmp_path, "002.Wren/W_2.png", [[0, 51, 102], [0, 0, 0]], mode)
    samples = WATERBIRDS.find_samples(tmp_path, "test")
    assert region_note(samples) == "The region is the bird, by CUB's masks."
    assert read_region(samples[0], 2, 3).tolist() == [[False, False, True], [False, True, True]]
    # Nowhere three of five, so anyone's.
    assert read_region(samples[1], 2, 3).tolist() == [[False, True, True], [False] * 3]


def test_masks_are_for_all_or_none(tmp_path):
    write_mask(write_birds(tmp_path), "001.Albatross/A_1.png", [[255] * 3] * 2)
    with pytest.raises(UserError, match=r"masks: 1 of 2 files are missing, the first is .*W_2\.png; .*CUB-200-2011"):
        WATERBIRDS.find_samples(tmp_path, "test")


def test_masks_that_cannot_be_are_refused(tmp_path):
    empty = write_mask(tmp_path, "empty.png", [[0] * 3] * 2)
    with pytest.raises(UserError, match=r"empty\.png is empty"):
        read_region(BirdSample("", "", str(empty), 0, 0), 2, 3)
    with pytest.raises(UserError, match="is 2 x 3, its image 3 x 2"):
        read_region(BirdSample("", "", str(empty), 0, 0), 3, 2)
    empty.write_text("no picture")
    with pytest.raises(UserError, match="cannot be read"):
        read_region(BirdSample("", "", str(empty), 0, 0), 2, 3)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("img_id,img_filename,y,split", "1,a.jpg,1,2", "columns img_filename, y .*KeyError: 'place'"),
        (HEADER, "1,a.jpg,1,3,0,x", "ValueError: y 1, split 3, place 0 of a.jpg"),
        (HEADER, "1,a.jpg,yes,2,0,x", "ValueError"),
        (HEADER, "1,a.jpg,1", "TypeError"),
        (HEADER, "1,a.jpg,1,0,0,x", "metadata.csv has no image of split test"),
    ],
)
def test_metadata_of_another_kind_is_refused(tmp_path, header, row, message):
    with pytest.raises(UserError, match=message):
        WATERBIRDS.find_samples(write_birds(tmp_path, [row], header), "test")


def test_what_is_missing_is_named_with_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.csv is not there, nor is .*group_DRO"):
        WATERBIRDS.find_samples(tmp_path, "test")
    (write_birds(tmp_path) / FOLDER / "002.Wren/W_2.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files are missing, the first is .*W_2\.jpg"):
        WATERBIRDS.find_samples(tmp_path, "test")
    with pytest.raises(UserError, match="Waterbirds has no split 'dev': wanted one of train, val, test"):
        WATERBIRDS.find_samples(tmp_path, "dev")

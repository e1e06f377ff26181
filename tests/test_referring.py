"""Expressions and their masks: REFER's and ReasonSeg's files in their own formats, small and by hand."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets import reasonseg
from ovseg_model.datasets.reasonseg import IGNORED, TARGET, Shape, draw_shapes
from ovseg_model.datasets.refcoco import REFCOCO, REFCOCO_PLUS, REFCOCOG
from ovseg_model.datasets.referring import REFERRING_BENCHMARKS, open_referring_benchmark
from ovseg_model.rle import decode_masks
from schemas.errors import UserError

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]  # columns 1 and 2, rows 1 and 2
COLUMN = {"size": [4, 6], "counts": [0, 4, 20]}  # the first column
IMAGE = "COCO_train2014_000000000009"


def reference(ref_id, split, ann_id, *sentences):
    """A reference with all that REFER's have; `file_name` is not that of the image."""
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1,
        "file_name": f"{IMAGE}_{ann_id}.jpg",
        "image_id": 9,
        "sent_ids": [number for number, _ in sentences],
        "sentences": [
            {"raw": text.upper(), "sent": text, "sent_id": number, "tokens": text.split()} for number, text in sentences
        ],
        "split": split,
    }


REFERENCES = [
    reference(0, "testA", 71, (0, "left man"), (1, " man in the corner ")),
    reference(1, "val", 72, (2, "first column")),
    reference(2, "testA", 72, (3, "edge")),
]


def write_refer(root, name="refcoco", partition="unc", references=REFERENCES, images="images/mscoco/images/train2014"):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({partition}).p").write_bytes(pickle.dumps(references, protocol=2))
    instances = {
        "images": [{"id": 9, "file_name": f"{IMAGE}.jpg", "height": 4, "width": 6}],
        "annotations": [
            {"id": 71, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": SQUARE},
            {"id": 72, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": COLUMN},
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    (root / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(root / images / f"{IMAGE}.jpg")
    return root


def mask_of(rle):
    return decode_masks([rle])[0].astype(int).tolist()


def test_each_sentence_of_a_split_is_a_sample_with_its_mask(tmp_path):
    samples = REFCOCO.find_samples(write_refer(tmp_path), "testA")
    assert [(sample.name, sample.text) for sample in samples] == [
        (f"{IMAGE}-0-0", "left man"),
        (f"{IMAGE}-0-1", "man in the corner"),
        (f"{IMAGE}-2-3", "edge"),
    ]
    square = [[0] * 6, [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6]
    assert mask_of(samples[0].mask) == mask_of(samples[1].mask) == square
    assert mask_of(samples[2].mask) == [[1, 0, 0, 0, 0, 0]] * 4
    assert {sample.image for sample in samples} == {
        str(tmp_path / "images/mscoco/images/train2014" / f"{IMAGE}.jpg"),
    }
    assert all(sample.ignore is None and sample.group == "" for sample in samples)
    assert [sample.text for sample in REFCOCO.find_samples(tmp_path, "val")] == ["first column"]


def test_images_may_lie_in_train2014_and_references_in_json(tmp_path):
    write_refer(tmp_path, "refcoco+", images="train2014")
    (tmp_path / "refcoco+" / "refs(unc).p").unlink()
    (tmp_path / "refcoco+" / "refs(unc).json").write_text(json.dumps(REFERENCES))
    (sample,) = REFCOCO_PLUS.find_samples(tmp_path, "val")
    assert sample.image == str(tmp_path / "train2014" / f"{IMAGE}.jpg")


def test_refcocog_has_two_partitions(tmp_path):
    write_refer(tmp_path, "refcocog", "umd")
    write_refer(tmp_path, "refcocog", "google", [reference(5, "val", 71, (9, "by google"))])
    assert [sample.text for sample in REFCOCOG.find_samples(tmp_path, "val")] == ["first column"]
    assert [sample.text for sample in REFCOCOG.find_samples(tmp_path, "val-google")] == ["by google"]


def test_official_counts_are_those_of_the_papers():
    # Totals of Yu et al.: 142,210, 141,564, and 95,010 by either partition (85,474 of google's are its train).
    assert sum(REFCOCO.splits.values()) == 142_210
    assert sum(REFCOCO_PLUS.splits.values()) == 141_564
    google = REFCOCOG.splits["val-google"]
    assert sum(REFCOCOG.splits.values()) - google == 95_010 == 85_474 + google


def test_another_count_is_said(tmp_path):
    samples = REFCOCO.find_samples(write_refer(tmp_path), "testA")
    assert REFCOCO.count_warning("testA", samples) == (
        "RefCOCO testA has 5657 expressions, here are 3: the numbers compare with no published ones"
    )
    assert REFCOCO.count_warning("testA", samples[:1] * 5_657) == ""


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("refcoco/refs(unc).p", r"RefCOCO: .*refs\(unc\)\.p is not there, nor is .*refs\(unc\)\.json; .*github"),
        ("refcoco/instances.json", r"RefCOCO: .*instances\.json is not there; it comes from REFER"),
        (f"images/mscoco/images/train2014/{IMAGE}.jpg", f"1 of 1 files are missing, the first is .*{IMAGE}.*train2014"),
    ],
)
def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path, gone, message):
    (write_refer(tmp_path) / gone).unlink()
    with pytest.raises(UserError, match=message):
        REFCOCO.find_samples(tmp_path, "val")


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([{"ref_id": 1, "split": "val"}], "wanted a list of references .*KeyError: 'sentences'"),
        ({"val": []}, "wanted a list of references .*TypeError"),
        ([reference(1, "testA", 71, (1, "x"))], "have no expression of this split"),
        ([reference(1, "val", 99, (1, "x"))], "reference 1 wants annotation 99 of image 9, and there is none"),
        ([reference(1, "val", 71, (1, "x"), (1, "x"))], "1 expressions below .* stand twice"),
    ],
)
def test_references_of_another_kind_are_refused(tmp_path, references, message):
    write_refer(tmp_path, references=references)
    with pytest.raises(UserError, match=message):
        REFCOCO.find_samples(tmp_path, "val")


def test_unknown_splits_and_benchmarks_are_refused(tmp_path):
    with pytest.raises(UserError, match="RefCOCOg has no split 'testA': wanted one of train, val, test, val-google"):
        REFCOCOG.find_samples(tmp_path, "testA")
    with pytest.raises(UserError, match="benchmark 'refclef' is not known: wanted one of refcoco, refcoco\\+"):
        open_referring_benchmark("refclef")


@pytest.mark.parametrize("name", REFERRING_BENCHMARKS)
def test_every_benchmark_opens_and_says_its_protocol(name):
    benchmark = open_referring_benchmark(name)
    assert benchmark.name == name
    assert benchmark.default_split in benchmark.splits
    assert "cIoU" in benchmark.notes


def write_reasonseg(folder, name, size=(6, 5), **document):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / f"{name}.jpg")
    (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def square(label, left, top, right, bottom):
    return {"label": label, "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


def test_reasonseg_draws_the_largest_first_and_ignores_what_is_so_labelled(tmp_path):
    write_reasonseg(
        tmp_path / "ReasonSeg" / "val",
        "b",
        text=["what is it?", "another"],
        is_sentence=True,
        # The smaller stand first, and lie on top all the same; fractions are cut off; flags mean nothing.
        shapes=[
            square("ignore", 1.9, 1.2, 2.9, 2.9),
            square("target", 0, 0, 4, 3),
            square("flag", 0, 0, 5, 4),
        ],
    )
    write_reasonseg(tmp_path / "ReasonSeg" / "val", "a", text=["cup "], is_sentence=False, shapes=[])
    empty, full = reasonseg.REASONSEG.find_samples(tmp_path, "val")
    assert (full.name, full.text, full.group) == ("b", "what is it?", "long")
    assert mask_of(full.mask) == [
        [1, 1, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert mask_of(full.ignore) == [[0] * 6, [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6, [0] * 6]
    assert (empty.name, empty.text, empty.group, empty.ignore) == ("a", "cup", "short", None)
    assert mask_of(empty.mask) == [[0] * 6] * 5


def test_of_equal_areas_the_first_lies_on_top_and_areas_end_at_the_image():
    left, right = ((0, 0), (2, 0), (2, 0), (0, 0)), ((1, 0), (3, 0), (3, 0), (1, 0))
    assert draw_shapes([Shape(left, TARGET), Shape(right, IGNORED)], 1, 4).tolist() == [[1, 1, 1, 2]]
    # Of 3 x 101 pixels 3 are inside, of 2 x 2 all 4: the second is drawn first.
    strip, block = ((0, -100), (2, -100), (2, 0), (0, 0)), ((0, 0), (1, 0), (1, 1), (0, 1))
    assert draw_shapes([Shape(strip, TARGET), Shape(block, IGNORED)], 2, 3).tolist() == [[1, 1, 1], [2, 2, 0]]


def test_a_polygon_is_its_inside_and_its_edge():
    drawn_HW = draw_shapes([Shape(((0, 0), (4, 0), (0, 4)), TARGET)], 6, 6)
    rows, columns = np.indices((6, 6))
    assert drawn_HW.tolist() == (rows + columns <= 4).astype(int).tolist()
    # A line and a point, which some tools write, are only edge.
    assert draw_shapes([Shape(((1, 0), (1, 2)), TARGET)], 3, 3).tolist() == [[0, 1, 0]] * 3
    assert draw_shapes([Shape(((2, 1),), TARGET)], 3, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert not draw_shapes([Shape(((9, 9), (12, 9), (9, 12)), TARGET)], 3, 3).any()


def test_an_image_turned_by_its_camera_is_drawn_as_it_is_seen(tmp_path):
    write_reasonseg(tmp_path / "val", "a", text="x", is_sentence=False, shapes=[square("target", 0, 0, 0, 5)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 2)).save(tmp_path / "val" / "a.jpg", exif=exif)
    (sample,) = reasonseg.REASONSEG.find_samples(tmp_path, "val")
    assert mask_of(sample.mask) == [[1, 0]] * 6


def test_windows_1252_is_read_as_such(tmp_path):
    write_reasonseg(tmp_path / "val", "a", text=["x"], is_sentence=False, shapes=[])
    (tmp_path / "val" / "a.json").write_bytes(b'{"text": ["caf\xe9"], "is_sentence": false, "shapes": []}')
    assert reasonseg.REASONSEG.find_samples(tmp_path, "val")[0].text == "café"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"text": ["x"], "shapes": []}, "wanted text, is_sentence and shapes .*KeyError: 'is_sentence'"),
        ({"text": [], "is_sentence": True, "shapes": []}, "IndexError"),
        ({"text": ["x"], "is_sentence": True, "shapes": [{"label": "target", "points": [[1]]}]}, "ValueError"),
        ({"text": ["x"], "is_sentence": True, "shapes": [{"label": "target", "points": [[0, 1e9]]}]}, "further out"),
    ],
)
def test_a_json_of_another_kind_is_refused(tmp_path, document, message):
    write_reasonseg(tmp_path / "val", "a", **document)
    with pytest.raises(UserError, match=message):
        reasonseg.REASONSEG.find_samples(tmp_path, "val")


def test_what_reasonseg_lacks_is_said(tmp_path):
    with pytest.raises(UserError, match=r"ReasonSeg test: .*ReasonSeg/test is not there, nor is .*LISA"):
        reasonseg.REASONSEG.find_samples(tmp_path, "test")
    write_reasonseg(tmp_path / "test", "a", text=["x"], is_sentence=False, shapes=[])
    (tmp_path / "test" / "a.json").unlink()
    with pytest.raises(UserError, match=r"a\.json is not there"):
        reasonseg.REASONSEG.find_samples(tmp_path, "test")
    (tmp_path / "test" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"has no \.jpg"):
        reasonseg.REASONSEG.find_samples(tmp_path, "test")


def test_the_frame_of_a_sample_is_its_image(tmp_path):
    write_reasonseg(tmp_path / "val", "a", (7, 3), text=["x"], is_sentence=False, shapes=[])
    assert np.array(mask_of(reasonseg.REASONSEG.find_samples(tmp_path, "val")[0].mask)).shape == (3, 7)

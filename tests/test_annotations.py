"""Masks that exist already: COCO JSON through its table, drawn panoptic and label maps, the real sample."""

import errno
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovseg_model.proposals import annotation_index
from ovseg_model.proposals.annotation_index import (
    AnnotatedImage,
    AnnotationIndex,
    Segment,
    stem_of,
    write_index,
)
from ovseg_model.proposals.annotations import BadAnnotationError, rasterise
from ovseg_model.proposals.generator import (
    ImageInput,
    MaskProposals,
    ProposalError,
    open_generator,
    propose_in_batches,
    resolve_generator,
)
from ovseg_model.rle import Rle, areas_px, decode_masks
from schemas.errors import UserError

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]  # columns 1 and 2, rows 1 and 2
CROWD = {"size": [4, 6], "counts": [0, 4, 20]}  # the first column


def image(name: str, height: int = 4, width: int = 6) -> ImageInput:
    return ImageInput(name, f"images/{name}.jpg", np.zeros((height, width, 3), np.uint8))


def coco(images: list[str], *annotations: tuple[str, object, int]) -> dict:
    return {
        "images": [{"id": name, "file_name": f"{name}.jpg", "height": 4, "width": 6} for name in images],
        "annotations": [
            {"image_id": name, "segmentation": segmentation, "iscrowd": crowd}
            for name, segmentation, crowd in annotations
        ],
    }


def write_json(path, document) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def write_map(folder, name: str, values: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / name)


def propose(work_folder, images: list[ImageInput], **options) -> list:
    spec = resolve_generator("annotations", options, "cpu", str(work_folder / "work"))
    return propose_in_batches(open_generator(spec), images)


def drawn_panoptic() -> np.ndarray:
    """Ids 5 = (5, 0, 0), 256 = (0, 1, 0) and 65536 = (0, 0, 1) in columns 1 to 3; void elsewhere."""
    colours_HW3 = np.zeros((4, 6, 3), np.uint8)
    colours_HW3[:, 1:4] = [(5, 0, 0), (0, 1, 0), (0, 0, 1)]
    return colours_HW3


@pytest.mark.parametrize(
    ("image_uri", "stem"),
    [
        ("images/000000000790.jpg", "000000000790"),
        ("file:///data/a.b.jpeg", "a.b"),
        ("gs://bucket/train/x#1.png", "x#1"),
        ("https://host/some/cat%20one.jpg?size=2", "cat one"),
        ("s3://b/shard-000.tar#member=train/12.jpg&offset=512&size=99", "12"),
        ("shard.tar#member=a%26b.jpg&offset=0&size=1", "a&b"),
        ("plain", "plain"),
    ],
)
def test_stem_of_image_uri(image_uri, stem):
    assert stem_of(image_uri) == stem


def test_rasterise_takes_the_three_forms_of_coco():
    expected = np.zeros((4, 6), bool)
    expected[1:3, 1:3] = True
    runs = [5, 2, 2, 2, 13]
    masks = [
        rasterise(SQUARE, 4, 6),
        rasterise({"size": [4, 6], "counts": runs}, 4, 6),
        rasterise({"size": [4, 6], "counts": _compressed(runs)}, 4, 6),
    ]
    np.testing.assert_array_equal(decode_masks(masks), np.broadcast_to(expected, (3, 4, 6)))
    assert rasterise([], 4, 6) is None


def _compressed(runs: list[int]) -> str:
    from pycocotools import mask as coco_mask

    return coco_mask.frPyObjects({"size": [4, 6], "counts": runs}, 4, 6)["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 3, 3]], r"three points or more, \[x0, y0, ...\]; got \[1, 1, 3, 3\]"),
        ([[1, 1, 3, 1, 3, 3, 1]], "three points or more"),
        ([1, 1, 3, 1, 3, 3], "three points or more"),
        ([[1, 1, 3, 1, 3, float("nan")]], "numbers in pixels"),
        ([[1, 1, 3, 1, 3, 1e9]], "numbers in pixels"),
        ([[1, 1, 3, 1, 3, "2"]], "numbers in pixels"),
        ({"size": [6, 4], "counts": [24]}, r"an RLE of size \[4, 6\]; got {'size': \[6, 4\]"),
        ({"size": [4, 6], "counts": [23]}, "run lengths that fill 4 x 6"),
        ({"size": [4, 6], "counts": [25, -1]}, "run lengths that fill 4 x 6"),
        ({"size": [4, 6], "counts": "52"}, "its runs cover 7 pixels"),
        ({"size": [4, 6]}, "run lengths that fill 4 x 6"),
        (7, "wanted polygons, or an RLE"),
        (None, "wanted polygons, or an RLE"),
    ],
)
def test_rasterise_refuses_what_pycocotools_would_trust(segmentation, message):
    with pytest.raises(BadAnnotationError, match=message):
        rasterise(segmentation, 4, 6)


def test_coco_masks_in_the_order_of_the_file(tmp_path):
    annotations = [("a", SQUARE, 0), ("b", SQUARE, 0), ("a", CROWD, 1)]
    source = write_json(tmp_path / "instances.json", coco(["b", "a", "bare"], *annotations))
    names = ["a", "b", "bare", "other"]
    first, second, bare, other = propose(tmp_path, [image(name) for name in names], source=source)
    assert areas_px(first.masks).tolist() == [4, 4]
    assert decode_masks(first.masks)[1, :, 0].all()
    assert (first.predicted_iou, first.stability) == (None, None)
    assert areas_px(second.masks).tolist() == [4]
    assert bare == ProposalError("no_masks", "the generator found no mask")
    assert other == ProposalError("no_annotation", "no annotation is named 'other'")


def test_coco_crowds_can_be_left_out(tmp_path):
    source = write_json(tmp_path / "i.json", coco(["a"], ("a", CROWD, 1), ("a", SQUARE, 0)))
    (outcome,) = propose(tmp_path, [image("a")], source=source, keep_crowd="false")
    assert boxes(outcome) == [[1, 1, 2, 2]]


def boxes(outcome: MaskProposals) -> list:
    from ovseg_model.rle import boxes_xywh_px

    return boxes_xywh_px(outcome.masks).tolist()


def test_coco_size_of_another_image(tmp_path):
    source = write_json(tmp_path / "i.json", coco(["a"], ("a", SQUARE, 0)))
    assert propose(tmp_path, [image("a", 6, 4)], source=source) == [
        ProposalError("mask_size_mismatch", "the annotation is 4 x 6, the image 6 x 4 (height x width)")
    ]


def test_coco_without_sizes_takes_the_images(tmp_path):
    document = coco(["a"], ("a", SQUARE, 0))
    del document["images"][0]["height"], document["images"][0]["width"]
    source = write_json(tmp_path / "i.json", document)
    assert propose(tmp_path, [image("a", 9, 8)], source=source)[0].masks[0]["size"] == [9, 8]


def test_coco_bad_annotation_drops_its_image_only(tmp_path):
    source = write_json(tmp_path / "i.json", coco(["a", "b"], ("a", SQUARE, 0), ("a", [[1, 2]], 0), ("b", SQUARE, 0)))
    bad, good = propose(tmp_path, [image("a"), image("b")], source=source)
    assert bad.reason == "bad_annotation"
    assert bad.detail.startswith("annotation 1 of the image: a polygon wants three points or more")
    assert areas_px(good.masks).tolist() == [4]


def test_coco_annotation_without_a_pixel_is_left_out(tmp_path):
    sliver = [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]
    source = write_json(tmp_path / "i.json", coco(["a"], ("a", sliver, 0), ("a", SQUARE, 0), ("a", [], 0)))
    assert areas_px(propose(tmp_path, [image("a")], source=source)[0].masks).tolist() == [4]


def test_table_is_made_once_and_hidden_until_whole(tmp_path, monkeypatch):
    source = write_json(tmp_path / "i.json", coco(["a"], ("a", SQUARE, 0)))
    spec = resolve_generator("annotations", {"source": source}, "cpu", str(tmp_path / "work"))
    assert [path.name for path in (tmp_path / "work").iterdir()] == [
        f"instances-v1-{spec.fingerprint()['source_sha256'][:16]}.parquet"
    ]
    monkeypatch.setattr(annotation_index, "read_coco_json", None)  # a second reading would fail
    assert resolve_generator("annotations", {"source": source}, "cpu", str(tmp_path / "work")) == spec


def test_table_on_another_file_system(tmp_path):
    source = write_json(tmp_path / "i.json", coco(["a"], ("a", SQUARE, 0)))
    spec = resolve_generator("annotations", {"source": source}, "cpu", "memory://run/work")
    assert areas_px(propose_in_batches(open_generator(spec), [image("a")])[0].masks).tolist() == [4]


def test_fingerprint_follows_content_and_not_the_path(tmp_path):
    document = coco(["a"], ("a", SQUARE, 0))
    sources = [write_json(tmp_path / name, document) for name in ("one.json", "two.json")]
    sources.append(write_json(tmp_path / "three.json", coco(["a"])))
    options = [{"source": source} for source in sources] + [{"source": sources[0], "keep_crowd": False}]
    specs = [resolve_generator("annotations", one, "cpu", str(tmp_path)) for one in options]
    one, two, three, no_crowd = (spec.fingerprint() for spec in specs)
    assert one == two
    assert str(tmp_path) not in json.dumps(one)
    assert one != three and one != no_crowd


def test_look_up_reads_only_the_row_groups_it_needs(tmp_path, monkeypatch):
    images = [AnnotatedImage(f"{number:04}", 4, 6, [Segment(str(number), False)]) for number in range(1000)]
    place = str(tmp_path / "table.parquet")
    write_index(reversed(images), "drawn", place)
    assert pq.ParquetFile(place).num_row_groups == 16
    read = []
    whole = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_groups", lambda self, groups: read.append(groups) or whole(self, groups)
    )
    found = AnnotationIndex(place).look_up(["0064", "0063", "0999", "0005", "zebra", "!"])
    assert found == {stem: images[int(stem)] for stem in ("0005", "0063", "0064", "0999")}
    assert read == [[0, 1, 15]]


def test_table_without_images(tmp_path):
    source = write_json(tmp_path / "i.json", coco([]))
    assert propose(tmp_path, [image("a")], source=source)[0].reason == "no_annotation"


def test_table_that_is_gone(tmp_path):
    source = write_json(tmp_path / "i.json", coco(["a"]))
    spec = resolve_generator("annotations", {"source": source}, "cpu", str(tmp_path / "work"))
    next((tmp_path / "work").iterdir()).unlink()
    with pytest.raises(UserError, match="is gone; start the run again"):
        open_generator(spec)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("not json", "is not a COCO JSON: Expecting value"),
        ("[]", "is not a COCO JSON: list indices"),
        ('{"images": []}', "wanted a COCO JSON with images .* 'annotations' is missing"),
        ('{"images": [{"id": 1}], "annotations": []}', "'file_name' is missing"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "segments_info": []}]}',
            "'segmentation' is missing; panoptic JSON goes into option panoptic_json",
        ),
        (
            '{"images": [{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "y/a.jpg"}], "annotations": []}',
            "has two images named 'a'; names must be unique",
        ),
    ],
)
def test_json_of_another_layout(tmp_path, document, message):
    (tmp_path / "i.json").write_text(document)
    with pytest.raises(UserError, match=message):
        propose(tmp_path, [], source=str(tmp_path / "i.json"))
    assert not list(tmp_path.glob("work/*"))


def test_source_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing.json: .*; give the path of an existing file"):
        propose(tmp_path, [], source=str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match=r"cannot list .*; give source=<a folder that exists>"):
        propose(tmp_path, [], source=str(tmp_path / "nothing"), format="labelmap")
    with pytest.raises(UserError, match=r"has no map; wanted files that end in \.png, \.tif, \.tiff"):
        propose(tmp_path, [], source=str(tmp_path))


def test_panoptic_ids_ascending_without_void(tmp_path):
    write_map(tmp_path / "maps", "a.png", drawn_panoptic())
    outcomes = propose(tmp_path, [image("a"), image("b")], source=str(tmp_path / "maps"))
    assert boxes(outcomes[0]) == [[1, 0, 1, 4], [2, 0, 1, 4], [3, 0, 1, 4]]
    assert outcomes[1] == ProposalError("no_annotation", "no annotation is named 'b'")


@pytest.mark.parametrize(("keep_crowd", "columns"), [("true", [1, 3]), ("false", [3])])
def test_panoptic_json_says_which_ids_count(tmp_path, keep_crowd, columns):
    write_map(tmp_path / "maps", "a.png", drawn_panoptic())
    write_map(tmp_path / "maps", "unlisted.png", drawn_panoptic())
    info = [{"id": 65536, "iscrowd": 0}, {"id": 5, "iscrowd": 1}, {"id": 77, "iscrowd": 0}]
    document = coco(["a"]) | {"annotations": [{"image_id": "a", "file_name": "a.png", "segments_info": info}]}
    listing = write_json(tmp_path / "panoptic.json", document)
    options = {"source": str(tmp_path / "maps"), "panoptic_json": listing, "keep_crowd": keep_crowd}
    listed, unlisted = propose(tmp_path, [image("a"), image("unlisted")], **options)
    assert boxes(listed) == [[column, 0, 1, 4] for column in columns]
    assert unlisted.reason == "no_annotation"


@pytest.mark.parametrize(
    ("dtype", "options", "kept"),
    [
        (np.uint8, {}, [0, 7]),
        (np.uint16, {}, [0, 7, 255]),
        (np.uint8, {"ignore_labels": "0,255"}, [7]),
        (np.uint8, {"ignore_labels": "-1"}, [0, 7, 255]),
    ],
)
def test_label_maps_give_a_mask_a_class_present(tmp_path, dtype, options, kept):
    labels_HW = np.array([[7, 0, 0, 255], [7, 7, 255, 0]], dtype)
    write_map(tmp_path / "maps", "a.png", labels_HW)
    (outcome,) = propose(tmp_path, [image("a", 2, 4)], source=str(tmp_path / "maps"), **options)
    np.testing.assert_array_equal(decode_masks(outcome.masks), [labels_HW == label for label in kept])


def test_label_map_of_16_bits_ignores_65535(tmp_path):
    labels_HW = np.array([[300, 65535]], np.uint16)
    write_map(tmp_path / "maps", "a.tif", labels_HW)
    (outcome,) = propose(tmp_path, [image("a", 1, 2)], source=str(tmp_path / "maps"))
    assert outcome.masks == [Rle(size=[1, 2], counts="011")]


def test_label_map_with_a_palette_is_read_by_index(tmp_path):
    (tmp_path / "maps").mkdir()
    paletted = Image.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    paletted.putpalette([9, 9, 9, 200, 0, 0])
    paletted.save(tmp_path / "maps" / "a.png")
    (outcome,) = propose(tmp_path, [image("a", 1, 3)], source=str(tmp_path / "maps"), format="labelmap")
    assert areas_px(outcome.masks).tolist() == [1, 2]


def test_map_of_another_size_and_maps_that_are_none(tmp_path):
    folder = tmp_path / "maps"
    write_map(folder, "a.png", np.zeros((4, 6), np.uint8))
    write_map(folder, "colour.png", drawn_panoptic())
    (folder / "broken.png").write_bytes(b"not a picture")
    names = ["a", "colour", "broken"]
    size, colour, broken = propose(tmp_path, [image(n, 5, 6) for n in names], source=str(folder), format="labelmap")
    assert size == ProposalError("mask_size_mismatch", "the annotation is 4 x 6, the image 5 x 6 (height x width)")
    assert colour == ProposalError(
        "bad_annotation", "a label map has one 8-bit or 16-bit channel, this one is of mode RGB"
    )
    assert broken.reason == "bad_annotation" and "cannot be decoded" in broken.detail


def test_panoptic_map_without_colours(tmp_path):
    write_map(tmp_path / "maps", "a.png", np.zeros((4, 6), np.uint8))
    (outcome,) = propose(tmp_path, [image("a")], source=str(tmp_path / "maps"), format="panoptic")
    assert outcome == ProposalError("bad_annotation", "a panoptic map has colours (RGB), this one is of mode L")


def test_fingerprint_of_a_folder_follows_names_and_sizes(tmp_path):
    def fingerprint() -> dict:
        return resolve_generator("annotations", {"source": str(tmp_path / "maps")}, "cpu", "").fingerprint()

    write_map(tmp_path / "maps", "a.png", np.zeros((4, 6), np.uint8))
    before = fingerprint()
    assert fingerprint() == before
    write_map(tmp_path / "maps", "b.png", np.zeros((4, 6), np.uint8))
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"panoptic_json": "p.json"}, "panoptic_json goes with format=panoptic; the format is labelmap"),
        ({"format": "panoptic", "ignore_labels": "0"}, "ignore_labels goes with format=labelmap"),
        ({"format": "png"}, "option format wants one of auto, coco, panoptic, labelmap; got 'png'"),
    ],
)
def test_options_that_clash(tmp_path, options, message):
    write_map(tmp_path / "maps", "a.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(UserError, match=message):
        propose(tmp_path, [], source=str(tmp_path / "maps"), **options)


def test_coco_sample_agrees_with_its_own_areas(test_data, tmp_path):
    source = test_data / "coco_sample" / "instances.json"
    document = json.loads(source.read_text())
    images = [image(str(one["id"]).zfill(12), one["height"], one["width"]) for one in document["images"]]
    outcomes = propose(tmp_path, images, source=str(source))
    assert all(isinstance(outcome, MaskProposals) for outcome in outcomes)
    found = [area for outcome in outcomes for area in areas_px(outcome.masks)]
    stated = [
        (one["area"], one["iscrowd"])
        for listed in document["images"]
        for one in document["annotations"]
        if one["image_id"] == listed["id"]
    ]
    assert len(found) == len(stated) == 967
    # a polygon's own area differs from its pixels by its border, which grows with the side
    differences = [abs(a - b) / a**0.5 for a, (b, crowd) in zip(found, stated, strict=True) if not crowd]
    assert len(differences) == 953
    assert max(differences) < 2


def test_a_prepared_table_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    images = [AnnotatedImage("1", 2, 3, [])]
    with pytest.raises(UserError, match=r"^/dev/null/x/i\.parquet cannot be written: Not a directory; "):
        write_index(images, "c.json", "/dev/null/x/i.parquet")

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("ovseg_model.proposals.annotation_index.pq.ParquetWriter.write_table", fail)
    with pytest.raises(UserError, match=r"i\.parquet cannot be written: No space left on device; free space there"):
        write_index(images, "c.json", str(tmp_path / "i.parquet"))
    assert list(tmp_path.iterdir()) == []

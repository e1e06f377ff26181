"""Every export, read back by the library that owns its format."""

import csv
import json
import tarfile

import datasets
import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from drawn_pairs import image_of, mask_of, pair_rows, write_run
from PIL import Image
from pycocotools.coco import COCO

from ovseg_model.pair_reader import Picture
from ovseg_model.pair_rows import open_pairs
from pipelines.command_line import main
from pipelines.exports.coco import Numbering, file_name
from pipelines.exports.ovseg_layout import FILL_RGB, filled_region, title_of
from pipelines.exports.webdataset_tar import sample_key

ROWS = 7

NEVER_CLOSED = pytest.mark.filterwarnings(
    # webdataset leaves its tars to the garbage collector
    "ignore:unclosed file:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

NAMES = [f"{index // 2:04d}" for index in range(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def rows(folder):
    return pair_rows(folder / "images", ROWS, licence=lambda index: "MIT" if index == 3 else None)


@pytest.fixture(scope="module")
def run(folder, rows):
    return write_run(folder / "run", [rows[:2], rows[2:]])


def exported(run, output, format_, *more):
    assert main(["export", str(run), "--format", format_, "--output", str(output), *more]) == 0
    return output


def crop_of(rows, index):
    x, y, width, height = rows[index]["box_xywh_px"]
    return image_of(index // 2)[y : y + height, x : x + width]


def mask_crop_of(rows, index):
    x, y, width, height = rows[index]["box_xywh_px"]
    return mask_of(index)[y : y + height, x : x + width]


@pytest.fixture(scope="module")
def parquet(run, folder):
    return exported(run, folder / "datasets", "datasets", "--crops", "--shard-pairs", "3")


def test_datasets_opens_the_folder(parquet, rows, tmp_path):
    names = [path.name for path in sorted((parquet / "data").iterdir())]
    assert names == [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    loaded = datasets.load_dataset(str(parquet), cache_dir=str(tmp_path))["train"]
    assert loaded.num_rows == ROWS
    assert isinstance(loaded.features["crop_png"], datasets.Image)
    for index, (row, read) in enumerate(zip(rows, loaded, strict=True)):
        np.testing.assert_array_equal(np.asarray(read.pop("crop_png")), crop_of(rows, index))
        same = ("pair_id", "image_id", "height", "mask", "box_xywh_px", "noun", "caption", "runner_up_masks", "licence")
        assert [read[name] for name in same] == [row[name] for name in same]
        assert read["image_uri"] == f"{NAMES[index]}.png"
        assert read["cosine"] == np.float32(row["cosine"])
        assert read["runner_up_nouns"] == [{"noun": "sky", "cosine": np.float32(0.05)}]


def test_the_trainer_reads_the_same_files(parquet):
    pairs = open_pairs(str(parquet / "data"))
    assert len(pairs) == ROWS
    assert pairs.nouns == {"ball": 2, "box": 2, "kite": 2, "tree": 1}


def test_without_crops_no_image_is_read(run, folder, tmp_path):
    table = pq.read_table(exported(run, tmp_path / "out", "datasets") / "data")
    assert table["crop_png"].null_count == ROWS


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlcroissant", "ignore::DeprecationWarning:rdflib")
def test_croissant_reads_the_records(parquet, rows):
    dataset = mlcroissant.Dataset(jsonld=str(parquet / "croissant.json"))
    assert dataset.metadata.issues.errors == set()
    records = list(dataset.records("pairs"))
    assert len(records) == ROWS
    for index, (row, record) in enumerate(zip(rows, records, strict=True)):
        assert record["pairs/pair_id"].decode() == row["pair_id"]
        assert record["pairs/noun"].decode() == row["noun"]
        assert record["pairs/box_xywh_px"] == row["box_xywh_px"]
        size, counts = record["pairs/mask"]["pairs/mask/size"], record["pairs/mask"]["pairs/mask/counts"]
        assert (size, counts.decode()) == (row["mask"]["size"], row["mask"]["counts"])
        np.testing.assert_array_equal(np.asarray(record["pairs/crop_png"]), crop_of(rows, index))


def test_croissant_knows_the_bytes_of_each_file(parquet):
    described = json.loads((parquet / "croissant.json").read_text())["distribution"]
    sizes = {each["contentUrl"]: each["contentSize"] for each in described if each["@type"] == "cr:FileObject"}
    found = {f"data/{path.name}": f"{path.stat().st_size} B" for path in (parquet / "data").iterdir()}
    assert sizes == found


@NEVER_CLOSED
def test_webdataset_iterates_the_tars(run, rows, tmp_path):
    out = exported(run, tmp_path / "out", "webdataset", "--shard-pairs", "3")
    shards = sorted(str(path) for path in out.glob("*.tar"))
    assert [path.rsplit("/", 1)[1] for path in shards] == [f"train-{index:06d}.tar" for index in range(3)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [row["pair_id"] for row in rows]
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["png"], crop_of(rows, index))
        np.testing.assert_array_equal(sample["mask.png"][..., 0] == 255, mask_crop_of(rows, index))
        assert sample["json"]["noun"] == rows[index]["noun"]
        assert sample["json"]["image_uri"] == f"{NAMES[index]}.png"
        assert "crop_png" not in sample["json"]


def test_tars_carry_no_clock_and_no_user(run, tmp_path):
    out = exported(run, tmp_path / "out", "webdataset")
    with tarfile.open(out / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members} == {(0, 0, 0, "", "")}
    key = members[0].name.split(".")[0]
    assert [each.name for each in members[:3]] == [f"{key}.json", f"{key}.mask.png", f"{key}.png"]
    assert len(members) == 3 * ROWS


@NEVER_CLOSED
def test_two_samples_of_one_shard_never_share_a_key(tmp_path):
    rows = pair_rows(tmp_path / "images", 2)
    twin = {**rows[0], "image_id": "0000-twin"}
    out = exported(write_run(tmp_path / "run", [[rows[0], twin]]), tmp_path / "out", "webdataset")
    samples = list(webdataset.WebDataset(str(out / "train-000000.tar"), shardshuffle=False))
    assert [each["__key__"] for each in samples] == [rows[0]["pair_id"], f"{rows[0]['pair_id']}-1"]


def test_pycocotools_reads_the_instances(run, rows, tmp_path):
    coco = COCO(exported(run, tmp_path / "out", "coco") / "instances.json")
    assert {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())} == {
        1: "ball",
        2: "box",
        3: "kite",
        4: "tree",
    }
    assert [each["pairs"] for each in coco.dataset["categories"]] == [2, 2, 2, 1]
    assert [each["name"] for each in coco.dataset["licenses"]] == ["unknown", "MIT"]
    for index, annotation in enumerate(coco.loadAnns(coco.getAnnIds())):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask_of(index))
        image = coco.imgs[annotation["image_id"]]
        assert (image["image_id"], image["file_name"]) == (NAMES[index], f"{NAMES[index]}.png")
        assert annotation["id"] == index + 1
        assert annotation["bbox"] == rows[index]["box_xywh_px"]
        assert annotation["score"] == np.float32(rows[index]["cosine"])
        assert (annotation["caption"], annotation["pair_id"]) == (rows[index]["caption"], rows[index]["pair_id"])
    assert len(coco.anns) == ROWS
    assert len(coco.imgs) == 4
    assert [image["id"] for image in coco.dataset["images"]] == [1, 2, 3, 4]


def test_images_that_have_numbers_keep_them(tmp_path):
    rows = pair_rows(tmp_path / "images", 4, image_id=lambda index: str(139 + index // 2))
    coco = COCO(exported(write_run(tmp_path / "run", [rows]), tmp_path / "out", "coco") / "instances.json")
    assert sorted(coco.imgs) == [139, 140]


def test_a_file_is_named_below_the_folder_that_all_share():
    import pyarrow as pa

    numbering = Numbering()
    for uris in (["/data/b/2.jpg", "https://a.org/9.jpg"], ["/data/a/1.jpg"]):
        texts = pa.table({"noun": uris, "licence": uris, "image_id": uris, "image_uri": uris})
        numbering.add(texts)
    assert numbering.folder() == "/data/"
    assert not numbering.own_ids
    assert file_name("/data/b/2.jpg", "/data/") == "b/2.jpg"
    assert file_name("https://a.org/x/9.jpg?w=3", "/data/") == "9.jpg"
    assert file_name("/t/0.tar#member=c%2F1.jpg&offset=512&size=9", "/data/") == "c/1.jpg"
    assert Numbering().folder() == ""


def read_ovseg(folder):
    """The file contract in its own words: a tab, a header, `filepath` and `title`; a region's mask is its colour."""
    with open(folder / "ovseg_pairs.csv", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            region = np.asarray(Image.open(folder / row["filepath"]).convert("RGB"))
            yield row["title"], region, (region != (124, 116, 103)).any(axis=2)


def test_ovsegs_layout_is_read_by_its_contract(run, rows, tmp_path):
    out = exported(run, tmp_path / "out", "ovseg", "--side", "0")
    read = list(read_ovseg(out))
    assert [title for title, _, _ in read] == [f"a photo of a {row['noun']}." for row in rows]
    for index, (_, region, mask) in enumerate(read):
        np.testing.assert_array_equal(mask, mask_crop_of(rows, index))
        np.testing.assert_array_equal(region[mask], crop_of(rows, index)[mask])
        assert (region[~mask] == FILL_RGB).all()


def test_a_stretched_region_keeps_its_whole_mask(run, rows, tmp_path):
    for index, (title, region, mask) in enumerate(
        read_ovseg(exported(run, tmp_path / "out", "ovseg", "--title", "{}"))
    ):
        assert title == rows[index]["noun"]
        assert region.shape == (224, 224, 3)
        stretched = Image.fromarray(mask_crop_of(rows, index)).resize((224, 224), Image.Resampling.NEAREST)
        assert mask[np.asarray(stretched)].all()
        assert not mask.all()


def test_a_thing_of_the_fills_own_colour_stays_a_thing():
    image = np.full((4, 6, 3), FILL_RGB, np.uint8)
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    filled = filled_region(Picture(image, mask), 0)
    np.testing.assert_array_equal((filled != FILL_RGB).any(axis=2), mask)
    assert filled[1, 2].tolist() == [124, 116, 104]


def test_a_hostile_noun_stays_in_its_row():
    row = {"noun": 'tab\there\nand "quote"\u2028x'}
    assert title_of(row, "a {}.") == 'a tab here and "quote" x.'


def test_keys_count_up():
    from collections import Counter

    keys = Counter()
    assert [sample_key("a", keys), sample_key("b", keys), sample_key("a", keys)] == ["a", "b", "a-1"]

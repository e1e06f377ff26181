"""Label-map benchmarks: tiny trees in the real formats, converted by value; what is missing is one sentence."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovseg_model.datasets import ade20k_847
from ovseg_model.datasets.benchmark import IGNORE, LABEL_MAP_BENCHMARKS, LabelledSample, open_label_map_benchmark
from ovseg_model.datasets.scene_files import write_scenes
from ovseg_model.datasets.scenes import draw_scene, numbers
from schemas.errors import UserError

HEIGHT, WIDTH = 10, 12
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def write_jpeg(path, shape=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 128, np.uint8)).save(path)


def write_png(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        # Many classes in one colour: whoever reads colours, reads the wrong thing.
        image.putpalette([90, 90, 90] * 256)
    image.save(path)


def write_tiff(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint16)).save(path)


def write_mat(path, values, name="LabelMap"):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: np.asarray(values, np.uint16)})


def rows(*values):
    """A label map of stripes, first value on top; the last fills the rest."""
    stripes = np.full((HEIGHT, WIDTH), values[-1], np.int64)
    stripes[: len(values)] = np.array(values)[:, None]
    return stripes


def converted(benchmark, root, split=""):
    """The first column of each sample's label map, by name; every map is of stripes, and of its image's size."""
    maps = {}
    for sample in open_label_map_benchmark(benchmark).find_samples(root, split):
        labels_HW = open_label_map_benchmark(benchmark).read_labels(sample)
        assert labels_HW.dtype == np.uint16
        assert (labels_HW == labels_HW[:, :1]).all()
        assert labels_HW.shape == open_label_map_benchmark(benchmark).read_image(sample).shape[:2]
        maps[sample.name] = labels_HW[:, 0].tolist()
    return maps


def stripes(*values):
    return [*values, *[values[-1]] * (HEIGHT - len(values))]


def scored(scene):
    return np.where(scene.labels_HW == 255, IGNORE, scene.labels_HW.astype(np.uint16))


def refusal(benchmark, root, split=""):
    """What is said of the samples, or of the first one's files."""
    with pytest.raises(UserError) as caught:
        benchmark = open_label_map_benchmark(benchmark)
        sample = benchmark.find_samples(root, split)[0]
        benchmark.read_labels(sample)
        benchmark.read_image(sample)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ADE20K-150


def write_ade_150(home, part="validation", prefix="ADE_val"):
    for number, values in ((2, rows(150, 1)), (1, rows(0, 1, 2, 150, 0))):
        write_jpeg(home / "images" / part / f"{prefix}_{number:08d}.jpg")
        write_png(home / "annotations" / part / f"{prefix}_{number:08d}.png", values)


def test_ade20k_150_has_no_class_at_zero(tmp_path):
    write_ade_150(tmp_path / "ADEChallengeData2016")
    wanted = {"ADE_val_00000001": stripes(IGNORE, 0, 1, 149, IGNORE), "ADE_val_00000002": stripes(149, 0)}
    assert converted("ade20k-150", tmp_path) == wanted
    assert converted("ade20k-150", tmp_path / "ADEChallengeData2016") == wanted
    assert list(wanted) == list(converted("ade20k-150", tmp_path))


def test_ade20k_150_has_a_training_split_to_tune_on(tmp_path):
    write_ade_150(tmp_path, "training", "ADE_train")
    assert list(converted("ade20k-150", tmp_path, "train")) == ["ADE_train_00000001", "ADE_train_00000002"]
    assert "annotations/validation is missing" in refusal("ade20k-150", tmp_path)


def test_ade20k_150_says_which_file_is_missing(tmp_path):
    assert refusal("ade20k-150", tmp_path) == (
        f"ade20k-150: annotations/validation is missing: it is neither in {tmp_path} nor "
        f"{tmp_path}/ADEChallengeData2016; the files come from ADEChallengeData2016.zip of MIT's Scene Parsing "
        "Benchmark, sceneparsing.csail.mit.edu"
    )
    write_ade_150(tmp_path)
    lost = tmp_path / "annotations/validation/ADE_val_00000002.png"
    lost.unlink()
    assert refusal("ade20k-150", tmp_path).startswith(f"ade20k-150: {lost} is missing; the files come from ADEChall")


def test_a_reduced_zero_is_not_reduced_twice(tmp_path):
    write_ade_150(tmp_path)
    write_png(tmp_path / "annotations/validation/ADE_val_00000001.png", rows(255, 0, 1))
    assert "wanted values from 0 to 150, got 255; give the file of the release, not one that was converted" in refusal(
        "ade20k-150", tmp_path
    )


def test_labels_of_another_size_and_pictures_of_labels_are_refused(tmp_path):
    write_ade_150(tmp_path)
    labels = tmp_path / "annotations/validation/ADE_val_00000001.png"
    write_png(labels, np.ones((WIDTH, HEIGHT)))
    assert refusal("ade20k-150", tmp_path) == (
        f"label map {labels}: wanted 10 x 12 pixels (height x width) as {tmp_path}/images/validation/"
        "ADE_val_00000001.jpg, got 12 x 10; both must come from one release"
    )
    Image.fromarray(GREY).save(labels)
    assert "got mode RGB; give the file of the release" in refusal("ade20k-150", tmp_path)
    write_png(labels, np.random.default_rng(0).integers(0, 151, (HEIGHT, WIDTH)))
    labels.write_bytes(labels.read_bytes()[:-60])
    assert f"{labels} cannot be read as a picture" in refusal("ade20k-150", tmp_path)


def test_an_image_cut_short_is_one_sentence(tmp_path):
    write_ade_150(tmp_path)
    image = tmp_path / "images/validation/ADE_val_00000001.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    assert refusal("ade20k-150", tmp_path).startswith(f"{image} cannot be read as a picture: ")


# ADE20K-847


def segments(classes_HW):
    """A _seg.png: R // 10 · 256 + G is the class; the rest of R, and B, tell instances and must not matter."""
    red = classes_HW // 256 * 10 + np.arange(classes_HW.shape[1]) % 10
    blue = np.full_like(red, 200)
    return np.stack([red, classes_HW % 256, blue], axis=2).astype(np.uint8)


def write_ade_847(home, name, classes_HW, folder="urban/street", part="validation"):
    place = home / "images/ADE" / part / folder
    write_jpeg(place / f"{name}.jpg", classes_HW.shape)
    Image.fromarray(segments(classes_HW)).save(place / f"{name}_seg.png")


def test_ade20k_847_reads_the_full_release(tmp_path):
    # Raw ids: wall 2978, building 312, adding machine 3148 (last); 7 is none of the 847, 0 is no label.
    write_ade_847(tmp_path / "ADE20K_2021_17_01", "ADE_val_00000002", rows(2978))
    write_ade_847(tmp_path / "ADE20K_2021_17_01", "ADE_val_00000001", rows(0, 312, 3148, 7), "zoo/indoor")
    # Masks of instances lie beside, and are no images.
    write_png(tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000002/instance_000.png", GREY)
    assert converted("ade20k-847", tmp_path) == {
        "ADE_val_00000001": stripes(IGNORE, 1, 846, IGNORE),
        "ADE_val_00000002": stripes(0),
    }


def test_ade20k_847_shrinks_only_where_both_sides_are_longer(tmp_path):
    assert ade20k_847.shrunk_size(512, 4000) == (512, 4000)
    assert ade20k_847.shrunk_size(1024, 1500) == (512, 750)
    assert ade20k_847.shrunk_size(1500, 1024) == (750, 512)
    assert ade20k_847.shrunk_size(513, 513) == (512, 512)
    assert ade20k_847.shrunk_size(600, 1001) == (512, 854)  # 854.19
    tall = np.repeat([2978, 312, 2420], 256)[:, None] * np.ones((1, 600), np.int64)
    write_ade_847(tmp_path, "ADE_val_00000001", tall)
    column = converted("ade20k-847", tmp_path)["ADE_val_00000001"]
    # 768 rows become 655: row i is row floor(i · 768 / 655), so the first of a stripe are 219 and 437.
    assert (len(column), column.index(1), column.index(2)) == (655, 219, 437)


def test_shrinking_takes_rounded_down_positions():
    labels_HW = np.arange(5)[:, None] * 10 + np.arange(4)
    assert ade20k_847.shrink_labels(labels_HW, 3, 2).tolist() == [[0, 2], [10, 12], [30, 32]]


def test_ade20k_847_reads_converted_files_where_the_release_is_missing(tmp_path):
    home = tmp_path / "ADE20K_2021_17_01"
    write_jpeg(home / "images_detectron2/validation/ADE_val_00000001.jpg")
    write_tiff(home / "annotations_detectron2/validation/ADE_val_00000001.tif", rows(255, 846, 65535))
    assert converted("ade20k-847", tmp_path) == {"ADE_val_00000001": stripes(255, 846, IGNORE)}
    write_tiff(home / "annotations_detectron2/validation/ADE_val_00000001.tif", rows(847))
    assert "wanted values from 0 to 846, or 65535, got 847" in refusal("ade20k-847", tmp_path)
    write_ade_847(home, "ADE_val_00000001", rows(312))
    assert converted("ade20k-847", tmp_path) == {"ADE_val_00000001": stripes(1)}


def test_ade20k_847_says_which_file_is_missing(tmp_path):
    assert "images/ADE/validation is missing: it is neither in" in refusal("ade20k-847", tmp_path)
    write_ade_847(tmp_path, "ADE_val_00000001", rows(312))
    lost = tmp_path / "images/ADE/validation/urban/street/ADE_val_00000001_seg.png"
    write_png(lost, rows(3))
    assert "wanted classes in red and green (Pillow's mode RGB), got mode L" in refusal("ade20k-847", tmp_path)
    lost.unlink()
    assert f"ade20k-847: {lost} is missing" in refusal("ade20k-847", tmp_path)
    (lost.parent / "ADE_val_00000001.jpg").unlink()
    assert "holds no *.jpg at any depth" in refusal("ade20k-847", tmp_path)


# PASCAL Context


def write_context(home, lists, maps):
    for name, stems in lists.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("".join(f"{stem}\n" for stem in stems))
    for stem, values in maps.items():
        write_jpeg(home / "JPEGImages" / f"{stem}.jpg")
        write_mat(home / "trainval" / f"{stem}.mat", values)


VAL, TRAIN = "ImageSets/Main/val.txt", "ImageSets/Main/train.txt"
# Raw ids: accordion 1, aeroplane 2, wool 459; 0 is no label. Of these only aeroplane is one of the 59.
RAW = rows(0, 1, 2, 459, 2)


def test_pascal_context_reads_label_maps(tmp_path):
    home = tmp_path / "VOCdevkit/VOC2010"
    write_context(home, {VAL: ["2008_000003", "2008_000002"], TRAIN: ["2008_000008"]}, {})
    write_context(home, {}, {"2008_000002": RAW, "2008_000003": rows(454), "2008_000008": rows(23)})
    for root in (tmp_path, tmp_path / "VOCdevkit", home):
        assert converted("pascal-context-459", root) == {
            "2008_000003": stripes(453),
            "2008_000002": stripes(IGNORE, 0, 1, 458, 1),
        }
    assert list(converted("pascal-context-459", tmp_path)) == ["2008_000003", "2008_000002"]
    # Window (454) is the 58th of the 59, bicycle (23) the second.
    assert converted("pascal-context-59", tmp_path) == {
        "2008_000003": stripes(57),
        "2008_000002": stripes(IGNORE, IGNORE, 0, IGNORE, 0),
    }
    assert converted("pascal-context-59", tmp_path, "train") == {"2008_000008": stripes(1)}


def test_pascal_context_prefers_the_published_list(tmp_path):
    write_context(tmp_path, {VAL: ["a", "b"], "pascalcontext_val.txt": ["b"]}, {"a": RAW, "b": RAW})
    assert list(converted("pascal-context-59", tmp_path)) == ["b"]


def test_pascal_context_reads_converted_files_where_there_are_no_label_maps(tmp_path):
    write_context(tmp_path, {VAL: ["a"]}, {})
    write_jpeg(tmp_path / "JPEGImages/a.jpg")
    # By raw id the second of the 59 is bag (raw 9, here the 21st), the third bed (raw 18, the 22nd).
    write_png(tmp_path / "annotations_detectron2/pc59_val/a.png", rows(0, 1, 2, 58, 255))
    write_tiff(tmp_path / "annotations_detectron2/pc459_val/a.tif", rows(0, 458, 459, 65535))
    assert converted("pascal-context-59", tmp_path) == {"a": stripes(0, 20, 21, 58, IGNORE)}
    assert converted("pascal-context-459", tmp_path) == {"a": stripes(0, 458, IGNORE, IGNORE)}
    write_mat(tmp_path / "trainval/a.mat", RAW)
    assert converted("pascal-context-459", tmp_path) == {"a": stripes(IGNORE, 0, 1, 458, 1)}
    assert converted("pascal-context-59", tmp_path) == {"a": stripes(IGNORE, IGNORE, 0, IGNORE, 0)}


def test_pascal_context_says_which_file_is_missing(tmp_path):
    write_jpeg(tmp_path / "JPEGImages/a.jpg")
    assert refusal("pascal-context-59", tmp_path).startswith(
        f"pascal-context-59: the list of val is missing: {tmp_path} has none of pascalcontext_val.txt, "
        "ImageSets/Main/val.txt; the files come from VOCtrainval_03-May-2010.tar"
    )
    write_context(tmp_path, {VAL: ["a", "b"]}, {"a": RAW})
    assert f"{tmp_path}/JPEGImages/b.jpg is missing" in refusal("pascal-context-59", tmp_path)
    write_context(tmp_path, {VAL: ["a", "a"]}, {})
    assert "1 images of val below" in refusal("pascal-context-59", tmp_path)
    write_context(tmp_path, {VAL: []}, {})
    assert "there is no image of val, which has 5,105" in refusal("pascal-context-59", tmp_path)


def test_what_is_no_label_map_is_one_sentence(tmp_path):
    write_context(tmp_path, {VAL: ["a"]}, {"a": rows(460)})
    assert "a.mat: wanted values from 0 to 459, got 460" in refusal("pascal-context-459", tmp_path)
    write_mat(tmp_path / "trainval/a.mat", RAW, "Labels")
    assert "wanted a MATLAB file with LabelMap, got one without" in refusal("pascal-context-459", tmp_path)
    savemat(tmp_path / "trainval/a.mat", {"LabelMap": np.zeros((HEIGHT, WIDTH))})
    assert "wanted LabelMap of whole numbers from 0, (H, W), got float64" in refusal("pascal-context-459", tmp_path)
    (tmp_path / "trainval/a.mat").write_bytes(b"no matlab at all")
    assert "a.mat cannot be read as a MATLAB file" in refusal("pascal-context-459", tmp_path)


# PASCAL VOC


def write_voc(home, labels="SegmentationClass", split="val", values=None):
    (home / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (home / f"ImageSets/Segmentation/{split}.txt").write_text("2007_000033\n2007_000042\n\n")
    for stem, own in (("2007_000033", rows(0, 1, 20, 255, 15)), ("2007_000042", rows(0, 255, 0))):
        write_jpeg(home / "JPEGImages" / f"{stem}.jpg")
        write_png(home / labels / f"{stem}.png", own if values is None else values, palette=True)


def test_pascal_voc_reads_a_palette_as_numbers(tmp_path):
    home = tmp_path / "VOCdevkit/VOC2012"
    write_voc(home)
    for root in (tmp_path, tmp_path / "VOCdevkit", home):
        assert converted("pascal-voc-20", root) == {
            "2007_000033": stripes(IGNORE, 0, 19, IGNORE, 14),
            "2007_000042": stripes(IGNORE),  # nothing but background: kept, and scores nothing
        }


def test_pascal_voc_prefers_the_augmented_labels(tmp_path):
    write_voc(tmp_path)
    write_voc(tmp_path, "SegmentationClassAug", values=rows(3))
    assert converted("pascal-voc-20", tmp_path) == {"2007_000033": stripes(2), "2007_000042": stripes(2)}


def test_pascal_voc_says_what_is_missing(tmp_path):
    assert "ImageSets/Segmentation/val.txt is missing" in refusal("pascal-voc-20", tmp_path)
    write_voc(tmp_path, split="train")
    assert list(converted("pascal-voc-20", tmp_path, "train")) == ["2007_000033", "2007_000042"]
    assert "ImageSets/Segmentation/val.txt is missing" in refusal("pascal-voc-20", tmp_path)
    write_voc(tmp_path, values=rows(21))
    assert "wanted values from 0 to 20, or 255, got 21" in refusal("pascal-voc-20", tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe")
    assert "val.txt cannot be read as a list of names" in refusal("pascal-voc-20", tmp_path)


# COCO-Stuff


@pytest.mark.parametrize("images", [".", "images", "coco", "coco/images"])
def test_coco_stuff_reads_stuffthingmaps(tmp_path, images):
    home = tmp_path / images.removesuffix("images")
    write_jpeg(tmp_path / images / "val2017/000000000139.jpg")
    # Raw values: person 0, stop sign 12 (11 is a gap), wood 181.
    write_png(home / "stuffthingmaps/val2017/000000000139.png", rows(0, 12, 11, 181, 255))
    assert converted("coco-stuff-171", tmp_path) == {"000000000139": stripes(0, 11, IGNORE, 170, IGNORE)}


def test_coco_stuff_says_which_file_is_missing(tmp_path):
    write_jpeg(tmp_path / "train2017/000000000009.jpg")
    assert f"the folder {tmp_path}/stuffthingmaps/train2017 is missing" in refusal("coco-stuff-171", tmp_path, "train")
    write_png(tmp_path / "stuffthingmaps_trainval2017/train2017/000000000009.png", rows(182))
    assert "wanted values from 0 to 181, or 255, got 182" in refusal("coco-stuff-171", tmp_path, "train")
    assert "val2017 is missing" in refusal("coco-stuff-171", tmp_path)


# Scenes


def test_scenes_are_drawn_without_a_folder():
    scenes = open_label_map_benchmark("scenes")
    samples = scenes.find_samples(None)
    assert len(samples) == 1000
    number = numbers("test", 1)[0]
    assert samples[0] == LabelledSample(*[f"scene:{number}:painted"] * 3)
    scene = draw_scene(number, 128)
    assert (scenes.read_image(samples[0]) == scene.image_HW3).all()
    assert (scenes.read_labels(samples[0]) == scored(scene)).all()


def test_scenes_of_other_splits_are_other_scenes():
    scenes = open_label_map_benchmark("scenes")
    first = {split: scenes.find_samples(None, split)[0] for split in scenes.splits}
    assert {split: sample.name for split, sample in first.items()} == {
        "test": "scene:11000000:painted",
        "val": "scene:10000000:painted",
        "train": "scene:0:painted",
        "ink": "scene:11000000:ink",
        "ink-val": "scene:10000000:ink",
    }
    assert (scenes.read_labels(first["ink"]) == scenes.read_labels(first["test"])).all()
    assert (scenes.read_image(first["ink"]) != scenes.read_image(first["test"])).any()


def test_a_folder_of_scenes_reads_as_they_were_drawn(tmp_path):
    drawn = [draw_scene(number, 48) for number in numbers("val", 2, 5)]
    write_scenes(tmp_path, drawn)
    scenes = open_label_map_benchmark("scenes")
    samples = scenes.find_samples(tmp_path, "val")
    assert [sample.name for sample in samples] == ["0010000005", "0010000006"]
    for sample, scene in zip(samples, drawn, strict=True):
        assert (scenes.read_image(sample) == scene.image_HW3).all()
        assert (scenes.read_labels(sample) == scored(scene)).all()
    assert f"scenes: {tmp_path} holds scenes of val, not of test; the files come from ovseg draw-scenes" in refusal(
        "scenes", tmp_path
    )
    (tmp_path / "scenes.json").write_text(json.dumps({"style": "ink"}))
    assert "holds scenes of ink-val, not of val" in refusal("scenes", tmp_path, "val")
    assert len(scenes.find_samples(tmp_path, "ink-val")) == 2


def test_a_folder_that_is_no_scenes_is_refused(tmp_path):
    assert f"{tmp_path}/classes.json is missing" in refusal("scenes", tmp_path)
    (tmp_path / "classes.json").write_text('[{"name": "grass"}]')
    assert "has other classes than this version of the world" in refusal("scenes", tmp_path)
    (tmp_path / "classes.json").write_text('{"grass": 1}')
    assert "has other classes than this version of the world" in refusal("scenes", tmp_path)
    (tmp_path / "classes.json").write_text("[")
    assert "classes.json cannot be read as JSON" in refusal("scenes", tmp_path)


# All


@pytest.mark.parametrize("name", [name for name in LABEL_MAP_BENCHMARKS if name != "scenes"])
def test_the_root_must_be_given_and_be_there(name, tmp_path):
    assert refusal(name, None) == f"{name}: wanted the folder that holds the data set, got none; give --root"
    assert refusal(name, tmp_path / "x") == f"{name}: {tmp_path}/x is no folder; give the one that holds the data set"


def test_data_sets_load_without_torch():
    code = (
        "import sys; from ovseg_model.datasets.benchmark import LABEL_MAP_BENCHMARKS, open_label_map_benchmark\n"
        "for name in LABEL_MAP_BENCHMARKS: open_label_map_benchmark(name)\n"
        "print({'torch', 'open_clip', 'scipy.io'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""`ovseg segment`: by hand with colours for vectors, and on photographs with the CLIP that ships with the project."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import COLOUR_OF_NOUN, HalvesGenerator, unit_rows
from PIL import Image

from ovseg_model.label_png import read_label_png
from ovseg_model.proposals import ProposalError
from ovseg_model.proposals.soft import HardProposals
from ovseg_model.rank_agreement import CropAgreement
from ovseg_model.rle import decode_masks
from pipelines import segment_images
from pipelines.command_line import main
from pipelines.open_segmenter import Models
from pipelines.segment_images import InputOptions, find_images, read_classes
from schemas import UserError

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
PAGE = Path(__file__).parent.parent / "docs/segmentation.md"


class ColourRegions:
    """A region's vector is its mean colour."""

    def __init__(self, meaningless=False):
        self.clip = SimpleNamespace(weights=SimpleNamespace(meaningless=meaningless), device="cpu")

    def embed(self, images):
        return [self.colours(image_HW3, np.concatenate(chunks)) for image_HW3, chunks in images]

    def colours(self, image_HW3, masks_NHW):
        if not len(masks_NHW):
            return np.empty((0, 3), np.float32)
        return unit_rows([image_HW3[mask_HW].mean(axis=0) + 1e-6 for mask_HW in masks_NHW])


class ColourNames:
    """A name's vector is the colour it is known for; other names are grey."""

    def embed(self, names):
        return unit_rows([COLOUR_OF_NOUN.get(name, (1.0, 1.0, 1.0)) for name in names])


@pytest.fixture
def colours(monkeypatch):
    """Two halves an image, named by their colours; the generator that was asked."""
    generator = HalvesGenerator()
    models = Models(HardProposals(generator), ColourRegions(), ColourNames(), {"clip": {"name": "colours"}})
    monkeypatch.setattr(segment_images, "open_models", lambda options, work_folder: models)
    return generator


def write_image(path, left=RED, right=BLUE, **saving):
    """4 x 6 pixels, one colour on either half."""
    pixels = np.empty((4, 6, 3), np.uint8)
    pixels[:, :3], pixels[:, 3:] = left, right
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **saving)
    return path


def segment(*arguments):
    return main(["segment", *map(str, arguments)])


def facts(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def labels(folder, name):
    return np.asarray(Image.open(folder / f"{name}.labels.png")).tolist()


def test_an_image_becomes_a_label_map_an_overlay_and_json(tmp_path, colours, capsys):
    image = write_image(tmp_path / "photo.png")
    assert segment(image, "--classes", "grass, sky, ball", "--output", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "drops.json",
        "photo.json",
        "photo.labels.png",
        "photo.overlay.png",
    ]
    assert labels(tmp_path / "out", "photo") == [[2, 2, 2, 1, 1, 1]] * 4
    found = facts(tmp_path / "out", "photo")
    assert (found["image"], found["height"], found["width"], found["meaningless"]) == ("photo.png", 4, 6, False)
    assert found["labels"] == [
        {"label": 0, "names": ["grass"], "area_px": 0},
        {"label": 1, "names": ["sky"], "area_px": 12},
        {"label": 2, "names": ["ball"], "area_px": 12},
    ]
    ball, sky = found["instances"]
    assert found["segments"] == [ball, sky]
    assert decode_masks([ball.pop("mask")])[0].tolist() == [[True] * 3 + [False] * 3] * 4
    assert ball == {"label": 2, "name": "ball", "score": 1.0, "area_px": 12, "box_xywh_px": [0, 0, 3, 4]}
    assert sky["box_xywh_px"] == [3, 0, 3, 4]
    # The overlay is enlarged to 480 px and half its colour; the legend stands below.
    overlay = Image.open(tmp_path / "out/photo.overlay.png")
    assert overlay.size[0] == 480
    assert overlay.size[1] > 320
    assert overlay.getpixel((10, 10)) != RED
    assert capsys.readouterr().out == f"segmented 1, kept 0, dropped 0\nresults: {tmp_path / 'out'}\n"


class OtherColours(ColourRegions):
    """Red is seen where blue is, and blue where red."""

    def colours(self, image_HW3, masks_NHW):
        return super().colours(image_HW3[:, :, ::-1], masks_NHW)


def test_one_pass_says_how_far_it_agrees_with_crops(tmp_path, monkeypatch, capsys):
    agreement = CropAgreement(OtherColours())
    made_by = {"clip": {"name": "colours"}}
    models = Models(HardProposals(HalvesGenerator()), ColourRegions(), ColourNames(), made_by, agreement)
    monkeypatch.setattr(segment_images, "open_models", lambda options, work_folder: models)
    image, output = write_image(tmp_path / "photo.png"), tmp_path / "out"
    assert segment(image, "--classes", "sky, ball", "--output", output) == 0
    sentence = "one pass beside crops, 2 classes of 1 images: same best mask 0%, rank correlation over masks -1.00"
    assert sentence in capsys.readouterr().out
    assert labels(output, "photo") == [[1, 1, 1, 0, 0, 0]] * 4
    assert segment(image, "--classes", "sky, ball", "--output", output) == 0
    assert "one pass" not in capsys.readouterr().out  # nothing was read anew


def test_background_competes_and_is_left_unlabelled(tmp_path, colours):
    image = write_image(tmp_path / "photo.png")
    assert segment(image, "--classes", "ball", "--background", "sky", "--output", tmp_path / "out") == 0
    assert labels(tmp_path / "out", "photo") == [[0, 0, 0, 255, 255, 255]] * 4
    found = facts(tmp_path / "out", "photo")
    assert [each["names"] for each in found["labels"]] == [["ball"]]
    assert [each["name"] for each in found["instances"]] == [each["name"] for each in found["segments"]] == ["ball"]


def test_one_class_competes_with_others(tmp_path, colours):
    # "others" is grey: nearer to blue than red is, and further from red than red itself.
    image = write_image(tmp_path / "photo.png")
    assert segment(image, "--classes", "ball", "--output", tmp_path / "out") == 0
    assert labels(tmp_path / "out", "photo") == [[0, 0, 0, 255, 255, 255]] * 4
    assert facts(tmp_path / "out", "photo")["made_by"]["classes"] == [["ball"], ["others"]]


def test_names_of_one_class_have_one_label(tmp_path, colours):
    image = write_image(tmp_path / "photo.png")
    assert segment(image, "--classes", "grass, ball|sky", "--output", tmp_path / "out") == 0
    assert labels(tmp_path / "out", "photo") == [[1] * 6] * 4
    assert facts(tmp_path / "out", "photo")["labels"][1]["names"] == ["ball", "sky"]


def test_labels_beyond_8_bits(tmp_path, colours):
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*(f"thing {number}" for number in range(298)), "sky", "ball"]))
    image = write_image(tmp_path / "photo.png")
    assert segment(image, "--classes-file", names, "--background", "grass", "--output", tmp_path / "out") == 0
    data = (tmp_path / "out/photo.labels.png").read_bytes()
    assert Image.open(io.BytesIO(data)).mode.startswith("I;16")
    assert read_label_png(data).tolist() == [[299, 299, 299, 298, 298, 298]] * 4


def classes_of(text, synonyms, tmp_path):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    return read_classes(InputOptions(classes_file=str(tmp_path / "names.txt")), synonyms)


def test_a_file_names_a_class_a_line(tmp_path):
    text = "\ufeffroad, route\n\n cat|kitty \n|\n"
    assert classes_of(text, "verbatim", tmp_path) == ((("road, route",), ("cat", "kitty")), 2)
    assert classes_of(text, "max", tmp_path) == ((("road", "route"), ("cat", "kitty")), 2)
    assert classes_of("road, route|road", "max", tmp_path) == ((("road", "route"), ("others",)), 1)


def test_the_same_command_keeps_what_stands_and_other_options_make_it_again(tmp_path, colours, capsys):
    write_image(tmp_path / "in/a.png")
    write_image(tmp_path / "in/b.png", left=GREEN)
    out = tmp_path / "out"
    arguments = (tmp_path / "in", "--classes", "ball, sky", "--output", out)
    assert segment(*arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert segment(*arguments) == 0
    assert colours.batches == [["a", "b"]]
    assert "segmented 0, kept 2, dropped 0" in capsys.readouterr().out
    # What is missing or damaged is made again, and so is what came of another image.
    (out / "a.overlay.png").unlink()
    (out / "b.json").write_text("{")
    assert segment(*arguments) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    write_image(tmp_path / "in/a.png", left=BLUE)
    assert segment(*arguments) == 0
    assert labels(out, "a") == [[1] * 6] * 4
    assert segment(tmp_path / "in", "--classes", "sky, ball", "--output", out) == 0
    assert labels(out, "a") == [[0] * 6] * 4
    assert colours.batches == [["a", "b"], ["a", "b"], ["a"], ["a", "b"]]


def test_an_image_that_cannot_be_read_is_listed_and_the_others_are_made(tmp_path, colours, capsys):
    write_image(tmp_path / "in/b.png")
    (tmp_path / "in/a.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert segment(tmp_path / "in", "--classes", "ball, sky", "--output", out) == 1
    assert labels(out, "b") == [[0, 0, 0, 1, 1, 1]] * 4
    assert not (out / "a.json").exists()
    (drop,) = json.loads((out / "drops.json").read_text())
    assert (drop["image"], drop["reason"]) == (str(tmp_path / "in/a.jpg"), "image_unreadable")
    text = capsys.readouterr().out
    assert text.startswith("segmented 1, kept 0, dropped 1\n")
    assert f"\n  {tmp_path / 'in/a.jpg'}: image_unreadable, 8 bytes that are no image" in text
    # Mended, and run again: nothing is dropped any more.
    write_image(tmp_path / "in/a.jpg")
    assert segment(tmp_path / "in", "--classes", "ball, sky", "--output", out) == 0
    assert json.loads((out / "drops.json").read_text()) == []


def test_an_image_whose_proposals_fail_is_listed(tmp_path, colours, monkeypatch):
    write_image(tmp_path / "in/a.png")
    write_image(tmp_path / "in/b.png", left=GREEN)
    halves = colours.halves
    fails = ProposalError("proposal_failed", "no")
    monkeypatch.setattr(colours, "halves", lambda image: fails if image[0, 0, 1] else halves(image))
    assert segment(tmp_path / "in", "--classes", "ball, sky", "--output", tmp_path / "out") == 1
    assert json.loads((tmp_path / "out/drops.json").read_text()) == [
        {"image": str(tmp_path / "in/b.png"), "reason": "proposal_failed", "detail": "no"}
    ]
    assert (tmp_path / "out/a.json").exists()


def test_only_the_first_drops_are_shown(tmp_path, colours, capsys):
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"")
    assert segment(tmp_path, "--classes", "ball, sky", "--output", tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert text.count("image_unreadable") == 10
    assert f"\n  and 2 more in {tmp_path / 'out/drops.json'}\n" in text


def test_an_image_without_proposals_is_unlabelled(tmp_path, colours):
    image = write_image(tmp_path / "photo.png", (0, 0, 0), (0, 0, 0))
    assert segment(image, "--classes", "ball, sky", "--output", tmp_path / "out") == 0
    assert labels(tmp_path / "out", "photo") == [[255] * 6] * 4
    found = facts(tmp_path / "out", "photo")
    assert found["instances"] == found["segments"] == []


def test_an_image_is_segmented_as_it_is_seen(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: the left half is on top
    image = write_image(tmp_path / "turned.png", exif=exif)
    assert segment(image, "--classes", "ball, sky", "--output", tmp_path / "out") == 0
    found = facts(tmp_path / "out", "turned")
    assert (found["height"], found["width"]) == (6, 4)
    assert np.array(labels(tmp_path / "out", "turned")).shape == (6, 4)


def test_a_grey_image_has_three_channels_like_any(tmp_path, colours):
    pixels = np.full((4, 6), 120, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    assert segment(tmp_path / "grey.png", "--classes", "ball, lamp", "--output", tmp_path / "out") == 0
    assert labels(tmp_path / "out", "grey") == [[1] * 6] * 4


def test_the_demo_keeps_one_proposal_a_class(tmp_path, colours):
    image = write_image(tmp_path / "photo.png", left=RED, right=(255, 30, 0))
    assert segment(image, "--classes", "ball, sky", "--output", tmp_path / "all") == 0
    assert labels(tmp_path / "all", "photo") == [[0] * 6] * 4
    assert segment(image, "--classes", "ball, lamp", "--demo", "--output", tmp_path / "demo") == 0
    # lamp is grey, and nearer to the right half than to the left, but ball is nearer still: one proposal each.
    assert labels(tmp_path / "demo", "photo")[0][:3] == [0, 0, 0]
    found = facts(tmp_path / "demo", "photo")
    assert found["made_by"]["options"] == {
        "mask_threshold": 0.35,
        "clip_weight": 1.0,
        "soft_masks": False,
        "best_proposal_only": True,
    }
    assert [(each["name"], each["box_xywh_px"][0]) for each in found["instances"]] == [("ball", 0), ("lamp", 3)]


def test_what_is_given_beside_the_demo_counts(tmp_path, colours):
    image = write_image(tmp_path / "photo.png")
    arguments = ("--classes", "ball, sky", "--demo", "--mask-threshold", "0.5", "--output", tmp_path / "out")
    assert segment(image, *arguments) == 0
    options = facts(tmp_path / "out", "photo")["made_by"]["options"]
    assert (options["mask_threshold"], options["best_proposal_only"]) == (0.5, True)


def test_masks_without_classes_leave_clip_alone(tmp_path, colours, capsys):
    image = write_image(tmp_path / "photo.png")
    arguments = ("--classes", "ball, sky", "--clip-weight", "0.2", "--output", tmp_path / "out")
    assert segment(image, *arguments) == 0
    assert facts(tmp_path / "out", "photo")["made_by"]["options"]["clip_weight"] == 1.0
    said = capsys.readouterr().err
    assert "--clip-weight 0.2: has no part in it, since the masks come without class probabilities" in said


def test_low_scores_can_be_left_out_of_the_json(tmp_path, colours):
    # The right half is between both classes: its better one has about .5.
    image = write_image(tmp_path / "photo.png", right=(255, 0, 255))
    arguments = ("--classes", "ball, sky", "--least-score", "0.9", "--output", tmp_path / "out")
    assert segment(image, *arguments) == 0
    found = facts(tmp_path / "out", "photo")
    assert [each["box_xywh_px"] for each in found["instances"]] == [[0, 0, 3, 4]]
    assert sum(each["area_px"] for each in found["labels"]) == 24  # the label map has it all


# Which images.


def test_folders_and_globs_are_photographs_in_order(tmp_path):
    names = ("b.jpg", "a.PNG", ".hidden.jpg", "a.labels.png", "a.overlay.png", "a.json", "notes.txt")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    expected = [str(tmp_path / name) for name in ("a.PNG", "b.jpg")]
    assert find_images([str(tmp_path)]) == find_images([str(tmp_path / "*")]) == expected
    # Each once, however it is named; what is named itself is taken whatever its ending.
    assert find_images([str(tmp_path / "b.jpg"), str(tmp_path)]) == expected[::-1]
    assert find_images([f"{tmp_path}/./notes.txt"]) == [str(tmp_path / "notes.txt")]


def test_folders_below_are_looked_into_by_a_glob_only(tmp_path):
    for name in ("a.jpg", "below/b.jpg", "below/further/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images([str(tmp_path)]) == [str(tmp_path / "a.jpg")]
    assert find_images([f"{tmp_path}/**/*.jpg"]) == [str(tmp_path / name) for name in ("a.jpg", "below/b.jpg")]
    assert len(find_images([f"{tmp_path}/**"])) == 3


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    for name in ("photo[1].jpg", "photo1.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert find_images([str(tmp_path / "photo[1].jpg")]) == [str(tmp_path / "photo[1].jpg")]
    assert find_images([str(tmp_path / "photo?.jpg")]) == [str(tmp_path / "photo1.jpg")]


def test_addresses_are_neither_listed_nor_globbed():
    places = ["https://example.org/a.jpg?size=1", "shard.tar#member=b.jpg&offset=512&size=9"]
    assert find_images(places) == places


def test_results_of_two_images_never_share_a_name(tmp_path):
    for name in ("a.jpg", "a.png", "drops.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png: results are named after the image"):
        find_images([str(tmp_path / "a.*")])
    with pytest.raises(UserError, match=r"drops\.json and .*drops\.jpg: results are named after the image"):
        find_images([str(tmp_path / "drops.jpg")])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], 'wanted class names, by --classes "cat, sofa, window" or by --classes-file'),
        (["--classes", "cat"], "wanted images: files, folders or globs"),
        (["x.jpg", "--classes", "cat", "--classes-file", "y"], "one of the two"),
        (["x.jpg", "--classes", " , |"], "--classes ' , |': holds no name"),
        (["x.jpg", "--classes-file", "empty.txt"], "--classes-file empty.txt: holds no name"),
        (["x.jpg", "--classes-file", "nowhere.txt"], "--classes-file nowhere.txt: cannot be read"),
        (["x.jpg", "--classes", "cat, dog, cat"], "'cat' names two classes"),
        (["x.jpg", "--classes", "cat", "--background", "wall, cat"], "'cat' names two classes"),
        (["x.jpg", "--classes", "cat"], "x.jpg: does not exist; wanted a file, or a folder or glob"),
        (["x*.jpg", "--classes", "cat"], "x*.jpg: there is no image"),
        ([".", "--classes", "cat"], "folders below a folder are not looked into: that is './**/*.jpg'"),
        (["x.jpg", "--classes", "others"], "a single class competes with a background that is called 'others' too"),
        (["x.jpg", "--classes", "cat;dog"], "class names 'cat;dog': classes have commas between them"),
        ([".", "--classes", "cat"], ".: there is no image; wanted a file, or a folder or glob of files with .jpg"),
        (["x.jpg", "--classes", "cat", "--least-score", "2"], "--least-score: wanted 0 to 1, got 2.0"),
        (["x.jpg", "--classes", "cat", "--output", ""], "--output is empty"),
        (["x.jpg", "--clases", "cat"], "unrecognized arguments: --clases"),
        (["x.jpg", "--classes", "cat", "--mask-threshold", "2"], "--mask-threshold: wanted 0 to 1, got 2.0"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    assert segment(*arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_images_may_stand_before_and_behind_options(tmp_path, colours):
    first, second = write_image(tmp_path / "a.png"), write_image(tmp_path / "b.png")
    assert segment(first, "--classes", "ball, sky", second, "--output", tmp_path / "out") == 0
    assert colours.batches == [["a", "b"]]


def test_random_weights_are_said_to_mean_nothing(tmp_path, monkeypatch, capsys):
    models = Models(
        HardProposals(HalvesGenerator()), ColourRegions(meaningless=True), ColourNames(), {"clip": {"name": "x"}}
    )
    monkeypatch.setattr(segment_images, "open_models", lambda options, work_folder: models)
    assert segment(write_image(tmp_path / "a.png"), "--classes", "ball, sky", "--output", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "CLIP's weights are random: the labels mean nothing" in said.out
    assert "CLIP's weights are random: the labels mean nothing" in said.err
    assert facts(tmp_path / "out", "a")["meaningless"] is True


# On photographs.

SCENES_CLIP = ("--clip", "scenes", "--templates", "photo", "--device", "cpu")


def test_photographs_and_the_clip_that_knows_none(tmp_path, test_data, capsys):
    for name in ("000000119828", "000000403353"):
        with Image.open(test_data / f"coco_sample/images/{name}.jpg") as photo:
            photo.convert("RGB").resize((96, 72)).save(tmp_path / f"{name}.jpg")
    out = tmp_path / "out"
    masks = ("--masks", "felzenszwalb", "--mask-option", "max_masks=12")
    assert segment(tmp_path, "--classes", "cat, laptop, bed", *masks, *SCENES_CLIP, "--output", out) == 0
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "SCENES: the CLIP that is used ships with the project" in text
        assert "for\nphotographs give --clip ViT-B-16/openai" in text
    assert "segmented 2, kept 0, dropped 0\n" in said.out
    found = facts(out, "000000119828")
    labels_HW = read_label_png((out / "000000119828.labels.png").read_bytes())
    assert labels_HW.shape == (72, 96)
    assert [each["area_px"] for each in found["labels"]] == [(labels_HW == label).sum() for label in range(3)]
    assert 1 < len(found["instances"]) <= 12
    assert [each["score"] for each in found["instances"]] == sorted(
        (each["score"] for each in found["instances"]), reverse=True
    )
    apart_SHW = decode_masks([each["mask"] for each in found["segments"]])
    assert apart_SHW.sum(axis=0).max() == 1
    assert not (out / ".work").exists()


def test_masks_that_exist_are_the_instances(tmp_path, test_data):
    source = test_data / "coco_sample/instances.json"
    image = test_data / "coco_sample/images/000000119828.jpg"
    masks = ("--masks", "annotations", "--mask-option", f"source={source}")
    assert segment(image, "--classes", "cat, laptop", *masks, *SCENES_CLIP, "--output", tmp_path) == 0
    found = facts(tmp_path, image.stem)
    coco = json.loads(source.read_text())
    (number,) = (each["id"] for each in coco["images"] if each["file_name"] == image.name)
    boxes = [each["bbox"] for each in coco["annotations"] if each["image_id"] == number]
    assert len(found["instances"]) == len(boxes) == 6
    for box in boxes:  # COCO's are of polygons, with fractions
        nearest = min(np.abs(np.subtract(each["box_xywh_px"], box)).max() for each in found["instances"])
        assert nearest < 2


# What the page says.


def fields_of(value, path=""):
    """Names of all fields below, lists as [], what made_by and masks hold left out."""
    if isinstance(value, list):
        return {name for each in value for name in fields_of(each, f"{path}[]")}
    if not isinstance(value, dict):
        return set()
    named = {f"{path}.{name}".lstrip("."): each for name, each in value.items()}
    below = (fields_of(each, name) for name, each in named.items() if name.split(".")[-1] not in ("made_by", "mask"))
    return set(named).union(*below)


def test_the_page_names_every_field_and_no_other(tmp_path, colours):
    assert segment(write_image(tmp_path / "a.png"), "--classes", "ball, sky", "--output", tmp_path / "out") == 0
    table = PAGE.read_text().split("## The JSON")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == fields_of(facts(tmp_path / "out", "a"))


def test_the_page_states_the_settings_that_the_code_has():
    from ovseg_model.segment import DEMO, SegmentOptions

    page, default = PAGE.read_text(), SegmentOptions()
    assert f"`--mask-threshold {default.mask_threshold:g}`" in page
    assert f"`--clip-weight {default.clip_weight:g}`" in page
    assert f"| `--demo` | {DEMO.mask_threshold:g} | {DEMO.clip_weight:g} | hard, one a class |" in page

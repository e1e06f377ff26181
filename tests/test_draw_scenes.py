"""Scenes as files: what is written is what was drawn, in layouts that the miner reads."""

import json

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.scene_files import file_name, palette
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import SPLITS, STYLES, draw_scene
from pipelines import draw_scenes
from pipelines.command_line import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["draw-scenes", "--output", str(folder), "--scenes", "3", "--start", "2", "--size-px", "48"]) == 0
    return folder


def test_pictures_and_captions_are_those_of_the_scenes(folder):
    captions = json.loads((folder / "captions.json").read_text())
    assert [image["id"] for image in captions["images"]] == list(SPLITS["val"][2:5])
    for number in SPLITS["val"][2:5]:
        scene = draw_scene(number, 48)
        name = file_name(number)
        assert (np.asarray(Image.open(folder / "images" / name)) == scene.image_HW3).all()
        assert (np.asarray(Image.open(folder / "labels" / name)) == scene.labels_HW).all()
        assert (np.asarray(Image.open(folder / "instances" / name)) == scene.instances_HW).all()
        own = [entry["caption"] for entry in captions["annotations"] if entry["image_id"] == number]
        assert own == list(scene.captions)


def test_classes_are_in_label_order(folder):
    classes = json.loads((folder / "classes.json").read_text())
    assert [each["name"] for each in classes] == list(NAMES)
    assert {each["kind"] for each in classes} == {"stuff", "thing"}


def test_every_label_has_a_colour_of_its_own():
    colours = {tuple(colour) for colour in palette()[: len(NAMES)].tolist()}
    assert len(colours) == len(NAMES)
    assert palette()[255].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output is missing; give a folder"),
        (["--output", "memory://x"], "--output memory://x: wanted a local folder"),
        (["--output", "x", "--scenes", "0"], "--scenes: wanted 1 or more, got 0"),
        (["--output", "x", "--size-px", "8"], "--size-px: wanted 32 or more, got 8"),
        (["--output", "x", "--scenes", "2", "--start", "999999"], "val has 1,000,000 numbers"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["draw-scenes", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_choices_are_those_of_the_world():
    assert tuple(SPLITS) == draw_scenes.SPLITS
    assert draw_scenes.STYLES == STYLES


def test_the_same_scenes_may_be_drawn_again_and_others_are_refused(folder, capsys):
    same = ["draw-scenes", "--output", str(folder), "--scenes", "3", "--start", "2", "--size-px", "48"]
    assert main(same) == 0
    assert main([*same, "--style", "ink"]) == 2
    assert "holds other files, or scenes of other options" in capsys.readouterr().err
    assert json.loads((folder / "scenes.json").read_text())["style"] == "painted"


def test_files_of_others_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "captions.json").write_text("mine")
    assert main(["draw-scenes", "--output", str(tmp_path), "--scenes", "1"]) == 2
    assert (tmp_path / "captions.json").read_text() == "mine"

"""Pairs against the truth of scenes: right, wrong, and nouns that name nothing."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_clip import write_folder

from ovseg_model import rle
from ovseg_model.datasets.scene_files import file_name, write_scenes
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import SPLITS, draw_scene
from pipelines.command_line import main
from pipelines.draw_pairs import LABEL_PX, RIGHT_RGB, TILE_PX, TITLE_PX, WRONG_RGB
from pipelines.judge_pairs import Judged, draw_judged, judge, precision_table, twelve_of

LABELS = np.full((4, 4), NAMES.index("grass"), np.uint8)
LABELS[:, :2] = NAMES.index("kite")
LABELS[0] = 255


def pair(noun, columns, pair_id="a", image_id="1", uri="gone.png"):
    mask = np.zeros((1, 4, 4), bool)
    mask[:, :, columns] = True
    row = {"noun": noun, "mask": rle.encode_masks(mask)[0], "pair_id": pair_id, "image_id": image_id}
    return row | {"image_uri": uri, "cosine": 0.3, "meaningless": False}


@pytest.mark.parametrize(
    ("noun", "columns", "meant", "seen", "right"),
    [
        ("kite", slice(0, 2), "kite", "kite", True),
        ("red kites", slice(0, 2), "kite", "kite", True),
        ("lawn", slice(2, 4), "grass", "grass", True),
        ("kite", slice(1, 4), "kite", "grass", False),
        ("photo", slice(0, 2), None, "kite", False),
    ],
)
def test_a_pair_is_right_when_its_noun_covers_most_of_its_mask(noun, columns, meant, seen, right):
    judged = judge(pair(noun, columns), LABELS)
    assert (judged.meant, judged.seen, judged.right) == (meant, seen, right)


def test_clutter_is_no_class():
    assert judge(pair("kite", slice(0, 4)), np.full((4, 4), 255, np.uint8)).seen == "clutter"


def test_the_table_by_hand():
    judged = [
        Judged({}, "kite", "kite"),
        Judged({}, "kite", "grass"),
        Judged({}, "moon", "moon"),
        Judged({}, "grass", "grass"),
        Judged({}, None, "grass"),
    ]
    rows = {line[:30].strip(): line[30:].split() for line in precision_table(judged).splitlines()[1:]}
    assert rows == {
        "nouns of things": ["3", "2", "0.667"],
        "nouns of stuff": ["1", "1", "1.000"],
        "of these, only captions name": ["1", "1", "1.000"],
        "nouns of things or stuff": ["4", "3", "0.750"],
        "nouns of nothing visible": ["1", "0", "0.000"],
        "all": ["5", "3", "0.600"],
    }


def test_shown_are_the_smallest_hashes_of_different_images():
    hashes = [("c", "1"), ("a", "1"), ("b", "2"), ("d", "3")]
    judged = [Judged({"pair_id": key, "image_id": image}, "kite", "kite") for key, image in hashes]
    judged.append(Judged({"pair_id": "0", "image_id": "9"}, None, "kite"))
    assert [each.row["pair_id"] for each in twelve_of(judged)] == ["a", "b", "d"]


def test_the_picture_marks_right_and_wrong(tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "a.png")
    rows = [
        pair("kite", slice(0, 2), uri=str(tmp_path / "a.png")),
        pair("kite", slice(2, 4), uri=str(tmp_path / "a.png")),
    ]
    png = draw_judged([judge(row, LABELS) for row in rows] * 3)
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert sheet.shape == (TITLE_PX + 2 * (TILE_PX + LABEL_PX), 4 * TILE_PX, 3)
    middle = TITLE_PX + TILE_PX // 2
    assert sheet[middle, 2].tolist() == list(RIGHT_RGB)
    assert sheet[middle, TILE_PX + 2].tolist() == list(WRONG_RGB)
    assert (sheet[TITLE_PX + TILE_PX + LABEL_PX :, 2 * TILE_PX :] == 255).all()
    assert (sheet[:TITLE_PX] < 100).any()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, (draw_scene(number, 48) for number in SPLITS["val"][:6]))
    return folder


@pytest.fixture(scope="module")
def mined(scenes, tmp_path_factory):
    """Pairs of true masks, so that a right answer is there for every noun that is visible."""
    clip, run = write_folder(tmp_path_factory.mktemp("clip")), tmp_path_factory.mktemp("run") / "run"
    arguments = ["--captions", f"{scenes}/captions.json", "--images", f"{scenes}/images", "--nouns", "lexicon"]
    arguments += ["--masks", "annotations", "--mask-option", f"source={scenes}/labels", "format=labelmap"]
    assert main(["mine", *arguments, "--clip", str(clip), "--runner", "plain", "--output", str(run)]) == 0
    return run


def test_a_mined_run_is_judged(mined, scenes, capsys):
    assert main(["judge", "--output", str(mined), "--truth", str(scenes)]) == 0
    assert "nouns of things or stuff" in capsys.readouterr().out
    with Image.open(mined / "judged.png") as picture:
        assert picture.width == 4 * TILE_PX


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "x"], "--output is missing"),
        (["--output", "x"], "--truth is missing"),
        (["--output", "nowhere", "--truth", "x"], "there is no finished run; mine it first"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, message, capsys):
    assert main(["judge", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_truth_of_another_size_or_no_picture_is_refused(mined, tmp_path, capsys):
    write_scenes(tmp_path, (draw_scene(number, 40) for number in SPLITS["val"][:6]))
    assert main(["judge", "--output", str(mined), "--truth", str(tmp_path)]) == 2
    assert "(40, 40) there and (48, 48) in the run" in capsys.readouterr().err
    for path in (tmp_path / "labels").iterdir():
        path.write_text("no picture")
    assert main(["judge", "--output", str(mined), "--truth", str(tmp_path)]) == 2
    assert "is no label map that can be read" in capsys.readouterr().err


def test_a_truth_of_other_scenes_is_refused(mined, tmp_path, capsys):
    assert main(["judge", "--output", str(mined), "--truth", str(tmp_path)]) == 2
    assert f"has no {file_name(SPLITS['val'][0])[:6]}" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda part: part.write_bytes(b"PAR1 no"), lambda part: part.unlink()])
def test_a_damaged_or_missing_part_is_one_sentence(mined, scenes, tmp_path, capsys, damage):
    run = tmp_path / "run"
    shutil.copytree(mined, run)
    part = min((run / "pairs").iterdir())
    damage(part)
    assert main(["judge", "--output", str(run), "--truth", str(scenes)]) == 2
    error = capsys.readouterr().err
    assert f"{part}: cannot be read" in error
    assert "mine again, and the part is made anew" in error

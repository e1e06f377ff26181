"""The measures of the check, by hand."""

import math

import numpy as np
import pytest

from ovseg_model.datasets import scene_check, scenes
from ovseg_model.datasets.scene_check import (
    SceneCheck,
    accuracy_by_noun,
    box_masks,
    check_scenes,
    mean_of,
    noun_recall,
    object_masks,
    objects,
    retrieval,
    table,
    table_of_nouns,
)
from ovseg_model.datasets.scene_nouns import NAMES, STUFF, THINGS
from ovseg_model.datasets.scenes import SPLITS, draw_scene


def test_retrieval_by_hand():
    # Rows are scenes, columns captions: the second caption fits the first scene better than its own.
    cosine = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3], [0.1, 0.2, 0.6]])
    measured = retrieval(cosine)
    assert measured["text to scene R@1"] == pytest.approx(2 / 3)
    assert measured["scene to text R@1"] == 1
    assert measured["text to scene R@5"] == 1


def test_a_tie_is_not_a_hit():
    assert retrieval(np.ones((2, 2)))["text to scene R@1"] == 0


def scores(**by_name):
    row = np.zeros(len(NAMES))
    for name, value in by_name.items():
        row[NAMES.index(name)] = value
    return row


def test_noun_recall_sets_other_right_answers_aside():
    cosine = np.stack(
        [
            scores(kite=0.5, cup=0.9, grass=0.4),  # both visible: cup does not stand in the kite's way
            scores(kite=0.5, cup=0.9, grass=0.4, sand=0.8),  # cup is not there, and sand is not
        ]
    )
    recall = noun_recall(cosine, [{"kite", "cup", "grass"}, {"kite", "grass"}])
    assert recall == {"grass": 0.5, "kite": 0.5, "cup": 1.0}


def test_a_noun_competes_with_its_own_kind_only():
    assert noun_recall(scores(kite=0.5, grass=0.9)[None], [{"kite"}]) == {"kite": 1.0}


def test_accuracy_by_noun_by_hand():
    cosine = np.stack([scores(kite=1), scores(cup=1), scores(cup=1)])
    truth = np.array([NAMES.index(name) for name in ("kite", "kite", "cup")])
    assert accuracy_by_noun(cosine, truth) == {"kite": 0.5, "cup": 1.0}


def test_a_mean_is_over_the_nouns_that_are_there():
    assert mean_of({"kite": 0.5, "cup": 1.0, "grass": 0.0}, THINGS) == 0.75
    assert math.isnan(mean_of({}, THINGS))


def test_boxes_hold_their_objects():
    scene = draw_scene(SPLITS["val"][2], 64)
    masks, boxes = object_masks(scene), box_masks(scene)
    assert len(masks) == len(boxes) == len(objects(scene)) > 2
    assert (boxes | masks == boxes).all()
    for mask, box, region in zip(masks, boxes, objects(scene), strict=True):
        assert mask.sum() == region.area_px
        assert box.any(axis=0).sum() * box.any(axis=1).sum() == box.sum()


class KnowsAll:
    """A CLIP whose texts are unit vectors of their class, and whose images are those of their truth, in order."""

    image_size_px, mean, std = 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, truth):
        self.truth = list(truth)

    def embed_texts(self, texts):
        found = [next((i for i, name in enumerate(NAMES) if f" {name}" in f" {text}"), 0) for text in texts]
        return np.eye(len(NAMES), dtype=np.float32)[found]

    def embed_images(self, batch):
        return np.eye(len(NAMES), dtype=np.float32)[[self.truth.pop(0) for _ in batch]]


def test_the_check_scores_every_object_once(monkeypatch):
    drawn = [draw_scene(number, scene_check.SIZE_PX) for number in SPLITS["test"][:5]]
    truth = [NAMES.index(region.noun) for scene in drawn for region in objects(scene)]
    first = [NAMES.index(objects(scene)[0].noun) for scene in drawn]
    result = check_scenes(KnowsAll([*first, *truth, *truth]), 5)
    assert set(result.crops.values()) == set(result.masked.values()) == {1.0}
    assert set(result.crops) == {NAMES[label] for label in truth}
    assert all(result.recall[objects(scene)[0].noun] > 0 for scene in drawn)


def test_the_tables_say_what_was_measured():
    result = SceneCheck("painted", 7, {"text to scene R@1": 0.5}, {"kite": 0.25}, {"kite": 0.75}, {"grass": 1.0})
    lines = table([result, result]).splitlines()
    assert lines[0] == "| | painted, 7 scenes | painted, 7 scenes |"
    assert "| whole scenes: noun recall@1, things | 0.250 | 0.250 |" in lines
    assert "| masked regions: top-1 of 44, stuff | 1.000 | 1.000 |" in lines
    assert "| kite | 0.250 | 0.750 | nan |" in table_of_nouns(result)
    assert len(NAMES) == len(STUFF) + len(THINGS) == 44


def test_the_command_says_whether_the_world_is_the_frozen_one(capsys, monkeypatch):
    assert scenes.main(["--check", "--scenes", "2"]) == 0
    assert ": as frozen" in capsys.readouterr().out
    monkeypatch.setattr(scenes, "WORLD_SHA256", "another")
    assert scenes.main(["--check", "--scenes", "2", "--split", "val"]) == 1
    assert "NOT as frozen" in capsys.readouterr().out


def test_a_clip_that_is_not_there_is_one_sentence(capsys):
    assert scenes.main(["--check", "--clip", "nope", "--scenes", "1"]) == 2
    assert capsys.readouterr().err.startswith("scenes --check: CLIP: wanted ARCHITECTURE/TAG")

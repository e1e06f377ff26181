"""Pretraining: its losses by hand, its crash safety by killing it, and the weights that it made."""

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_model.clip import BPE_FILE, CONFIG_FILE, EMBEDDED, SAFE_FILE, file_sha256, load_clip, resolve_clip
from ovseg_model.datasets import scene_pretraining
from ovseg_model.datasets.scene_captions import CAPTIONS
from ovseg_model.datasets.scene_check import check_scenes, mean_of
from ovseg_model.datasets.scene_nouns import STUFF, THINGS
from ovseg_model.datasets.scene_pretraining import (
    Batches,
    PretrainOptions,
    contrastive_losses,
    ideal_loss,
    main,
    model_config,
    pretrain,
    write_config,
)
from ovseg_model.datasets.scenes import WORLD_VERSION, Region, Scene
from schemas.errors import UserError

TINY = PretrainOptions(steps=4, batch=4, warmup=2)
NOTHING = np.zeros((2, 2), np.uint8)


def small_config(vocabulary):
    """The shipped configuration with a sixth of its weights."""
    config = model_config(vocabulary)
    config["vision_cfg"] |= {"width": 32, "layers": 2, "head_width": 16}
    config["text_cfg"] |= {"width": 32, "layers": 1, "heads": 2}
    return config


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    monkeypatch.setattr(scene_pretraining, "model_config", small_config)


def read_log(folder):
    with (Path(folder) / "training.csv").open() as file:
        return list(csv.DictReader(file))


def scene(*nouns):
    regions = tuple(Region(noun, "red", at, 1) for at, noun in enumerate(nouns, 1))
    return Scene(0, NOTHING, NOTHING, NOTHING, regions, ())


def test_what_knowing_some_nouns_is_worth():
    scenes = [scene("grass", "kite"), scene("grass", "cup"), scene("sand", "cup")]
    captions = ["a kite on grass", "a cup on the lawn", "a mug"]
    # By stuff: grass is in two scenes, twice, and the last caption fits all three. By all: one, one, two.
    assert ideal_loss(scenes, captions, STUFF) == pytest.approx((2 * math.log(2) + math.log(3)) / 3)
    assert ideal_loss(scenes, captions, THINGS) == pytest.approx((0 + math.log(2) + math.log(2)) / 3)
    assert ideal_loss(scenes, captions, None) == pytest.approx((0 + 0 + math.log(2)) / 3)


def test_the_loss_by_hand():
    # Two scenes with two captions each; only the first caption is told apart, by 1.
    similarity = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    to_scenes = (math.log(1 + math.exp(-1)) + 3 * math.log(2)) / 4
    first = math.log(math.e + 3)
    to_captions = ((first - 1) + first + 2 * math.log(4)) / 4
    assert [half.item() for half in contrastive_losses(similarity, 2)] == pytest.approx([to_scenes, to_captions])


def test_a_batch_is_the_scenes_of_its_step(tmp_path):
    write_config(tmp_path)
    batches = Batches(TINY, tmp_path)
    first, again, next_ = batches[0], batches[0], batches[1]
    assert first.images_B3SS.shape == (4, 3, 64, 64)
    assert first.images_B3SS.dtype == torch.uint8
    assert len(first.tokens_TL) == 20
    assert (first.tokens_TL > 0)[:, -1].any()
    assert torch.equal(first.images_B3SS, again.images_B3SS)
    assert torch.equal(first.tokens_TL, again.tokens_TL)
    assert not torch.equal(first.images_B3SS, next_.images_B3SS)


def test_the_folder_is_one_that_clip_opens(tmp_path):
    pretrain(tmp_path, TINY, "cpu")
    clip = load_clip(resolve_clip(str(tmp_path)))
    assert clip.image_size_px == 64
    vectors = clip.embed_texts(["a kite", "a kite", "a cup on grass"])
    assert vectors.shape == (3, 128)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_vocabulary_belongs_to_the_models_fingerprint(tmp_path):
    pretrain(tmp_path, TINY, "cpu")
    before = resolve_clip(str(tmp_path)).fingerprint()
    (tmp_path / BPE_FILE).unlink()
    with pytest.raises(UserError, match=r"knows 952 tokens, its tokenizer 49,408; put bpe_merges\.txt\.gz"):
        resolve_clip(str(tmp_path))
    assert before["model"] != f"config {file_sha256(str(tmp_path / CONFIG_FILE))}"


KILLED = """
import os, sys, torch
torch.set_num_threads({threads})  # another number may round differently
from pathlib import Path
sys.path.insert(0, {tests!r})
from ovseg_model.datasets import scene_pretraining
from test_scene_pretraining import TINY, small_config

scene_pretraining.model_config = small_config
learn = scene_pretraining.Pretraining.learn

def die(self, batch):
    if self.step == {kill_at}:
        os.kill(os.getpid(), 9)
    return learn(self, batch)

scene_pretraining.Pretraining.learn = die
scene_pretraining.pretrain(Path({folder!r}), TINY, "cpu", save_every=1)
"""


def test_a_run_that_is_killed_ends_like_one_that_is_not(tmp_path):
    pretrain(tmp_path / "whole", TINY, "cpu", save_every=1)
    killed = tmp_path / "killed"
    code = KILLED.format(
        tests=str(Path(__file__).parent), folder=str(killed), kill_at=3, threads=torch.get_num_threads()
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == -9
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["step"] == 3
    pretrain(killed, TINY, "cpu", save_every=1)
    for name in (SAFE_FILE, CONFIG_FILE, BPE_FILE):
        assert (tmp_path / "whole" / name).read_bytes() == (killed / name).read_bytes(), name
    assert [row["step"] for row in read_log(killed)] == ["4"]


def test_ctrl_c_saves(tmp_path, monkeypatch):
    learn = scene_pretraining.Pretraining.learn

    def interrupted(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        return learn(self, batch)

    monkeypatch.setattr(scene_pretraining.Pretraining, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, TINY, "cpu")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2


def test_a_checkpoint_of_other_options_is_refused(tmp_path, monkeypatch):
    test_ctrl_c_saves(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"checkpoint.pt was made with another seed; give the same options"):
        pretrain(tmp_path, dataclasses.replace(TINY, seed=1), "cpu")


def test_the_command_takes_every_option(tmp_path):
    main(["--output", str(tmp_path), "--steps", "1", "--batch", "2", "--seed", "5", "--device", "cpu"])
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["options"] | {"steps": 1, "batch": 2, "seed": 5} == record["options"]
    assert PretrainOptions().captions <= CAPTIONS


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--steps", "0", "--steps: wanted 1 or more, got 0"), ("--captions", "9", "--captions: wanted 1 to 5, got 9")],
)
def test_a_users_mistake_is_one_sentence(tmp_path, option, value, message):
    with pytest.raises(SystemExit, match=message):
        main(["--output", str(tmp_path), option, value, "--device", "cpu"])


# The weights that ship.


def test_the_shipped_weights_are_those_of_the_record():
    folder = Path(EMBEDDED["scenes"])
    record = json.loads((folder / "training.json").read_text())
    assert record["world_version"] == WORLD_VERSION
    for name, sha256 in record["sha256"].items():
        assert file_sha256(str(folder / name)) == sha256
    assert sum(entry.stat().st_size for entry in os.scandir(folder)) < 12e6
    rows = read_log(folder)
    assert int(rows[-1]["step"]) == record["options"]["steps"]
    assert float(rows[-1]["loss"]) < float(rows[-1]["loss_stuff_only"]) - 1


def test_the_shipped_weights_know_the_world():
    clip = load_clip(resolve_clip("scenes"))
    assert clip.weights.name == "scenes"
    result = check_scenes(clip, 128, split="val")
    assert mean_of(result.recall, THINGS) > 0.75
    assert mean_of(result.recall, STUFF) > 0.92
    assert result.retrieval["text to scene R@5"] > 0.3

"""Finetuning as a user runs it: modes, resuming, processes, and what goes wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import write_folder

from ovseg_model import finetune as finetune_module
from ovseg_model.adapted_weights import load_adapted
from ovseg_model.checkpoint import CHECKPOINT_FILE
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.datasets.scene_files import write_scenes
from ovseg_model.datasets.scenes import SPLITS, draw_scene
from ovseg_model.finetune_options import STAGES, FinetuneOptions
from ovseg_model.interrupts import watch_interrupts
from ovseg_model.training_state import TrainingState
from pipelines.command_line import main
from schemas.errors import UserError

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, (draw_scene(number, 48) for number in SPLITS["train"][:16]))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def mined(scenes, clip, tmp_path_factory):
    run = tmp_path_factory.mktemp("mined") / "run"
    arguments = ["--captions", f"{scenes}/captions.json", "--images", f"{scenes}/images", "--nouns", "lexicon"]
    arguments += ["--masks", "annotations", "--mask-option", f"source={scenes}/labels", "format=labelmap"]
    assert main(["mine", *arguments, "--clip", str(clip), "--runner", "plain", "--output", str(run)]) == 0
    return run


@pytest.fixture
def command(mined, clip, tmp_path):
    """The arguments of a small run; `more` come last and win."""

    def arguments(*more, output="out"):
        small = ["--batch", "8", "--epochs", "1", "--warmup", "2", "--workers", "0", "--depth", "2"]
        small += ["--templates", "photo"]
        small += ["--full-learning-rate", "1e-3", "--log-every", "1", "--device", "cpu"]
        places = ["--pairs", str(mined), "--clip", str(clip), "--output", str(tmp_path / output)]
        return ["finetune", *places, *small, *map(str, more)]

    return arguments


def read_log(folder):
    with (Path(folder) / "training.csv").open() as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [float(row["loss"]) for row in read_log(folder) if row["loss"]]


def weights_of(folder):
    return load_file(Path(folder) / "adapted.safetensors")


def clip_weights(clip):
    return {f"clip.{name}": tensor for name, tensor in load_clip(resolve_clip(str(clip))).model.state_dict().items()}


def changed(before, after):
    return {name for name, tensor in before.items() if after[name].numpy().tobytes() != tensor.numpy().tobytes()}


@pytest.mark.parametrize("mode", STAGES)
def test_every_mode_trains_what_it_says(command, clip, tmp_path, mode):
    assert main(command("--mode", mode)) == 0
    before, after = clip_weights(clip), weights_of(tmp_path / "out")
    touched = changed(before, after)
    visual = {name for name in before if name.startswith("clip.visual.")}
    assert not {name for name in touched if name not in visual | {"clip.logit_scale"}}
    if mode == "prompt":
        # Mask prompt tuning changes no byte of CLIP, its temperature included.
        assert touched == set()
    else:
        assert "clip.visual.conv1.weight" in touched
        assert len(touched & visual) > len(visual) / 2
    extra = set(after) - set(before)
    assert extra == {"full": set(), "alpha": {"alpha_conv.weight"}}.get(mode, {"prompts"})
    assert load_adapted(str(tmp_path / "out" / "adapted.safetensors")).depth == (2 if extra == {"prompts"} else 0)
    assert not (tmp_path / "out" / CHECKPOINT_FILE).exists()


def test_the_loss_falls_and_accuracy_is_measured(command, tmp_path):
    evaluation = ["--eval-set", "scenes", "--eval-images", "6"]
    assert main(command("--mode", "full", "--epochs", "4", *evaluation)) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["accuracy"][0]["step"] == 0
    assert len(result["accuracy"]) == 5
    assert all(0 <= row["region_top1"] <= row["region_top5"] <= 1 for row in result["accuracy"])
    values = losses(tmp_path / "out")
    assert sum(values[-4:]) < sum(values[:4])
    assert result["rows"]["kept"] == result["rows"]["read"] == 8 * len(values)


def test_a_full_finetune_opens_as_plain_clip_and_mines_again(command, mined, scenes, tmp_path, capsys):
    assert main(command("--mode", "full")) == 0
    clip = load_clip(resolve_clip(str(tmp_path / "out" / "open_clip")))
    assert torch.equal(clip.model.visual.conv1.weight, weights_of(tmp_path / "out")["clip.visual.conv1.weight"])


def test_the_stage_before_is_kept_and_knows_no_prompts(command, tmp_path):
    """Finetuning before prompt tuning is finetuning alone: what it makes is mode full, byte by byte."""
    assert main(command("--mode", "full-then-prompt")) == 0
    before, after = load_file(tmp_path / "out" / "after-full.safetensors"), weights_of(tmp_path / "out")
    assert (changed(before, after), set(after) - set(before)) == (set(), {"prompts"})
    assert main(command("--mode", "full", output="alone")) == 0
    alone = weights_of(tmp_path / "alone")
    assert (changed(before, alone), set(before)) == (set(), set(alone))
    again = load_clip(resolve_clip(str(tmp_path / "out" / "open_clip")))  # the finetuned CLIP, for plain open_clip
    assert torch.equal(again.model.visual.conv1.weight, alone["clip.visual.conv1.weight"])
    stages = [row["stage"] for row in read_log(tmp_path / "out") if row["stage"]]
    assert stages == sorted(stages)
    assert set(stages) == {"full", "prompt"}


def test_before_is_clip_as_it_is(command, clip, tmp_path, capsys):
    evaluation = ["--eval-set", "scenes", "--eval-images", "4"]
    for mode in ("prompt", "full"):
        assert main(command("--mode", mode, *evaluation, output=mode)) == 0
    prompt, full = (
        json.loads((tmp_path / mode / "result.json").read_text())["accuracy"] for mode in ("prompt", "full")
    )
    assert prompt[0] == full[0]
    assert prompt[1] != full[1]
    assert "accuracy on scenes:" in capsys.readouterr().out


def test_prompts_stay_as_they_are_while_clip_follows_them(command, tmp_path):
    assert main(command("--mode", "prompt-then-full")) == 0
    before, after = load_file(tmp_path / "out" / "after-prompt.safetensors"), weights_of(tmp_path / "out")
    assert "prompts" not in changed(before, after)
    assert "clip.visual.conv1.weight" in changed(before, after)


def test_the_temperature_trains_with_prompts_when_asked(command, clip, tmp_path):
    assert main(command("--mode", "prompt", "--train-logit-scale")) == 0
    assert changed(clip_weights(clip), weights_of(tmp_path / "out")) == {"clip.logit_scale"}


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(command, tmp_path):
    for output, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(command("--mode", "prompt", "--seed", seed, output=output)) == 0
    files = {name: (tmp_path / name / "adapted.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_micro_batches_are_the_same_loss(command, tmp_path):
    for output, size in (("whole", 0), ("parts", 3)):
        assert main(command("--mode", "full", "--micro-batch", size, output=output)) == 0
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        ["--loss", "paper"],
        ["--gather", "paper"],
        ["--whole-share", "0.3"],
        ["--grad-checkpointing"],
        ["--precision", "bf16"],
        ["--workers", "2"],
        ["--where", "area_px > 60", "--cap", "6"],
    ],
    ids=lambda more: more[0],
)
def test_every_option_trains(command, tmp_path, more):
    assert main(command("--mode", "joint", *more)) == 0
    assert all(value > 0 for value in losses(tmp_path / "out"))


KILLED = """
import os, sys, torch
torch.set_num_threads({threads})  # another number may round differently
from ovseg_model.training_state import TrainingState
from pipelines.command_line import main

learn = TrainingState.learn

def die(self, batch, share):
    if self.at.step == {step}:
        os.kill(os.getpid(), 9)
    return learn(self, batch, share)

TrainingState.learn = die
main(sys.argv[1:])
"""


@pytest.mark.parametrize("step", [1, 7, 12])
def test_kill_9_and_the_same_command_give_the_same_weights(command, tmp_path, step):
    often = ["--mode", "full-then-prompt", "--save-every", "3", "--cap", "7"]
    assert main(command(*often, output="whole")) == 0
    arguments = command(*often, output="killed")
    code = KILLED.format(step=step, threads=torch.get_num_threads())
    assert subprocess.run([sys.executable, "-c", code, *arguments], cwd=REPOSITORY).returncode == -9
    assert main(arguments) == 0
    files = [(tmp_path / name / "adapted.safetensors").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    rows = [json.loads((tmp_path / name / "result.json").read_text())["rows"] for name in ("whole", "killed")]
    assert rows[0] == rows[1]


def test_a_run_that_is_done_is_not_trained_again_nor_overwritten(command, tmp_path, capsys):
    assert main(command("--mode", "prompt")) == 0
    made = (tmp_path / "out" / "adapted.safetensors").stat().st_mtime_ns
    assert main(command("--mode", "prompt")) == 0
    assert "is trained already" in capsys.readouterr().out
    assert main(command("--mode", "prompt", "--seed", "7")) == 2
    assert "is the result of another seed" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapted.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 7)])
def test_a_signal_saves_and_the_same_command_goes_on(command, tmp_path, monkeypatch, capsys, number, step):
    learn = TrainingState.learn

    def interrupted(self, batch, share):
        if self.at.step == step:
            signal.raise_signal(number)  # it arrives in the middle of a step, which is finished first
        return learn(self, batch, share)

    assert main(command(*MODE, output="whole")) == 0
    capsys.readouterr()
    monkeypatch.setattr(TrainingState, "learn", interrupted)
    assert main(command(*MODE)) == 130
    monkeypatch.undo()
    assert main(command(*MODE)) == 0
    assert f"going on at step {step + 1}" in capsys.readouterr().out
    whole, out = (tmp_path / name for name in ("whole", "out"))
    assert (whole / "adapted.safetensors").read_bytes() == (out / "adapted.safetensors").read_bytes()
    assert losses(whole) == losses(out)


MODE = ("--mode", "full-then-prompt", "--cap", "4")


def test_a_kill_between_two_stages_is_made_good(command, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(command(*MODE, output="whole")) == 0

    def die(self):
        raise MemoryError

    monkeypatch.setattr(finetune_module._Trainer, "write_stage", die)
    with pytest.raises(MemoryError):
        main(command(*MODE, "--save-every", "3"))
    monkeypatch.undo()
    assert main(command(*MODE, "--save-every", "3")) == 0
    for name in ("after-full.safetensors", "adapted.safetensors"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()


def test_a_second_signal_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with watch_interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_two_processes_give_the_losses_of_one(command, tmp_path):
    """The same global batches, 20 steps: gathered features keep their gradient."""
    long = ["--mode", "joint", "--epochs", "3", "--save-every", "1000"]
    assert main(command(*long, output="one")) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "pipelines",
    ]
    subprocess.run([*torchrun, *command(*long, output="two")], cwd=REPOSITORY, env=environment, check=True, timeout=300)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) >= 20
    assert two[:20] == pytest.approx(one[:20], rel=1e-5)


def test_a_loss_that_is_no_number_stops_and_loses_nothing(command, tmp_path, monkeypatch, capsys):
    loss = TrainingState._loss

    def broken(self, features, *others):
        return loss(self, features * (float("nan") if self.at.step == 6 else 1.0), *others)

    monkeypatch.setattr(TrainingState, "_loss", broken)
    assert main(command("--mode", "full", "--save-every", "4")) == 2
    error = capsys.readouterr().err
    assert "the loss of step 6 is nan; the last checkpoint stands, but would lead here again" in error
    assert "train into another --output with a lower learning rate" in error
    monkeypatch.undo()
    assert main(command("--mode", "full", "--save-every", "4")) == 0
    assert "going on at step 4" in capsys.readouterr().out


def test_a_gradient_that_is_no_number_stops_before_any_weight_changes(command, tmp_path, monkeypatch, capsys):
    backward = TrainingState._backward

    def broken(self, batch):
        loss = backward(self, batch)
        if self.at.step == 2:
            self.model.prompts.grad[0, 0, 0] = float("nan")
        return loss

    monkeypatch.setattr(TrainingState, "_backward", broken)
    assert main(command("--mode", "prompt", "--save-every", "1")) == 2
    assert "the gradient of step 2 has the norm nan" in capsys.readouterr().err
    saved = torch.load(tmp_path / "out" / CHECKPOINT_FILE, weights_only=True)["state"]["training"]
    assert saved["progress"]["step"] == 2
    assert set(saved["model"]) == {"prompts", "clip.logit_scale"}  # nothing else trains in mode prompt
    assert bool(saved["model"]["prompts"].isfinite().all())


def test_a_temperature_beyond_the_bound_stays_where_nothing_trains_it(command, clip, tmp_path):
    """Clamping is for a temperature that trains: prompt tuning changes no byte of CLIP."""
    path = Path(clip) / "open_clip_model.safetensors"
    weights = load_file(path)
    hot = tmp_path / "hot"
    shutil.copytree(clip, hot)
    save_file({**weights, "logit_scale": torch.tensor(4.7)}, hot / path.name)
    assert main(command("--mode", "prompt", "--clip", hot, "--allow-meaningless")) == 0
    assert float(weights_of(tmp_path / "out")["clip.logit_scale"]) == pytest.approx(4.7)


def test_a_checkpoint_of_other_options_is_refused(command, monkeypatch, capsys):
    learn = TrainingState.learn

    def stopped(self, batch, share):
        signal.raise_signal(signal.SIGINT)
        return learn(self, batch, share)

    monkeypatch.setattr(TrainingState, "learn", stopped)
    assert main(command("--mode", "prompt")) == 130
    monkeypatch.undo()
    for more, name in ((("--seed", "3"), "seed"), (("--eval-set", "scenes", "--eval-images", "2"), "eval_set")):
        assert main(command("--mode", "prompt", *more)) == 2
        assert f"was made with another {name}" in capsys.readouterr().err


def test_hard_negatives_train_though_no_row_is_of_their_noun(command, mined, tmp_path):
    folder = tmp_path / "negative"
    folder.mkdir()
    for part in (mined / "pairs").iterdir():
        table = pq.read_table(part)
        place = table.schema.get_field_index("hard_negatives")
        column = pa.array([["unicorn", "sky"]] * len(table), table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), column), folder / part.name)
    more = ["--mode", "joint", "--hard-negatives", "--pairs", folder, "--where", "noun != 'sky'"]
    assert main(command(*more)) == 0
    assert main(command("--mode", "joint", "--where", "noun != 'sky'", output="without")) == 0
    assert losses(tmp_path / "out")[0] > losses(tmp_path / "without")[0]  # two more texts in every softmax


def test_hard_negatives_that_are_not_there_are_said(command, capsys):
    assert main(command("--hard-negatives")) == 2
    assert "--hard-negatives: no row of" in capsys.readouterr().err


def test_a_damaged_result_is_one_sentence(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{")
    assert main(command()) == 2
    assert "result.json: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--where", "cosine > 2"], "none of the"),
        (["--where", "cosin > 0"], "cosine"),
        (["--batch", "4096"], "--batch"),
        (["--mode", "prompt", "--depth", "0"], "--depth: mode prompt trains mask prompts"),
        (["--depth", "9"], "wanted 1 to 2, the blocks of its image tower, got 9"),
        (["--eval-set", "nowhere"], "labelled set nowhere"),
        (["--output", "s3://bucket/x"], "wanted a local folder"),
        (["--pairs", "nowhere"], "nowhere"),
        (["--whole-share", "1"], "--whole-share"),
        (["--precision", "fp8"], "--precision"),
    ],
)
def test_a_users_mistake_is_one_sentence(command, capsys, more, message):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module.TrainingLog, "add", lambda *_: pytest.fail("work began"))
        try:
            assert main(command(*more)) == 2
        except SystemExit as stop:
            assert stop.code == 2
    assert message in capsys.readouterr().err


def test_the_defaults_are_the_papers():
    options = FinetuneOptions()
    assert (options.epochs, options.batch, options.depth, options.warmup) == (5, 256, 3, 100)
    assert (options.full_learning_rate, options.full_weight_decay, options.prompt_learning_rate) == (5e-6, 0.2, 2e-2)
    with pytest.raises(UserError, match="--epochs: wanted 1 or more, got 0"):
        FinetuneOptions(epochs=0)

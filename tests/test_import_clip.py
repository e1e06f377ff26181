"""`ovseg import-clip`: OVSeg's layouts to a file that --clip takes."""

import pytest
import tiny_clip
import torch

from ovseg_model.clip import load_clip, resolve_clip
from pipelines.command_line import main


@pytest.fixture
def checkpoint(tmp_path):
    """As OVSeg's CLIP trainer saves, with prompts of depth 2."""
    tiny_clip.register(tmp_path, "tiny-import")
    weights = tiny_clip.build(tiny_clip.config(quick_gelu=True), seed=5).state_dict()
    weights["visual.mask_embedding"] = torch.ones(2, 16, 32)
    path = tmp_path / "epoch_5.pt"
    torch.save({"epoch": 5, "state_dict": {f"module.{name}": weight for name, weight in weights.items()}}, path)
    return path


def test_an_imported_clip_is_taken_by_its_file(checkpoint, tmp_path, capsys):
    output = tmp_path / "adapted.safetensors"
    arguments = ["--checkpoint", str(checkpoint), "--architecture", "tiny-import", "--output", str(output)]
    assert main(["import-clip", *arguments]) == 0
    assert "tiny-import/epoch_5.pt with mask prompts of depth 2" in capsys.readouterr().out
    assert load_clip(resolve_clip(str(output))).takes_masks


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint", "x.pt"], "--output is missing"),
        (["--checkpoint", "x.pt", "--output", "o.safetensors"], "there is no file x.pt"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, capsys):
    assert main(["import-clip", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_file_before_prompt_tuning_is_said(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint)
    del content["state_dict"]["module.visual.mask_embedding"]
    torch.save(content, checkpoint)
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--architecture",
        "tiny-import",
        "--output",
        f"{tmp_path}/o.safetensors",
    ]
    assert main(["import-clip", *arguments]) == 2
    assert "prompts" in capsys.readouterr().err
    assert main(["import-clip", *arguments, "--no-prompts"]) == 0
    assert "no mask prompts" in capsys.readouterr().out

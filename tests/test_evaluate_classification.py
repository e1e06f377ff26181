"""`ovseg evaluate` of regions, image folders and Waterbirds: small sets in the real layouts, numbers by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.scenes import draw_scene
from pipelines.command_line import main
from pipelines.evaluate_model import unused_options
from pipelines.evaluation import EvaluateOptions

SCENES_CLIP = ("--clip", "scenes", "--templates", "photo", "--device", "cpu")


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_regions_of_drawn_scenes(tmp_path, capsys):
    arguments = ["evaluate", "--benchmark", "regions", "--root", "scenes", "--limit", "6", "--output", str(tmp_path)]
    assert main([*arguments, *SCENES_CLIP]) == 0
    found = result(tmp_path)["numbers"]
    assert found["count"] > 12
    assert 0.4 < found["top1"] <= found["top5"] <= 1
    text = capsys.readouterr().out
    assert "CLIP scenes, templates photo (1)" in text
    assert "the first 6 drawn scenes, which have no end" in text
    assert "SCENES:" not in text
    # What is stored is not predicted again: of each region the true class, then the five best.
    part = tmp_path / "predictions/part-00000.json"
    stored = json.loads(part.read_text())
    assert [len(stored), len(stored[0][0])] == [6, 6]
    assert sum(map(len, stored)) == found["count"]
    part.write_text(json.dumps([[[3, 3, 1, 2, 4, 5]], [[3, 1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4, 5]], [], [], []]))
    assert main([*arguments, *SCENES_CLIP]) == 0
    wanted = {"top1": 1 / 3, "top5": 2 / 3, "mean_class": (1 / 2 + 0) / 2, "count": 3}
    assert result(tmp_path)["numbers"] == pytest.approx(wanted)
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    assert rows[0] == "class,name,count,top1,top5"
    assert [row.split(",")[2:] for row in (rows[1], rows[4], rows[2])] == [["1", "0", "0"], ["2", "1", "2"], ["0"] * 3]
    assert (tmp_path / "per_class.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert main(["score", "--output", str(tmp_path)]) == 2
    assert "is an evaluation of regions; its stored answers are counted again by the same" in capsys.readouterr().err


def test_regions_are_of_all_images_unless_a_limit_is_given(tmp_path, monkeypatch, capsys):
    from ovseg_model import labelled_regions

    monkeypatch.setattr(labelled_regions, "DRAWN_IMAGES", 2)
    assert (
        main(
            ["draw-scenes", "--output", str(tmp_path / "drawn"), "--scenes", "3", "--size-px", "64", "--split", "test"]
        )
        == 0
    )
    arguments = ["evaluate", "--benchmark", "regions", *SCENES_CLIP]
    for root, limit, sentence in (
        ("scenes", (), "the first 2 drawn scenes, which have no end"),
        (str(tmp_path / "drawn"), (), "all 3 images"),
        (str(tmp_path / "drawn"), ("--limit", "1"), "the first 1 of 3 images: the numbers compare with no published"),
        (f"scenes@{tmp_path / 'drawn'}", (), "scenes: 3 images of test, officially it has 1,000; numbers of another"),
    ):
        output = tmp_path / f"out-{len(sentence)}"
        assert main([*arguments, "--root", root, *limit, "--output", str(output)]) == 0
        assert any(line.startswith(sentence) for line in result(output)["protocol"]), sentence
        assert sentence in capsys.readouterr().out


def write_image_folder(root):
    for name, rgb in (("a_red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (80 + 9 * number, 60), rgb).save(root / name / f"{number}.png")
    return root


def test_an_image_folder_by_clips_own_preprocessing(tmp_path, capsys):
    root, output = write_image_folder(tmp_path / "images"), tmp_path / "out"
    arguments = ["evaluate", "--benchmark", "image-folder", "--root", str(root), "--output", str(output), *SCENES_CLIP]
    assert main(arguments) == 0
    found = result(output)["numbers"]
    assert found["count"] == 4
    assert found["top5"] == 1  # of two classes both are among five
    stored = json.loads((output / "predictions/part-00000.json").read_text())
    assert found["top1"] == np.mean([best[0] == label for best, label in zip(stored, (0, 0, 1, 1), strict=True)])
    # What is stored is not predicted again.
    (output / "predictions/part-00000.json").write_text(json.dumps([[0, 1], [1, 0], [1, 0], [1, 0]]))
    assert main(arguments) == 0
    assert result(output)["numbers"]["top1"] == 0.75
    text = capsys.readouterr().out
    assert "top1           75.00" in text
    assert "SCENES: the CLIP that is used ships with the project" in text
    assert "SCENES: the CLIP" in " ".join(result(output)["protocol"])


def test_another_set_of_images_does_not_take_stored_answers(tmp_path, capsys):
    root, output = write_image_folder(tmp_path / "images"), tmp_path / "out"
    arguments = ["evaluate", "--benchmark", "image-folder", "--root", str(root), "--output", str(output), *SCENES_CLIP]
    assert main(arguments) == 0
    (root / "blue/0.png").rename(root / "blue/2.png")
    assert main(arguments) == 2
    assert "holds another evaluation, which differs in the samples that are asked;" in capsys.readouterr().err
    (root / "blue/2.png").rename(root / "blue/0.png")
    assert main(arguments) == 0
    (root / "blue").rename(root / "green")
    assert main(arguments) == 2


def test_other_birds_do_not_take_stored_answers(tmp_path, capsys):
    root, output = write_waterbirds(tmp_path / "birds"), tmp_path / "out"
    arguments = ["evaluate", "--benchmark", "waterbirds", "--root", str(root), "--output", str(output), *SCENES_CLIP]
    assert main(arguments) == 0
    (root / "segmentations").rename(root / "away")  # now the region is the whole image
    assert main(arguments) == 2
    assert "holds another evaluation, which differs in the samples that are asked;" in capsys.readouterr().err


def test_another_model_does_not_go_on_in_the_same_folder(tmp_path, capsys):
    root, output = write_image_folder(tmp_path / "images"), tmp_path / "out"
    arguments = ["evaluate", "--benchmark", "image-folder", "--root", str(root), "--output", str(output)]
    assert main([*arguments, *SCENES_CLIP]) == 0
    assert main([*arguments, "--clip", "scenes", "--device", "cpu"]) == 2  # other templates
    assert "which differs in models (CLIP, templates, generator); give another folder" in capsys.readouterr().err


def write_waterbirds(root):
    """Six test birds; the masks cover the middle. Three train birds weigh the groups."""
    folder = root / "waterbird_complete95_forest2water2"
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    groups = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    rows = [(y, 2, place) for y, place in groups] + [(0, 0, 0), (0, 0, 0), (1, 0, 1)]
    for number, (y, split, place) in enumerate(rows):
        name = f"001.Bird/bird_{number}.jpg"
        lines.append(f"{number},{name},{y},{split},{place},/x")
        (folder / "001.Bird").mkdir(parents=True, exist_ok=True)
        scene = draw_scene(11_000_000 + number, 64)
        Image.fromarray(scene.image_HW3).save(folder / name)
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        (root / "segmentations/001.Bird").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / f"segmentations/001.Bird/bird_{number}.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_waterbirds_has_two_averages_and_a_worst_group(tmp_path, capsys):
    root, output = write_waterbirds(tmp_path / "birds"), tmp_path / "out"
    arguments = ["evaluate", "--benchmark", "waterbirds", "--root", str(root), "--output", str(output), *SCENES_CLIP]
    assert main(arguments) == 0
    # Stored answers of our own: right, wrong | right | wrong | right, right.
    (output / "predictions/part-00000.json").write_text(json.dumps([0, 1, 0, 0, 1, 1]))
    assert main(arguments) == 0
    found = result(output)
    assert found["groups"] == {"samples": [[2, 1], [1, 2]], "correct": [[1, 1], [0, 2]]}
    assert found["train_groups"] == [[2, 0], [0, 1]]
    assert found["numbers"] == pytest.approx(
        {"sample_mean": 4 / 6, "train_weighted_mean": (2 * 0.5 + 1 * 1.0) / 3, "worst_group": 0.0}
    )
    text = capsys.readouterr().out
    assert "The region is the bird, by CUB's masks." in text
    assert "SCENES: the CLIP that is used ships with the project" in text
    assert "landbird on land                     50.00   of 2" in text


@pytest.mark.parametrize(
    ("options", "unused", "used"),
    [
        (
            {"benchmark": "scenes"},
            "answer union_threshold tune_images",
            "masks names oracle clip_weight mask_threshold",
        ),
        ({"benchmark": "scenes", "tune_on": "val"}, "answer clip_weight mask_threshold", "tune_images"),
        ({"benchmark": "scenes:ink", "oracle": "masks"}, "masks mask_option mask_threshold soft_masks", "names clip"),
        (
            {"benchmark": "refcoco:testA"},
            "names clip_weight soft_masks synonyms union_threshold",
            "masks mask_threshold",
        ),
        ({"benchmark": "reasonseg", "answer": "union"}, "tune_images oracle", "union_threshold tune_on"),
        ({"benchmark": "reasonseg", "answer": "union", "tune_on": "train"}, "union_threshold", "tune_on tune_images"),
        ({"benchmark": "regions"}, "masks mask_threshold names answer oracle", "expand_ratio synonyms limit templates"),
        ({"benchmark": "image-folder"}, "masks names answer expand_ratio scorer regions", "synonyms limit"),
        ({"benchmark": "waterbirds:val"}, "masks tune_on names", "expand_ratio root region_batch"),
    ],
)
def test_options_without_a_part_are_known(options, unused, used):
    found = unused_options(EvaluateOptions(**options))
    assert set(unused.split()) <= found
    assert not set(used.split()) & found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--benchmark", "ade"], "--benchmark 'ade': wanted one of ade20k-150"),
        (["--benchmark", "regions"], "--output is missing"),
        (["--benchmark", "regions", "--output", "x"], "--root is missing: give a labelled set"),
        (["--benchmark", "waterbirds", "--output", "x"], "--root is missing: give the folder"),
        (["--benchmark", "image-folder", "--output", "x", "--root", "nowhere"], "--root nowhere: is no folder"),
        (
            ["--benchmark", "regions:val", "--output", "x"],
            "--benchmark regions:val: regions has no splits; --root says",
        ),
        (
            ["--benchmark", "regions", "--output", "x", "--oracle", "labels"],
            "--oracle: has no part in --benchmark regions --oracle labels; leave it away",
        ),
        (
            ["--benchmark", "waterbirds", "--output", "x", "--no-soft-masks"],
            "--soft-masks: has no part in --benchmark waterbirds as it is asked for; leave it away",
        ),
        (["--benchmark", "regions", "--union-threshold", "2"], "--union-threshold: wanted 0 to 1, got 2.0"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1

"""`ovseg evaluate` and `ovseg score` of label maps, on drawn scenes; pieces by hand."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.benchmark import IGNORE, open_label_map_benchmark
from ovseg_model.label_png import label_png, read_label_png
from ovseg_model.metrics import count_images, segmentation_result
from ovseg_model.oracles import class_masks, nearest, with_true_labels
from ovseg_model.segment import ScoredProposals
from pipelines.command_line import main
from pipelines.evaluation import evenly_spaced, regions_notes

MODEL = ("--clip", "scenes", "--templates", "photo", "--device", "cpu")
ORACLE = ("evaluate", "--benchmark", "scenes", "--limit", "6", "--oracle", "masks", *MODEL)
THIRDS = ("evaluate", "--benchmark", "scenes", "--limit", "4", "--masks", "soft_fakes:open_thirds", *MODEL)


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    assert main([*ORACLE, "--output", str(folder)]) == 0
    return folder


def pairs_of(folder):
    """Stored predictions and their truth, read without the code under test."""
    benchmark = open_label_map_benchmark("scenes")
    samples = benchmark.find_samples(None)[:6]
    for sample in samples:
        file = folder / "predictions" / f"{sample.name.replace(':', '%3A')}.png"
        yield read_label_png(file.read_bytes()), benchmark.read_labels(sample)


def test_the_result_is_that_of_the_stored_predictions(evaluated):
    wanted = segmentation_result(count_images(pairs_of(evaluated), 44))
    found = result(evaluated)
    assert found["numbers"]["miou_union"] == wanted.miou_union > 0.5
    assert found["numbers"]["miou_present"] == wanted.miou_present
    assert (found["images"], found["numbers"]["classes"]) == (6, 44)
    with (evaluated / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 44
    assert sum(int(row["hit_px"]) for row in rows) == sum(
        int((p == t)[t != IGNORE].sum()) for p, t in pairs_of(evaluated)
    )
    assert {row["iou"] == "" for row in rows} == {True, False}
    for picture in ("per_class.png", "worst_and_best.png"):
        assert (evaluated / picture).read_bytes()[:4] == b"\x89PNG"


def test_every_number_says_what_it_depends_on(evaluated, capsys):
    assert main([*ORACLE, "--output", str(evaluated)]) == 0
    text = capsys.readouterr().out
    for words in (
        "the first 6 of 1,000 images: the numbers compare with no published ones\nScenes, split test\n",
        "masks of the truth, CLIP scenes, class names ovseg (verbatim), templates photo (1)",
        "test resolution: the image's own size",
        "the masks come without class probabilities, so CLIP stands alone",
        "oracle: the truth's masks, predicted labels",
        "mIoU U (present or predicted)",
        "mIoU G (present)",
        "44 all,",
    ):
        assert words in text


def test_images_that_are_missing_are_said_in_the_result_and_when_it_is_scored_again(tmp_path, capsys):
    drawn, output = tmp_path / "drawn", tmp_path / "out"
    assert main(["draw-scenes", "--output", str(drawn), "--scenes", "2", "--size-px", "64", "--split", "test"]) == 0
    words = ("evaluate", "--benchmark", "scenes", "--root", str(drawn), "--oracle", "masks", *MODEL)
    assert main([*words, "--output", str(output)]) == 0
    sentence = "scenes: 2 images of test, officially it has 1,000; numbers of another set of images compare with no"
    assert result(output)["protocol"][0].startswith(sentence)
    first = (output / "result.json").read_bytes()
    capsys.readouterr()
    assert main(["score", "--output", str(output), "--runner", "plain"]) == 0
    assert sentence in capsys.readouterr().out
    assert (output / "result.json").read_bytes() == first


def test_it_goes_on_where_it_was_stopped(evaluated, tmp_path):
    wanted = result(evaluated)
    files = sorted((evaluated / "predictions").iterdir())
    before = {file.name: file.stat().st_mtime_ns for file in files[1:]}
    files[0].unlink()
    assert main([*ORACLE, "--output", str(evaluated)]) == 0
    assert result(evaluated) == wanted
    assert {file.name: file.stat().st_mtime_ns for file in files[1:]} == before


def test_beam_counts_what_plain_loops_count(evaluated, monkeypatch, capsys):
    from pipelines import score_predictions

    monkeypatch.setattr(score_predictions, "SAMPLES_PER_CHUNK", 2)  # three chunks
    written = {}
    for runner in ("plain", "FnApiRunner"):
        assert main(["score", "--output", str(evaluated), "--runner", runner]) == 0
        written[runner] = (evaluated / "result.json").read_bytes(), (evaluated / "counts.json").read_bytes()
    assert written["plain"] == written["FnApiRunner"]
    assert len(json.loads(written["plain"][1])["samples"]) == 6
    (evaluated / "counts.json").unlink()
    assert main(["score", "--output", str(evaluated)]) == 0
    assert (evaluated / "counts.json").read_bytes() == written["plain"][1]


def test_a_corrupt_image_of_the_benchmark_ends_the_evaluation_and_mended_it_goes_on(tmp_path, capsys):
    drawn, output = tmp_path / "drawn", tmp_path / "out"
    assert main(["draw-scenes", "--output", str(drawn), "--scenes", "2", "--size-px", "64", "--split", "test"]) == 0
    image = sorted((drawn / "images").iterdir())[1]
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    words = ("evaluate", "--benchmark", "scenes", "--root", str(drawn), "--oracle", "masks", *MODEL)
    assert main([*words, "--output", str(output)]) == 2
    assert image.name in capsys.readouterr().err
    image.write_bytes(whole)
    assert main([*words, "--output", str(output)]) == 0


def test_another_evaluation_does_not_mix_in(evaluated, capsys):
    assert main([*ORACLE, "--names", "catseg", "--output", str(evaluated)]) == 2
    assert "holds another evaluation, which differs in names; give another folder" in capsys.readouterr().err


def test_a_prediction_that_is_gone_or_wrong_is_said(evaluated, tmp_path, capsys):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(evaluated, folder)
    file = sorted((folder / "predictions").iterdir())[0]
    file.write_bytes(label_png(np.zeros((3, 3), np.uint16), np.zeros((44, 3), np.uint8)))
    assert main(["score", "--output", str(folder), "--runner", "plain"]) == 2
    assert "is (3, 3), its truth (128, 128) (height, width)" in capsys.readouterr().err
    file.write_bytes(b"no")
    assert main(["score", "--output", str(folder), "--runner", "FnApiRunner"]) == 2
    assert "is no label map" in capsys.readouterr().err
    file.unlink()
    assert main(["score", "--output", str(folder), "--runner", "plain"]) == 2
    assert "there is no prediction of scene:11000000:painted" in capsys.readouterr().err
    assert main(["score", "--output", str(tmp_path / "empty")]) == 2
    assert "there is no evaluation.json" in capsys.readouterr().err


def test_true_labels_for_predicted_masks(tmp_path):
    assert main([*THIRDS, "--oracle", "labels", "--output", str(tmp_path / "labels")]) == 0
    assert main([*THIRDS, "--output", str(tmp_path / "own")]) == 0
    labels, own = (result(tmp_path / name)["numbers"]["pacc"] for name in ("labels", "own"))
    assert labels > 0.6 > own  # each third has the class that covers most of it


def test_lambda_is_tuned_on_another_split_and_remembered(tmp_path, capsys):
    tuning = ("--tune-on", "val", "--tune-images", "3")
    assert main([*THIRDS, *tuning, "--output", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "tuning.json").read_text())
    tried = stored["tried"]
    assert len(tried) == 4 * 10
    assert [point[2] for point in tried] == sorted((point[2] for point in tried), reverse=True)
    options = result(tmp_path)["made_by"]["options"]
    assert [options["mask_threshold"], options["clip_weight"]] == tried[0][:2]
    assert "are the best of 40 points on 3 images of val, by mIoU U" in capsys.readouterr().out
    # The class that the network knows best is nearly always wrong: λ = 0 is the worst.
    assert tried[-1][1] == 0.0
    # The same command searches no more: it takes what is stored.
    stored["tried"] = [tried[1], *tried[2:], tried[0]]
    (tmp_path / "tuning.json").write_text(json.dumps(stored))
    assert main([*THIRDS, *tuning, "--output", str(tmp_path)]) == 2
    assert "differs in how λ or thresholds were chosen, options of fusion" in capsys.readouterr().err


def test_a_plain_maskformer_leaves_lambda_out_and_says_so(tmp_path, capsys):
    from tiny_networks import write_maskformer

    weights = f"weights={write_maskformer(tmp_path / 'network')}"
    masks = ("--masks", "maskformer", "--mask-option", weights, "short_side_px=32")
    arguments = ("evaluate", "--benchmark", "scenes", "--limit", "1", *masks, *MODEL)
    assert main([*arguments, "--output", str(tmp_path / "own")]) == 0
    alone = "λ 1, mask threshold 0.4: the masks come without class probabilities, so CLIP stands alone"
    text = capsys.readouterr().out
    assert f"{alone}\n" in text
    assert "test resolution: short side 32 px, long side 2,560 px at most\n" in text
    assert result(tmp_path / "own")["made_by"]["options"]["clip_weight"] == 1.0
    assert main([*arguments, "--mask-option", "max_masks=5", "--output", str(tmp_path / "x")]) == 2
    assert "--mask-option max_masks: is for mining; here every query of maskformer" in capsys.readouterr().err
    assert main([*arguments, "--clip-weight", "0.3", "--output", str(tmp_path / "given")]) == 0
    assert f"{alone}; --clip-weight 0.3 has no part in it\n" in capsys.readouterr().out


def test_ovsegs_network_wants_the_clip_and_the_templates_of_its_classes(tmp_path, capsys):
    import torch
    from tiny_networks import QUERIES

    from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
    from ovseg_model.clip import load_clip, resolve_clip
    from ovseg_model.proposals.proposal_network import NetworkFacts, ProposalModel, preset_config, save_network

    clip, names = load_clip(resolve_clip("scenes"), "cpu"), ("tree", "road", "cup")
    vectors_KD = ClassEmbeddings(clip, prompt_templates("vild")).embed(names)
    facts = NetworkFacts("scenes", "12ab", prompt_templates("vild"), names, 32, 64)
    model = ProposalModel(preset_config("tiny", QUERIES), vectors_KD.shape[1], 32)
    save_network(tmp_path, model, facts, torch.tensor(vectors_KD))
    masks = ("--masks", "maskformer", "--mask-option", f"weights={tmp_path}", "short_side_px=32")
    arguments = ("evaluate", "--benchmark", "scenes", "--limit", "1", *masks, "--clip", "scenes", "--device", "cpu")
    assert main([*arguments, "--output", str(tmp_path / "same")]) == 0
    photo = ("--templates", "photo")
    assert main([*arguments, *photo, "--output", str(tmp_path / "other")]) == 2
    assert "was trained with class vectors by CLIP scenes and templates vild (14); by" in capsys.readouterr().err
    assert main([*arguments, *photo, "--clip-weight", "1", "--output", str(tmp_path / "alone")]) == 0
    image = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), (200, 40, 40)).save(image)
    segment = ("segment", str(image), "--classes", "cup, tree", *masks, *MODEL, "--output", str(tmp_path / "segmented"))
    assert main(segment) == 2
    assert main([*segment, "--demo"]) == 0


def test_nothing_is_tuned_on_what_is_reported(tmp_path, capsys):
    assert main([*THIRDS, "--tune-on", "test", "--output", str(tmp_path)]) == 2
    assert "--tune-on test: is the split that is reported" in capsys.readouterr().err
    assert main([*ORACLE, "--tune-on", "val", "--tune-images", "2", "--output", str(tmp_path)]) == 2
    assert "with --oracle masks nothing depends on λ" in capsys.readouterr().err
    assert main([*THIRDS, "--oracle", "labels", "--tune-on", "val", "--output", str(tmp_path)]) == 2
    assert "with --oracle labels no class is predicted" in capsys.readouterr().err


def test_masks_with_nothing_to_tune_are_refused_before_the_first_image(tmp_path, monkeypatch, capsys):
    from pipelines import evaluate_label_maps

    monkeypatch.setattr(evaluate_label_maps, "read_input", lambda benchmark, sample: pytest.fail("an image was read"))
    arguments = ("evaluate", "--benchmark", "scenes", "--limit", "2", *MODEL)
    assert main([*arguments, "--tune-on", "val", "--output", str(tmp_path)]) == 2
    assert "--tune-on: the masks are hard and come without class probabilities" in capsys.readouterr().err


def test_a_failed_image_is_scored_as_unlabelled_and_listed(tmp_path, capsys):
    failing = ["soft_fakes:open_failing" if word == "soft_fakes:open_thirds" else word for word in THIRDS]
    assert main([*failing, "--output", str(tmp_path)]) == 0
    drops = json.loads((tmp_path / "drops.json").read_text())
    assert drops == [
        {"sample": "scene:11000001:painted", "reason": "proposal_failed", "detail": "it is the second"},
    ]
    prediction = read_label_png((tmp_path / "predictions/scene%3A11000001%3Apainted.png").read_bytes())
    assert (prediction == IGNORE).all()
    assert (result(tmp_path)["images"], result(tmp_path)["failed"]) == (4, 1)
    note = "proposals failed of 1 images, which count as unlabelled: drops.json"
    assert note in result(tmp_path)["protocol"]
    assert note in capsys.readouterr().out
    assert main(["score", "--output", str(tmp_path), "--runner", "plain"]) == 0
    assert result(tmp_path)["failed"] == 1


def test_where_all_proposals_fail_nothing_was_measured(tmp_path, monkeypatch):
    import soft_fakes

    from ovseg_model.proposals import ProposalError

    def fail(self, images, class_vectors_KD):
        return [ProposalError("proposal_failed", "no") for _ in images]

    monkeypatch.setattr(soft_fakes.Thirds, "propose_soft", fail)
    assert main([*THIRDS, "--output", str(tmp_path)]) == 1
    assert (result(tmp_path)["failed"], result(tmp_path)["numbers"]["pacc"]) == (4, 0.0)
    assert main(["score", "--output", str(tmp_path), "--runner", "plain"]) == 1


def test_the_clip_that_knows_no_photographs_says_so_but_of_scenes(evaluated):
    from pipelines.label_map_report import protocol
    from pipelines.summary import ONLY_SCENES

    made_by = result(evaluated)["made_by"]
    assert not set(ONLY_SCENES) & set(protocol(open_label_map_benchmark("scenes"), made_by))
    assert set(ONLY_SCENES) <= set(protocol(open_label_map_benchmark("ade20k-150"), made_by))


# Oracles by hand.


def test_the_masks_of_a_label_map():
    labels = np.array([[3, 3, IGNORE], [0, 3, IGNORE]], np.uint16)
    classes, masks = class_masks(labels, IGNORE)
    assert classes.tolist() == [0, 3]
    assert masks.tolist() == [
        [[False, False, False], [True, False, False]],
        [[True, True, False], [False, True, False]],
    ]


def test_a_mask_gets_the_class_that_covers_most_of_it():
    labels = np.array([[2, 2, 1, IGNORE]], np.uint16)
    masks = np.array([[[1, 1, 1, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 1]]], bool)
    scored = ScoredProposals(masks, np.full((3, 3), 0.3, np.float32), np.ones(3, bool))
    found = with_true_labels(scored, labels, 3, IGNORE, 0.4)
    assert found.scores_NK.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]  # a tie goes to the lower; ignored: none


def test_nearest_takes_the_pixel_under_the_new_centre():
    labels = np.array([[1, 2, 3]])
    assert nearest(labels, (2, 6)).tolist() == [[1, 1, 2, 2, 3, 3]] * 2
    assert nearest(labels, (1, 2)).tolist() == [[1, 3]]
    assert nearest(labels[None], (1, 1)).tolist() == [[[2]]]


def test_regions_that_are_no_crops_are_said():
    assert regions_notes({"clip": {}}) == []
    assert regions_notes({"scorer": "one-pass", "regions": "integer"}) == [
        "regions by --scorer one-pass, not a crop each as OVSeg's",
        "regions cut by --regions integer",
    ]


def test_one_pass_says_how_far_it_agrees_with_crops(tmp_path, capsys):
    words = [*ORACLE, "--scorer", "one-pass", "--output", str(tmp_path)]
    assert main(words) == 0
    counts = json.loads((tmp_path / "agreement.json").read_text())
    assert (counts["agreement_images"], counts["agreement_nouns"]) == (4, 4 * 44)
    (sentence,) = (line for line in result(tmp_path)["protocol"] if "one pass beside crops" in line)
    assert sentence.startswith("one pass beside crops, 176 classes of 4 images: same best mask ")
    assert sentence in capsys.readouterr().out
    (tmp_path / "result.json").unlink()
    next((tmp_path / "predictions").iterdir()).unlink()
    assert main(words) == 0
    assert sentence in result(tmp_path)["protocol"]
    assert json.loads((tmp_path / "agreement.json").read_text()) == counts


def test_evenly_spaced():
    assert evenly_spaced(list(range(10)), 3) == [0, 3, 6]
    assert evenly_spaced([1, 2], 5) == [1, 2]

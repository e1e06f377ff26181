"""Images to MASKS rows, from a generator, from a stored table, or from both."""

import hashlib
import json

import mortal_runs
import numpy as np
import pyarrow as pa
import pytest
from fakes import HalvesGenerator
from PIL import Image as PilImage
from tiny_sam import write_tiny_sam

from ovseg_model.images import FetchOptions
from ovseg_model.proposals import GeneratorSpec
from ovseg_model.proposals.sam import COMPARED, mask_precision_sentence
from pipelines import versions
from pipelines.command_line import main
from pipelines.propose_masks import (
    Image,
    ProposeMasks,
    images_of,
    propose_masks,
    reuse_and_propose,
    reuse_masks,
    select_masks,
)
from pipelines.write_tables import RunFolder
from schemas import CAPTIONS, conform_rows


@pytest.fixture
def images(tmp_path):
    """Three white images, a black one, one that is not there and one without a URI."""
    for name, grey in (("a", 255), ("b", 255), ("black", 0), ("c", 255)):
        PilImage.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / f"{name}.png")
    names = ("a", "b", "black", "c", "gone")
    return [*(Image(name, str(tmp_path / f"{name}.png")) for name in names), Image("nowhere", None)]


def captions_of(images, index=0):
    """CAPTIONS rows of images, one each."""
    of_all = {"caption_index": index, "caption": "x", "source_url": None, "licence": None, "safety": None}
    return conform_rows([{**image._asdict(), **of_all} for image in images], CAPTIONS)


def test_an_image_of_several_captions_is_taken_once():
    images = [Image("a", "a.png"), Image("b", "b.png")]
    assert images_of(pa.concat_tables([captions_of(images), captions_of(images[:1], index=1)])) == images


def test_masks_come_with_box_area_scores_and_the_bytes_hash(images):
    output = propose_masks(images[:1], HalvesGenerator(), FetchOptions())
    left, right = output.rows.to_pylist()
    assert (left["box_xywh_px"], left["area_px"], left["mask_index"]) == ([0, 0, 3, 4], 12, 0)
    assert (right["box_xywh_px"], right["area_px"], right["mask_index"]) == ([3, 0, 3, 4], 12, 1)
    assert (left["predicted_iou"], left["stability"], left["generator"]) == (0.5, None, "halves")
    assert (left["height"], left["width"], left["mask"]["size"]) == (4, 6, [4, 6])
    with open(images[0].image_uri, "rb") as file:
        assert left["image_sha256"] == hashlib.sha256(file.read()).hexdigest()


def test_every_image_has_masks_or_a_reason(images):
    generator = HalvesGenerator()
    output = propose_masks(images, generator, FetchOptions())
    assert output.rows["image_id"].to_pylist() == ["a", "a", "b", "b", "c", "c"]
    assert {row["key"]: row["reason"] for row in output.drops} == {
        "black": "no_masks",
        "gone": "image_missing",
        "nowhere": "no_image_uri",
    }
    assert (output.read, output.kept) == (6, 3)
    assert generator.batches == [["a", "b"], ["black", "c"]]


@pytest.mark.parametrize(
    ("generator", "packages"),
    [
        ("sam", {"scipy", "segment-anything", "torch", "torchvision"}),
        ("maskformer", {"torch", "transformers"}),
        ("annotations", set()),
        ("mortal:make", set()),
    ],
)
def test_masks_are_made_again_after_an_upgrade_of_what_decides_them(generator, packages, monkeypatch):
    step = ProposeMasks(RunFolder("run"), GeneratorSpec(generator, (), "cpu", "{}"), FetchOptions())
    before = step.fingerprint()
    assert set(before["versions"]) == {"numpy", "pillow", "pycocotools"} | packages
    for package in ("torch", "torchvision"):
        with monkeypatch.context() as patch:
            patch.setattr(versions, "_version", lambda each, new=package: "9" if each == new else "8")
            upgraded = step.fingerprint()["versions"]
        assert (upgraded.get(package) == "9") == (package in packages)


def sam_run(drawn, tmp_path, precision, capsys):
    """What `ovseg masks` printed, and the totals of its stage."""
    checkpoint = write_tiny_sam(tmp_path / "sam.pth")
    loose = ("points_per_side=2", "pred_iou_thresh=0", "stability_score_thresh=0", f"precision={precision}")
    options = [f"--mask-option={option}" for option in (f"checkpoint={checkpoint}", *loose)]
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "6"]
    run = tmp_path / precision
    assert main(["masks", *inputs, "--masks", "sam", *options, "--runner", "plain", "--output", str(run)]) == 0
    return capsys.readouterr().out, json.loads((run / "run.json").read_text())["stages"]["propose_masks"]["totals"]


def test_a_run_says_how_far_half_precision_agrees_with_fp32(drawn, tmp_path, capsys):
    said, totals = sam_run(drawn, tmp_path, "bf16", capsys)
    measured = totals["measured"]
    assert measured["mask_precision_images"] == 1, "one image of the first of two units"
    assert 900_000 < measured["mask_precision_equal_millionths"] < 1_000_000
    assert 0 < measured["mask_precision_apart_millionths"] < 50_000
    assert mask_precision_sentence("bf16", measured) in said
    said, totals = sam_run(drawn, tmp_path, "fp32", capsys)
    assert "beside fp32" not in said
    assert "measured" not in totals


def test_precision_in_words():
    counts = dict(zip(COMPARED, (2, 1_990_000, 1_980_000, 3_000), strict=True))
    assert mask_precision_sentence("fp16", counts) == (
        "SAM in fp16 beside fp32, 16 points on 2 of its images: 99.50% of mask pixels equal, IoU 0.9900 in the mean, "
        "predicted IoUs 1.5e-03 apart"
    )
    assert mask_precision_sentence("bf16", {}).startswith("SAM in bf16 was not compared with fp32: no image")


class Measures(HalvesGenerator):
    """Measures the size of an image."""

    def measure(self, image_HW3):
        return {"rows": image_HW3.shape[0]}


def test_the_generator_measures_the_first_image_with_masks_of_the_first_unit_alone(images, tmp_path):
    step = ProposeMasks(
        RunFolder(str(tmp_path)), GeneratorSpec(f"{__name__}:Measures", (), "cpu", "{}"), FetchOptions()
    )
    captions = captions_of([images[2], images[0]])
    assert step.process_with_checkpoints(0, {"captions": captions}).measured == {"rows": 4}
    assert step.process_with_checkpoints(1, {"captions": captions}).measured is None
    assert step.process(0, {"captions": captions}).measured is None
    assert step.process_with_checkpoints(0, {"captions": captions_of(images[2:3])}).measured is None


class BrokenGpu(HalvesGenerator):
    """Its GPU fails at an image, once in the life of the class."""

    fails_at = "5"

    def propose(self, images):
        if self.fails_at in [image.image_id for image in images]:
            BrokenGpu.fails_at = None
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().propose(images)


def test_a_broken_gpu_is_a_crash_and_the_same_command_goes_on(drawn, tmp_path):
    arguments = [*mortal_runs.masks_of(drawn), "--runner", "plain"]
    run = [each.replace("mortal:make", f"{__name__}:BrokenGpu") for each in arguments] + ["--output", str(tmp_path)]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        main(run)
    assert not (tmp_path / "run.json").exists()
    assert main(run) == 0
    totals = json.loads((tmp_path / "run.json").read_text())["stages"]["propose_masks"]["totals"]
    assert (totals["read"], totals["kept"], totals["dropped"]) == (12, 12, {})


def test_no_images_are_no_rows():
    output = propose_masks([], HalvesGenerator(), FetchOptions())
    assert (output.rows.num_rows, output.read, output.kept) == (0, 0, 0)


def test_stored_masks_are_taken_with_todays_uri(images):
    stored = propose_masks(images, HalvesGenerator(), FetchOptions()).rows
    moved = [Image("a", "moved/a.png"), Image("b", None), Image("new", "new.png")]
    rows, missing = select_masks(moved, stored)
    assert rows["image_id"].to_pylist() == ["a", "a", "b", "b"]
    assert set(rows["image_uri"].to_pylist()) == {"moved/a.png", images[1].image_uri}
    assert missing == [moved[2]]


def test_images_without_stored_masks_are_dropped_or_proposed(images):
    stored = propose_masks(images[:2], HalvesGenerator(), FetchOptions()).rows
    wanted = [images[3], images[0], images[4]]
    dropped = reuse_masks(wanted, stored)
    assert [(row["key"], row["reason"]) for row in dropped.drops] == [("c", "no_masks"), ("gone", "no_masks")]
    assert (dropped.read, dropped.kept) == (3, 1)
    generator = HalvesGenerator()
    both = reuse_and_propose(wanted, stored, generator, FetchOptions())
    assert both.rows["image_id"].to_pylist() == ["a", "a", "c", "c"]
    assert both.rows["mask_index"].to_pylist() == [0, 1, 0, 1]
    assert [(row["key"], row["reason"]) for row in both.drops] == [("gone", "image_missing")]
    assert generator.batches == [["c"]]
    assert np.isclose(both.rows["predicted_iou"].to_numpy(), [0.5, 0.25] * 2).all()

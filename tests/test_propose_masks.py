"""Images to MASKS rows, from a generator, from a stored table, or from both."""

import hashlib
import json

import mortal_runs
import numpy as np
import pytest
from fakes import HalvesGenerator
from PIL import Image as PilImage

from ovseg_model.images import FetchOptions
from ovseg_model.proposals import GeneratorSpec
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


def test_an_image_of_several_captions_is_taken_once():
    rows = [
        {
            "image_id": image_id,
            "image_uri": f"{image_id}.png",
            "caption_index": index,
            "caption": "x",
            "source_url": None,
            "licence": None,
            "safety": None,
        }
        for image_id, index in (("a", 0), ("a", 1), ("b", 0))
    ]
    assert images_of(conform_rows(rows, CAPTIONS)) == [Image("a", "a.png"), Image("b", "b.png")]


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

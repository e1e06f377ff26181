"""The benchmarks of regions and one pass run, and fail where a way is further off than it may be."""

import dataclasses

import numpy as np
import pytest

from benchmarks import masked_regions, one_pass
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.one_pass import OnePassOptions


@pytest.fixture(scope="module")
def clip():
    return load_clip(resolve_clip("scenes"), image_batch=4)


def test_regions_are_compared_and_timed(monkeypatch):
    monkeypatch.setattr(masked_regions, "BARS", {})
    lines = list(masked_regions.measure(4, (60, 80), 32, 1, 1, "cpu"))
    assert [line.split(" | ")[0] for line in lines[1:]] == [
        "| usual",
        "| usual again",
        *(f"| {w}" for w in masked_regions.WAYS),
    ]
    assert "| 0.00 | 0.00000 | 1.00000 |" in lines[3]


def test_regions_that_are_too_far_off_fail():
    near = masked_regions.Agreement(1.0, 0.003, 0.999, 0.9999)
    masked_regions.check("near", near)
    for off in ({"largest_levels": 3.0}, {"mean_levels": 0.02}, {"least_cosine": 0.98}):
        with pytest.raises(SystemExit, match="benchmark failed: near"):
            masked_regions.check("near", dataclasses.replace(near, **off))
    with pytest.raises(SystemExit, match="exact"):
        masked_regions.check("exact", near)


def test_a_way_below_its_bar_fails(monkeypatch):
    monkeypatch.setattr(masked_regions, "BARS", {"exact": 1e9})
    with pytest.raises(SystemExit, match=r"exact: wanted 1e\+09x the usual way or more"):
        list(masked_regions.measure(2, (40, 50), 16, 1, 1, "cpu"))


def test_one_pass_is_timed_beside_crops(clip, monkeypatch):
    monkeypatch.setattr(one_pass, "HEIGHT", 60)
    monkeypatch.setattr(one_pass, "WIDTH", 80)
    lines = list(one_pass.measure_speed(clip, 6, 3, [64, 128], 1))
    starts = [line.split(" | ")[0] for line in lines[1:]]
    assert starts == ["| crops (3, scaled)", "| crops again (3, scaled)", "| one pass, 64 px", "| one pass, 128 px"]
    monkeypatch.setattr(one_pass, "BARS", {64: 1e9})
    with pytest.raises(SystemExit, match=r"64 px: wanted 1e\+09x crops or more"):
        list(one_pass.measure_speed(clip, 6, 3, [64], 1))


def test_agreement_is_counted_over_scenes(clip):
    cases = one_pass.scenes_with_masks(3, proposed=False)
    lines = list(one_pass.measure_agreement(clip, cases, {"all": OnePassOptions(6)}))
    crops = lines[1].split(" | ")
    assert crops[0] == "| crops"
    assert crops[2:4] == ["100.0%", "1.00"]
    assert lines[2].startswith("| all |")


def test_a_tally_by_hand(clip):
    (case, *_) = one_pass.scenes_with_masks(3, proposed=True)
    masks = len(case.masks_MHW)
    case = dataclasses.replace(case, nouns=(int(case.shown_M[0]),))
    reference = np.arange(masks, 0, -1.0)[None]
    tally = one_pass.Tally()
    tally.add(case, reference, reference)
    assert (tally.nouns, tally.right, tally.same, tally.correlation) == (1, 1, 1, pytest.approx(1))
    tally.add(case, -reference, reference)
    assert (tally.nouns, tally.same, tally.correlation) == (2, 1, pytest.approx(0))
    assert (tally.kept[1], tally.left[1]) == (1, 2)

"""The benchmark of SAM runs at tiny sizes, and fails where masks differ; what it measures is for a page."""

import pytest
from tiny_sam import tiny_sam

from benchmarks import sam_everything as benchmark
from ovseg_model.proposals.sam_postprocess import KeptMasks


def test_everything_mode_is_compared_and_timed():
    case = benchmark.open_case(tiny_sam(), points_per_side=4, height=60, width=80)
    section, ratio = benchmark.measure_everything(case, repeats=1, encoder_repeats=1)
    assert "| ours, bf16 |" in section
    assert "of mask pixels equal" in " ".join(section.split())
    assert ratio > 0


def test_post_processing_is_compared_and_timed():
    section, ratio = benchmark.measure_post(benchmark.open_post_case(6, (60, 80), cells=128), repeats=1)
    assert "Equal RLEs of" in section
    assert ratio > 0


def test_other_masks_fail_the_benchmark():
    case = benchmark.open_post_case(4, (60, 80), cells=128)
    rles, ious = case.usual()
    theirs = [
        {"segmentation": rle, "area": 1, "predicted_iou": iou, "stability_score": 1.0}
        for rle, iou in zip(rles, ious.tolist(), strict=True)
    ]
    assert len(theirs) > 2
    same = KeptMasks(rles, ious.tolist(), [1.0] * len(rles))
    assert f"{len(rles)} masks" in benchmark.check_masks(theirs, same)
    with pytest.raises(SystemExit, match="masks have an IoU of"):
        benchmark.check_masks(theirs, same._replace(masks=rles[1:] + rles[:1]))
    with pytest.raises(SystemExit, match=r"scores differ by 1\.0e-01"):
        benchmark.check_masks(theirs, same._replace(stability=[0.9] * len(rles)))
    with pytest.raises(SystemExit, match=r"masks are kept by segment-anything, 0 by ours"):
        benchmark.check_masks(theirs, KeptMasks([], [], []))

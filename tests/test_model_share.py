"""The benchmark of models' share reads what runs note."""

from __future__ import annotations

import pytest

from benchmarks import model_share


def stage(whole, models, images):
    seconds = {"seconds_in_models": models, "seconds_on_device": models / 2, "seconds_for_images": images}
    return {"seconds_in_made_parts": whole, **seconds}


def test_shares_by_hand():
    run = {"propose_masks": stage(6.0, 5.0, 0.5), "match_regions": stage(4.0, 3.5, 0.0)}
    assert model_share.share(run) == pytest.approx(0.85)
    text = model_share.page(3, [run, run, run])
    assert "| propose_masks | 6.00 | 83.3% | 41.7% | 8.3% |" in text
    assert "85.0% in models (85.0% to 85.0%;" in text


def test_four_scenes_are_mined(tmp_path):
    (run,) = model_share.measure(tmp_path, 4, 1)
    assert 0 < model_share.share(run) < 1

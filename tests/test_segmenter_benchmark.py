"""The segmenter's benchmark runs, and fails where its ways differ; what it measures is for a page."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import segmenter


@pytest.fixture(scope="module")
def case():
    return segmenter.open_case("scenes", 3, 2, (32, 40), None)


def test_both_ways_give_the_same_and_every_part_is_timed(case):
    section, ratio = segmenter.measure(case, 1)
    assert "100.000% of the labels agree" in section
    assert [line.split("|")[1].strip() for line in section.splitlines()[6:]] == [
        f"{way}{part}" for part in ("", ": regions", ": forwards", ": map") for way in ("one by one", "ours")
    ]
    assert ratio > 0


def test_other_vectors_fail_it(case, monkeypatch):
    embed = case.clip.embed_images
    monkeypatch.setattr(case.clip, "embed_images", lambda batch: np.roll(embed(batch), 1, axis=0))
    with pytest.raises(SystemExit, match="logits of the same regions differ by"):
        segmenter.measure(case, 1)

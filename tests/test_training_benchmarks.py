"""The benchmarks of training run, and fail where their ways differ; what they measure is for a page, not for a test."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks import loader, train_step
from ovseg_model.clip import load_clip, resolve_clip


@pytest.fixture(scope="module")
def clip():
    return load_clip(resolve_clip("scenes"), "cpu")


def test_mode_full_has_the_loss_of_the_papers_composition(clip):
    train_step.check_equal("scenes", clip, "cpu", train_step.make_batch(4, clip.image_size_px))


@pytest.mark.parametrize("mode", ["full", "prompt", "joint", "alpha"])
def test_every_mode_takes_a_step_and_holds_something(clip, mode):
    batch = train_step.make_batch(4, clip.image_size_px)
    side = train_step.our_side("scenes", clip, "cpu", batch, mode, mode=mode)
    assert side.step() > 0
    assert side.held_bytes() > 0


def test_loaders_read_the_same(tmp_path, capsys):
    pytest.importorskip("datasets", reason="the loader is compared with `datasets`")
    loader.run(tmp_path, Namespace(rows=60, images=6, repeats=1, workers=[0], size_px=32))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| bytes", "| regions"))]
    assert len(rows) == 6


def test_a_loader_that_loses_a_row_fails_the_benchmark():
    whole = [("a", b"1"), ("b", b"2")]
    with pytest.raises(SystemExit, match="read other samples"):
        loader.check_equal({"ours": lambda: iter(whole), "another": lambda: iter(whole[:1])})

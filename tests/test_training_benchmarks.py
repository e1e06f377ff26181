"""The benchmarks of training run, and fail where their ways differ; what they measure is for a page, not for a test."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

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


def test_the_arithmetic_of_a_tower(clip):
    # 6 blocks of 65 tokens of 192, MLPs of 768; 64 patches of 8 x 8 x 3.
    block = 2 * 65 * (4 * 192 * 192 + 2 * 192 * 768) + 2 * 2 * 65 * 65 * 192
    assert train_step.tower_tflop(clip.model.visual) == pytest.approx((6 * block + 2 * 64 * 192 * 192) / 1e12)


def test_the_table_says_how_much_of_a_matmul_is_reached():
    side = train_step.Side("full", lambda: 0.0, torch.nn.Linear(1, 1), None, [2.0, 2.0], 3.0, "bf16")
    assert train_step.rate_cells(side, 2.0, {"bf16": 6.0}) == "1.500 | 25%"
    assert train_step.matmul_tflops("cpu", "fp32") > 0


def test_loaders_read_the_same(tmp_path, capsys):
    pytest.importorskip("datasets", reason="the loader is compared with `datasets`")
    loader.run(tmp_path, Namespace(rows=60, images=6, repeats=1, workers=[0], size_px=32))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| bytes", "| regions"))]
    assert len(rows) == 6


def test_a_loader_that_loses_a_row_fails_the_benchmark():
    whole = [("a", b"1"), ("b", b"2")]
    with pytest.raises(SystemExit, match="read other samples"):
        loader.check_equal({"ours": lambda: iter(whole), "another": lambda: iter(whole[:1])})

"""The made-up run of the benchmark is one that a miner could have made."""

import numpy as np

from benchmarks.filter_pairs import HEIGHT, WIDTH, Measured, draw_mask, make_run, page, table, verdict
from ovseg_model import rle
from pipelines.command_line import main
from pipelines.derived_run import open_source, read_source_part


def test_the_made_up_run_is_a_run(tmp_path):
    assert make_run(tmp_path / "run", 100) == 2 * 64 * 4  # whole parts
    source = open_source(str(tmp_path / "run"))
    parts = [read_source_part(source, part["path"]) for part in source.parts("pairs")]
    ids = [each for part in parts for each in part["pair_id"].to_pylist()]
    assert len(set(ids)) == 512
    assert parts[0]["image_id"].unique().to_pylist() == [f"000000-{image:04d}" for image in range(64)]
    assert {len(each) for each in parts[0]["runner_up_masks"].to_pylist()} == {3}
    assert main(["filter", str(tmp_path / "run"), "--assign", "hungarian", "--output", str(tmp_path / "new")]) == 0


def test_masks_are_what_they_say():
    drawn = [draw_mask(np.random.default_rng(seed)) for seed in range(20)]
    masks = [each["mask"] for each in drawn]
    assert rle.areas_px(masks).tolist() == [each["area_px"] for each in drawn]
    assert rle.boxes_xywh_px(masks).tolist() == [each["box_xywh_px"] for each in drawn]
    assert rle.decode_masks(masks).shape == (20, HEIGHT, WIDTH)
    assert 150 < np.mean([len(mask["counts"]) for mask in masks]) < 250


def test_the_table_and_its_bars():
    within = Measured(59.0, 50.0, 1_500_000_000, 10)
    assert table(20, {"mutual": within}).splitlines()[2] == "| `--assign mutual` | 10 | 59.0 | 50.0 | 1,500 |"
    assert within.holds
    assert not within._replace(seconds=61.0).holds
    assert not within._replace(peak_bytes=2_100_000_000).holds
    assert verdict({"mutual": within}) == "All keep both bars."
    several = {"mutual": within, "hungarian": within._replace(seconds=61.0)}
    assert verdict(several) == "Above a bar: 1 of 2."
    assert page(20, {"mutual": within}, 1.04, 2).endswith("bars.\nLoad average 1.0 of 2 processors at the end.")
    assert "other programs took turns" in page(20, {"mutual": within}, 2.5, 2)

"""The simulation on a small corpus: its stand-ins keep the tables' contract, its bars fail what misses them."""

import json

import pyarrow as pa
import pytest

from benchmarks.fake_steps import fake_masks, fake_nouns, fake_pairs, graph_bytes, stand_ins
from benchmarks.scale_simulation import BARS, Measured, missed_bars, requests_per_unit, write_references
from schemas import CAPTIONS, MASKS, NOUNS, PAIRS, conform, conform_rows


def captions():
    texts = {"a": ["A red Kite", "two dogs"], "b": ["sky"]}
    rows = [
        {"image_id": key, "image_uri": f"{key}.jpg", "caption_index": index, "caption": text, "source_url": None}
        for key, of_image in texts.items()
        for index, text in enumerate(of_image)
    ]
    return conform_rows([{**row, "licence": "CC0", "safety": None} for row in rows], CAPTIONS)


def test_stand_ins_make_rows_that_conform():
    nouns = conform(fake_nouns(captions()), NOUNS)
    masks = conform(fake_masks(captions()), MASKS)
    pairs = conform(fake_pairs(captions(), nouns, masks), PAIRS)
    assert nouns["noun"].to_pylist() == ["kite", "dogs", "sky"]
    assert nouns["surface"].to_pylist() == ["Kite", "dogs", "sky"]
    assert nouns["start_char"].to_pylist() == [6, 4, 0]
    assert nouns["end_char"].to_pylist() == [10, 8, 3]
    assert list(zip(masks["image_id"].to_pylist(), masks["mask_index"].to_pylist(), strict=True)) == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    assert pairs["image_id"].to_pylist() == ["a", "a", "b"]
    assert pairs["caption"].to_pylist() == ["A red Kite", "two dogs", "sky"]
    assert pairs["mask_index"].to_pylist() == [0, 0, 0]
    assert pairs["meaningless"].to_pylist() == [True] * 3
    assert len(set(pairs["pair_id"].to_pylist())) == 3


def test_references_are_as_many_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.scale_simulation.ROWS_PER_BATCH", 4)
    write_references(tmp_path / "references.parquet", 10)
    rows = pa.parquet.read_table(tmp_path / "references.parquet").to_pylist()
    assert len({row["image"] for row in rows}) == 10
    assert rows[9]["image"] == "000000009.jpg"


def test_a_missed_bar_is_named():
    commands = {"plan": Measured(wall_s=130, cpu_s=100, peak_mib=500), "run": Measured(9e9, 9e9, 2000)}
    assert missed_bars(commands, "cpu") == ["run: wanted less than 1,907 MiB, got 2,000"]
    assert missed_bars(commands, "wall")[0] == "plan: wanted less than 120 s, got 130.0"
    assert BARS == {"plan": 120, "resume": 60, "resume on Beam": 60}


def test_requests_are_counted_a_unit():
    requests = requests_per_unit()
    # Four tables, each a part and its drops, and of three steps the marker of an attempt, which goes again.
    assert requests["first"]["PUT"] == 11
    assert requests["first"]["DELETE"] == requests["first"]["LIST"] == 3
    assert sum(requests["resumed"].values()) < 0.2


@pytest.mark.parametrize("images", [40, 4000])
def test_the_job_graph_does_not_grow_with_the_corpus(images, tmp_path):
    write_references(tmp_path / "references.parquet", images)
    arguments = ["--captions", str(tmp_path / "references.parquet"), "--output", str(tmp_path / "run")]
    with stand_ins():
        assert graph_bytes([*arguments, "--images-per-unit", "40"]) < 300_000
    assert json.loads((tmp_path / "run/units.json").read_text())["images"] == images

"""docs/scale.md is what the script computes; its formulas by hand."""

from pathlib import Path

import pytest

from benchmarks.scale_plan import (
    BLOCK,
    BLOCKS,
    Corpus,
    Line,
    gpu_hours,
    limits,
    line_through,
    measure_tables,
    noun_hours,
    read_measured,
    requests,
    rewrite,
    sam_tflop,
    table_bytes,
)

PAGE = Path(__file__).parent.parent / "docs/scale.md"


def run_of(units, seconds, peak_mib):
    command = {"wall_s": 2 * seconds, "cpu_s": seconds, "peak_mib": peak_mib}
    commands = dict.fromkeys(("plan", "resume on Beam"), command)
    return {"units": units, "commands": commands, "manifest_bytes": 1000 * units, "graph_bytes": 5}


MEASURED = {
    "photographs": {
        "images": 10,
        "generator": "felzenszwalb",
        "tables": {"captions": {"rows": 50, "bytes": 1000}, "masks": {"rows": 1000, "bytes": 300_000}},
    },
    "requests": {"first": {"PUT": 8.0, "GET": 20.0, "HEAD": 10.0, "LIST": 0.0, "DELETE": 0.0}},
    "simulation": {"1000": run_of(16, 3, 200), "3000": run_of(48, 7, 328)},
}


def test_the_page_is_what_the_script_computes():
    text = PAGE.read_text()
    assert {match[2] for match in BLOCK.finditer(text)} == set(BLOCKS)
    assert rewrite(text, read_measured()) == text, "run: python -m benchmarks.scale_plan --page docs/scale.md"


def test_units_and_files_of_a_corpus():
    assert Corpus(10**8).units == 2**20
    assert Corpus(10**8).files == 8 * 2**20 + 10
    assert Corpus(10**8, 1024).units == 2**16


def test_a_gpus_hours_are_work_over_used_speed():
    # 989 TFLOP/s at 40 %: 395.6 TFLOP a second.
    assert gpu_hours(3600, 395.6, "H100") == pytest.approx(1)
    assert sam_tflop(32) == pytest.approx(0.97 + 1024 * 0.00362)


def test_bytes_nouns_and_requests_go_by_image_and_unit():
    corpus = Corpus(6400)
    assert table_bytes(corpus, "masks", MEASURED) == 6400 * 30_000
    assert noun_hours(corpus, MEASURED) == pytest.approx(6400 * 5 / 27000 / 3600)
    assert corpus.units == 128
    assert requests(corpus, ("PUT", "DELETE"), MEASURED) == 128 * 8
    assert requests(corpus, ("GET", "HEAD", "LIST"), MEASURED) == 128 * 30 + 2 * 6400


def test_a_line_goes_through_both_sizes():
    line = line_through(MEASURED, lambda run: run["commands"]["plan"]["cpu_s"], "images")
    assert line == Line(1.0, 0.002)
    assert (line.at(500), line.reaches(5)) == (2, 2000)


def test_the_first_limit_is_what_gives_out_first():
    found = {limit.what.split(":")[0]: limit.images[64] for limit in limits(MEASURED)}
    assert list(found.values()) == sorted(found.values())
    # Five captions an image.
    assert found["planning"] == pytest.approx((12 * 3600 - 1) / 0.002 / 5)
    assert found["resuming"] == pytest.approx((3600 - 1) / (4 / 32) * 64)
    # 200 MiB at 16 units, 4 MiB a unit more.
    assert found["memory"] == pytest.approx((16 * 1024 - 136) / 4 * 64)
    assert found["run.json"] == pytest.approx(1e9 / 1000 * 64)


def test_tables_are_measured_from_a_run(tmp_path):
    manifest = """{"units": {"images": 3}, "stages": {"propose_masks": {"options": {"masks": "sam"}}},
        "tables": {"nouns": {"rows": 7, "parts": [{"bytes": 10}, {"bytes": 5}]}}}"""
    (tmp_path / "run.json").write_text(manifest)
    wanted = {"images": 3, "generator": "sam", "tables": {"nouns": {"rows": 7, "bytes": 15}}}
    assert measure_tables(tmp_path) == wanted

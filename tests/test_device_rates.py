"""What one device does, at tiny sizes: the benchmark that a GPU is measured with must run where there is none."""

import pytest
import torch
from segment_anything import sam_model_registry
from tiny_sam import tiny_sam

from benchmarks import device_rates, pages
from ovseg_model.device_clock import device_at_work

SMALL = ["--device", "cpu", "--repeats", "1", "--points-per-side", "4", "--image-batch", "1", "--images", "1"]
SMALL += ["--masks", "5", "--region-batch", "8"]


def test_a_page_of_both_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sam_model_registry, "tiny", tiny_sam)
    monkeypatch.setattr(device_rates, "matmul_tflops", lambda device, precision: 0.5)
    page = tmp_path / "device_rates.md"
    device_rates.main([*SMALL, "--sams", "tiny", "--clips", "scenes", "--output", str(page)])
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| tiny", "| scenes"))]
    assert [row.split(" | ")[:2] for row in rows] == [["| tiny", "4 x 4"], ["| scenes", "near"], ["| scenes", "float"]]
    assert all("-" not in row for row in rows), "a device was never at work"
    assert "bf16" in capsys.readouterr().out


def test_vectors_that_are_far_from_those_of_fp32_fail(monkeypatch):
    monkeypatch.setattr(device_rates, "LEAST_COSINE", 1.1)
    with pytest.raises(SystemExit, match=r"scenes in bf16: cosine 1\.0"):
        device_rates.main([*SMALL, "--sams", "--clips", "scenes"])


def test_host_cores_are_cpu_seconds_over_the_devices():
    rates = device_rates.Rates(wall=[2.0, 4.0, 3.0], cpu=[6.0, 6.0, 6.0], device=[1.5, 1.5, 1.5])
    assert rates.cells() == "50% | 4.0"
    assert device_rates.Rates([1.0], [1.0], [0.0]).cells() == "0% | -"


def test_a_turn_is_clocked_by_wall_and_device():
    def way():
        with device_at_work("cpu"):
            torch.randn(600, 600) @ torch.randn(600, 600)

    rates = device_rates.timed(way, 2)
    assert len(rates.wall) == 2
    assert all(0 < device <= wall for device, wall in zip(rates.device, rates.wall, strict=True))


def test_processors_are_named_where_the_system_tells(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU\n")
    assert pages.processor_name(tmp_path / "cpuinfo").endswith(" (Some CPU)")
    assert "(" not in pages.processor_name(tmp_path / "none")

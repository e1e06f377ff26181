"""Safety flags: the input's, or a user's own function's."""

import json

import numpy as np
import pytest
from fake_mine import CAPTIONS, arguments, use_fakes
from run_files import made_of, manifest_of
from test_hash_images import draw

from pipelines.command_line import main
from pipelines.safety_flags import SafetySpec, flag_image, open_safety, resolve_safety
from pipelines.write_tables import RunFolder
from schemas import UserError

PLUG_IN = """
def by_width(pixels):
    assert pixels.dtype == "uint8" and pixels.shape[2] == 3
    return "wide" if pixels.shape[1] > 100 else None

limit = 3
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """A module of the user's, importable in this test alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"flags_of_{tmp_path.name}.py"
    path.write_text(PLUG_IN)
    return path


@pytest.fixture
def captions(tmp_path):
    """Two captioned images with flags: one of 192 px, one of 32."""
    lines = [
        {"image": f"{name}.png", "caption": text, "safety": "unknown"}
        for name, text in zip("ab", CAPTIONS[:2], strict=True)
    ]
    draw(tmp_path / "a.png", 0)
    draw(tmp_path / "b.png", 1, 32)
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "captions.jsonl"


def flags_of(run):
    rows = RunFolder(str(run)).read_part("pairs/part-00000.parquet")
    return dict(zip(rows["image_id"].to_pylist(), rows["safety"].to_pylist(), strict=True))


def test_the_inputs_flags_reach_the_pairs_and_a_function_overrides_them(captions, plug_in, tmp_path, monkeypatch):
    use_fakes(monkeypatch.setattr)
    run, function = tmp_path / "run", f"{plug_in.stem}:by_width"
    assert main(arguments(captions, run, 64)) == 0
    assert flags_of(run) == {"a.png": "unknown", "b.png": "unknown"}
    assert "safety" not in manifest_of(run)["stages"]["match_regions"]["fingerprint"]
    assert main(arguments(captions, run, 64, "--safety", function)) == 0
    assert made_of(run) == {"read_captions": 0, "extract_nouns": 0, "propose_masks": 0, "match_regions": 1}
    assert flags_of(run) == {"a.png": "wide", "b.png": "unknown"}
    assert manifest_of(run)["stages"]["match_regions"]["fingerprint"]["safety"]["function"] == function


def test_another_source_is_another_fingerprint_and_refused_by_workers(plug_in):
    spec = resolve_safety(f"{plug_in.stem}:by_width")
    plug_in.write_text(PLUG_IN + "# changed")
    assert resolve_safety(spec.function).source_sha256 != spec.source_sha256
    with pytest.raises(UserError, match="differs from the one that the run began with"):
        open_safety(spec)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.such.module:flag", "importable here; got ModuleNotFoundError"),
        ("json", "wanted package.module:function, with a colon"),
        ("json:nothing", "importable here; got AttributeError"),
        ("json:__name__", "wanted something to call, got a str"),
        ("sys:exit", "its module has no source file"),
    ],
)
def test_mistakes_are_sentences_before_work_starts(name, said):
    with pytest.raises(UserError, match=said):
        resolve_safety(name)


def test_no_function_is_no_spec():
    assert resolve_safety(None) is None
    assert SafetySpec("a:b", "00").fingerprint() == {"function": "a:b", "source_sha256": "00"}


def test_a_failed_check_stops_the_run_and_a_wrong_answer_too():
    pixels = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(UserError, match="failed on image seven: ZeroDivisionError"):
        flag_image(lambda pixels: 1 / 0, "seven", pixels)
    with pytest.raises(UserError, match="wanted a text or None for image seven, got True"):
        flag_image(lambda pixels: True, "seven", pixels)


def test_a_function_may_change_its_pixels():
    pixels = np.zeros((2, 2, 3), np.uint8)
    flag_image(lambda given: given.fill(9), "seven", pixels)
    assert not pixels.any()

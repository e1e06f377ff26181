"""What is no finished run, or none with PAIRS, is said in a sentence that names the option."""

import hashlib
import json

import pytest
from drawn_pairs import pair_rows, write_run
from run_files import manifest_of

from pipelines.open_run import open_finished_run, open_run_with_pairs
from schemas import UserError


@pytest.fixture
def mined(tmp_path):
    return write_run(tmp_path / "mined", [pair_rows(tmp_path / "images", 2)])


def test_a_run_is_its_folder_its_manifest_and_its_hash(mined):
    finished = open_finished_run(str(mined), "RUN")
    assert finished.run.path() == str(mined)
    assert finished.manifest == manifest_of(mined)
    assert finished.run_sha256 == hashlib.sha256((mined / "run.json").read_bytes()).hexdigest()
    assert open_run_with_pairs(str(mined), "RUN") == finished


def change(run, **changes):
    (run / "run.json").write_text(json.dumps(manifest_of(run) | changes))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda run: (run / "_SUCCESS").unlink(), "there is no finished run; mine it first with ovseg mine --output"),
        (lambda run: (run / "run.json").unlink(), "there is no finished run"),
        (lambda run: (run / "run.json").write_text("[]"), "run.json is not one of this release"),
        (
            lambda run: change(run, tables={"masks": {"version": 1, "rows": 0, "parts": []}}),
            "wanted version 2 of its masks",
        ),
    ],
)
def test_what_is_no_finished_run_is_said(mined, spoil, sentence):
    spoil(mined)
    with pytest.raises(UserError, match=f"^--option {mined}: {sentence}"):
        open_finished_run(str(mined), "--option")


def test_a_run_without_pairs_is_a_run(mined):
    change(mined, tables={})
    assert open_finished_run(str(mined), "RUN").manifest["tables"] == {}
    with pytest.raises(
        UserError, match=f"^RUN {mined}: the run has no PAIRS; make them with ovseg match --output {mined}$"
    ):
        open_run_with_pairs(str(mined), "RUN")

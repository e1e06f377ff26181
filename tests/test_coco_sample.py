"""Real photographs, real captions, the real tagger: what users bring."""

import json

import pyarrow.dataset as ds
import pytest
import tiny_clip
from run_files import files_of, manifest_of

from pipelines.command_line import main

GREY = {204805, 205401, 456496}
"""The grey-scale photographs of the sample."""

IMAGES = 8


@pytest.fixture(scope="module")
def sample(test_data, nltk_data, tmp_path_factory):
    """Eight of the 103 photographs, the grey ones among them, in COCO's layout."""
    whole = json.loads((test_data / "coco_sample/captions.json").read_text())
    chosen = sorted(whole["images"], key=lambda entry: (entry["id"] not in GREY, entry["id"]))[:IMAGES]
    ids = {entry["id"] for entry in chosen}
    assert ids > GREY
    captions = [each for each in whole["annotations"] if each["image_id"] in ids]
    folder = tmp_path_factory.mktemp("sample")
    (folder / "captions.json").write_text(json.dumps({"images": chosen, "annotations": captions}))
    clip = tiny_clip.write_folder(folder / "clip")
    inputs = ["--captions", str(folder / "captions.json"), "--images", str(test_data / "coco_sample/images")]
    return [*inputs, "--nouns", "nouns", "--clip", str(clip), "--torch-threads", "1"]


def test_photographs_are_mined_with_felzenszwalb_twice_alike(sample, tmp_path):
    for name, runner in (("a", "plain"), ("b", "FnApiRunner")):
        assert main(["mine", *sample, "--output", str(tmp_path / name), "--runner", runner]) == 0
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    stages = manifest_of(tmp_path / "a")["stages"]
    assert stages["propose_masks"]["totals"] == {"read": IMAGES, "kept": IMAGES, "dropped": {}}
    assert stages["extract_nouns"]["totals"]["read"] == 5 * IMAGES
    nouns = stages["match_regions"]["totals"]
    assert set(nouns["dropped"]) == {"duplicate_noun"}
    pairs = ds.dataset(tmp_path / "a/pairs").to_table().to_pandas()
    assert len(pairs) == nouns["kept"]
    assert pairs.groupby("image_id")["noun"].nunique().between(5, 25).all()
    for row in pairs.itertuples():
        assert row.caption[row.start_char : row.end_char].lower() == row.noun


def test_photographs_are_mined_with_their_annotations(sample, test_data, tmp_path):
    source = f"source={test_data / 'coco_sample/instances.json'}"
    masks = ["--masks", "annotations", "--mask-option", source]
    assert main(["mine", *sample, *masks, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    annotations = json.loads((test_data / "coco_sample/instances.json").read_text())["annotations"]
    rows = ds.dataset(tmp_path / "run/masks").to_table(columns=["image_id", "area_px"]).to_pandas()
    wanted = [each for each in annotations if str(each["image_id"]) in set(rows["image_id"])]
    assert len(rows) == len(wanted)
    totals = manifest_of(tmp_path / "run")["stages"]["match_regions"]["totals"]
    assert totals["kept"] + sum(totals["dropped"].values()) == totals["read"]

"""Images of evaluation sets stay out of runs, whichever verb meets them."""

import json

import numpy as np
import pytest
from fake_mine import CAPTIONS, arguments, use_fakes
from fakes import HalvesGenerator
from PIL import Image as PilImage
from run_files import files_of, made_of, manifest_of
from test_hash_images import draw

from ovseg_model.image_hash import perceptual_hash
from ovseg_model.images import FetchOptions, read_images
from pipelines.command_line import main
from pipelines.excluded_images import ExcludedImages, find_excluded, open_exclusions, resolve_exclusions
from pipelines.options import ExcludeOptions
from pipelines.propose_masks import Image, propose_masks, reuse_and_propose, reuse_masks
from pipelines.write_tables import RunFolder
from schemas import UserError, conform_rows
from schemas.image_hashes import IMAGE_HASHES

BYTES = "ab" * 32


def listed(*rows):
    """IMAGE_HASHES rows of set, file, first byte of sha256, and hash."""
    names = ("set_name", "file_name", "image_sha256", "image_phash")
    return conform_rows([dict(zip(names, row, strict=True)) for row in rows], IMAGE_HASHES)


def test_equal_bytes_come_before_near_hashes_and_the_nearest_before_the_first():
    hashes = listed(
        ("val", "far.jpg", "00" * 32, "000000000000000f"),
        ("val", "near.jpg", "11" * 32, "0000000000000001"),
        ("test", "same.jpg", BYTES, "ffffffffffffffff"),
        ("test", "near.jpg", "22" * 32, "0000000000000001"),
    )
    excluded = ExcludedImages(hashes, 4)
    assert excluded.find(BYTES, "0000000000000000") == "test: same.jpg, the same bytes"
    assert excluded.find("33" * 32, "0000000000000000") == "test: near.jpg, perceptual hashes 1 of 64 bits apart"
    assert excluded.find("33" * 32, "000000000000000e") == "val: far.jpg, perceptual hashes 1 of 64 bits apart"
    assert excluded.find("33" * 32, "0000000000ffffff") is None


@pytest.mark.parametrize(("distance", "found"), [(3, False), (4, True)])
def test_the_distance_is_still_a_match(distance, found):
    excluded = ExcludedImages(listed(("val", "a", BYTES, "00000000000000f0")), distance)
    assert (excluded.find("33" * 32, "0000000000000000") is not None) == found


def test_an_empty_list_excludes_nothing():
    assert ExcludedImages(listed(), 4).find(BYTES, "0000000000000000") is None


@pytest.fixture
def images(tmp_path):
    """Three images that look different; `copy` is the first, smaller and as JPEG."""
    places = {name: draw(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("a", "b", "c"))}
    PilImage.open(places["a"]).resize((48, 48)).save(tmp_path / "copy.jpg", quality=80)
    places["copy"] = tmp_path / "copy.jpg"
    return [Image(name, str(path)) for name, path in places.items()]


def excluding(image, distance=4):
    (read,) = read_images([image.image_uri], FetchOptions())
    return ExcludedImages(listed(("val", "x.png", read.sha256, perceptual_hash(read.pixels))), distance)


def test_excluded_images_never_reach_the_generator(images):
    generator = HalvesGenerator()
    output = propose_masks(images, generator, FetchOptions(), excluded=excluding(images[0]))
    assert generator.batches == [["b", "c"]]
    assert (output.read, output.kept) == (4, 2)
    drops = {row["key"]: (row["reason"], row["detail"]) for row in output.drops}
    assert drops["a"] == ("excluded_image", "val: x.png, the same bytes")
    assert drops["copy"][0] == "excluded_image"
    assert drops["copy"][1].startswith("val: x.png, perceptual hashes ")


def test_stored_masks_are_excluded_without_a_look_at_the_image(images):
    stored = propose_masks(images, HalvesGenerator(), FetchOptions()).rows
    gone = [Image(image.image_id, "gone.png") for image in images]
    output = reuse_masks([*gone, Image("new", "new.png")], stored, excluding(images[1]))
    assert output.rows["image_id"].to_pylist() == ["a", "a", "c", "c", "copy", "copy"]
    assert [(row["key"], row["reason"]) for row in output.drops] == [("b", "excluded_image"), ("new", "no_masks")]
    assert (output.read, output.kept) == (5, 3)


def test_what_is_excluded_from_stored_masks_is_not_proposed_again(images):
    stored = propose_masks(images[:2], HalvesGenerator(), FetchOptions()).rows
    generator = HalvesGenerator()
    output = reuse_and_propose(images, stored, generator, FetchOptions(), None, excluding(images[0]))
    assert generator.batches == [["c"]]
    assert output.rows["image_id"].to_pylist() == ["b", "b", "c", "c"]
    assert sorted((row["key"], row["reason"]) for row in output.drops) == [
        ("a", "excluded_image"),
        ("copy", "excluded_image"),
    ]


def test_each_image_is_looked_up_once(images, monkeypatch):
    stored = propose_masks(images, HalvesGenerator(), FetchOptions()).rows
    excluded, asked = excluding(images[0]), []
    monkeypatch.setattr(excluded, "find", lambda sha256, phash: asked.append(sha256))
    assert find_excluded(stored, excluded) == {}
    assert len(asked) == len(images)


# Whole runs


@pytest.fixture
def captions(tmp_path):
    """Four captioned images that look different."""
    lines = [{"image": f"{seed}.png", "caption": text} for seed, text in enumerate(CAPTIONS)]
    for line in lines:
        draw(tmp_path / line["image"], int(line["image"][0]))
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "captions.jsonl"


@pytest.fixture
def hash_list(tmp_path):
    """A list of the third image, as a file of its own."""
    draw(tmp_path / "val/secret.png", 2)
    assert main(["hash", str(tmp_path / "val"), "--name", "val", "--output", str(tmp_path / "val.parquet")]) == 0
    return tmp_path / "val.parquet"


def excluded_in(run, stage):
    rows = RunFolder(str(run)).read_part(f"drops/part-00000-{stage}.parquet").to_pylist()
    return [(row["image_id"], row["detail"]) for row in rows if row["reason"] == "excluded_image"]


def test_a_mined_run_has_no_masks_of_what_a_list_has(captions, hash_list, tmp_path, monkeypatch):
    use_fakes(monkeypatch.setattr)
    run = tmp_path / "run"
    assert main(arguments(captions, run, 64, "--exclude-images", str(hash_list))) == 0
    assert excluded_in(run, "propose_masks") == [("2.png", "val: secret.png, the same bytes")]
    assert set(RunFolder(str(run)).read_part("pairs/part-00000.parquet")["image_id"].to_pylist()) == {
        "0.png",
        "1.png",
        "3.png",
    }


def test_match_drops_the_nouns_of_what_a_list_has(captions, hash_list, tmp_path, monkeypatch):
    use_fakes(monkeypatch.setattr)
    run = tmp_path / "run"
    assert main(arguments(captions, run, 64)) == 0
    assert "excluded" not in manifest_of(run)["stages"]["match_regions"]["fingerprint"]
    again = ["match", "--output", str(run), "--runner", "plain", "--device", "cpu"]
    assert main([*again, "--exclude-images", str(hash_list)]) == 0
    assert excluded_in(run, "match_regions") == [
        ("2.png", "dog: val: secret.png, the same bytes"),
        ("2.png", "sky: val: secret.png, the same bytes"),
    ]
    totals = manifest_of(run)["stages"]["match_regions"]["totals"]
    assert (totals["read"], totals["kept"], totals["dropped"]) == (8, 6, {"excluded_image": 2})


def test_another_list_makes_parts_anew_and_the_same_elsewhere_does_not(captions, hash_list, tmp_path, monkeypatch):
    use_fakes(monkeypatch.setattr)
    run, elsewhere = tmp_path / "run", tmp_path / "moved.parquet"
    main(arguments(captions, run, 64, "--exclude-images", str(hash_list)))
    before = files_of(run)
    elsewhere.write_bytes(hash_list.read_bytes())
    main(arguments(captions, run, 64, "--exclude-images", str(elsewhere)))
    assert made_of(run)["propose_masks"] == 0
    assert {name: sha for name, sha in files_of(run).items() if name != "run.json"} == {
        name: sha for name, sha in before.items() if name != "run.json"
    }
    draw(tmp_path / "other/x.png", 7)
    assert main(["hash", str(tmp_path / "other"), "--name", "other", "--output", str(elsewhere)]) == 0
    assert main(arguments(captions, run, 64, "--exclude-images", str(elsewhere))) == 0
    assert made_of(run)["propose_masks"] == 1


def test_order_and_repetition_of_lists_do_not_matter(tmp_path):
    for seed in (1, 2):
        draw(tmp_path / str(seed) / "x.png", seed)
        list_ = str(tmp_path / f"{seed}.parquet")
        assert main(["hash", str(tmp_path / str(seed)), "--name", f"set{seed}", "--output", list_]) == 0
    one, two = str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")
    assert resolve_exclusions(ExcludeOptions((one, two))) == resolve_exclusions(ExcludeOptions((two, one, two)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExcludeOptions(("nowhere.parquet",)), "--exclude-images .*nowhere.parquet: cannot be read"),
        (ExcludeOptions((__file__,)), "is no hash list"),
        (ExcludeOptions((), 64), "--exclude-distance: wanted 0 to 63 bits, got 64"),
        (ExcludeOptions((), -1), "--exclude-distance: wanted 0 to 63 bits, got -1"),
    ],
)
def test_mistakes_are_sentences_before_work_starts(options, said):
    with pytest.raises(UserError, match=said):
        resolve_exclusions(options)


def test_a_list_that_changes_under_a_run_stops_it(hash_list, tmp_path):
    spec = resolve_exclusions(ExcludeOptions((str(hash_list),)))
    draw(tmp_path / "val/y.png", 3)
    assert main(["hash", str(tmp_path / "val"), "--name", "val", "--output", str(hash_list)]) == 0
    with pytest.raises(UserError, match="the list changed after the run began"):
        open_exclusions(spec)


def test_blank_images_look_alike():
    """What docs/decontamination.md warns of."""
    grey, white = (perceptual_hash(np.full((32, 32, 3), value, np.uint8)) for value in (128, 255))
    assert grey == white

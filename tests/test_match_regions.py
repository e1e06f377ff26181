"""Noun to best mask, by hand-made cosines and by colours that can be computed."""

import hashlib
import io

import numpy as np
import pytest
from fakes import ColourScorer
from PIL import Image

from ovseg_model import rle
from ovseg_model.images import FetchOptions
from pipelines import match_regions as module
from pipelines.match_regions import (
    ImageNouns,
    Precision,
    cosine_table,
    crop_png,
    groups_of_regions,
    match_nouns,
    match_regions,
    noun_key,
    pair_id,
    regions_per_group,
    select_nouns,
    softmax_over_nouns,
)
from pipelines.options import MatchOptions
from schemas import CAPTIONS, MASKS, NOUNS, conform_rows
from schemas.examples import full_mask

COSINES_NM = np.array([[0.30, 0.10, 0.20], [0.05, 0.25, 0.25]], np.float32)


def noun(word, caption_index=0, start=0, image_id="red", **flags):
    texts = dict.fromkeys(("noun", "surface", "head", "lemma"), word)
    place = {"caption_index": caption_index, "start_char": start, "end_char": start + len(word), "tag_pattern": "NN"}
    return {"image_id": image_id, **texts, **place, "abstract": False, "generic": False, **flags}


def test_each_noun_gets_its_best_mask_with_all_scores():
    (first, runner_up_masks), (second, _) = match_nouns(COSINES_NM, 1, runner_up_nouns=3, runner_up_masks=1)
    assert (first.noun, first.mask, first.mask_rank, first.noun_rank) == (0, 0, 1, 1)
    assert first.cosine == pytest.approx(0.30)
    assert first.margin == pytest.approx(0.10)
    assert first.probability == pytest.approx(np.exp(30) / (np.exp(30) + np.exp(5)))
    assert first.runner_up_nouns == [(1, pytest.approx(0.05))]
    # Masks 1 and 2 tie: the lower index wins, and the margin is nothing.
    assert (second.noun, second.mask, second.noun_rank, second.margin) == (1, 1, 1, 0.0)
    assert second.runner_up_nouns == [(0, pytest.approx(0.10))]
    # What the noun's next best mask would be as its pair.
    (other,) = runner_up_masks
    assert (other.noun, other.mask, other.mask_rank, other.noun_rank) == (0, 2, 2, 2)
    assert other.margin == pytest.approx(0.10)
    assert other.runner_up_nouns == [(1, pytest.approx(0.25))]


def test_more_masks_a_noun_come_best_first():
    matches = match_nouns(COSINES_NM, 5, runner_up_nouns=0, runner_up_masks=3)
    assert [(match.scored.noun, match.scored.mask, match.scored.mask_rank) for match in matches] == [
        (0, 0, 1),
        (0, 2, 2),
        (0, 1, 3),
        (1, 1, 1),
        (1, 2, 2),
        (1, 0, 3),
    ]
    assert matches[1].scored.noun_rank == 2
    assert matches[2].scored.margin is None
    assert all(match.scored.runner_up_nouns == [] for match in matches)
    # The masks after a match's own, whether they have a match of their own or not.
    ranks = [[each.mask_rank for each in match.runner_up_masks] for match in matches]
    assert ranks == [[2, 3], [3], [], [2, 3], [3], []]


def test_one_mask_has_no_margin():
    assert match_nouns(np.array([[0.2]], np.float32), 1, 3, 3)[0].scored.margin is None


def test_probabilities_are_over_the_nouns_of_a_mask():
    probability_NM = softmax_over_nouns(COSINES_NM)
    assert probability_NM.sum(axis=0) == pytest.approx([1, 1, 1])
    assert probability_NM[1, 0] == pytest.approx(1 / (1 + np.exp(25)), rel=1e-4)


def test_cosines_do_not_depend_on_what_is_multiplied_along():
    randoms = np.random.default_rng(0)
    nouns_ND, regions_MD = (randoms.normal(size=(size, 64)).astype(np.float32) for size in (7, 33))
    whole_NM = cosine_table(nouns_ND, regions_MD)
    assert whole_NM.dtype == np.float32
    assert np.array_equal(whole_NM[2:3, 5:6], cosine_table(nouns_ND[2:3], regions_MD[5:6]))


def test_a_pair_is_known_by_its_content():
    mask = full_mask(4, 6)
    wanted = hashlib.sha256(f"abc\n4 6 {mask['counts']}\nkite".encode()).hexdigest()[:32]
    assert pair_id("abc", mask, "kite") == wanted
    assert pair_id("abc", mask, "dog") != wanted != pair_id("abd", mask, "kite")


def test_a_noun_is_matched_once_an_image_and_the_rest_is_accounted_for():
    nouns = [noun("ball", 0, 2), noun("photo", 0, 9, generic=True), noun("ball", 1, 4), noun("day", 2, abstract=True)]
    kept, drops = select_nouns(nouns, MatchOptions())
    assert [(row["noun"], row["caption_index"]) for row in kept] == [("ball", 0), ("photo", 0), ("day", 2)]
    assert [(row["key"], row["reason"], row["detail"]) for row in drops] == [
        ("red#1:4-8", "duplicate_noun", "ball: paired from red#0:2-6")
    ]
    kept, drops = select_nouns(nouns, MatchOptions(match_abstract=False, match_generic=False))
    assert [row["noun"] for row in kept] == ["ball"]
    assert sorted(row["reason"] for row in drops) == ["abstract", "duplicate_noun", "generic"]
    assert noun_key(nouns[1]) == "red#0:9-14"


def test_images_share_forwards_but_keep_their_order(monkeypatch):
    class Masks:
        def __init__(self, count):
            self.masks = [None] * count

    images = [(Masks(count), np.zeros((2, 3, 3))) for count in (3, 1, 4, 2)]
    groups = [[len(image.masks) for image, _ in group] for group in groups_of_regions(images, 4)]
    assert groups == [[3, 1], [4], [2]]
    assert list(groups_of_regions([], 4)) == []
    # Large images with few masks do not pile up.
    monkeypatch.setattr(module, "PIXELS_PER_GROUP", 12)
    assert [len(group) for group in groups_of_regions(images, 100)] == [2, 2]


def test_a_crop_is_the_box_without_loss():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(crop_png(pixels, [1, 2, 4, 3]))))
    assert np.array_equal(decoded, pixels[2:5, 1:5])


@pytest.fixture
def corpus(tmp_path):
    """Two images, left half red and right half blue, and their captions, nouns and masks."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3, 0] = pixels[:, 3:, 2] = 255
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :, :3] = masks[1, :, 3:] = True
    captions, mask_rows, nouns = [], [], []
    for image_id in ("one", "two"):
        path = tmp_path / f"{image_id}.png"
        Image.fromarray(pixels).save(path)
        captions += [caption_row(image_id, path, index) for index in (0, 1)]
        mask_rows += rows_of_masks(image_id, path, rle.encode_masks(masks))
        nouns += [noun("sky", 0, 0, image_id), noun("ball", 1, 0, image_id), noun("sky", 1, 9, image_id)]
    nouns.append(noun("dog", 0, 0, "unseen"))
    captions.append(caption_row("unseen", tmp_path / "none.png", 0))
    return conform_rows(nouns, NOUNS), conform_rows(mask_rows, MASKS), conform_rows(captions, CAPTIONS)


def caption_row(image_id, path, index):
    text = f"caption {index} of {image_id}"
    urls = {"source_url": "http://example.org", "licence": "CC0", "safety": None}
    return {"image_id": image_id, "image_uri": str(path), "caption_index": index, "caption": text, **urls}


def rows_of_masks(image_id, path, rles):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    image = {"image_id": image_id, "image_uri": str(path), "image_sha256": sha256}
    image |= {"image_phash": sha256[:16], "height": 4, "width": 6}
    known = {"area_px": 12, "predicted_iou": None, "stability": None, "generator": "by hand"}
    boxes = ([0, 0, 3, 4], [3, 0, 3, 4])
    return [
        {**image, "mask_index": index, "mask": mask, "box_xywh_px": boxes[index], **known}
        for index, mask in enumerate(rles)
    ]


def test_nouns_find_the_regions_of_their_colour(corpus):
    scorer = ColourScorer()
    output = match_regions(*corpus, scorer, MatchOptions(), FetchOptions())
    rows = output.rows.to_pylist()
    assert [(row["image_id"], row["noun"], row["mask_index"]) for row in rows] == [
        ("one", "sky", 1),
        ("one", "ball", 0),
        ("two", "sky", 1),
        ("two", "ball", 0),
    ]
    first = rows[0]
    assert (first["cosine"], first["margin"]) == (pytest.approx(1), pytest.approx(1))
    assert (first["caption"], first["source_url"], first["licence"]) == (
        "caption 0 of one",
        "http://example.org",
        "CC0",
    )
    assert (first["scorer"], first["meaningless"], first["crop_png"]) == ("colour", False, None)
    assert first["runner_up_nouns"] == [{"noun": "ball", "cosine": pytest.approx(0, abs=1e-6)}]
    assert scorer.groups == [[2, 2]]


def test_every_noun_is_paired_or_dropped(corpus):
    output = match_regions(*corpus, ColourScorer(), MatchOptions(), FetchOptions())
    assert (output.read, output.kept) == (7, 4)
    assert [(row["key"], row["reason"]) for row in output.drops] == [
        ("one#1:9-12", "duplicate_noun"),
        ("two#1:9-12", "duplicate_noun"),
        ("unseen#0:0-3", "no_masks"),
    ]


def test_an_image_that_changed_or_went_drops_its_nouns(corpus, tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "one.png")
    (tmp_path / "two.png").unlink()
    output = match_regions(*corpus, ColourScorer(), MatchOptions(), FetchOptions())
    assert output.rows.num_rows == output.kept == 0
    reasons = sorted(row["reason"] for row in output.drops if row["reason"] not in ("no_masks", "duplicate_noun"))
    assert reasons == ["image_changed", "image_changed", "image_missing", "image_missing"]


def test_an_image_without_nouns_to_match_is_not_read(corpus, tmp_path):
    nouns, masks, captions = corpus
    (tmp_path / "one.png").unlink()
    flagged = [{**row, "abstract": row["image_id"] == "one"} for row in nouns.to_pylist()]
    options = MatchOptions(match_abstract=False)
    output = match_regions(conform_rows(flagged, NOUNS), masks, captions, ColourScorer(), options, FetchOptions())
    assert {row["reason"] for row in output.drops} == {"abstract", "duplicate_noun", "no_masks"}


def test_crops_are_stored_when_asked_for(corpus):
    output = match_regions(*corpus, ColourScorer(), MatchOptions(crops=True), FetchOptions())
    crop = np.asarray(Image.open(io.BytesIO(output.rows["crop_png"][0].as_py())))
    assert crop.shape == (4, 3, 3)
    assert np.array_equal(crop[0, 0], [0, 0, 255])


def test_more_regions_are_gathered_for_larger_forwards():
    assert [regions_per_group(region_batch) for region_batch in (0, 4, 32, 256)] == [256, 256, 1024, 8192]


def test_no_memory_for_fp32_costs_the_comparison_and_nothing_else():
    asked = []

    def open_fp32():
        asked.append("fp32")
        raise RuntimeError("CUDA out of memory")

    precision = Precision(open_fp32, lambda image_id: True)
    for _ in range(2):
        precision.compare(ImageNouns("1", [], []), np.zeros((2, 2, 3), np.uint8), np.eye(2), np.eye(2))
    assert (asked, precision.measured) == (["fp32"], {})
    with pytest.raises(ValueError, match="another"):
        Precision(raiser(ValueError("another")), lambda image_id: True).compare(
            ImageNouns("1", [], []), np.zeros((2, 2, 3), np.uint8), np.eye(2), np.eye(2)
        )


def raiser(error):
    def call():
        raise error

    return call

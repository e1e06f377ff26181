"""Crops, one pass and a prefilter in the miner: pairs, accounts, and how far they agree."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import tiny_clip
from fakes import ColourScorer, mean_colour, unit_rows
from run_files import files_of, manifest_of
from test_match_regions import corpus  # noqa: F401

from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.images import FetchOptions
from ovseg_model.rank_agreement import precision_sentence
from ovseg_model.region_encoder import RegionEncoder
from ovseg_model.regions import RegionOptions
from ovseg_model.scorer import ClipScorerSpec, open_scorer, regions_a_forward
from pipelines.command_line import main
from pipelines.match_regions import comparable_images, match_regions, sampled_in
from pipelines.mine_pairs import notices, parse
from pipelines.options import MatchOptions
from pipelines.plan import plan_run
from pipelines.units import image_digest
from schemas import UserError
from schemas.examples import full_mask


class TwoWays(ColourScorer):
    """Its one pass takes every mask for its opposite colour, and so ranks masks the wrong way round."""

    def __init__(self):
        super().__init__()
        self.crops, self.passes = 0, 0

    def embed_regions(self, images):
        self.crops += sum(len(masks) for _, masks in images)
        return super().embed_regions(images)

    def embed_crops(self, images):
        return super().embed_regions(images)

    def embed_in_one_pass(self, images):
        self.passes += len(images)
        return [unit_rows([mean_colour(255 - pixels, mask) for mask in masks]) for pixels, masks in images]


class ByOnePass(TwoWays):
    """The same where one pass is the scorer."""

    def embed_regions(self, images):
        return self.embed_in_one_pass(images)


def always(image_id):
    return True


def test_a_prefilter_sends_its_best_masks_of_any_noun_to_the_crops(corpus):  # noqa: F811
    scorer = TwoWays()
    whole = match_regions(*corpus, ColourScorer(), MatchOptions(), FetchOptions())
    output = match_regions(*corpus, scorer, MatchOptions(prefilter=1), FetchOptions(), always)
    # Red and blue each choose the other's mask: both are cropped, and crops then decide.
    assert output.rows.equals(whole.rows)
    assert (scorer.passes, scorer.crops) == (2, 4)
    assert (output.read, output.kept, output.drops) == (whole.read, whole.kept, whole.drops)
    assert output.measured == {
        "agreement_images": 2,
        "agreement_kept": 4,
        "agreement_nouns": 4,
        "agreement_spearman_millionths": -4_000_000,
        "agreement_top1": 0,
    }


def test_a_mask_that_no_noun_wants_is_not_cropped_and_no_noun_is_lost(corpus):  # noqa: F811
    nouns, masks, captions = corpus
    only_sky = nouns.filter([row["noun"] != "ball" for row in nouns.to_pylist()])
    scorer = TwoWays()
    output = match_regions(only_sky, masks, captions, scorer, MatchOptions(prefilter=1), FetchOptions(), always)
    rows = output.rows.to_pylist()
    # One pass sends the red half alone, so the sky is found there, with its place among the masks of MASKS.
    assert [(row["image_id"], row["noun"], row["mask_index"], row["margin"]) for row in rows] == [
        ("one", "sky", 0, None),
        ("two", "sky", 0, None),
    ]
    assert scorer.crops == 2
    assert output.kept + len(output.drops) == output.read
    assert output.measured["agreement_kept"] == 0


def test_one_pass_as_the_scorer_is_compared_on_the_sample_alone(corpus):  # noqa: F811
    options = MatchOptions(scorer="one-pass")
    output = match_regions(*corpus, ByOnePass(), options, FetchOptions(), lambda image_id: image_id == "two")
    assert [(row["noun"], row["mask_index"]) for row in output.rows.to_pylist()][:2] == [("sky", 0), ("ball", 1)]
    assert (output.measured["agreement_images"], output.measured["agreement_top1"]) == (1, 0)
    assert match_regions(*corpus, ByOnePass(), options, FetchOptions()).measured is None
    assert match_regions(*corpus, ColourScorer(), MatchOptions(), FetchOptions(), always).measured is None


def test_the_sample_is_an_eighth_of_the_first_unit():
    names = [f"image-{number}" for number in range(4000)]
    sampled = list(map(sampled_in(0, lambda: names), names))
    assert sum(sampled) == pytest.approx(500, abs=80)
    assert sampled == [image_digest(name) < 2**61 for name in names]
    assert not any(map(sampled_in(1, lambda: names), names))


def test_the_sample_is_the_image_of_the_smallest_hash_where_it_would_be_empty():
    few = [name for name in (f"image-{number}" for number in range(9)) if image_digest(name) >> 61][:4]
    least = min(few, key=image_digest)
    assert [name for name in few if sampled_in(0, lambda: few)(name)] == [least]
    assert sampled_in(0, lambda: few[-1:])(few[-1])
    assert not any(map(sampled_in(0, list), few))


def test_images_can_be_compared_that_have_two_masks_and_a_noun_that_is_matched(corpus):  # noqa: F811
    nouns, masks, _ = corpus
    assert comparable_images(nouns, masks, MatchOptions()) == {"one", "two"}
    first_of_two = masks.filter([not (row["image_id"] == "two" and row["mask_index"]) for row in masks.to_pylist()])
    assert comparable_images(nouns, first_of_two, MatchOptions()) == {"one"}
    flags = [row["image_id"] == "one" for row in nouns.to_pylist()]
    flagged = nouns.set_column(nouns.schema.names.index("abstract"), "abstract", pa.array(flags))
    assert comparable_images(flagged, masks, MatchOptions(match_abstract=False)) == {"two"}
    assert comparable_images(flagged, masks, MatchOptions()) == {"one", "two"}


class Exact(ColourScorer):
    """Vectors of regions that differ from the others' by a known angle; the same nouns."""

    def embed_regions(self, images):
        return [unit_rows(vectors + np.array([[0.0, 0.05, 0.0]])) for vectors in super().embed_regions(images)]


def test_fewer_bits_are_compared_with_fp32_on_the_sample_alone(corpus):  # noqa: F811
    opened = []
    ways = MatchOptions(), FetchOptions(), lambda image_id: image_id == "two", None, None, None
    output = match_regions(*corpus, ColourScorer(), *ways, lambda: opened.append(1) or Exact())
    assert len(opened) == 1
    measured = output.measured
    assert (measured["precision_images"], measured["precision_masks"], measured["precision_nouns"]) == (1, 2, 2)
    assert measured["precision_top1"] == 2
    assert 1_990_000 < measured["precision_cosine_millionths"] < 1_999_999
    assert match_regions(*corpus, ColourScorer(), *ways).measured is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return resolve_clip(str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip"))))


def spec_of(weights, **changes):
    return ClipScorerSpec(weights, "cpu", "fp32", 8, "photo", 1.0, True, 1, **changes)


def test_names_and_fingerprints_say_what_was_not_by_crops_alone(weights):
    crops, name = spec_of(weights), weights.name
    assert crops.name == name
    assert set(crops.fingerprint()) == {
        *("precision", "region_batch", "templates", "expand_ratio", "antialias", "torch_threads", "device", "clip")
    }
    ways = {
        f"{name} (one-pass, 2 layers, 64 px)": {"scorer": "one-pass", "one_pass_layers": 2, "one_pass_size": 64},
        f"{name} (best 5 by one-pass, 1 layer)": {"prefilter": 5},
        name: {"regions": "near"},
    }
    specs = {expected: spec_of(weights, **changes) for expected, changes in ways.items()}
    assert [spec.name for spec in specs.values()] == list(specs)
    fingerprints = [str(spec.fingerprint()) for spec in (crops, *specs.values())]
    assert len(set(fingerprints)) == 4
    # Crops do not care how one pass would be.
    assert dataclasses.replace(crops, one_pass_layers=2).fingerprint() == crops.fingerprint()


def test_regions_of_a_forward_are_as_asked_or_as_suits_the_device(drawn, tmp_path):
    asked = [regions_a_forward(asked, device) for asked in (0, 7) for device in ("cpu", "cuda", "cuda:1")]
    assert asked == [32, 256, 256, 7, 7, 7]
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    options, _ = parse(["mine", *inputs, "--output", str(tmp_path / "run"), "--runner", "plain", "--device", "cpu"])
    plan = plan_run(("nouns", "masks", "pairs"), options)
    facts = plan.stages["match_regions"]
    assert (plan.pairs.scorer.region_batch, plan.pairs.options.region_batch) == (32, 32)
    assert (facts.options["region_batch"], facts.fingerprint["scorer"]["region_batch"]) == (32, 32)


def masked_image():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    masks = np.zeros((3, 40, 56), bool)
    masks[0, 3:30, 5:50] = masks[1, 20:, :20] = masks[2] = True
    return pixels, masks


@pytest.mark.parametrize(
    "changes", [{"regions": "exact"}, {"regions": "near"}, {"scorer": "one-pass"}, {"prefilter": 2}]
)
def test_a_scorer_has_the_ways_of_its_spec(weights, changes):
    pixels, _ = masked_image()
    image = (pixels, [full_mask(40, 56)] * 3)
    scorer, plain = open_scorer(spec_of(weights, **changes)), open_scorer(spec_of(weights))
    found, wanted = scorer.embed_regions([image])[0], plain.embed_regions([image])[0]
    assert found.shape == wanted.shape == (3, 16)
    assert np.allclose(found, wanted, atol=5e-3) == ("scorer" not in changes)
    if "regions" not in changes:
        assert np.array_equal(scorer.embed_crops([image])[0], wanted)
        assert np.array_equal(scorer.embed_in_one_pass([image])[0], found) == ("scorer" in changes)


def test_regions_made_on_the_device_are_near_those_made_here(weights, monkeypatch):
    clip = load_clip(weights, image_batch=2)
    near, exact = RegionEncoder(clip, RegionOptions(), "near"), RegionEncoder(clip, RegionOptions(), "exact")
    pixels, masks = masked_image()
    images = [(pixels, [masks[:1], masks[1:]]), (pixels[:, ::-1], []), (pixels[:30], [masks[2:, :30]])]
    on_device, wanted = near._embed_on_device(images), exact.embed(images)
    assert [len(vectors) for vectors in on_device] == [3, 0, 1]
    for vectors, others in zip(on_device, wanted, strict=True):
        assert np.allclose(vectors, others, atol=1e-3)
    monkeypatch.setattr("ovseg_model.region_encoder.PIXELS_TO_SEND", 1)
    for vectors, others in zip(near._embed_on_device(images), on_device, strict=True):
        assert np.allclose(vectors, others, atol=1e-3)


def test_a_whole_run_by_one_pass_says_how_far_it_agrees(drawn, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.match_regions.sampled_in", lambda unit, _: lambda image_id: unit == 0)
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "6"]
    made_by = ["--nouns", "lexicon", "--masks", "felzenszwalb", "--torch-threads", "1", "--runner", "plain"]
    for name, way in {"pass": ["--scorer", "one-pass"], "filter": ["--prefilter", "3"]}.items():
        run = tmp_path / name
        command = ["mine", *inputs, *made_by, "--clip", "scenes", *way, "--output", str(run)]
        assert main(command) == 0
        assert "one pass beside crops" in capsys.readouterr().out
        measured = manifest_of(run)["stages"]["match_regions"]["totals"]["measured"]
        assert 0 <= measured["agreement_top1"] <= measured["agreement_nouns"]
        before = files_of(run)
        assert main(command) == 0
        assert files_of(run) == before
        (scorer,) = set(ds.dataset(run / "pairs").to_table(columns=["scorer"])["scorer"].to_pylist())
        assert scorer.startswith("scenes (")


def test_a_whole_run_of_few_images_and_fewer_bits_says_what_both_change(drawn, tmp_path, capsys):
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    made_by = ["--masks", "felzenszwalb", "--torch-threads", "1", "--runner", "plain", "--images-per-unit", "2"]
    ways = ["--precision", "bf16", "--scorer", "one-pass", "--one-pass-layers", "6"]
    assert main(["mine", *inputs, *made_by, *ways, "--output", str(tmp_path / "run")]) == 0
    said, warned = capsys.readouterr()
    measured = manifest_of(tmp_path / "run")["stages"]["match_regions"]["totals"]["measured"]
    assert measured["agreement_images"] == measured["precision_images"] >= 1
    assert measured["precision_cosine_millionths"] > 990_000 * measured["precision_masks"] > 0
    assert "\none pass beside crops, " in said
    assert precision_sentence(measured, "bf16") in said
    assert "is every block" not in warned  # the CLIP of drawn scenes gains by all


def test_fewer_bits_are_not_compared_where_that_is_not_wanted(drawn, tmp_path, capsys):
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    made_by = ["--masks", "felzenszwalb", "--torch-threads", "1", "--runner", "plain", "--images-per-unit", "2"]
    ways = ["--precision", "bf16", "--no-compare-precision"]
    assert main(["mine", *inputs, *made_by, *ways, "--output", str(tmp_path / "run")]) == 0
    assert not manifest_of(tmp_path / "run")["stages"]["match_regions"]["totals"].get("measured")
    assert "beside fp32" not in capsys.readouterr().out


def test_every_block_is_warned_of_before_work_starts(drawn, weights, tmp_path):
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    for layers, way, warned in (("2", ["--prefilter", "3"], 1), ("1", ["--prefilter", "3"], 0), ("2", [], 0)):
        command = ["mine", *inputs, "--runner", "plain", "--clip", os.path.dirname(weights.path)]
        command += ["--one-pass-layers", layers, *way]
        options, _ = parse([*command, "--output", str(tmp_path / f"run-{layers}-{warned}")])
        lines = notices(plan_run(("nouns", "masks", "pairs"), options))
        wanted = f"--one-pass-layers 2 is every block of {weights.name}: weights that were not tuned"
        assert sum(line.startswith(wanted) for line in lines) == warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--one-pass-layers", "0"], "--one-pass-layers: wanted 1 or more, got 0"),
        (["--one-pass-size", "-1"], "--one-pass-size: wanted 0 or more, got -1"),
        (["--prefilter", "3", "--scorer", "one-pass"], "--prefilter chooses masks for --scorer crops"),
        (["--regions", "near", "--no-antialias"], "--regions near follows PIL's antialiased resize"),
    ],
)
def test_what_is_refused_before_anything_is_opened(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        parse(["match", "--output", str(tmp_path), *options])


def test_a_clip_that_cannot_is_refused_before_work_starts(drawn, tmp_path, capsys):
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    for way in (["--scorer", "one-pass"], ["--prefilter", "3"]):
        assert main(["mine", *inputs, "--output", str(tmp_path / "run"), "--one-pass-layers", "7", *way]) == 2
        assert "--one-pass-layers: wanted 1 to 6, the blocks of scenes, got 7" in capsys.readouterr().err
    assert not (tmp_path / "run" / "units.json").exists()

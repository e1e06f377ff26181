"""Hard negatives: which nouns a region may get, and which it gets."""

import json

import numpy as np
import pyarrow as pa
import pytest
from fake_mine import arguments, use_fakes
from fakes import ColourScorer
from run_files import made_of, manifest_of
from test_hash_images import draw
from test_match_regions import corpus, noun  # noqa: F401  (a fixture)

from ovseg_model.images import FetchOptions
from pipelines.command_line import main
from pipelines.hard_negatives import NegativesSpec, Relations, UnitNegatives, open_negatives, resolve_negatives
from pipelines.match_regions import match_regions
from pipelines.noun_relations import related
from pipelines.options import MatchOptions
from pipelines.write_tables import RunFolder
from schemas import NOUNS, UserError, conform_rows

WORDS = ["animal", "car", "cat", "dog", "fire truck", "frobnozzle", "people", "puppy", "truck", "woman"]


def nouns_of(**by_image):
    """NOUNS rows: the nouns of each image, flagged by a mark in front."""
    rows = []
    for image_id, words in by_image.items():
        for start, word in enumerate(words.split(",")):
            flags = {"abstract": word.startswith("?"), "generic": word.startswith("!")}
            rows.append(noun(word.lstrip("?!"), 0, start, image_id, **flags))
    return conform_rows(rows, NOUNS)


def allowed_in(negatives, image_id, *captions):
    allowed = negatives.allowed(image_id, captions)
    return [noun for noun, is_allowed in zip(negatives.candidates, allowed, strict=True) if is_allowed]


@pytest.mark.parametrize("word", [*WORDS, "vehicle", "frobnozzles", "wooden frobnozzle", "unheardof"])
def test_one_look_finds_what_the_relation_says_of_each(nltk_data, word):
    wanted = {number for number, other in enumerate(WORDS) if related(word, other)}
    assert Relations(WORDS, ()).related_to([word]) == wanted


def test_a_generic_noun_is_related_to_its_own_word_only(nltk_data):
    assert related("object", "car")
    assert Relations(["car", "object"], ["object"]).related_to(["object"]) == {1}
    assert Relations(["car", "dog"], ["object"]).related_to(["object"]) == set()


def test_candidates_are_the_units_unflagged_nouns(nltk_data):
    negatives = UnitNegatives(nouns_of(a="dog,?idea,!group", b="car,dog", c="idea"), 5)
    assert negatives.candidates == ["car", "dog"]


def test_an_image_may_have_what_its_captions_neither_name_nor_mean(nltk_data):
    negatives = UnitNegatives(nouns_of(a="dog,woman", b="car,puppy,animal,lady,fire truck", c="tree"), 5)
    assert allowed_in(negatives, "a", "a woman with her dog") == ["car", "fire truck", "tree"]
    assert allowed_in(negatives, "c", "a tree") == ["animal", "car", "dog", "fire truck", "lady", "puppy", "woman"]


def test_words_of_a_caption_are_no_negatives_even_where_no_noun_was_found(nltk_data):
    negatives = UnitNegatives(nouns_of(a="dog", b="fire truck,car"), 5)
    assert allowed_in(negatives, "a", "A dog; fire near a Truck!") == ["car"]
    assert allowed_in(negatives, "a", "a dog and fire") == ["car", "fire truck"]


def test_the_best_come_first_and_ties_go_to_the_lower_noun(nltk_data):
    negatives = UnitNegatives(nouns_of(a="car,dog,tree,house"), 2)
    cosines_CM = np.array([[0.1, 0.5], [0.9, 0.5], [0.3, 0.2], [0.3, 0.5]], np.float32)
    allowed = np.array([True, False, True, True])
    assert negatives.candidates == ["car", "dog", "house", "tree"]
    assert negatives.choose(allowed, cosines_CM) == [["house", "tree"], ["car", "tree"]]
    assert negatives.choose(np.zeros(4, bool), cosines_CM) == [[], []]


def test_regions_get_the_nouns_of_other_images_that_look_like_them(corpus, nltk_data):  # noqa: F811
    """The left half is red and the right one blue; of an image without sky, the right half lacks it."""
    nouns, masks, captions = corpus
    rows = [row for row in nouns.to_pylist() if (row["image_id"], row["noun"]) != ("one", "sky")]
    nouns = conform_rows(rows, NOUNS)
    negatives = UnitNegatives(nouns, 2)
    output = match_regions(nouns, masks, captions, ColourScorer(), MatchOptions(), FetchOptions(), negatives=negatives)
    chosen = {(row["image_id"], row["noun"]): row["hard_negatives"] for row in output.rows.to_pylist()}
    # A dog is grey to the scorer: nearer to red than blue is.
    assert chosen == {("one", "ball"): ["dog", "sky"], ("two", "sky"): ["dog"], ("two", "ball"): ["dog"]}


def test_without_candidates_lists_are_empty_and_without_the_option_null(corpus, nltk_data):  # noqa: F811
    nouns, masks, captions = corpus
    flagged = conform_rows([{**row, "abstract": True} for row in nouns.to_pylist()], NOUNS)
    options = MatchOptions(), FetchOptions()
    output = match_regions(flagged, masks, captions, ColourScorer(), *options, negatives=UnitNegatives(flagged, 2))
    assert output.rows["hard_negatives"].to_pylist() == [[]] * 4
    output = match_regions(flagged, masks, captions, ColourScorer(), *options)
    assert output.rows["hard_negatives"].null_count == 4


# Whole runs


@pytest.fixture
def captions(tmp_path):
    texts = {"0.png": "a red ball", "1.png": "the sky", "2.png": "grass and a ball", "3.png": "a kite above a dog"}
    for name in texts:
        draw(tmp_path / name, int(name[0]), 32)
    lines = [json.dumps({"image": name, "caption": text}) for name, text in texts.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return tmp_path / "captions.jsonl"


def pairs_of(run):
    return RunFolder(str(run)).read_part("pairs/part-00000.parquet")


def test_only_pairs_are_made_anew_and_nothing_else_of_them_changes(captions, nltk_data, tmp_path, monkeypatch):
    use_fakes(monkeypatch.setattr)
    run = tmp_path / "run"
    assert main(arguments(captions, run, 64)) == 0
    before = pairs_of(run)
    assert "hard_negatives" not in manifest_of(run)["stages"]["match_regions"]["fingerprint"]
    assert main(arguments(captions, run, 64, "--hard-negatives", "2")) == 0
    assert made_of(run) == {"read_captions": 0, "extract_nouns": 0, "propose_masks": 0, "match_regions": 1}
    after = pairs_of(run)
    assert after.drop_columns("hard_negatives").equals(before.drop_columns("hard_negatives"))
    by_image = dict(zip(after["image_id"].to_pylist(), after["hard_negatives"].to_pylist(), strict=True))
    assert all(len(chosen) == 2 for chosen in by_image.values())
    assert not {"ball", "grass"} & set(by_image["2.png"])


def test_an_image_alone_chooses_from_the_nouns_of_its_whole_unit(captions, nltk_data, tmp_path, monkeypatch):
    """So that retries, and units made image by image, end in the same bytes."""
    from pipelines.guarded_units import parts_of_images
    from pipelines.match_regions import MatchRegions

    use_fakes(monkeypatch.setattr)
    run = tmp_path / "run"
    assert main(arguments(captions, run, 64, "--hard-negatives", "3")) == 0
    folder = RunFolder(str(run))
    from fake_mine import ColourScorerSpec

    spec = resolve_negatives(3)
    step = MatchRegions(folder, ColourScorerSpec(), MatchOptions(hard_negatives=3), FetchOptions(), negatives=spec)
    parts = {table: folder.read_part(f"{table}/part-00000.parquet") for table in ("captions", "nouns", "masks")}
    alone = [step.process(0, parts_of_images(parts, [f"{number}.png"])).rows for number in range(4)]
    assert pa.concat_tables(alone).equals(pairs_of(run))


def test_missing_wordnet_stops_the_run_before_it_starts(captions, tmp_path, monkeypatch, capsys):
    import nltk.data

    def find_nothing(place):
        raise LookupError(place)

    monkeypatch.setattr(nltk.data, "find", find_nothing)
    assert main(arguments(captions, tmp_path / "run", 64, "--hard-negatives", "2")) == 2
    assert "python -m nltk.downloader wordnet" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_worker_with_another_wordnet_refuses(nltk_data):
    with pytest.raises(UserError, match="this worker has another WordNet"):
        open_negatives(NegativesSpec(2, "00" * 32))
    assert resolve_negatives(0) is None


def test_a_negative_count_is_a_sentence(captions, tmp_path, capsys):
    assert main(arguments(captions, tmp_path / "run", 64, "--hard-negatives", "-1")) == 2
    assert "--hard-negatives: wanted 0 or more, got -1" in capsys.readouterr().err

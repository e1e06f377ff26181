"""The same models behind RunInference and behind our units: equal outputs, errors as values, halved batches."""

import re
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tiny_clip
from apache_beam.ml.inference.base import RunInference
from fakes import ColourScorer, HalvesGenerator
from PIL import Image

from ovseg_model import rle
from ovseg_model.clip import Clip, resolve_clip
from ovseg_model.images import FetchOptions, read_images
from ovseg_model.proposals import GeneratorSpec, ImageInput, MaskProposals, ProposalError, resolve_generator
from ovseg_model.scorer import ClipScorer, ClipScorerSpec, open_scorer
from pipelines.match_regions import ImageNouns, cosine_table, embed_distinct_nouns
from pipelines.model_handlers import (
    EmbeddingError,
    ImageRegions,
    LockedGenerator,
    LockedScorer,
    MaskProposalHandler,
    NounEmbeddingHandler,
    RegionEmbeddingHandler,
    ScorerOpening,
    halving,
)
from pipelines.propose_masks import Image as ImagePlace
from pipelines.propose_masks import mask_rows, propose_masks
from schemas import MASKS, UserError, conform_rows

HALVES = GeneratorSpec("fakes:HalvesGenerator", (), "cpu", "{}")
WHITE = np.full((4, 6, 3), 255, np.uint8)
LEFT = rle.encode_masks(np.arange(6) < np.full((1, 4, 1), 3))[0]


def outputs(elements, handler):
    """What RunInference makes of the elements, in any order: bundles are the runner's."""
    with beam.Pipeline(runner="FnApiRunner") as root:
        made = root | beam.Create(elements, reshuffle=False) | RunInference(handler)
        made | "Gather" >> beam.combiners.ToList() | "Keep" >> beam.Map(keep)
    return {outcome[0]: outcome[1] for outcome in KEPT.pop()}


KEPT = []
"""FnApiRunner's workers are threads of this process, and a named function reaches them as it is."""


def keep(outcomes):
    KEPT.append(outcomes)


def open_colours(spec):
    return ColourScorer()


@pytest.mark.parametrize("large_model", [False, True])
def test_the_handler_proposes_what_the_step_proposes(drawn, large_model):
    places = [ImagePlace(path.stem, str(path)) for path in sorted((drawn / "images").iterdir())[:3]]
    fetched = list(read_images([place.image_uri for place in places], FetchOptions()))
    inputs = [ImageInput(place.image_id, "", image.pixels) for place, image in zip(places, fetched, strict=True)]
    spec = resolve_generator("felzenszwalb", {"scales": (200.0,)}, "cpu", "")
    made = outputs(inputs, MaskProposalHandler(spec, batch=2, large_model=large_model))
    step = propose_masks(places, LockedGenerator(spec)._generator, FetchOptions()).rows
    rows = [
        row
        for place, image in zip(places, fetched, strict=True)
        for row in mask_rows(place, image, made[place.image_id], "felzenszwalb")
    ]
    assert conform_rows(rows, MASKS).equals(step)
    assert step.num_rows > 6


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    weights = resolve_clip(str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip"))))
    return ClipScorerSpec(weights, "cpu", "fp32", 8, "photo", 1.0, True, 1)


def drawn_regions(drawn, count):
    paths = sorted((drawn / "images").iterdir())[:count]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    generator = LockedGenerator(resolve_generator("felzenszwalb", {"scales": (200.0,)}, "cpu", ""))
    found = generator.propose([ImageInput(path.stem, "", each) for path, each in zip(paths, pixels, strict=True)])
    return [ImageRegions(key, each, masks.masks) for (key, masks), each in zip(found, pixels, strict=True)]


def test_the_handlers_embed_what_the_step_embeds(drawn, spec):
    images = drawn_regions(drawn, 3)
    vectors = outputs(images, RegionEmbeddingHandler(spec, batch=10))
    scorer = open_scorer(spec)
    expected = scorer.embed_regions([(image.pixels_HW3, image.masks) for image in images])
    for image, regions_MD in zip(images, expected, strict=True):
        np.testing.assert_array_equal(vectors[image.image_id], regions_MD)
    nouns = ["kite", "red ball", "dog"]
    of_noun = outputs(nouns, NounEmbeddingHandler(spec))
    step = embed_distinct_nouns([ImageNouns("i", [], [{"noun": noun} for noun in nouns])], scorer)
    for noun in nouns:
        np.testing.assert_array_equal(of_noun[noun], step[noun])
    cosines = cosine_table(np.stack([of_noun[noun] for noun in nouns]), vectors[images[0].image_id])
    assert cosines.shape == (3, len(images[0].masks))


@pytest.mark.parametrize("model_copies", [None, 1])
def test_a_large_model_gives_the_same_vectors_from_its_own_process(model_copies):
    images = [ImageRegions("white", WHITE, [LEFT]), ImageRegions("short", WHITE, [{"size": [4, 6], "counts": "1"}])]
    large = {"large_model": True} if model_copies is None else {"model_copies": model_copies}
    here = outputs(images, RegionEmbeddingHandler("colours", open_model=open_colours))
    there = outputs(images, RegionEmbeddingHandler("colours", open_model=open_colours, **large))
    np.testing.assert_array_equal(here["white"], there["white"])
    np.testing.assert_allclose(there["white"], np.full((1, 3), 3**-0.5), rtol=1e-6)
    assert here["short"] == there["short"]
    assert isinstance(there["short"], EmbeddingError)


def image(key, pixels=WHITE):
    return ImageInput(key, "", pixels)


def test_bad_images_fail_alone():
    black, grey, floats = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8), WHITE / 255
    batch = [image("a"), image("grey", grey), image("black", black), image("floats", floats), image("none", None)]
    made = dict(LockedGenerator(HALVES).propose(batch))
    assert [len(made["a"].masks), made["black"].reason] == [2, "no_masks"]
    assert made["grey"] == ProposalError("proposal_failed", "pixels: wanted uint8 (H, W, 3), got uint8 (4, 6)")
    assert made["floats"].detail == "pixels: wanted uint8 (H, W, 3), got float64 (4, 6, 3)"
    assert made["none"].detail == "pixels: wanted uint8 (H, W, 3), got a NoneType"


def test_bad_regions_and_nouns_fail_alone():
    small = rle.encode_masks(np.ones((1, 2, 2), bool))
    empty = rle.encode_masks(np.zeros((1, 4, 6), bool))
    model = LockedScorer(ScorerOpening(open_colours, "errors"))
    batch = [
        ("good", [LEFT]),
        ("small", small),
        ("empty", [LEFT, *empty]),
        ("bytes", [{"size": [4, 6], "counts": b"1"}]),
    ]
    made = dict(model.embed_regions([ImageRegions(key, WHITE, masks) for key, masks in batch]))
    assert made["good"].shape == (1, 3)
    assert made["small"].detail == "masks: wanted the image's size [4, 6], got [2, 2]"
    assert made["empty"].detail == "mask 1 has no pixel"
    assert "counts a text" in made["bytes"].detail
    nouns = dict(model.embed_nouns(["ball", " ", 7]))
    np.testing.assert_array_equal(nouns["ball"], [1, 0, 0])
    assert nouns[" "].detail == "wanted a noun, got an empty text"
    assert nouns[7].detail == "wanted a noun, got a int"


def test_an_image_without_masks_has_no_vectors(spec):
    (made,) = LockedScorer(ScorerOpening(open_scorer, spec)).embed_regions([ImageRegions("bare", WHITE, [])])
    assert made.vectors_MD.shape == (0, 16)


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class Narrow(HalvesGenerator):
    """Runs out of memory above two images a call."""

    batch_size = 8

    def propose(self, images):
        if len(images) > 2:
            self.batches.append(len(images))
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().propose(images)


def test_a_batch_that_is_too_large_is_halved_until_it_fits():
    model = LockedGenerator(GeneratorSpec("test_model_handlers:Narrow", (), "cpu", '{"run": 1}'))
    made = model.propose([image(str(number)) for number in range(7)])
    assert [outcome.image_id for outcome in made] == list("0123456")
    assert all(isinstance(outcome.proposals, MaskProposals) for outcome in made)
    assert model._generator.batches == [7, 3, ["0"], ["1", "2"], 4, ["3", "4"], ["5", "6"]]


def test_the_same_masks_come_out_with_and_without_halving():
    batch = [image(str(number)) for number in range(7)]
    narrow = LockedGenerator(GeneratorSpec("test_model_handlers:Narrow", (), "cpu", "{}"))
    assert narrow.propose(batch) == LockedGenerator(HALVES).propose(batch)


def test_an_image_that_does_not_fit_alone_is_an_error_and_no_loss():
    def never(elements):
        raise MemoryError("no room")

    assert halving(never, ["a", "b"], EmbeddingError) == [EmbeddingError("MemoryError: no room")] * 2


def test_what_is_no_elements_fault_is_raised():
    for error in (UserError("no such device"), RuntimeError("CUDA error: an illegal memory access")):

        def fail(elements, error=error):
            raise error

        with pytest.raises(type(error)):
            halving(fail, ["a", "b"], EmbeddingError)


def test_a_cuda_error_that_is_memory_is_halved():
    def narrow(elements):
        if len(elements) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return elements

    assert halving(narrow, ["a", "b"], EmbeddingError) == ["a", "b"]


def test_clip_halves_its_forwards_where_they_do_not_fit(drawn, spec, monkeypatch):
    images = drawn_regions(drawn, 2)
    expected = open_scorer(spec).embed_regions([(each.pixels_HW3, each.masks) for each in images])
    encode, rows = Clip._encode_images, []

    def narrow(self, pixels, *masks):
        rows.append(len(pixels))
        if len(pixels) > 4:
            raise OutOfMemoryError("CUDA out of memory")
        return encode(self, pixels, *masks)

    monkeypatch.setattr(Clip, "_encode_images", narrow)
    made = LockedScorer(ScorerOpening(ClipScorer, spec)).embed_regions(images)
    for outcome, regions_MD in zip(made, expected, strict=True):
        np.testing.assert_allclose(outcome.vectors_MD, regions_MD, atol=1e-5)
    assert rows[:2] == [8, 4]  # the spec's 8 rows a forward fail, 4 fit
    assert set(rows[2:]) == {4}


def test_batches_have_one_size_and_bytes_are_counted_without_pickling():
    handler = MaskProposalHandler(HALVES, batch=3)
    assert handler.batch_elements_kwargs() == {"min_batch_size": 3, "max_batch_size": 3}
    assert handler.get_num_bytes([image("a"), image("b")]) == 2 * 4 * 6 * 3
    regions = RegionEmbeddingHandler("colours", open_model=open_colours)
    weigh = regions.batch_elements_kwargs()["element_size_fn"]
    assert [weigh(ImageRegions("", WHITE, masks)) for masks in ([], [LEFT], [LEFT] * 5)] == [1, 1, 5]
    assert regions.share_model_across_processes() is False
    assert RegionEmbeddingHandler("colours", large_model=True).share_model_across_processes() is True


def test_the_example_of_the_docs_runs(drawn, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs" / "run-inference.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "photos").symlink_to(drawn / "images")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "run-inference.md", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(re.fullmatch(r"\S+ +\d+ masks +kite [-+]\d\.\d{3}", line) for line in lines), lines

"""Nouns part + masks part (+ captions part, for the text) → pairs part.

For every noun of an image the mask whose masked region's CLIP embedding has the highest cosine with the prompted
noun's (OVSeg, section 3.2).
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model import rle
from ovseg_model.halving import is_out_of_memory
from ovseg_model.images import FetchedImage, FetchOptions, ImageError, read_images
from ovseg_model.rank_agreement import best_masks, precision_agreement, rank_agreement
from ovseg_model.region_encoder import GROUPED_FORWARDS
from ovseg_model.scorer import ClipScorerSpec, ImageMasks, Scorer, TwoWayScorer, open_scorer
from pipelines.excluded_images import REASON, ExcludedImages, ExclusionSpec, find_excluded, opened
from pipelines.hard_negatives import NegativesSpec, UnitNegatives, unit_negatives
from pipelines.open_models import open_once
from pipelines.options import MatchOptions
from pipelines.progress import count_images
from pipelines.safety_flags import SafetyFlag, SafetySpec, flag_image, opened_safety
from pipelines.stopwatch import in_models, waiting_for_images
from pipelines.units import StepOutput, by_image, count_distinct_rows, drop, image_digest, part_name, sum_counts
from pipelines.versions import versions_of
from pipelines.write_tables import RunFolder
from schemas import PAIRS, conform_rows

STAGE = "match_regions"
VERSION = 2
SAMPLED_BELOW = 2**61
"""Of 64 bits of an image's hash: on an eighth of the images scorers are compared."""

TEMPERATURE = 100.0
"""CLIP's logit scale at inference (method of the paper: cosine x 100)."""

REGIONS_PER_GROUP = 256
"""Masked regions gathered, over images, before the scorer sees them; it pads each micro-batch, so fewer is waste."""

GROUPS_AT_ONCE = 4
"""Groups of regions that a device makes at once, gathered likewise: while it works on one, the next is decoded."""

MASKS_PER_GROUP = 16 * REGIONS_PER_GROUP
"""The same where all masks of an image share a forward: about 40 images of 100 masks."""

PIXELS_PER_GROUP = 50_000_000
"""Pixels held while regions are gathered, 150 MB: images with few masks must not pile up."""


class Scored(NamedTuple):
    """One mask beside one noun: indices into the image's nouns and masks, and the scores of PAIRS."""

    noun: int
    mask: int
    cosine: float
    probability: float
    mask_rank: int
    noun_rank: int
    margin: float | None
    runner_up_nouns: list[tuple[int, float]]


class Match(NamedTuple):
    """One mask for one noun, and the noun's next best masks."""

    scored: Scored
    runner_up_masks: list[Scored]


class ImageNouns(NamedTuple):
    """An image to match: its masks (MASKS rows) and its distinct nouns (NOUNS rows with their captions)."""

    image_id: str
    masks: list[dict[str, Any]]
    nouns: list[dict[str, Any]]


def match_nouns(cosines_NM: np.ndarray, masks_per_noun: int, runner_up_nouns: int, runner_up_masks: int) -> list[Match]:
    """The best masks of every noun of one image.

    Args:
        cosines_NM: float32, nouns x masks; ties go to the lower index.
        masks_per_noun: masks kept for each noun, best first.
        runner_up_nouns: other nouns listed with each match.
        runner_up_masks: next best masks listed with each match.
    """
    probability_NM = softmax_over_nouns(cosines_NM)
    masks_by_rank_NM = np.argsort(-cosines_NM, axis=1, kind="stable")
    nouns_by_rank_NM = np.argsort(-cosines_NM, axis=0, kind="stable")
    noun_rank_NM = np.argsort(nouns_by_rank_NM, axis=0, kind="stable") + 1
    matches = []
    for noun, ranked in enumerate(masks_by_rank_NM):
        scored = []
        for rank, mask in enumerate(ranked[: masks_per_noun + runner_up_masks]):
            others = [other for other in nouns_by_rank_NM[: runner_up_nouns + 1, mask] if other != noun]
            scored.append(
                Scored(
                    noun,
                    int(mask),
                    float(cosines_NM[noun, mask]),
                    float(probability_NM[noun, mask]),
                    rank + 1,
                    int(noun_rank_NM[noun, mask]),
                    _margin(cosines_NM[noun], ranked, rank),
                    [(int(other), float(cosines_NM[other, mask])) for other in others[:runner_up_nouns]],
                )
            )
        kept = range(min(masks_per_noun, len(scored)))
        matches += [Match(scored[rank], scored[rank + 1 : rank + 1 + runner_up_masks]) for rank in kept]
    return matches


def softmax_over_nouns(cosines_NM: np.ndarray) -> np.ndarray:
    """Probability of each noun among its image's, for each mask: float64 nouns x masks, columns sum to 1."""
    logits = TEMPERATURE * cosines_NM.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def cosine_table(nouns_ND: np.ndarray, regions_MD: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors, float32 nouns x masks.

    Summed in float64, so that the result does not depend on how many nouns and masks are multiplied at once.
    """
    return (nouns_ND.astype(np.float64) @ regions_MD.astype(np.float64).T).astype(np.float32)


def pair_id(image_sha256: str, mask: rle.Rle, noun: str) -> str:
    """Content hash of image bytes, mask and noun: 32 hex digits."""
    height, width = mask["size"]
    return hashlib.sha256(f"{image_sha256}\n{height} {width} {mask['counts']}\n{noun}".encode()).hexdigest()[:32]


def select_nouns(
    nouns: Sequence[dict[str, Any]], options: MatchOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The distinct nouns of one image that are matched, and the drops of the others; NOUNS rows in their order."""
    kept: dict[str, dict[str, Any]] = {}
    drops = []
    for noun in nouns:
        if noun["abstract"] and not options.match_abstract:
            drops.append(noun_drop(noun, "abstract", "abstract nouns are not matched (--no-match-abstract)"))
        elif noun["generic"] and not options.match_generic:
            drops.append(noun_drop(noun, "generic", "generic nouns are not matched (--no-match-generic)"))
        elif noun["noun"] in kept:
            first = kept[noun["noun"]]
            drops.append(noun_drop(noun, "duplicate_noun", f"paired from {noun_key(first)}"))
        else:
            kept[noun["noun"]] = noun
    return list(kept.values()), drops


def noun_key(noun: dict[str, Any]) -> str:
    """Which NOUNS row: image_id#caption_index:start-end."""
    return f"{noun['image_id']}#{noun['caption_index']}:{noun['start_char']}-{noun['end_char']}"


def noun_drop(noun: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    """The drop of one NOUNS row; the detail begins with the noun."""
    return drop(STAGE, noun_key(noun), noun["image_id"], reason, f"{noun['noun']}: {detail}")


def pair_rows(
    image: ImageNouns,
    matches: Iterable[Match],
    pixels_HW3: np.ndarray,
    scorer: Scorer,
    crops: bool,
    negatives: Mapping[int, list[str]],
) -> Iterator[dict[str, Any]]:
    """PAIRS rows of one image, noun by noun, best mask first; `negatives` are hard ones by mask, if any were chosen."""
    from_mask = ("image_id", "image_uri", "image_sha256", "image_phash", "height", "width", "mask_index", "mask")
    from_mask += ("box_xywh_px", "area_px", "generator")
    from_noun = ("noun", "lemma", "caption_index", "caption", "start_char", "end_char", "abstract", "generic")
    from_noun += ("source_url", "licence", "safety")
    for scored, runner_up_masks in matches:
        mask, noun = image.masks[scored.mask], image.nouns[scored.noun]
        yield {
            **{name: mask[name] for name in from_mask},
            **{name: noun[name] for name in from_noun},
            **scores_of(image, scored),
            "pair_id": pair_id(mask["image_sha256"], mask["mask"], noun["noun"]),
            "mask_rank": scored.mask_rank,
            "runner_up_masks": [scored_mask(image, each) for each in runner_up_masks],
            "hard_negatives": negatives.get(scored.mask),
            "meaningless": scorer.meaningless,
            "scorer": scorer.name,
            "crop_png": crop_png(pixels_HW3, mask["box_xywh_px"]) if crops else None,
        }


def scores_of(image: ImageNouns, scored: Scored) -> dict[str, Any]:
    """What PAIRS says of how well a mask and a noun fit."""
    return {
        "cosine": scored.cosine,
        "probability": scored.probability,
        "noun_rank": scored.noun_rank,
        "margin": scored.margin,
        "runner_up_nouns": [
            {"noun": image.nouns[other]["noun"], "cosine": cosine} for other, cosine in scored.runner_up_nouns
        ],
    }


def scored_mask(image: ImageNouns, scored: Scored) -> dict[str, Any]:
    """A mask that the noun could have had, as an element of PAIRS' runner_up_masks."""
    mask = image.masks[scored.mask]
    from_mask = ("mask_index", "mask", "box_xywh_px", "area_px")
    return {**{name: mask[name] for name in from_mask}, **scores_of(image, scored)}


def crop_png(pixels_HW3: np.ndarray, box_xywh_px: Sequence[int]) -> bytes:
    """The image inside a box, RGB uint8, as PNG: lossless, since prompts and fill depend on exact pixels."""
    from PIL import Image

    x, y, width, height = box_xywh_px
    sink = io.BytesIO()
    Image.fromarray(pixels_HW3[y : y + height, x : x + width]).save(sink, "png")
    return sink.getvalue()


def never(image_id: str) -> bool:
    """Samples nothing."""
    return False


def match_regions(
    nouns: pa.Table,
    masks: pa.Table,
    captions: pa.Table,
    scorer: Scorer,
    options: MatchOptions,
    fetch: FetchOptions,
    sampled: Callable[[str], bool] = never,
    excluded: ExcludedImages | None = None,
    safety: SafetyFlag | None = None,
    negatives: UnitNegatives | None = None,
    open_fp32: Callable[[], Scorer] | None = None,
) -> StepOutput:
    """PAIRS rows of one unit from its NOUNS, MASKS and CAPTIONS rows; nouns without a pair become drops.

    Nouns of images that are `excluded` are such nouns: the masks may have been stored before the list was known. What
    `safety` says of an image takes the place of what CAPTIONS say. `negatives` choose hard negatives.

    sampled: on which images, by image_id, one pass is compared with crops, where it scores or chooses masks; a scorer
    that does either is a `TwoWayScorer`. open_fp32: opens the same scorer in full precision, which is compared there
    too, where this one has less.
    """
    images, drops = images_to_match(nouns, masks, captions, options, find_excluded(masks, excluded))
    vectors_of_nouns = embed_distinct_nouns(images, scorer, negatives.candidates if negatives else ())
    negatives_of = RegionNegatives(negatives, vectors_of_nouns, captions)
    one_pass = OnePass(vectors_of_nouns, scorer, options, sampled)
    precision = Precision(open_fp32, sampled)
    readable = one_pass.prefiltered(flagged(readable_images(images, fetch, drops), safety))
    chosen = options.masks_per_noun, options.runner_up_nouns, options.runner_up_masks
    rows: list[dict[str, Any]] = []
    for group in groups_of_regions(readable, one_pass.masks_per_group):
        with in_models():
            vectors = scorer.embed_regions(masks_of_images(group))
        for (image, pixels), regions_MD in count_images(zip(group, vectors, strict=True), "pairs"):
            cosines_NM = cosines_of(image, vectors_of_nouns, regions_MD)
            one_pass.compare(image, pixels, cosines_NM)
            precision.compare(image, pixels, regions_MD, cosines_NM)
            matches = match_nouns(cosines_NM, *chosen)
            chosen_negatives = negatives_of.choose(image, matches, regions_MD)
            rows += pair_rows(image, matches, pixels, scorer, options.crops, chosen_negatives)
    pairs = conform_rows(rows, PAIRS)
    paired = count_distinct_rows(pairs, ("image_id", "caption_index", "start_char", "end_char"))
    measured = sum_counts([one_pass.measured, precision.measured])
    return StepOutput(pairs, drops, nouns.num_rows, paired, measured or None)


def masks_of_images(group: Sequence[tuple[ImageNouns, np.ndarray]]) -> list[ImageMasks]:
    """Pixels and masks of images, as a scorer takes them."""
    return [(pixels, [mask["mask"] for mask in image.masks]) for image, pixels in group]


def cosines_of(image: ImageNouns, vectors_of_nouns: dict[str, np.ndarray], regions_MD: np.ndarray) -> np.ndarray:
    """Cosines of an image's nouns and masks, float32 nouns x masks."""
    return cosine_table(np.stack([vectors_of_nouns[noun["noun"]] for noun in image.nouns]), regions_MD)


# All masks of an image in one forward: to choose what is cropped, and compared with crops.


def sampled_in(unit: int, comparable: Callable[[], Collection[str]]) -> Callable[[str], bool]:
    """Whether scorers are compared on an image of a unit: on an eighth of the first unit's, and on one at least.

    By the image's own hash, so that it does not depend on what else is made with it, or when.

    comparable: gives the images of the whole unit, by image_id, on which they can be compared; where the hash takes
    none of them, it is the one of the smallest.
    """
    if unit:
        return never
    least = min(map(image_digest, comparable()), default=0)
    return lambda image_id: image_digest(image_id) <= max(SAMPLED_BELOW - 1, least)


def comparable_images(nouns: pa.Table, masks: pa.Table, options: MatchOptions) -> set[str]:
    """The images with a noun that is matched and with two masks or more, of NOUNS and MASKS rows."""
    refused = [flag for flag in ("abstract", "generic") if not getattr(options, f"match_{flag}")]
    for flag in refused:
        nouns = nouns.filter(pc.invert(nouns[flag]))
    several = {image_id for image_id, count in Counter(masks["image_id"].to_pylist()).items() if count > 1}
    return several & set(nouns["image_id"].to_pylist())


@dataclass
class OnePass:
    """What one pass does beside or instead of crops."""

    vectors_of_nouns: dict[str, np.ndarray]
    scorer: Scorer
    options: MatchOptions
    sampled: Callable[[str], bool]
    measured: dict[str, int] = field(default_factory=dict)
    """Its agreement with crops: counts of `rank_agreement`, and agreement_kept, nouns whose best mask was chosen."""

    @property
    def masks_per_group(self) -> int:
        """Masks that are gathered before the scorer sees them."""
        return (
            self.masks_per_pass if self.options.scorer == "one-pass" else regions_per_group(self.options.region_batch)
        )

    @property
    def masks_per_pass(self) -> int:
        """Masks whose images are gathered for one pass; 100 an image make forwards as full as those of crops."""
        return max(MASKS_PER_GROUP, 2 * regions_per_group(self.options.region_batch))

    def prefiltered(self, images: Iterable[tuple[ImageNouns, np.ndarray]]) -> Iterator[tuple[ImageNouns, np.ndarray]]:
        """The images, each with the masks that are among the best of any of its nouns; without prefilter, with all."""
        if not self.options.prefilter:
            yield from images
            return
        scorer = cast(TwoWayScorer, self.scorer)
        for group in groups_of_regions(images, self.masks_per_pass):
            with in_models():
                vectors = scorer.embed_in_one_pass(masks_of_images(group))
            for (image, pixels), regions_MD in zip(group, vectors, strict=True):
                cosines_NM = cosines_of(image, self.vectors_of_nouns, regions_MD)
                chosen = best_masks(cosines_NM, self.options.prefilter)
                self._measure(image, pixels, cosines_NM, chosen)
                yield image._replace(masks=[image.masks[mask] for mask in chosen]), pixels

    def compare(self, image: ImageNouns, pixels_HW3: np.ndarray, cosines_NM: np.ndarray) -> None:
        """Measures the agreement where one pass is the scorer, whose cosines these are."""
        if self.options.scorer == "one-pass":
            self._measure(image, pixels_HW3, cosines_NM, None)

    def _measure(
        self, image: ImageNouns, pixels_HW3: np.ndarray, cosines_NM: np.ndarray, chosen: np.ndarray | None
    ) -> None:
        if not self.sampled(image.image_id):
            return
        with in_models():
            (regions_MD,) = cast(TwoWayScorer, self.scorer).embed_crops(masks_of_images([(image, pixels_HW3)]))
        reference_NM = cosines_of(image, self.vectors_of_nouns, regions_MD)
        counts = rank_agreement(cosines_NM, reference_NM)
        if counts and chosen is not None:
            counts["agreement_kept"] = int(np.isin(reference_NM.argmax(axis=1), chosen).sum())
        self.measured = sum_counts([self.measured, counts])


@dataclass
class Precision:
    """What a number format of fewer bits changes: a scorer's vectors beside those of the same in fp32, on a sample."""

    open_fp32: Callable[[], Scorer] | None
    sampled: Callable[[str], bool]
    measured: dict[str, int] = field(default_factory=dict)
    """Counts of `precision_agreement`."""

    @functools.cached_property
    def _exact(self) -> Scorer:
        return cast(Callable[[], Scorer], self.open_fp32)()

    def compare(
        self, image: ImageNouns, pixels_HW3: np.ndarray, regions_MD: np.ndarray, cosines_NM: np.ndarray
    ) -> None:
        """Compares an image's vectors and cosines, if it is sampled and has two masks or more.

        Where there is no memory for both models nothing is compared, which the summary says: no pair is lost by it.
        """
        if not self.open_fp32 or len(regions_MD) < 2 or not self.sampled(image.image_id):
            return
        try:
            counts = self._counts(image, pixels_HW3, regions_MD, cosines_NM)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            self.open_fp32 = None
        else:
            self.measured = sum_counts([self.measured, counts])

    def _counts(
        self, image: ImageNouns, pixels_HW3: np.ndarray, regions_MD: np.ndarray, cosines_NM: np.ndarray
    ) -> dict[str, int]:
        exact, names = self._exact, [noun["noun"] for noun in image.nouns]
        with in_models():
            (exact_MD,) = exact.embed_regions(masks_of_images([(image, pixels_HW3)]))
            vectors_of_nouns = dict(zip(names, exact.embed_nouns(names), strict=True))
        exact_NM = cosines_of(image, vectors_of_nouns, exact_MD)
        return precision_agreement(regions_MD, exact_MD, cosines_NM, exact_NM)


@dataclass
class RegionNegatives:
    """Hard negatives of regions: `negatives` choose them, if there are any to choose."""

    negatives: UnitNegatives | None
    vectors_of_nouns: dict[str, np.ndarray]
    captions: pa.Table

    @functools.cached_property
    def _candidate_vectors(self) -> np.ndarray:
        return np.stack([self.vectors_of_nouns[noun] for noun in cast(UnitNegatives, self.negatives).candidates])

    @functools.cached_property
    def _captions_of(self) -> dict[str, list[str]]:
        return {image_id: rows["caption"].to_pylist() for image_id, rows in by_image(self.captions)}

    def choose(self, image: ImageNouns, matches: Sequence[Match], regions_MD: np.ndarray) -> dict[int, list[str]]:
        """Hard negatives by mask, of the masks that were matched."""
        masks = sorted({match.scored.mask for match in matches})
        if not self.negatives or not masks:
            return {}
        if not self.negatives.candidates:
            return {mask: [] for mask in masks}
        allowed_C = self.negatives.allowed(image.image_id, self._captions_of[image.image_id])
        cosines_CM = cosine_table(self._candidate_vectors, regions_MD[masks])
        return dict(zip(masks, self.negatives.choose(allowed_C, cosines_CM), strict=True))


def embed_distinct_nouns(
    images: Sequence[ImageNouns], scorer: Scorer, others: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Unit vector (D,) of every noun of a unit, in one call: full forwards instead of one small one an image.

    others: nouns that are wanted beside those of the images, if there are images.
    """
    names = sorted({noun["noun"] for image in images for noun in image.nouns} | set(others if images else ()))
    with in_models():
        return dict(zip(names, scorer.embed_nouns(names), strict=True)) if names else {}


def images_to_match(
    nouns: pa.Table, masks: pa.Table, captions: pa.Table, options: MatchOptions, excluded: Mapping[str, str]
) -> tuple[list[ImageNouns], list[dict[str, Any]]]:
    """The images that have both masks and nouns to match, and the drops of all other nouns.

    excluded: why images are excluded, by image_id.
    """
    masks_of = {image_id: rows.to_pylist() for image_id, rows in by_image(masks)}
    caption_of = {(row["image_id"], row["caption_index"]): row for row in captions.to_pylist()}
    images, drops = [], []
    for image_id, rows in by_image(nouns):
        kept, dropped = select_nouns(rows.to_pylist(), options)
        drops += dropped
        if image_id in excluded:
            drops += [noun_drop(noun, REASON, excluded[image_id]) for noun in kept]
        elif image_id in masks_of:
            with_captions = [{**caption_of[image_id, noun["caption_index"]], **noun} for noun in kept]
            images.append(ImageNouns(image_id, masks_of[image_id], with_captions))
        else:
            drops += [noun_drop(noun, "no_masks", "its image has no masks") for noun in kept]
    return [image for image in images if image.nouns], drops


def readable_images(
    images: Sequence[ImageNouns], fetch: FetchOptions, drops: list[dict[str, Any]]
) -> Iterator[tuple[ImageNouns, np.ndarray]]:
    """The images with their pixels; those that cannot be read any more add the drops of their nouns to `drops`."""
    results = waiting_for_images(read_images([image.masks[0]["image_uri"] for image in images], fetch))
    for image, result in zip(images, results, strict=True):
        problem = image_problem(image, result)
        if problem:
            drops.extend(noun_drop(noun, *problem) for noun in image.nouns)
        else:
            yield image, result.pixels


def image_problem(image: ImageNouns, result: FetchedImage | ImageError) -> tuple[str, str] | None:
    """Reason and detail when the image is not what its masks were made of, else None."""
    if isinstance(result, ImageError):
        return result.reason, result.detail
    wanted = image.masks[0]["image_sha256"]
    if result.sha256 != wanted:
        return "image_changed", f"its masks were made of bytes with sha256 {wanted}, now it is {result.sha256}"
    return None


def flagged(
    images: Iterable[tuple[ImageNouns, np.ndarray]], safety: SafetyFlag | None
) -> Iterator[tuple[ImageNouns, np.ndarray]]:
    """The images with the safety flags that a user's function gives them."""
    for image, pixels_HW3 in images:
        with in_models():
            flag = flag_image(safety, image.image_id, pixels_HW3) if safety else None
        nouns = image.nouns if flag is None else [{**noun, "safety": flag} for noun in image.nouns]
        yield image._replace(nouns=nouns), pixels_HW3


def regions_per_group(region_batch: int) -> int:
    """How many masked regions are gathered for forwards of `region_batch`."""
    return max(REGIONS_PER_GROUP, GROUPS_AT_ONCE * GROUPED_FORWARDS * region_batch)


def groups_of_regions(
    images: Iterable[tuple[ImageNouns, np.ndarray]], least: int
) -> Iterator[list[tuple[ImageNouns, np.ndarray]]]:
    """Runs of images with at least `least` masks, or PIXELS_PER_GROUP pixels, together; the last may have fewer."""
    group: list[tuple[ImageNouns, np.ndarray]] = []
    masks = pixels = 0
    for image, pixels_HW3 in images:
        group.append((image, pixels_HW3))
        masks, pixels = masks + len(image.masks), pixels + pixels_HW3.shape[0] * pixels_HW3.shape[1]
        if masks >= least or pixels >= PIXELS_PER_GROUP:
            yield group
            group, masks, pixels = [], 0, 0
    if group:
        yield group


@dataclass(frozen=True)
class MatchRegions:
    """The step: a scorer by its spec, and the run whose tables it joins."""

    run: RunFolder
    scorer: ClipScorerSpec
    options: MatchOptions
    fetch: FetchOptions
    excluded: ExclusionSpec | None = None
    safety: SafetySpec | None = None
    negatives: NegativesSpec | None = None
    retries_drops: bool = False
    name: str = STAGE
    table: str = "pairs"
    counts: str = "nouns"

    def fingerprint(self) -> dict[str, Any]:
        """Version, scorer and the options that select nouns and masks."""
        names = ("masks_per_noun", "runner_up_nouns", "runner_up_masks", "match_abstract", "match_generic", "crops")
        chosen = {name: getattr(self.options, name) for name in names}
        versions = versions_of("numpy", "open_clip_torch", "pillow", "pycocotools", "torch")
        images = self.fetch.fingerprint()
        added = {"excluded": self.excluded, "safety": self.safety, "hard_negatives": self.negatives}
        return {
            "version": VERSION,
            "scorer": self.scorer.fingerprint(),
            **chosen,
            "images": images,
            "versions": versions,
            **{name: spec.fingerprint() for name, spec in added.items() if spec},
        }

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The unit's captions, nouns and masks."""
        return {table: (self.run, part_name(table, unit)) for table in ("captions", "nouns", "masks")}

    def process(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """Pairs of the unit's nouns."""
        scorer = open_once(open_scorer, self.scorer)
        tables = parts["nouns"], parts["masks"], parts["captions"]
        negatives = unit_negatives(self.negatives, lambda: self.run.read_part(part_name("nouns", unit)))
        ways = self._sampled(unit), opened(self.excluded), opened_safety(self.safety), negatives
        open_fp32 = (lambda: open_scorer(self.scorer.in_fp32())) if self._compares_precision else None
        return match_regions(*tables, scorer, self.options, self.fetch, *ways, open_fp32)

    @property
    def _compares_precision(self) -> bool:
        return self.options.compare_precision and self.scorer.precision != "fp32"

    def _sampled(self, unit: int) -> Callable[[str], bool]:
        """On which images of a unit the scorer is compared with another, if there is a reason to."""
        if not self.scorer.uses_one_pass and not self._compares_precision:
            return never

        def comparable() -> Collection[str]:
            # Of the whole unit, whichever of its images are matched now.
            nouns = self.run.read_columns(part_name("nouns", unit), ("image_id", "abstract", "generic"))
            return comparable_images(
                nouns, self.run.read_columns(part_name("masks", unit), ("image_id",)), self.options
            )

        return sampled_in(unit, comparable)

    def drops_of_all(self, parts: dict[str, pa.Table], reason: str, detail: str) -> list[dict[str, Any]]:
        """A drop for each noun of the parts."""
        return [noun_drop(noun, reason, detail) for noun in parts["nouns"].to_pylist()]


def _margin(cosines_M: np.ndarray, ranked: np.ndarray, rank: int) -> float | None:
    """Cosine of the mask at `rank` minus that of the next one; None for the last."""
    if rank + 1 >= len(ranked):
        return None
    return float(cosines_M[ranked[rank]] - cosines_M[ranked[rank + 1]])

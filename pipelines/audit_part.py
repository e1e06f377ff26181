"""One part of PAIRS held against human labels, image by image, for `ovseg audit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.audit_counts import (
    IMAGE_KINDS,
    LABEL_COLUMNS,
    LABELLED,
    OF_NO_TRUTH,
    OTHER_SIZE,
    WITHOUT_TRUTH,
    AuditCounts,
    ImagePairs,
    Pairs,
    count_pairs,
    find,
)
from pipelines.audit_truth import Truth
from pipelines.derived_run import Source, read_source_columns
from pipelines.label_meaning import Meaning

COLUMNS = (
    "image_id",
    "image_uri",
    "height",
    "width",
    "mask",
    "area_px",
    "noun",
    "lemma",
    "cosine",
    "probability",
    "margin",
)
"""Of PAIRS, those that are read."""


class PartImage(NamedTuple):
    """An image of a part: its rows of PAIRS, and the labels that its nouns mean, bool (K,)."""

    image_id: str
    image_uri: str
    rows: slice
    named_K: np.ndarray


class PartFound(NamedTuple):
    """What the images of a part show; see `audit_counts.Found`."""

    seen_N: np.ndarray
    images: np.ndarray
    labels_K: np.ndarray
    steps: list[int]


@dataclass(frozen=True)
class PartJudge:
    """A run, the truth that its pairs are held against, and the rule of what is right."""

    source: Source
    truth: Truth
    meaning: Meaning
    min_cover: float

    @cached_property
    def has_nouns(self) -> bool:
        """Whether the run has the CAPTIONS and NOUNS of the very units that its PAIRS are cut into."""
        captions, nouns, pairs = (
            [unit_file(part) for part in self.source.parts(table)] for table in ("captions", "nouns", "pairs")
        )
        return captions == nouns == pairs

    def describe(self) -> dict[str, Any]:
        """What audit.json says of it, plain values."""
        return {
            "run_sha256": self.source.run_sha256,
            "truth": self.truth.describe(),
            "rule": self.meaning.rule,
            "min_cover": self.min_cover,
            "named_by": "NOUNS" if self.has_nouns else "PAIRS",
            "meaningless": self.source.manifest["meaningless"],
        }

    def count(self, part: Mapping[str, Any]) -> AuditCounts:
        """The sums over one part of PAIRS and, where there are NOUNS, over all images and nouns of its unit.

        Raises:
            UserError: a file of the run or of the truth cannot be read.
        """
        rows = read_source_columns(self.source, part["path"], COLUMNS)
        meaning_NK = meanings_of(rows, self.meaning)
        named = self._all_images(part, rows) if self.has_nouns else paired_images(rows, meaning_NK)
        return part_counts(rows, meaning_NK, self.find(rows, meaning_NK, named))

    def find(self, rows: pa.Table, meaning_NK: np.ndarray, images: Iterator[PartImage]) -> PartFound:
        """What lies under the masks of a part, and what of its images was found."""
        seen_N, kinds, steps = np.full(len(rows), OF_NO_TRUTH), np.zeros(len(IMAGE_KINDS), np.int64), []
        labels_K = np.zeros((len(self.truth.names), len(LABEL_COLUMNS)), np.int64)
        for image in images:
            known = self.truth.image(image.image_id, image.image_uri)
            own = rows.slice(image.rows.start, image.rows.stop - image.rows.start)
            if known is None or not has_size(own, known.size):
                kinds[WITHOUT_TRUTH if known is None else OTHER_SIZE] += 1
                continue
            found = find(known, image_pairs(own, meaning_NK[image.rows], image.named_K), self.min_cover)
            seen_N[image.rows] = found.seen_N
            labels_K += found.labels_K
            steps += found.steps
            kinds[LABELLED] += 1
        return PartFound(seen_N, kinds, labels_K, steps)

    def _all_images(self, part: Mapping[str, Any], rows: pa.Table) -> Iterator[PartImage]:
        """The images of a part's unit, paired or not."""
        unit = unit_file(part)
        captions = read_source_columns(self.source, f"captions/{unit}", ("image_id", "image_uri"))
        nouns = read_source_columns(self.source, f"nouns/{unit}", ("image_id", "noun", "lemma"))
        meaning_NK = meanings_of(nouns, self.meaning)
        of_pairs, of_nouns = dict(rows_by_image(rows)), dict(rows_by_image(nouns))
        for image_id, place in rows_by_image(captions):
            named_K = meaning_NK[of_nouns.get(image_id, NO_ROWS)].any(axis=0)
            image_uri = captions["image_uri"][place.start].as_py() or ""
            yield PartImage(image_id, image_uri, of_pairs.get(image_id, NO_ROWS), named_K)


NO_ROWS = slice(0, 0)


def unit_file(part: Mapping[str, Any]) -> str:
    """The name of a part in the folder of its table, which its unit has in every table."""
    return part["path"].partition("/")[2]


def paired_images(rows: pa.Table, meaning_NK: np.ndarray) -> Iterator[PartImage]:
    """The images that have pairs, with what the nouns of these mean."""
    for image_id, place in rows_by_image(rows):
        yield PartImage(image_id, rows["image_uri"][place.start].as_py(), place, meaning_NK[place].any(axis=0))


def rows_by_image(rows: pa.Table) -> Iterator[tuple[str, slice]]:
    """The rows of each image, which stand together in every table."""
    ids = rows["image_id"].to_numpy()
    if len(ids):
        edges = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
        yield from ((ids[start], slice(start, end)) for start, end in pairwise(edges))


def meanings_of(rows: pa.Table, meaning: Meaning) -> np.ndarray:
    """How the noun of each row means each label, uint8 (N, K); each distinct noun is asked for once."""
    codes = [rows[name].combine_chunks().dictionary_encode() for name in ("noun", "lemma")]
    places_N2 = np.stack([each.indices.to_numpy(zero_copy_only=False) for each in codes], axis=1)
    distinct, place_N = np.unique(places_N2, axis=0, return_inverse=True)
    nouns, lemmas = (each.dictionary.to_pylist() for each in codes)
    found = [meaning.labels_of(nouns[noun], lemmas[lemma]) for noun, lemma in distinct]
    return np.reshape(found, (-1, len(meaning.names))).astype(np.uint8)[place_N.ravel()]


def has_size(rows: pa.Table, size: tuple[int, int]) -> bool:
    """Whether the pairs of an image have this (height, width); no pairs have every size."""
    return not len(rows) or (rows["height"][0].as_py(), rows["width"][0].as_py()) == size


def image_pairs(rows: pa.Table, meaning_NK: np.ndarray, named_K: np.ndarray) -> ImagePairs:
    """The pairs of one image as `find` takes them."""
    return ImagePairs(rows["mask"].to_pylist(), meaning_NK, rows["cosine"].to_numpy(), named_K)


def part_counts(rows: pa.Table, meaning_NK: np.ndarray, found: PartFound) -> AuditCounts:
    """The sums over a part: its pairs, and what was found in its images."""
    area, height, width = (rows[name].to_numpy().astype(np.float64) for name in ("area_px", "height", "width"))
    cosine_N, margin_N, probability_N = (
        rows[name].to_numpy().astype(np.float64) for name in ("cosine", "margin", "probability")
    )
    share_N = area / (height * width)
    nouns = rows["noun"].to_pylist()
    counts = count_pairs(Pairs(nouns, meaning_NK, found.seen_N, cosine_N, margin_N, probability_N, share_N))
    found_B = np.bincount(np.asarray(found.steps, np.int64), minlength=len(counts.found_B))
    return replace(counts, labels_K=counts.labels_K + found.labels_K, images=found.images, found_B=found_B)

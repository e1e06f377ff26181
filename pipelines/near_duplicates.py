"""Images that look alike over a whole run, and masks of the same thing within an image.

Two images are alike when their perceptual hashes differ in few bits. Which of them stays does not depend on the order
in which they come: images are looked at by (image_sha256, image_id), and one that is alike to an image that stays goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ovseg_model import rle
from pipelines.selection import Selection, split_rows

HASH_BITS = 64

MOST_BITS = 16
"""Beyond a quarter of the bits, images that have nothing in common are alike."""

IMAGE_COLUMNS = ("image_id", "image_sha256", "image_phash")
MASK_COLUMNS = ("image_id", "lemma", "mask", "cosine", "pair_id")


class Twin(NamedTuple):
    """The image that stays in place of another, and by how many bits their hashes differ."""

    image_id: str
    bits: int


# Images.


def duplicate_images(images: pa.Table, bits: int) -> dict[str, Twin]:
    """By image_id, the images that go.

    Args:
        images: the columns IMAGE_COLUMNS, in any order, a row an image (more rows of one are the same).
        bits: most bits in which the hashes of one image differ, from 0 to MOST_BITS.
    """
    ordered = images.group_by(list(IMAGE_COLUMNS)).aggregate([])
    ordered = ordered.sort_by([("image_sha256", "ascending"), ("image_id", "ascending")])
    ids, hashes_N = ordered["image_id"].to_pylist(), hashes_of(ordered["image_phash"].to_pylist())
    stays_N = first_alike(hashes_N, bits)
    goes = np.flatnonzero(stays_N != np.arange(len(ids)))
    distances = np.bitwise_count(hashes_N[goes] ^ hashes_N[stays_N[goes]])
    return {
        ids[image]: Twin(ids[stays_N[image]], int(distance)) for image, distance in zip(goes, distances, strict=True)
    }


def hashes_of(texts: Sequence[str]) -> np.ndarray:
    """Hashes of 16 hex digits as uint64."""
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64)


def first_alike(hashes_N: np.ndarray, bits: int) -> np.ndarray:
    """For each of some hashes in order (uint64), the first one that is within `bits` of it and stays: may be itself.

    Returns int64 (N,), indices. A hash goes when one before it, which stays, is alike.
    """
    distinct_K, first_K, which_N = np.unique(hashes_N, return_index=True, return_inverse=True)
    order = np.argsort(first_K)
    stays_K = first_K.copy()
    firsts_K = first_K[order]
    stays = np.ones(len(order), bool)
    for later, earlier in sorted(alike(distinct_K[order], bits)):
        # All that is before `later` is settled: pairs come by the later one, then by the earlier one.
        if stays[later] and stays[earlier]:
            stays[later] = False
            stays_K[order[later]] = firsts_K[earlier]
    return stays_K[which_N]


def alike(hashes_K: np.ndarray, bits: int) -> set[tuple[int, int]]:
    """All pairs (later, earlier) of distinct hashes (uint64) that differ in at most `bits` bits.

    Of bits + 1 bands of a hash, two such hashes have one in common: only those that have are compared.
    """
    found: set[tuple[int, int]] = set()
    if bits == 0:
        return found
    for shift, width in bands(bits):
        band_K = (hashes_K >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        for later, earlier in alike_in_band(hashes_K, band_K, bits):
            found.update(zip(later.tolist(), earlier.tolist(), strict=True))
    return found


def bands(bits: int) -> Iterator[tuple[int, int]]:
    """Shift and width of bits + 1 bands that together are the whole hash."""
    edges = [HASH_BITS * band // (bits + 1) for band in range(bits + 2)]
    for start, end in itertools.pairwise(edges):
        yield start, end - start


def alike_in_band(hashes_K: np.ndarray, band_K: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (later, earlier) within `bits` of each other that have the same value in a band, as arrays of indices."""
    order = np.argsort(band_K, kind="stable")
    hashes, band = hashes_K[order], band_K[order]
    at = np.arange(len(order))
    for step in range(1, len(order)):
        # Each hash beside the one `step` places further on, in all buckets at once, while any bucket is so long.
        at = at[at + step < len(order)]
        at = at[band[at] == band[at + step]]
        if not len(at):
            return
        near = at[np.bitwise_count(hashes[at] ^ hashes[at + step]) <= bits]
        yield order[near + step], order[near]


def select_images(rows: pa.Table, twins: Mapping[str, Twin]) -> Selection:
    """Keeps the rows of all images but those that have a twin."""
    encoded = rows["image_id"].combine_chunks().dictionary_encode()
    names, which_N = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    twin_of = [twins.get(name) for name in names]
    keep_N = np.array([twin is None for twin in twin_of], bool)[which_N]
    words = [f"kept: image {twin.image_id}, {twin.bits} bits away" if twin else "" for twin in twin_of]
    return split_rows(
        rows,
        keep_N,
        "near_duplicate_image",
        pa.array(words, pa.string()).take(encoded.indices.filter(pa.array(~keep_N))),
    )


# Masks.


def select_masks(rows: pa.Table, least_iou: float) -> Selection:
    """Keeps, of an image's pairs of one lemma whose masks overlap by `least_iou` or more, the one of highest cosine.

    Pairs are looked at by falling cosine, then by pair_id; one goes when its mask nearly is that of one that stays.
    """
    words: dict[int, str] = {}
    ids = rows["pair_id"].to_pylist()
    for group in groups_of_lemmas(rows):
        masks = rows["mask"].take(pa.array(group)).to_pylist()
        for place, (first, iou) in overlapping(masks, least_iou).items():
            words[int(group[place])] = f"kept: pair {ids[group[first]]}, IoU {iou:.3f}"
    keep_N = np.ones(rows.num_rows, bool)
    keep_N[list(words)] = False
    return split_rows(rows, keep_N, "near_duplicate_mask", pa.array([words[row] for row in sorted(words)], pa.string()))


def groups_of_lemmas(rows: pa.Table) -> Iterator[np.ndarray]:
    """Row numbers of the pairs of one lemma in one image, by falling cosine, where there are several."""
    images, lemmas = (
        rows[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("image_id", "lemma")
    )
    ranks = np.argsort(np.argsort(rows["pair_id"].to_numpy().astype("S32")))
    order = np.lexsort((ranks, -rows["cosine"].to_numpy(), lemmas, images))
    changes = np.diff(images[order]).astype(bool) | np.diff(lemmas[order]).astype(bool)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(order)]]) if len(order) else np.zeros(1, int)
    for start, end in itertools.pairwise(starts):
        if end - start > 1:
            yield order[start:end]


def overlapping(masks: Sequence[rle.Rle], least_iou: float) -> dict[int, tuple[int, float]]:
    """Which of some masks in order go: by place, the first one that stays and nearly is it, and their IoU."""
    iou_NN, gone = rle.iou_matrix(masks, masks), {}
    for later in range(1, len(masks)):
        earlier = (first for first in range(later) if first not in gone and iou_NN[later, first] >= least_iou)
        first = next(earlier, None)
        if first is not None:
            gone[later] = (first, float(iou_NN[later, first]))
    return gone

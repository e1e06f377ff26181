"""Images that look alike over a whole run, and masks of the same thing within an image.

Two images are alike when their perceptual hashes differ in few bits. Which of them stays does not depend on the order
in which they come: images are looked at by (image_sha256, image_id), and one that is alike to an image that stays goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model import rle
from pipelines.selection import Selection, split_rows

HASH_BITS = 64

MOST_BITS = 16
"""Beyond a quarter of the bits, images that have nothing in common are alike."""

IMAGE_COLUMNS = ("image_id", "image_sha256", "image_phash")
MASK_COLUMNS = ("image_id", "lemma", "mask", "box_xywh_px", "area_px", "cosine", "pair_id")


# Images.


def duplicate_images(images: pa.Table, bits: int) -> dict[str, str]:
    """By image_id the images that go, with the image that stays in their place, in words.

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
        ids[image]: f"kept: image {ids[stays_N[image]]}, {distance} bits away"
        for image, distance in zip(goes, distances, strict=True)
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
    stays_K, firsts_K = first_K.copy(), first_K[order]
    gone = those_that_go(alike(distinct_K[order], bits))
    stays_K[order[list(gone.keys())]] = firsts_K[list(gone.values())]
    return stays_K[which_N]


def those_that_go(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Which of some things in order go, each with the first one that is alike and stays.

    pairs: all (later, earlier) that are alike, in any order, as indices.
    """
    gone: dict[int, int] = {}
    for later, earlier in sorted(pairs):
        # All that is before `later` is settled: pairs come by the later one, then by the earlier one.
        if later not in gone and earlier not in gone:
            gone[later] = earlier
    return gone


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
    hashes = hashes_K[order]
    for earlier, later in pairs_of_equals(band_K[order]):
        near = np.bitwise_count(hashes[earlier] ^ hashes[later]) <= bits
        yield order[later[near]], order[earlier[near]]


def pairs_of_equals(keys_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (earlier, later) of places that have equal keys, which stand together, as arrays of indices."""
    at = np.arange(len(keys_N))
    for step in range(1, len(keys_N)):
        # Each key beside the one `step` places further on, in all groups at once, while any group is so long.
        at = at[at + step < len(keys_N)]
        at = at[keys_N[at] == keys_N[at + step]]
        if not len(at):
            return
        yield at, at + step


# Masks.


def select_masks(rows: pa.Table, least_iou: float) -> Selection:
    """Keeps, of an image's pairs of one lemma whose masks overlap by `least_iou` or more, the one of highest cosine.

    Pairs are looked at by falling cosine, then by pair_id; one goes when its mask nearly is that of one that stays.
    rows: PAIRS, or MASK_COLUMNS of it.
    """
    order, group_N = by_lemma(rows)
    ious = near_masks(rows.select(MASK_COLUMNS).take(pa.array(order)), group_N, least_iou)
    words, ids = {}, rows["pair_id"]
    for later, earlier in those_that_go(ious).items():
        stays = ids[int(order[earlier])].as_py()
        words[int(order[later])] = f"kept: pair {stays}, IoU {ious[later, earlier]:.3f}"
    keep_N = np.ones(rows.num_rows, bool)
    keep_N[list(words)] = False
    return split_rows(rows, keep_N, "near_duplicate_mask", pa.array([words[row] for row in sorted(words)], pa.string()))


def near_masks(rows: pa.Table, group_N: np.ndarray, least_iou: float) -> dict[tuple[int, int], float]:
    """IoU of all pairs (later, earlier) of rows of one group whose masks overlap by `least_iou` or more.

    Most masks are the same or, by their boxes and areas, too far from each other: RLEs of others alone are compared.
    """
    masks = rows["mask"].combine_chunks()
    same_N = masks.field("counts").dictionary_encode().indices.to_numpy()
    boxes_N4 = pc.list_flatten(rows["box_xywh_px"].combine_chunks()).to_numpy().reshape(-1, 4).astype(np.int64)
    area_N = rows["area_px"].to_numpy().astype(np.int64)
    ious: dict[tuple[int, int], float] = {}
    for earlier, later in pairs_of_equals(group_N):
        are_same = same_N[earlier] == same_N[later]
        ious |= dict.fromkeys(zip(later[are_same].tolist(), earlier[are_same].tolist(), strict=True), 1.0)
        open_ = ~are_same & (most_iou(boxes_N4, area_N, earlier, later) >= least_iou)
        for pair in zip(later[open_].tolist(), earlier[open_].tolist(), strict=True):
            iou = float(rle.iou_matrix(*([masks[row].as_py()] for row in pair))[0, 0])
            ious |= {pair: iou} if iou >= least_iou else {}
    return ious


def by_lemma(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers so that pairs of one lemma in one image stand together, by falling cosine; and numbers of these.

    Returns int64 (N,) twice; the second ascends from 0 along the first.
    """
    images, lemmas = (
        rows[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("image_id", "lemma")
    )
    ranks = np.argsort(np.argsort(rows["pair_id"].to_numpy().astype("S32")))
    order = np.lexsort((ranks, -rows["cosine"].to_numpy(), lemmas, images))
    changes = np.diff(images[order]).astype(bool) | np.diff(lemmas[order]).astype(bool)
    return order, np.concatenate([[0], np.cumsum(changes)])[: len(order)]


def most_iou(boxes_N4: np.ndarray, area_N: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The most that the IoU of masks can be, by their tight boxes (x, y, width, height) and areas, px, int64.

    one, other: indices of the masks, (P,). Returns float64 (P,).
    """
    starts_P2 = np.maximum(boxes_N4[one, :2], boxes_N4[other, :2])
    corners_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
    ends_P2 = np.minimum(corners_N2[one], corners_N2[other])
    of_boxes_P = np.maximum(ends_P2 - starts_P2, 0).prod(axis=1)
    shared_P = np.minimum(of_boxes_P, np.minimum(area_N[one], area_N[other]))
    return shared_P / (area_N[one] + area_N[other] - shared_P)

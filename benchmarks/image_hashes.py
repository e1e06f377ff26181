"""How far apart perceptual hashes are, of copies of one photo and of different photos.

    python -m benchmarks.image_hashes --images FOLDER --output docs/decontamination.md

rewrites the tables of docs/decontamination.md. FOLDER holds photos, no two of them alike. Half a minute for a hundred.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ovseg_model.image_hash import HASH_BITS, bits_apart, hash_values, perceptual_hash
from ovseg_model.images import FetchedImage, FetchOptions, read_images
from pipelines.hash_images import list_images
from schemas.errors import UserError

DISTANCES = (0, 2, 4, 6, 8, 10, 12)
BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    """The photo after JPEG's losses."""

    def changed(photo: Image.Image) -> Image.Image:
        sink = io.BytesIO()
        photo.save(sink, "jpeg", quality=quality)
        return Image.open(sink).convert("RGB")

    return changed


def longest_side(size_px: int) -> Change:
    """The photo in another size."""
    return lambda photo: ImageOps.contain(photo, (size_px, size_px), Image.Resampling.LANCZOS)


def cropped(share: float) -> Change:
    """The middle of the photo, this share of each side."""

    def changed(photo: Image.Image) -> Image.Image:
        x, y = (round(side * (1 - share) / 2) for side in photo.size)
        return photo.crop((x, y, photo.width - x, photo.height - y))

    return changed


def in_turn(*changes: Change) -> Change:
    """One change after the other."""

    def changed(photo: Image.Image) -> Image.Image:
        for change in changes:
            photo = change(photo)
        return photo

    return changed


CHANGES: dict[str, Change] = {
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 30": jpeg(30),
    "longest side 320 px": longest_side(320),
    "longest side 128 px": longest_side(128),
    "longest side 256 px, then JPEG 50": in_turn(longest_side(256), jpeg(50)),
    "grey": lambda photo: ImageOps.grayscale(photo).convert("RGB"),
    "a fifth brighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.2),
    "cropped to the middle 98 % of each side": cropped(0.98),
    "cropped to the middle 95 %": cropped(0.95),
    "cropped to the middle 80 %": cropped(0.8),
    "mirrored": ImageOps.mirror,
}


def hashes_of(photos: Sequence[Image.Image]) -> np.ndarray:
    """Perceptual hashes as numbers, uint64 (N,)."""
    return hash_values([perceptual_hash(np.asarray(photo)) for photo in photos])


def between_photos(values_N: np.ndarray) -> np.ndarray:
    """Bits between every two of N photos, once each: (N (N - 1) / 2,)."""
    tables = [bits_apart(values_N[index + 1 :], value) for index, value in enumerate(values_N)]
    return np.concatenate(tables) if tables else np.zeros(0, np.uint8)


def line(what: str, bits: np.ndarray) -> str:
    """A line of the table: median and extremes of the distances, and what share lies within each."""
    within = [f"{np.mean(bits <= distance):.1%}" for distance in DISTANCES]
    return f"| {what} | {np.median(bits):.0f} | {bits.min()} to {bits.max()} | {' | '.join(within)} |"


def table(photos: Sequence[Image.Image]) -> str:
    """The Markdown table: a line a change, and one for different photos."""
    values = hashes_of(photos)
    apart = between_photos(values)
    copies = {name: np.bitwise_count(values ^ hashes_of(list(map(change, photos)))) for name, change in CHANGES.items()}
    heads = [f"within {distance}" for distance in DISTANCES]
    return "\n".join(
        [
            f"| {len(photos)} photos, bits of {HASH_BITS} | median | range | {' | '.join(heads)} |",
            f"|---|{'---:|' * (len(heads) + 2)}",
            *(line(name, bits) for name, bits in copies.items()),
            line(f"different photos ({len(apart):,} pairs)", apart),
        ]
    )


def read_photos(folder: str) -> list[Image.Image]:
    """The photos of a folder; raises UserError where one cannot be read."""
    uris = list_images([folder])
    read = list(read_images(uris, FetchOptions()))
    for uri, result in zip(uris, read, strict=True):
        if not isinstance(result, FetchedImage):
            raise UserError(f"{uri}: {result}; measure on images that can be read")
    return [Image.fromarray(result.pixels) for result in read if isinstance(result, FetchedImage)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints the table or writes it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of photos")
    parser.add_argument("--output", type=Path, help="page whose block of figures is rewritten; else they are printed")
    options = parser.parse_args(argv)
    measured = table(read_photos(options.images))
    if options.output:
        text = options.output.read_text(encoding="utf-8")
        options.output.write_text(BLOCK.sub(lambda found: f"{found[1]}{measured}\n{found[2]}", text), encoding="utf-8")
    else:
        print(measured)


if __name__ == "__main__":
    main()

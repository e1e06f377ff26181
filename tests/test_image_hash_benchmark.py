"""Figures of how far apart hashes are."""

import numpy as np
from PIL import Image
from test_hash_images import draw

from benchmarks.image_hashes import CHANGES, between_photos, cropped, line, main


def test_every_two_photos_are_compared_once():
    values = np.array([0b0, 0b1, 0b111], np.uint64)
    assert between_photos(values).tolist() == [1, 3, 2]


def test_a_line_has_median_range_and_shares():
    bits = np.array([0, 2, 2, 5], np.uint8)
    assert line("x", bits) == "| x | 2 | 0 to 5 | 25.0% | 75.0% | 75.0% | 100.0% | 100.0% | 100.0% | 100.0% |"


def test_a_crop_keeps_the_middle():
    photo = Image.new("RGB", (100, 60))
    photo.putpixel((50, 30), (255, 0, 0))
    middle = cropped(0.8)(photo)
    assert (middle.size, middle.getpixel((40, 24))) == ((80, 48), (255, 0, 0))


def test_the_page_is_rewritten_between_its_marks(tmp_path):
    for seed in range(2):
        draw(tmp_path / f"photos/{seed}.png", seed)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    main(["--images", str(tmp_path / "photos"), "--output", str(page)])
    text = page.read_text()
    assert text.startswith("before\n<!-- measured -->\n| 2 photos, bits of 64 |")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "different photos (1 pairs)" in text
    assert text.count("\n|") == len(CHANGES) + 3

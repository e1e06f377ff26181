"""A picture shows the region it says."""

import io

import numpy as np
from PIL import Image

from ovseg_model import rle
from ovseg_model.images import FetchOptions
from pipelines.draw_pairs import BORDER_RGB, LABEL_PX, TILE_PX, border, contained, draw_pairs, region_jpeg, tint

MASK = np.zeros((4, 6), bool)
MASK[:, :3] = True


def pair(path, meaningless=False):
    return {
        "image_uri": str(path),
        "mask": rle.encode_masks(MASK[None])[0],
        "noun": "kite",
        "cosine": 0.25,
        "meaningless": meaningless,
    }


def test_the_mask_is_red_and_the_rest_is_pale():
    tinted = tint(np.zeros((4, 6, 3), np.uint8), MASK)
    assert tinted[0, 0].tolist() == [127, 30, 30]
    assert tinted[0, 5].tolist() == [140, 140, 140]


def test_the_border_of_a_mask_is_dark():
    assert border(MASK).tolist() == [[False, False, True, False, False, False]] * 4
    assert tint(np.full((4, 6, 3), 200, np.uint8), MASK)[1, 2].tolist() == list(BORDER_RGB)


def test_a_tile_for_each_pair_whose_image_is_there(tmp_path):
    Image.new("RGB", (6, 4), "white").save(tmp_path / "a.png")
    rows = [pair(tmp_path / "a.png"), pair(tmp_path / "gone.png"), pair(tmp_path / "a.png")]
    sheet = np.asarray(Image.open(io.BytesIO(draw_pairs(rows, FetchOptions()))))
    assert sheet.shape == (TILE_PX + LABEL_PX, 2 * TILE_PX, 3)
    left, right = sheet[TILE_PX // 2, TILE_PX // 4], sheet[TILE_PX // 2, 3 * TILE_PX // 4]
    assert left[0] > left[1] + 50
    assert right[0] == right[1] > 200
    # The noun is written below.
    assert (sheet[TILE_PX:] < 100).any()


def test_a_picture_of_random_weights_says_so(tmp_path):
    Image.new("RGB", (6, 4), "white").save(tmp_path / "a.png")
    pictures = {draw_pairs([pair(tmp_path / "a.png", meaningless)], FetchOptions()) for meaningless in (True, False)}
    assert len(pictures) == 2


def test_a_picture_is_scaled_to_a_side_and_a_line_of_pixels_stays_one():
    assert contained(Image.new("RGB", (640, 480)), 232).size == (232, 174)
    assert contained(Image.new("RGB", (1, 1000)), 232).size == (1, 232)


def test_an_image_one_pixel_high_has_a_tile(tmp_path):
    Image.new("RGB", (1000, 1), "white").save(tmp_path / "a.png")
    row = {**pair(tmp_path / "a.png"), "mask": rle.encode_masks(np.ones((1, 1, 1000), bool))[0]}
    assert Image.open(io.BytesIO(draw_pairs([row], FetchOptions()))).size == (TILE_PX, TILE_PX + LABEL_PX)


def test_a_region_is_a_jpeg_of_the_tinted_image():
    jpeg = Image.open(io.BytesIO(region_jpeg(np.zeros((4, 6, 3), np.uint8), pair("a.png")["mask"], 60)))
    assert (jpeg.format, jpeg.size) == ("JPEG", (60, 40))
    assert np.allclose(np.asarray(jpeg)[20, [5, 55]], [[127, 30, 30], [140, 140, 140]], atol=8)

"""Files of data sets: images as they are seen, and one sentence for each that is not as wanted."""

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.dataset_files import image_size_px, read_image, read_json
from schemas.errors import UserError


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_of_an_image_is_that_of_its_pixels(tmp_path, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = str(tmp_path / "a.jpg")
    Image.new("RGB", (5, 3)).save(path, exif=exif)
    assert image_size_px(path) == read_image(path).shape[:2] == ((5, 3) if orientation in (6, 8) else (3, 5))


def test_an_image_is_rgb(tmp_path):
    Image.fromarray(np.array([[0, 200]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(str(tmp_path / "grey.png")).tolist() == [[[0] * 3, [200] * 3]]


@pytest.mark.parametrize("read", [read_image, image_size_px])
def test_what_is_no_image_is_one_sentence(tmp_path, read):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"^image .*a\.jpg"):
        read(str(tmp_path / "a.jpg"))
    with pytest.raises(UserError, match=r"^image .*b\.jpg"):
        read(str(tmp_path / "b.jpg"))


@pytest.mark.parametrize("data", [b"{", b"\x81\xff", b"[" * 100_000])
def test_what_is_no_json_is_one_sentence(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is no JSON: "):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json cannot be read: No such file"):
        read_json(tmp_path / "b.json")

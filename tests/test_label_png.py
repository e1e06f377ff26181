"""Label maps there and back."""

import io

import numpy as np
import pytest
from PIL import Image

from ovseg_model.label_png import UNLABELLED, label_png, read_label_png


@pytest.mark.parametrize(("classes", "mode", "nothing"), [(3, "P", 255), (255, "P", 255), (256, "I;16", UNLABELLED)])
def test_a_label_map_comes_back(classes, mode, nothing):
    labels_HW = np.array([[0, classes - 1, UNLABELLED], [1, 2, 0]], np.uint16)
    data = label_png(labels_HW, np.zeros((classes, 3), np.uint8) + 7)
    again = read_label_png(data)
    assert again.dtype == np.uint16
    assert np.array_equal(again, labels_HW)
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == mode
    assert np.asarray(picture)[0, 2] == nothing
    if mode == "P":
        assert np.asarray(picture.convert("RGB"))[0, 0].tolist() == [7, 7, 7]


def test_bytes_that_are_no_image():
    with pytest.raises(OSError):
        read_label_png(b"no")

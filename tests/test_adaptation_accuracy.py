"""Accuracy of adaptation: ranks and shares worked out by hand."""

import math

import numpy as np
import pytest

from ovseg_model.adaptation_accuracy import mean_average_precision


def test_average_precision_by_hand():
    # Class 0 stands in images 0 and 2, ranked 1st and 3rd: (1/1 + 2/3) / 2. Class 1 in image 1, ranked 2nd: 1/2.
    cosine_NK = np.array([[0.9, 0.8, 0.0], [0.5, 0.7, 0.9], [0.1, 0.2, 0.1]])
    visible_NK = np.array([[True, False, False], [False, True, False], [True, False, False]])
    assert mean_average_precision(cosine_NK, visible_NK) == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_a_class_that_no_image_shows_is_left_out_and_ties_go_to_the_earlier_image():
    cosine_NK = np.zeros((2, 2))
    assert mean_average_precision(cosine_NK, np.array([[False, False], [True, False]])) == 0.5
    assert math.isnan(mean_average_precision(cosine_NK, np.zeros((2, 2), bool)))

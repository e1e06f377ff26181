"""Agreement of two rankings, counted by hand."""

import numpy as np

from ovseg_model.rank_agreement import (
    CropAgreement,
    agreement_sentence,
    best_masks,
    precision_agreement,
    precision_sentence,
    rank_agreement,
)

REFERENCE_NM = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]])


def test_equal_rankings_agree_whatever_the_scale():
    assert rank_agreement(REFERENCE_NM / 2 - 1, REFERENCE_NM) == {
        "agreement_images": 1,
        "agreement_nouns": 2,
        "agreement_top1": 2,
        "agreement_spearman_millionths": 2_000_000,
    }


def test_reversed_and_half_reversed_rankings():
    counts = rank_agreement(-REFERENCE_NM, REFERENCE_NM)
    assert (counts["agreement_top1"], counts["agreement_spearman_millionths"]) == (0, -2_000_000)
    # First noun: the two worst change places, squares 0 + 1 + 1, so 1 - 6 * 2 / 24; second noun as it was.
    counts = rank_agreement(np.array([[0.9, 0.1, 0.5], [0.1, 0.5, 0.9]]), REFERENCE_NM)
    assert (counts["agreement_top1"], counts["agreement_spearman_millionths"]) == (2, 1_500_000)


def test_one_mask_or_no_noun_says_nothing():
    assert rank_agreement(np.ones((3, 1)), np.ones((3, 1))) == {}
    assert rank_agreement(np.ones((0, 4)), np.ones((0, 4))) == {}


def test_the_best_masks_of_any_noun_in_their_order():
    assert best_masks(REFERENCE_NM, 1).tolist() == [0, 2]
    assert best_masks(REFERENCE_NM, 2).tolist() == [0, 1, 2]
    assert best_masks(np.array([[0.5, 0.5, 0.5, 0.9]]), 2).tolist() == [0, 3]  # the lower index wins a tie
    assert best_masks(REFERENCE_NM[:, :1], 5).tolist() == [0]


def test_it_is_said_in_words():
    counts = {
        "agreement_images": 2,
        "agreement_nouns": 8,
        "agreement_top1": 6,
        "agreement_spearman_millionths": 4_000_000,
    }
    said = "one pass beside crops, 8 nouns of 2 images: same best mask 75%, rank correlation over masks 0.50"
    assert agreement_sentence(counts) == said
    assert ": same best mask 75%, kept by the prefilter 100%, " in agreement_sentence({**counts, "agreement_kept": 8})
    assert "were not compared" in agreement_sentence({})


class Crops:
    """A crop's vector says how bright its mask's pixels are; notes how many masks it was asked."""

    def __init__(self):
        self.asked = []

    def embed(self, images):
        ((image_HW3, (masks_NHW,)),) = images
        self.asked.append(len(masks_NHW))
        return [np.array([[image_HW3[mask_HW].mean()] for mask_HW in masks_NHW])]


def columns(width):
    """An image that gets brighter to the right, and a mask a column."""
    image_HW3 = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (2, width, 3))
    return image_HW3, np.broadcast_to(np.eye(width, dtype=bool)[:, None], (width, 2, width))


def test_the_first_images_are_compared_with_few_of_their_masks():
    agreement = CropAgreement(Crops(), left=2)
    falling = [-np.arange(width, dtype=float)[:, None] for width in (3, 1, 41, 3)]
    agreement.add([columns(width) for width in (3, 1, 41, 3)], falling, np.array([[1.0], [-1.0]]))
    # 41 masks: every third. One mask alone says nothing, the last image is one too many; both texts rank in reverse.
    assert agreement.crops.asked == [3, 14]
    assert agreement.counts == {
        "agreement_images": 2,
        "agreement_nouns": 4,
        "agreement_top1": 0,
        "agreement_spearman_millionths": -4_000_000,
    }
    sentence = "one pass beside crops, 4 classes of 2 images: same best mask 0%, rank correlation over masks -1.00"
    assert agreement_sentence(agreement.counts, "classes") == sentence
    assert agreement_sentence({}, "classes", "nothing") == "one pass and crops were not compared: nothing"


def test_what_fewer_bits_change_by_hand():
    vectors = np.array([[1, 0], [0.6, 0.8]], np.float32)
    exact = np.array([[1, 0], [0.8, 0.6]], np.float32)
    cosines, exact_cosines = np.array([[0.3, 0.2], [0.1, 0.4]]), np.array([[0.2, 0.3], [0.1, 0.5]])
    counts = precision_agreement(vectors, exact, cosines, exact_cosines)
    assert counts == {
        "precision_images": 1,
        "precision_masks": 2,
        "precision_nouns": 2,
        "precision_cosine_millionths": 1_960_000,
        "precision_far": 1,
        "precision_top1": 1,
    }
    assert precision_sentence(counts, "bf16") == (
        "bf16 beside fp32, 2 nouns and 2 masks of 1 images: same best mask 50%, cosine of a mask's two vectors 0.98000 "
        "in the mean, below 0.999 for 50.0%"
    )
    assert precision_sentence({}, "fp16").startswith("fp16 and fp32 were not compared: no image of the run's sample")

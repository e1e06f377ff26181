"""λ and the mask threshold chosen: by hand, one mask over two images of ten pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

from ovseg_model.class_names import ClassVectors
from ovseg_model.proposals import ImageInput, ProposalError
from ovseg_model.proposals.soft import SoftProposals
from ovseg_model.segment import Segmenter, SegmentOptions
from ovseg_model.tuning import CLIP_WEIGHTS, THRESHOLDS, tune
from schemas import UserError

CLASSES = ClassVectors(np.eye(2, dtype=np.float32), (0, 1))


class OneMask:
    """A mask over the whole image at 0.42, of the first class by the network; none of images that are called bad."""

    name, batch_size = "one", 2

    def propose_soft(self, images, class_vectors_KD):
        return [self.propose(image) for image in images]

    @staticmethod
    def propose(image):
        if image.image_id == "bad":
            return ProposalError("proposal_failed", "no")
        masks = np.full((1, *image.pixels_HW3.shape[:2]), 0.42, np.float32)
        return SoftProposals(masks, np.array([[0.9, 0.1]], np.float32))


class SecondClass:
    """CLIP says the second class of every region."""

    clip = SimpleNamespace(device="cpu")

    def embed(self, images):
        return [np.eye(2, dtype=np.float32)[[1] * sum(map(len, chunks))] for _, chunks in images]


def tried(*names):
    images = [ImageInput(name, f"{name}.png", np.zeros((2, 5, 3), np.uint8)) for name in names]
    maps = [np.zeros((2, 5), np.uint16)] * len(names)
    segmenter = Segmenter(OneMask(), SecondClass(), SegmentOptions())
    return tune(segmenter, [([image], [labels]) for image, labels in zip(images, maps, strict=True)], CLASSES)


def test_the_best_point_comes_first():
    found = tried("good")
    assert len(found) == len(THRESHOLDS) * len(CLIP_WEIGHTS)
    by_point = {each[:2]: each.miou_union for each in found}
    assert by_point[0.4, 0.0] == 1.0  # the network is right
    assert by_point[0.4, 1.0] == 0.0  # CLIP is wrong
    assert by_point[0.45, 0.9] == 1.0  # above .42 CLIP sees no region
    assert found[0][:2] == (0.35, 0.0)


def test_an_image_without_proposals_is_unlabelled_at_every_point():
    for names in (("good", "bad"), ("bad", "good")):
        by_point = {each[:2]: each.miou_union for each in tried(*names)}
        assert len(by_point) == len(THRESHOLDS) * len(CLIP_WEIGHTS)
        assert (by_point[0.4, 0.0], by_point[0.4, 1.0]) == (0.5, 0.0)  # 10 of 20 pixels


def test_without_any_proposals_there_is_nothing_to_choose_by():
    with pytest.raises(UserError, match="proposals failed of all its images"):
        tried("bad")

"""The two-stage segmenter on numbers worked out by hand: two proposals, three classes, four pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_clip
import torch

from ovseg_model.class_embeddings import ClassEmbeddings
from ovseg_model.class_names import ClassVectors, embed_classes, split_names
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.proposals.generator import ImageInput
from ovseg_model.proposals.soft import SoftProposals
from ovseg_model.region_encoder import RegionEncoder
from ovseg_model.regions import RegionOptions, region_batch
from ovseg_model.segment import (
    DEMO,
    UNLABELLED,
    ScoredProposals,
    Segmenter,
    SegmentOptions,
    best_proposals,
    clip_probability,
    fuse,
    hard_masks,
    instances,
    label_map,
    network_probability,
    panoptic_segments,
)
from schemas import UserError

SOFT = np.array([[[0.9, 0.4, 0.1, 0.0]], [[0.1, 0.5, 0.8, 0.0]]], np.float32)  # (2, 1, 4)
SCORES = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], np.float32)
BOTH = np.array([True, True])


def test_the_threshold_is_strict():
    assert hard_masks(SOFT, 0.4).tolist() == [[[True, False, False, False]], [[False, True, True, False]]]
    hard = SOFT > 0.3
    assert hard_masks(hard, 0.99) is hard


def test_fusion_by_hand():
    p, q = np.array([[0.25, 0.5]], np.float32), np.array([[0.81, 0.19]], np.float32)
    fused = fuse(p, q, np.array([True]), 0.5)
    assert fused == pytest.approx(np.array([[0.5 * 0.9, (0.5 * 0.19) ** 0.5]]))
    assert fuse(p, q, np.array([True]), 0.0) == pytest.approx(p)
    assert fuse(p, np.ones((1, 2), np.float32), np.array([False]), 0.75) == pytest.approx(p**0.25)  # q = 1: p alone
    for p_or_none, weight in ((p, 1.0), (None, 0.3)):  # CLIP alone
        assert fuse(p_or_none, q, np.array([True]), weight) == pytest.approx(q)
        assert not fuse(p_or_none, q, np.array([False]), weight).any()


def test_clip_probability_is_a_softmax_at_temperature_100():
    classes = ClassVectors(np.eye(2, dtype=np.float32), (0, 1))
    found = clip_probability(np.array([[0.51, 0.5]], np.float32), classes)
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-4)


def test_of_several_names_the_best_counts():
    classes = ClassVectors(np.eye(3, dtype=np.float32), (0, 2))  # names 0 and 1 are one class
    found = clip_probability(np.array([[0.5, 0.52, 0.51]], np.float32), classes)
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-4)
    assert classes.join(np.array([[0.1, 0.3, 0.2]])).tolist() == [[0.3, 0.2]]


def test_names_of_a_class_are_joined_before_the_networks_softmax():
    classes = ClassVectors(np.eye(4, dtype=np.float32), (0, 3))  # three names of the first class, one of the second
    logits = np.array([[1.0, 1.2, 0.9, 1.1, 0.5], [0, 0, 0, 0, 9]])  # the last is "no object"
    exponentials = np.exp(logits)
    named = (exponentials / exponentials.sum(axis=1, keepdims=True))[:, :4].astype(np.float32)
    joined = np.exp(np.stack([logits[:, :3].max(axis=1), logits[:, 3], logits[:, 4]], axis=1))
    wanted = (joined / joined.sum(axis=1, keepdims=True))[:, :2]
    assert network_probability(named, classes) == pytest.approx(wanted, abs=1e-6)
    # The largest of the first row's names would be .25 of all five, where it is .42 of three.
    assert wanted[0, 0] == pytest.approx(0.4164, abs=1e-4)
    alone = ClassVectors(np.eye(4, dtype=np.float32), (0, 1, 2, 3))
    assert network_probability(named, alone) is named
    assert network_probability(None, classes) is None
    assert network_probability(np.zeros((1, 4), np.float32), classes).tolist() == [[0, 0]]
    assert network_probability(np.array([[0.5, 0.5, 0, 0]], np.float32), classes).tolist() == [[1, 0]]


def test_a_label_map_sums_scores_by_soft_masks():
    # Pixel 1: class 0: .6*.4 + .2*.5 = .34; class 1: .3*.4 + .2*.5 = .22; class 2: .1*.4 + .6*.5 = .34: a tie, 0 wins.
    scored = ScoredProposals(SOFT, SCORES, BOTH)
    exact = scored._replace(masks_Nhw=SOFT.astype(np.float64).astype(np.float32))
    assert label_map(exact, (1, 4), SegmentOptions())[0, [0, 2, 3]].tolist() == [0, 2, UNLABELLED]
    tilted = scored._replace(scores_NK=SCORES + np.array([[0, 0, 0], [0, 0, 0.01]], np.float32))
    assert label_map(tilted, (1, 4), SegmentOptions()).tolist() == [[0, 2, 2, UNLABELLED]]


def test_scores_are_enlarged_before_the_argmax():
    # Two pixels (1, 0) and (0, 1) become (1, .75, .25, 0) and (0, .25, .75, 1), half a pixel off at the ends.
    masks = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)
    scored = ScoredProposals(masks, np.array([[0.9, 0.0], [0.0, 0.4]], np.float32), BOTH)
    # Class 0: .9, .675, .225, 0. Class 1: 0, .1, .3, .4. Enlarging labels instead would give 0 0 1 1 too; at .9 : .2
    assert label_map(scored, (1, 4), SegmentOptions()).tolist() == [[0, 0, 1, 1]]
    uneven = scored._replace(scores_NK=np.array([[0.9, 0.0], [0.0, 0.2]], np.float32))
    assert label_map(uneven, (1, 4), SegmentOptions()).tolist() == [[0, 0, 0, 1]]  # .225 beats .15


def test_many_classes_are_taken_a_few_at_a_time():
    randoms = np.random.default_rng(0)
    scored = ScoredProposals(
        randoms.random((5, 6, 7), np.float32), randoms.random((5, 75), np.float32), np.ones(5, bool)
    )
    sums_KHW = np.tensordot(scored.scores_NK.astype(np.float64), scored.masks_Nhw, (0, 0))
    assert np.array_equal(label_map(scored, (6, 7), SegmentOptions()), sums_KHW.argmax(axis=0))


@pytest.mark.parametrize("frame", [(6, 7), (9, 11)])
def test_parts_give_what_the_whole_gives(frame, monkeypatch):
    randoms = np.random.default_rng(1)
    masks = randoms.random((5, 6, 7), np.float32) > 0.7
    scored = ScoredProposals(masks, randoms.random((5, 9), np.float32), np.ones(5, bool))
    whole = label_map(scored, frame, SegmentOptions()), panoptic_segments(scored, SegmentOptions())
    for limit in ("SUMS_AT_ONCE", "SUMS_IN_CACHE"):
        monkeypatch.setattr(f"ovseg_model.segment.{limit}", 40)
    parts = label_map(scored, frame, SegmentOptions()), panoptic_segments(scored, SegmentOptions())
    assert np.array_equal(whole[0], parts[0])
    assert (whole[0] == UNLABELLED).any()
    assert [each.mask_hw.tolist() for each in whole[1]] == [each.mask_hw.tolist() for each in parts[1]]


def test_the_demo_keeps_one_proposal_a_class():
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.6, 0.5, 0.2]], np.float32)
    masks = np.concatenate([SOFT, SOFT[:1]]) > 0.35
    scored = ScoredProposals(masks, scores, np.ones(3, bool))
    assert best_proposals(scored) == pytest.approx(np.array([[0.6, 0, 0], [0, 0, 0.6], [0, 0.5, 0]]))
    assert label_map(scored, (1, 4), DEMO).tolist() == [[0, 0, 2, UNLABELLED]]


def test_instances_stand_in_order_of_score_and_leave_out_what_is_not_valid():
    scored = ScoredProposals(SOFT > 0.3, np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]], np.float32), BOTH)
    found = instances(scored, SegmentOptions())
    assert [(each.proposal, each.class_number, round(each.score, 3)) for each in found] == [(1, 2, 0.7), (0, 0, 0.6)]
    assert [each.proposal for each in instances(scored, SegmentOptions(), 0.65)] == [1]
    assert instances(scored._replace(valid_N=np.array([False, False])), SegmentOptions()) == []


def test_panoptic_segments_do_not_overlap():
    masks = np.zeros((3, 1, 10), bool)
    masks[0, 0, :6] = masks[1, 0, 5:] = masks[2, 0, 6:8] = True
    scores = np.array([[0.6, 0.0], [0.9, 0.0], [0.0, 0.5]], np.float32)
    found = panoptic_segments(ScoredProposals(masks, scores, np.ones(3, bool)), SegmentOptions())
    assert [each.proposal for each in found] == [0, 1]  # the third lies under the second
    assert [each.mask_hw.nonzero()[1].tolist() for each in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert panoptic_segments(ScoredProposals(masks[:0], scores[:0], np.zeros(0, bool)), SegmentOptions()) == []


def test_a_segment_that_loses_a_fifth_of_its_mask_goes():
    masks = np.zeros((2, 1, 10), bool)
    masks[0, 0, :5] = masks[1, 0, 3:] = True
    scored = ScoredProposals(masks, np.array([[0.6], [0.9]], np.float32), BOTH)
    assert [each.proposal for each in panoptic_segments(scored, SegmentOptions())] == [1]


# The whole, with a real CLIP.


class Given:
    """A proposal network that returns what it was given, and its class probabilities for two classes."""

    name, batch_size = "given", 2

    def __init__(self, masks, probability=None):
        self.masks, self.probability = masks, probability

    def propose_soft(self, images, class_vectors_KD):
        return [SoftProposals(masks, self.probability) for masks in self.masks[: len(images)]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path_factory.mktemp("tiny")))))


@pytest.fixture(scope="module")
def classes(clip):
    return embed_classes(ClassEmbeddings(clip, ("a {}",)), split_names(["cat", "dog"], "verbatim"), "verbatim")


def images(count):
    randoms = np.random.default_rng(0)
    return [ImageInput(str(n), "", randoms.integers(0, 256, (12, 16, 3), np.uint8)) for n in range(count)]


def masks_of(count):
    masks = np.zeros((count, 12, 16), bool)
    for number in range(count):
        masks[number, number : number + 6, 2:10] = True
    return masks


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_regions_is_right(clip, classes, count):
    """OVSeg's own inference crashes on none and, with prompts, on one."""
    segmenter = Segmenter(
        Given([masks_of(count)] * 2), RegionEncoder(clip, RegionOptions()), SegmentOptions(clip_weight=1)
    )
    (found,) = segmenter.segment(images(1), classes)
    assert (found.labels_HW == UNLABELLED).sum() == (~masks_of(count).any(axis=0)).sum()
    if count:
        regions = region_batch(images(1)[0].pixels_HW3, masks_of(count), 32, clip.mean, clip.std, RegionOptions())
        cosines = clip.embed_images(regions) @ classes.vectors_VD.T
        wanted = torch.softmax(100 * torch.from_numpy(cosines), dim=1).numpy()
        assert np.allclose(found.proposals.scores_NK, wanted, atol=1e-4)


def test_an_empty_mask_counts_by_the_network_alone(clip, classes):
    masks = np.stack([masks_of(1)[0].astype(np.float32), np.full((12, 16), 0.3, np.float32)])
    probability = np.array([[0.5, 0.2], [0.1, 0.8]], np.float32)
    options = SegmentOptions(clip_weight=0.75)
    (found,) = Segmenter(Given([masks], probability), RegionEncoder(clip, RegionOptions()), options).segment(
        images(1), classes
    )
    assert found.proposals.valid_N.tolist() == [True, False]
    assert found.proposals.scores_NK[1] == pytest.approx(probability[1] ** 0.25)


def test_the_network_alone_runs_no_clip(classes):
    probability = np.array([[0.5, 0.2]], np.float32)
    regions = SimpleNamespace(clip=SimpleNamespace(device="cpu"))  # nothing that could embed
    segmenter = Segmenter(Given([masks_of(1)], probability), regions, SegmentOptions(clip_weight=0))
    (found,) = segmenter.segment(images(1), classes)
    assert np.array_equal(found.proposals.scores_NK, probability)


def test_a_batch_gives_what_single_images_give(clip, classes):
    given = [masks_of(1), masks_of(3)]
    together = Segmenter(Given(given), RegionEncoder(clip, RegionOptions()), SegmentOptions())
    both = list(together.segment(images(2), classes))
    for image, masks, found in zip(images(2), given, both, strict=True):
        alone = Segmenter(Given([masks]), RegionEncoder(clip, RegionOptions()), SegmentOptions())
        (single,) = alone.segment([image], classes)
        assert np.array_equal(single.labels_HW, found.labels_HW)
        assert np.array_equal(single.proposals.scores_NK, found.proposals.scores_NK)


def test_proposals_in_another_frame_see_the_image_resized(clip, classes):
    (whole,) = Segmenter(
        Given([np.ones((1, 6, 8), np.float32)]), RegionEncoder(clip, RegionOptions()), SegmentOptions()
    ).segment(images(1), classes)
    assert whole.labels_HW.shape == (12, 16)
    assert (whole.labels_HW == whole.proposals.scores_NK[0].argmax()).all()


@pytest.mark.parametrize("name", ["mask_threshold", "clip_weight"])
def test_options_out_of_range(name):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: wanted 0 to 1, got 1.5"):
        SegmentOptions(**{name: 1.5})

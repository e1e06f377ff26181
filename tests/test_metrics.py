"""Segmentation scored: every number worked out by hand, sums equal to the whole, other libraries' matrices."""

import json
import math

import numpy as np
import pytest

from ovseg_model.datasets.benchmark import IGNORE
from ovseg_model.metrics import (
    TITLES,
    RunningCounts,
    SegmentationCounts,
    SegmentationResult,
    SplitMeans,
    count_images,
    count_pixels,
    segmentation_result,
    split_result,
)

X = IGNORE
TRUTH = [[0, 0, 1, 1], [0, 0, 1, X]]
PREDICTION = [[0, 0, 1, 2], [0, 1, 1, 2]]
"""Of 4 classes: 0 and 1 are present, 2 is predicted only, 3 is neither; the ignored pixel was taken for 2."""


def labels(rows):
    return np.array(rows, np.uint16)


def counts_of(prediction, truth, classes=4):
    return count_pixels(labels(prediction), labels(truth), classes)


def drawn_maps(seed, classes=7, size=(40, 50), noise=0.0):
    """Blocks of 5 px, some ignored; predictions partly wrong, partly without a label."""
    randoms = np.random.default_rng(seed)
    values = np.array([*range(classes), IGNORE], np.uint16)
    small = tuple(each // 5 for each in size)
    truth, other = (values[randoms.integers(0, classes + 1, small)].repeat(5, 0).repeat(5, 1) for _ in range(2))
    prediction = np.where(randoms.random(size) < noise, values[randoms.integers(0, classes + 1, size)], other)
    return np.where(np.arange(size[1]) < size[1] // 2, truth, prediction), truth


def naive_confusion(prediction, truth, classes):
    confusion = np.zeros((classes, classes + 1), int)
    for wanted, got in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if wanted != IGNORE:
            confusion[wanted, 0 if got == IGNORE else got + 1] += 1
    return confusion


def test_an_absent_class_that_is_predicted_tells_the_two_means_apart():
    result = segmentation_result(counts_of(PREDICTION, TRUTH))
    assert result.iou_K[:3].tolist() == [3 / 4, 2 / 4, 0]
    assert math.isnan(result.iou_K[3])
    assert result.miou_union == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert result.miou_present == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert (result.classes, result.classes_present, result.classes_predicted, result.classes_union) == (4, 2, 3, 3)
    assert result.fwiou == pytest.approx((4 * 3 / 4 + 3 * 2 / 4) / 7)
    assert result.macc == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert result.pacc == pytest.approx(5 / 7)


def test_ignored_pixels_count_neither_as_truth_nor_as_prediction():
    counts = counts_of(PREDICTION, TRUTH)
    assert counts.confusion_KP.tolist() == [[0, 3, 1, 0, 0], [0, 0, 2, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert counts.truth_pixels().tolist() == [4, 3, 0, 0]
    assert counts.predicted_pixels().tolist() == [3, 3, 1, 0]
    assert counts.hit_pixels().tolist() == [3, 2, 0, 0]


def test_a_pixel_without_a_label_is_missed_and_is_nobodys_prediction():
    counts = counts_of([[0, X, X, X]], [[0, 0, 1, X]], classes=2)
    assert counts.confusion_KP.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert counts.truth_pixels().tolist() == [2, 1]
    assert counts.predicted_pixels().tolist() == [1, 0]
    result = segmentation_result(counts)
    assert result.iou_K.tolist() == [1 / 2, 0]
    assert (result.miou_union, result.miou_present, result.pacc) == (1 / 4, 1 / 4, 1 / 3)
    assert result.classes_predicted == 1


def test_an_image_that_is_ignored_whole_changes_nothing_and_alone_has_no_result():
    nothing = counts_of([[0, 1], [2, X]], [[X, X], [X, X]])
    assert not nothing.confusion_KP.any()
    known = counts_of(PREDICTION, TRUTH)
    assert (known + nothing).confusion_KP.tolist() == known.confusion_KP.tolist()
    result = segmentation_result(nothing)
    assert all(math.isnan(getattr(result, name)) for name in TITLES)
    assert (result.classes, result.classes_present, result.classes_predicted, result.classes_union) == (4, 0, 0, 0)


def test_a_class_of_one_pixel_weighs_as_much_as_any_other_but_for_fwiou():
    truth = np.zeros((10, 10), np.uint16)
    truth[4, 7] = 1
    result = segmentation_result(count_pixels(truth, truth, 2))
    assert result.iou_K.tolist() == [1, 1]
    missed = segmentation_result(count_pixels(np.zeros_like(truth), truth, 2))
    assert missed.iou_K.tolist() == [99 / 100, 0]
    assert missed.miou_union == missed.miou_present == 99 / 200
    assert missed.fwiou == pytest.approx(99 / 100 * 99 / 100)
    assert missed.macc == 1 / 2
    assert missed.pacc == 99 / 100


def test_every_field_with_a_title_is_a_field_of_the_result():
    assert set(TITLES) < set(SegmentationResult.__dataclass_fields__)
    assert "mIoU" not in TITLES.values()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.9], ids=["runs", "some noise", "noise"])
@pytest.mark.parametrize("classes", [1, 7, 300])
def test_runs_and_single_pixels_count_alike(classes, noise):
    prediction, truth = drawn_maps(3, classes, noise=noise)
    counts = count_pixels(prediction, truth, classes)
    assert counts.confusion_KP.dtype == np.int64
    assert (counts.confusion_KP == naive_confusion(prediction, truth, classes)).all()


def test_an_images_own_score_comes_with_the_sum():
    counts = RunningCounts(4)
    # Class 0: 2 of 4 pixels hit, none more predicted: 2/4. Class 2: 1 of 1, and 1 of class 0: 1/2. The last is ignored.
    assert counts.add(labels([[0, 0, 2, 1, 2, 3]]), labels([[0, 0, 0, 0, 2, IGNORE]])) == (2 / 4 + 1 / 2) / 2
    assert math.isnan(counts.add(labels([[1]]), labels([[IGNORE]])))
    assert counts.add(labels([[IGNORE, 1]]), labels([[1, 1]])) == 1 / 2
    assert counts.total().confusion_KP.sum() == 7
    assert counts.total().predicted_pixels().tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("classes", [7, 300])
def test_scores_and_sum_are_those_of_whole_matrices(noise, classes):
    counts, pairs = RunningCounts(classes), [drawn_maps(seed, classes, noise=noise) for seed in range(3)]
    for pair in pairs:
        assert counts.add(*pair) == segmentation_result(count_images([pair], classes)).miou_present
    assert np.array_equal(counts.total().confusion_KP, count_images(pairs, classes).confusion_KP)


def test_one_pixel_no_pixel_and_the_largest_class():
    assert counts_of([[2]], [[3]]).confusion_KP[3].tolist() == [0, 0, 0, 1, 0]
    assert not count_pixels(np.zeros((0, 5), np.uint16), np.zeros((0, 5), np.uint16), 3).confusion_KP.any()
    assert counts_of([[149] * 3], [[149] * 3], classes=150).hit_pixels()[149] == 3


def test_maps_may_be_views_and_are_left_as_they_are():
    prediction, truth = drawn_maps(5)
    before = prediction.copy(), truth.copy()
    turned = count_pixels(prediction.T, truth.T, 7)
    assert (turned.confusion_KP == count_pixels(prediction, truth, 7).confusion_KP).all()
    assert (prediction == before[0]).all()
    assert (truth == before[1]).all()


def test_any_split_of_the_images_adds_up_to_the_whole():
    images = [drawn_maps(seed, size=(20 + 5 * seed, 30)) for seed in range(6)]
    whole = count_images(images, 7)
    one_by_one = [count_pixels(*image, 7) for image in images]
    workers = [sum(one_by_one[start::2], SegmentationCounts.zero(7)) for start in range(2)]
    assert (whole.confusion_KP == (workers[1] + workers[0]).confusion_KP).all()
    halves = [count_pixels(prediction[rows], truth[rows], 7) for prediction, truth in images for rows in _halves(truth)]
    assert (whole.confusion_KP == sum(halves, SegmentationCounts.zero(7)).confusion_KP).all()
    assert whole.truth_pixels().sum() == sum((truth != IGNORE).sum() for _, truth in images)


def _halves(truth):
    return slice(0, len(truth) // 2), slice(len(truth) // 2, None)


def test_the_result_is_of_the_sums_and_not_a_mean_of_images():
    images = [(labels([[0] * 9 + [1]]), labels([[0] * 10])), (labels([[1]]), labels([[1]]))]
    assert segmentation_result(count_images(images, 2)).iou_K.tolist() == [9 / 10, 1 / 2]


def test_counts_survive_being_stored():
    counts = count_pixels(*drawn_maps(1), 7)
    stored = json.loads(json.dumps(counts.as_json()))
    assert (SegmentationCounts.from_json(stored).confusion_KP == counts.confusion_KP).all()
    nothing = SegmentationCounts.zero(3)
    assert nothing.as_json() == {"classes": 3, "truth": [], "prediction": [], "pixels": []}
    assert SegmentationCounts.from_json(nothing.as_json()).confusion_KP.tolist() == nothing.confusion_KP.tolist()


def test_stored_cells_are_few_and_say_what_they_are():
    counts = counts_of([[0, X, 2]], [[0, 0, 1]], classes=847)
    assert counts.as_json() == {"classes": 847, "truth": [0, 0, 1], "prediction": [-1, 0, 2], "pixels": [1, 1, 1]}


@pytest.mark.parametrize(
    "change",
    [
        {"truth": [3]},
        {"truth": [-1]},
        {"prediction": [3]},
        {"prediction": [-2]},
        {"pixels": [-4]},
        {"pixels": [1.5]},
        {"pixels": ["4"]},
        {"pixels": [1, 2]},
        {"classes": "many"},
    ],
)
def test_what_cannot_have_been_stored_is_refused(change):
    stored = {"classes": 3, "truth": [0], "prediction": [2], "pixels": [4]}
    assert SegmentationCounts.from_json(stored).confusion_KP[0, 3] == 4
    with pytest.raises(ValueError, match="stored counts: wanted classes, truth, prediction, pixels"):
        SegmentationCounts.from_json(stored | change)


def test_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="'pixels'"):
        SegmentationCounts.from_json({"classes": 3, "truth": [], "prediction": []})


def test_maps_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"prediction: wanted \(H, W\) \(1, 2\) as the truth, got \(1, 3\)"):
        counts_of([[0, 0, 0]], [[0, 0]])
    with pytest.raises(ValueError, match="truth: wanted labels below 4 or 65535, got 4"):
        counts_of([[0, 0]], [[4, 0]])
    with pytest.raises(ValueError, match="prediction: wanted labels below 4 or 65535, got 65534"):
        counts_of([[0, 65534]], [[0, 0]])
    with pytest.raises(ValueError, match="prediction: wanted labels below 4 or 65535, got 255"):
        counts_of([[255, 0] * 20], [[0, 1] * 20])
    with pytest.raises(ValueError, match=r"truth: wanted uint16 \(H, W\), got uint8 \(1, 2\)"):
        count_pixels(labels([[0, 0]]), np.zeros((1, 2), np.uint8), 4)
    with pytest.raises(ValueError, match="classes: wanted 1 to 65535, got 0"):
        count_images([], 0)


def test_counts_of_other_classes_do_not_add():
    with pytest.raises(ValueError, match="wanted 3 classes in both, got 4 in the second"):
        SegmentationCounts.zero(3) + SegmentationCounts.zero(4)


def test_seen_and_unseen_classes_by_both_denominators():
    # IoU 3/4, 2/4, 0 (predicted only), none: seen are 0 and 2, unseen 1 and 3.
    split = split_result(counts_of(PREDICTION, TRUTH), np.array([True, False, True, False]))
    assert split.miou_union == SplitMeans(seen=(3 / 4 + 0) / 2, unseen=2 / 4)
    assert split.miou_present == SplitMeans(seen=3 / 4, unseen=2 / 4)
    assert split.miou_present.harmonic == pytest.approx(2 * (3 / 4) * (1 / 2) / (3 / 4 + 1 / 2))


def test_a_harmonic_mean_of_nothing_and_of_zero():
    split = split_result(counts_of(PREDICTION, TRUTH), np.ones(4, bool))
    assert split.miou_union.seen == pytest.approx(1.25 / 3)
    assert math.isnan(split.miou_union.unseen)
    assert math.isnan(split.miou_union.harmonic)
    assert SplitMeans(0.0, 0.0).harmonic == 0
    assert SplitMeans(0.0, 0.5).harmonic == 0


def test_a_split_wants_one_flag_a_class():
    with pytest.raises(ValueError, match=r"seen classes: wanted bool \(4,\), got bool \(3,\)"):
        split_result(counts_of(PREDICTION, TRUTH), np.ones(3, bool))


@pytest.mark.parametrize("noise", [0.0, 0.9], ids=["runs", "noise"])
def test_torchmetrics_counts_the_same_matrix(noise):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    prediction, truth = drawn_maps(2, noise=noise)
    prediction[prediction == IGNORE] = 0  # it knows no pixel without a label
    tensors = (torch.from_numpy(each.astype(np.int64)) for each in (prediction, truth))
    theirs = classification.multiclass_confusion_matrix(*tensors, num_classes=7, ignore_index=IGNORE)
    assert count_pixels(prediction, truth, 7).confusion_KP[:, 1:].tolist() == theirs.tolist()


def test_sklearn_counts_the_same_matrix():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    prediction, truth = drawn_maps(2)
    kept = truth != IGNORE
    # As a label of its own, "none" is a last column there.
    theirs = metrics.confusion_matrix(truth[kept], prediction[kept], labels=[*range(7), IGNORE])
    ours = count_pixels(prediction, truth, 7).confusion_KP
    assert ours[:, 1:].tolist() == theirs[:-1, :-1].tolist()
    assert ours[:, 0].tolist() == theirs[:-1, -1].tolist()

"""Pictures of label maps show the labels they say, at any size and for any names."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_model.datasets.benchmark import IGNORE
from pipelines.draw_pairs import LABEL_PX, TILE_PX
from pipelines.draw_segmentation import (
    BORDER_RGB,
    LEAST_FONT_PX,
    LEAST_SIDE_PX,
    ROWS_A_COLUMN,
    JudgedImage,
    LegendEntry,
    bar_labels,
    class_borders,
    class_colours,
    draw_legend,
    draw_overlay_with_legend,
    legend_entries,
    overlay,
    per_class_bars,
    worst_and_best,
)

REPOSITORY = Path(__file__).parent.parent
COLOURS = np.array([[200, 0, 0], [0, 100, 0], [0, 0, 50]], np.uint8)
NAMES = ("sofa", "lamp", "wall")


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def grey(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def halves(height, width, left=0, right=IGNORE):
    labels = np.full((height, width), left, np.uint16)
    labels[:, width // 2 :] = right
    return labels


def test_colours_are_all_different_and_stay_the_same():
    colours = class_colours(847)
    assert colours.shape == (847, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == 847
    assert (class_colours(20) == colours[:20]).all()
    assert class_colours(0).shape == (0, 3)


def test_the_first_colours_are_far_apart():
    colours = class_colours(8).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert distances[~np.eye(8, dtype=bool)].min() > 100


def test_a_class_is_tinted_and_its_border_dark_and_the_rest_stays():
    image, labels = grey(4, 8), halves(4, 8)
    drawn = overlay(image, labels, COLOURS)
    assert drawn[1, 0].tolist() == [150, 50, 50]
    assert drawn[1, 3].tolist() == list(BORDER_RGB)
    assert (drawn[:, 4:] == 100).all()
    assert (image == 100).all()


def test_alpha_weighs_the_colour():
    assert overlay(grey(2, 2), np.zeros((2, 2), np.uint16), COLOURS, 0.25)[0, 0].tolist() == [125, 75, 75]
    assert overlay(grey(2, 2), np.zeros((2, 2), np.uint16), COLOURS, 1)[0, 0].tolist() == [200, 0, 0]


def test_an_image_without_labels_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    assert (overlay(image, np.full((5, 6), IGNORE, np.uint16), COLOURS) == image).all()


def test_borders_lie_on_both_sides_of_a_change_and_grow_with_the_image():
    assert class_borders(halves(2, 6)).tolist() == [[False, False, True, True, False, False]] * 2
    assert class_borders(halves(6, 2).T).any(axis=1).tolist() == [True, True]
    assert class_borders(halves(2000, 2000)).sum() == 2000 * 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"labels: wanted \(H, W\) \(4, 8\) as the image, got \(4, 7\)"):
        overlay(grey(4, 8), halves(4, 7), COLOURS)
    with pytest.raises(ValueError, match="labels: wanted below 3, as there are colours, or 65535, got 3"):
        overlay(grey(4, 8), halves(4, 8, right=3), COLOURS)
    with pytest.raises(ValueError, match="image: wanted RGB uint8"):
        overlay(np.zeros((4, 8), np.uint8), halves(4, 8), COLOURS)
    with pytest.raises(ValueError, match="bars: wanted one number a name, got 2 of 3"):
        per_class_bars(NAMES, np.zeros(2))


def test_the_legend_goes_by_area_and_ends_with_what_has_no_label():
    labels = np.array([[1, 1, 2, 2, 0, 2, 2, IGNORE, IGNORE, IGNORE]], np.uint16)
    assert legend_entries(labels, NAMES, COLOURS) == [
        LegendEntry("wall", 0.4, (0, 0, 50)),
        LegendEntry("lamp", 0.2, (0, 100, 0)),
        LegendEntry("sofa", 0.1, (200, 0, 0)),
        LegendEntry("no label", 0.3, None),
    ]


def test_classes_of_equal_area_stand_in_their_own_order():
    assert [each.name for each in legend_entries(halves(2, 4, 2, 1), NAMES, COLOURS)] == ["lamp", "wall"]


def test_a_picture_holds_the_overlay_and_a_swatch_of_each_class_below():
    image, labels = grey(500, 600), halves(500, 600, 0, 2)
    sheet = opened(draw_overlay_with_legend(image, labels, NAMES, COLOURS))
    assert (sheet[:500, :600] == overlay(image, labels, COLOURS)).all()
    below = sheet[500:].reshape(-1, 3).tolist()
    assert below.count([200, 0, 0]) >= LEAST_FONT_PX**2
    assert below.count([0, 0, 50]) >= LEAST_FONT_PX**2
    assert [0, 100, 0] not in below


@pytest.mark.parametrize(("height", "width"), [(1, 1), (75, 100), (480, 640), (40, 900)])
def test_small_images_are_enlarged_and_letters_can_be_read(height, width):
    sheet = opened(draw_overlay_with_legend(grey(height, width), halves(height, width), NAMES, COLOURS))
    scale = -(-LEAST_SIDE_PX // max(height, width))
    assert sheet.shape[1] >= width * scale >= min(width, LEAST_SIDE_PX)
    assert sheet.shape[0] > height * scale + LEAST_FONT_PX


def test_letters_grow_with_the_picture_and_long_names_are_shortened():
    entry = LegendEntry("a very long name indeed, " * 10, 0.5, (1, 2, 3))
    small, large = draw_legend([entry], 100, 640), draw_legend([entry], 100, 4000)
    assert small.width < 450
    assert large.height > 5 * small.height
    assert large.width < 4000


def test_many_classes_take_as_many_rows_as_they_need():
    entries = [LegendEntry(f"class {number}", 0.01, (number, 0, 0)) for number in range(100)]
    legend = np.asarray(draw_legend(entries, 640, 640))
    assert legend.shape[1] == 640
    assert {(number, 0, 0) for number in range(1, 100)} <= set(map(tuple, legend.reshape(-1, 3).tolist()))


def test_nothing_at_all_has_an_empty_legend():
    assert draw_legend([], 640, 640).width == 640


def test_names_with_umlauts_are_written_and_not_boxes():
    letters = [np.asarray(draw_legend([LegendEntry(name, 0.5, (1, 2, 3))], 300, 480)) for name in "äöß"]
    assert len({each.tobytes() for each in letters}) == 3


def bar_pixels(png, rgb):
    return (np.abs(opened(png).astype(int) - rgb).sum(axis=2) < 6).sum()


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def test_bars_are_as_long_as_the_iou():
    half, whole = (bar_pixels(per_class_bars(["sofa"], np.array([iou])), BLUE) for iou in (0.5, 1.0))
    assert 1.9 < whole / half < 2.1


def test_absent_classes_have_no_bar_but_a_row():
    there, absent = (per_class_bars(["sofa", "lamp"], np.array([0.5, iou])) for iou in (0.4, np.nan))
    assert opened(there).shape == opened(absent).shape
    assert bar_pixels(absent, BLUE) < 0.7 * bar_pixels(there, BLUE)


def test_what_was_missed_is_told_from_what_was_only_predicted():
    share = np.array([0.5, 0.0, 0.0, np.nan])
    present = np.array([True, True, False, False])
    assert bar_labels(share, present) == ["50.0", "0.0", "absent, yet predicted", "absent"]
    assert bar_labels(share, None) == ["50.0", "0.0", "0.0", "absent"]


def test_seen_and_unseen_classes_have_their_colours():
    png = per_class_bars(["sofa", "lamp"], np.array([0.8, 0.8]), "two", np.array([True, False]))
    assert 0.9 < bar_pixels(png, BLUE) / bar_pixels(png, ORANGE) < 1.1
    assert bar_pixels(per_class_bars(["sofa", "lamp"], np.array([0.8, 0.8])), ORANGE) == 0


def test_many_classes_make_panels_side_by_side():
    one, two = (
        opened(per_class_bars([f"class {number}" for number in range(count)], np.linspace(0, 1, count)))
        for count in (ROWS_A_COLUMN, ROWS_A_COLUMN + 1)
    )
    assert two.shape[1] == 2 * one.shape[1]
    assert two.shape[0] < one.shape[0]


def test_any_name_is_written_as_it_is():
    names, iou = ["$x", "a_{b} $\\frac", "bed ", "tab\tnew\nline"], np.array([0.1, 0.2, np.nan, 0])
    assert per_class_bars(names, iou, "a $ b") == per_class_bars(names, iou, "a $ b")


def test_bars_leave_no_state_in_pyplot():
    imports = "import sys, numpy; from pipelines.draw_segmentation import per_class_bars"
    loaded = "print(*(f'matplotlib.{each}' in sys.modules for each in ('figure', 'pyplot')))"
    code = f"{imports}; per_class_bars(['a'], numpy.ones(1)); {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_line_of_the_sheet_is_image_truth_and_prediction():
    rows = [
        JudgedImage(grey(50, 50), halves(50, 50, 0, 0), halves(50, 50, 1, 1), "a.jpg", 0.0),
        JudgedImage(grey(50, 90), halves(50, 90, 2, 2), halves(50, 90), "with_a_very_long_name_that_goes_on.jpg", 0.5),
    ]
    sheet = opened(worst_and_best(rows, NAMES, COLOURS))
    assert sheet.shape == (2 * (TILE_PX + LABEL_PX), 3 * TILE_PX, 3)
    centres = [sheet[TILE_PX // 2, TILE_PX // 2 + column * TILE_PX].tolist() for column in range(3)]
    assert centres == [[100, 100, 100], [170, 30, 30], [30, 100, 30]]
    assert sheet[TILE_PX + LABEL_PX + TILE_PX // 2, TILE_PX + TILE_PX // 2].tolist() == [30, 30, 65]
    # Something is written below each.
    labels = sheet[TILE_PX : TILE_PX + LABEL_PX].reshape(LABEL_PX, 3, TILE_PX, 3)
    assert (labels.min(axis=(0, 2, 3)) < 100).all()

"""Pictures of label maps and of what they score: overlays with a legend, bars a class, sheets of images with both maps.

Label maps are uint16, classes 0 to K-1, IGNORE where there is no label. Array names end in their axes: H and W pixels,
K classes, 3 colour channels in RGB order.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg_model.datasets.benchmark import IGNORE
from pipelines.draw_pairs import TILE_PX, draw_tile, sheet_png
from pipelines.terminal import escaped, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOLDEN_RATIO = 0.618034
HUES = (0, 0.08, 0.16, 0.34, 0.5, 0.58, 0.66, 0.77, 0.87, 1)
"""Red, orange, yellow, green, cyan, azure, blue, violet, pink, red in equal steps: a third of all hues is green."""
LIGHTNESS = (0.5, 0.34, 0.68)
SATURATION = (0.85, 0.6)
"""Hues that are close come after each other only with another lightness or saturation."""

BORDER_RGB = (25, 25, 25)
BORDERS_A_SIDE = 400
"""A border is one pixel to either side on images up to so many pixels high or wide, thicker on larger ones."""

LEAST_SIDE_PX = 480
"""Smaller images are enlarged, pixels staying squares: the legend needs room."""
LEAST_FONT_PX = 15
FONTS_A_SIDE = 45
"""A large picture is looked at scaled down, so its letters grow with it."""
NAME_CHARS = 28
QUICK_COMPRESSION = 3
"""Of PNG: half of the seconds that 4000 px take, for files a seventh larger."""
UNLABELLED = "no label"

ROWS_A_COLUMN, PANELS_A_LINE = 60, 5
BAR_ROW_INCHES, BAR_COLUMN_INCHES = 0.17, 4.2
BAR_NAME_CHARS = 30
SEEN_COLOUR, UNSEEN_COLOUR = "tab:blue", "tab:orange"

TILE_LABEL_FONT_PX = 15


class LegendEntry(NamedTuple):
    """A line of a legend."""

    name: str
    share: float
    """Of all pixels, 0 to 1."""

    colour: tuple[int, int, int] | None
    """None of pixels without a label, which have none."""


class JudgedImage(NamedTuple):
    """An image with both of its label maps, and what it scored."""

    image_HW3: np.ndarray
    truth_HW: np.ndarray
    prediction_HW: np.ndarray
    name: str
    score: float
    """0 to 1."""


def class_colours(classes: int) -> np.ndarray:
    """Returns as many different colours, the same for a class whatever follows it, uint8 (K, 3)."""
    numbers_K = np.arange(classes)
    hues_K = np.interp(numbers_K * GOLDEN_RATIO % 1, np.linspace(0, 1, len(HUES)), HUES)
    lightness_K, saturation_K = np.take(LIGHTNESS, numbers_K % 3), np.take(SATURATION, numbers_K // 3 % 2)
    colours = [colorsys.hls_to_rgb(*each) for each in zip(hues_K, lightness_K, saturation_K, strict=True)]
    return np.round(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)


def overlay(image_HW3: np.ndarray, labels_HW: np.ndarray, colours_K3: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Returns the image tinted by class, borders of classes dark, pixels without a label as they are.

    image_HW3: RGB uint8; labels_HW: uint16; colours_K3: uint8; alpha: weight of the colour, 0 to 1. Returns uint8
    (H, W, 3). Raises ValueError when the frames differ or a label has no colour.
    """
    _check_labels(image_HW3, labels_HW, len(colours_K3))
    # Colours weighed beforehand, and black behind the last one: IGNORE must index something.
    weighed_K3 = np.concatenate([alpha * colours_K3.astype(np.float32), np.zeros((1, 3), np.float32)])
    tinted_HW3 = (1 - alpha) * image_HW3.astype(np.float32) + weighed_K3[np.minimum(labels_HW, len(colours_K3))]
    drawn_HW3 = np.round(tinted_HW3).astype(np.uint8)
    drawn_HW3[class_borders(labels_HW)] = BORDER_RGB
    unlabelled_HW = labels_HW == IGNORE
    drawn_HW3[unlabelled_HW] = image_HW3[unlabelled_HW]
    return drawn_HW3


def _check_labels(image_HW3: np.ndarray, labels_HW: np.ndarray, classes: int) -> None:
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(f"image: wanted RGB uint8 (H, W, 3), got {image_HW3.dtype} {image_HW3.shape}")
    if labels_HW.shape != image_HW3.shape[:2]:
        raise ValueError(f"labels: wanted (H, W) {image_HW3.shape[:2]} as the image, got {labels_HW.shape}")
    unknown = labels_HW[(labels_HW >= classes) & (labels_HW != IGNORE)]
    if unknown.size:
        raise ValueError(f"labels: wanted below {classes}, as there are colours, or {IGNORE}, got {unknown[0]}")


def class_borders(labels_HW: np.ndarray) -> np.ndarray:
    """Returns the pixels beside which the label changes along a row or column, bool (H, W); not its edge."""
    step = max(1, round(min(labels_HW.shape) / BORDERS_A_SIDE))
    borders_HW = np.zeros(labels_HW.shape, bool)
    changes = labels_HW[step:] != labels_HW[:-step]
    borders_HW[step:] |= changes
    borders_HW[:-step] |= changes
    changes = labels_HW[:, step:] != labels_HW[:, :-step]
    borders_HW[:, step:] |= changes
    borders_HW[:, :-step] |= changes
    return borders_HW


def draw_overlay_with_legend(
    image_HW3: np.ndarray, labels_HW: np.ndarray, names: Sequence[str], colours_K3: np.ndarray
) -> bytes:
    """Returns the overlay, a legend of the classes that occur below it, as PNG.

    names: K. Classes stand in order of area with their share of the image. Raises ValueError as `overlay` does.
    """
    scale = -(-LEAST_SIDE_PX // max(labels_HW.shape))
    enlarged = (each.repeat(scale, axis=0).repeat(scale, axis=1) for each in (image_HW3, labels_HW))
    picture = Image.fromarray(overlay(*enlarged, colours_K3))
    legend = draw_legend(legend_entries(labels_HW, names, colours_K3), picture.width, max(picture.size))
    sheet = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), "white")
    sheet.paste(picture, (0, 0))
    sheet.paste(legend, (0, picture.height))
    png = io.BytesIO()
    sheet.save(png, "png", compress_level=QUICK_COMPRESSION)
    return png.getvalue()


def legend_entries(labels_HW: np.ndarray, names: Sequence[str], colours_K3: np.ndarray) -> list[LegendEntry]:
    """Returns the classes that occur, the largest first, of equals the first; last what has no label, if anything."""
    pixels = np.bincount(labels_HW.ravel(), minlength=IGNORE + 1)
    order = np.argsort(-pixels[:IGNORE], kind="stable")[: np.count_nonzero(pixels[:IGNORE])].tolist()
    entries = [
        LegendEntry(names[each], pixels[each] / labels_HW.size, tuple(colours_K3[each].tolist())) for each in order
    ]
    if pixels[IGNORE]:
        entries.append(LegendEntry(UNLABELLED, pixels[IGNORE] / labels_HW.size, None))
    return entries


def draw_legend(entries: Sequence[LegendEntry], width_px: int, side_px: int) -> Image.Image:
    """Returns the entries in columns, read downwards.

    width_px: what there is room for; the legend is wider only if one column already is. side_px: of the picture above,
    which letters grow with.
    """
    font_px = max(LEAST_FONT_PX, side_px // FONTS_A_SIDE)
    font = _font(font_px)
    lines = [f"{shortened(escaped(each.name.strip()), NAME_CHARS)}  {_percent(each.share)}" for each in entries]
    gap, row_px = font_px // 2, round(1.5 * font_px)
    column_px = 3 * gap + font_px + round(max(map(font.getlength, lines), default=0))
    columns = max(1, min(width_px // column_px, len(entries)))
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (max(width_px, column_px), rows * row_px + gap), "white")
    draw = ImageDraw.Draw(legend)
    for number, (entry, line) in enumerate(zip(entries, lines, strict=True)):
        left, top = gap + number // rows * column_px, gap + number % rows * row_px
        outline = "black" if entry.colour is None else entry.colour
        draw.rectangle((left, top, left + font_px, top + font_px), entry.colour, outline)
        draw.text((left + font_px + gap, top + font_px / 2), line, "black", font, "lm")
    return legend


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """A font with the letters of most languages written in Latin, Greek or Cyrillic; Pillow's own has only English."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size_px)


def _percent(share: float) -> str:
    """One decimal, and never 0.0 of something."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def per_class_bars(
    names: Sequence[str],
    iou_K: np.ndarray,
    title: str = "",
    seen_K: np.ndarray | None = None,
    present_K: np.ndarray | None = None,
    measure: str = "IoU",
) -> bytes:
    """Returns a bar a class as PNG, the highest IoU first, in panels of at most ROWS_A_COLUMN, read line by line.

    iou_K: 0 to 1; NaN of classes neither present nor predicted, which stand last, as absent. seen_K: bool, classes seen
    in training, which get another colour than the others. present_K: bool, classes that the truth has; None takes all
    that are no NaN. A class that was only predicted has the number 0, as one that was missed, and is marked. measure:
    what the numbers are called. Raises ValueError when the lengths differ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(names) == len(iou_K) == (len(iou_K) if seen_K is None else len(seen_K)):
        raise ValueError(f"bars: wanted one number a name, got {len(iou_K)} of {len(names)}")
    order = np.argsort(-iou_K, kind="stable")  # NaN last
    labels = bar_labels(iou_K, present_K)
    panels = max(1, -(-len(order) // ROWS_A_COLUMN))
    rows = -(-len(order) // panels)
    columns = min(panels, PANELS_A_LINE)
    lines = -(-panels // columns)
    size = (BAR_COLUMN_INCHES * columns, (BAR_ROW_INCHES * rows + 0.5) * lines + 0.5)
    figure = Figure(size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False, wrap=True, fontsize=10)
    for number, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        shown = order[number * rows : (number + 1) * rows]
        bars = [Bar(names[each], iou_K[each], labels[each], seen_K is None or bool(seen_K[each])) for each in shown]
        _draw_bars(axes, bars, rows, measure)
    if seen_K is not None:
        _add_seen_legend(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


class Bar(NamedTuple):
    """A row of the picture."""

    name: str
    share: float
    """0 to 1, or NaN."""

    label: str
    is_seen: bool


def bar_labels(share_K: np.ndarray, present_K: np.ndarray | None) -> list[str]:
    """Returns what stands behind each bar: a number in percent, or why there is no bar."""
    present_K = ~np.isnan(share_K) if present_K is None else present_K
    return [
        "absent" if np.isnan(share) else f"{100 * share:.1f}" if present else "absent, yet predicted"
        for share, present in zip(share_K, present_K, strict=True)
    ]


def _draw_bars(axes: Axes, bars: Sequence[Bar], rows: int, measure: str) -> None:
    """One column of bars, of `rows` rows, from the top."""
    if not bars:
        axes.set_axis_off()
        return
    widths = [0 if np.isnan(bar.share) else 100 * bar.share for bar in bars]
    axes.barh(range(len(bars)), widths, color=[SEEN_COLOUR if bar.is_seen else UNSEEN_COLOUR for bar in bars])
    for place, (bar, width) in enumerate(zip(bars, widths, strict=True)):
        colour = "grey" if bar.label.startswith("absent") else "black"
        axes.text(width + 1, place, bar.label, va="center", fontsize=7, color=colour)
    labels = [shortened(escaped(bar.name.strip()), BAR_NAME_CHARS) for bar in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=8, parse_math=False)
    axes.set(xlim=(0, 112), ylim=(rows - 0.4, -0.6), xlabel=f"{measure}, %", xticks=range(0, 101, 20))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _add_seen_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=SEEN_COLOUR, label="seen in training"), Patch(color=UNSEEN_COLOUR, label="unseen")]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def worst_and_best(rows: Sequence[JudgedImage], names: Sequence[str], colours_K3: np.ndarray, title: str = "") -> bytes:
    """Returns a sheet as PNG, one line an image: itself with its score, its truth, its prediction, classes named below.

    Raises ValueError as `overlay` does.
    """
    return sheet_png([tile for row in rows for tile in _row_tiles(row, names, colours_K3)], 3, title)


def _row_tiles(row: JudgedImage, names: Sequence[str], colours_K3: np.ndarray) -> list[Image.Image]:
    tiles = [draw_tile(Image.fromarray(row.image_HW3), _fitted(f"{100 * row.score:.1f} %  {row.name}"))]
    for kind, labels_HW in (("truth", row.truth_HW), ("prediction", row.prediction_HW)):
        entries = legend_entries(labels_HW, names, colours_K3)
        label = _fitted(f"{kind}: " + ", ".join(each.name.strip() for each in entries))
        tiles.append(draw_tile(Image.fromarray(overlay(row.image_HW3, labels_HW, colours_K3, 0.7)), label))
    return tiles


def _fitted(text: str) -> str:
    """As much of a line as a tile has room for."""
    font, text = ImageFont.load_default(TILE_LABEL_FONT_PX), escaped(text)
    chars = len(text)
    while font.getlength(shortened(text, chars)) > TILE_PX - 8:
        chars -= 1
    return shortened(text, chars)

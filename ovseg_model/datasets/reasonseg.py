"""ReasonSeg (Lai et al., LISA, CVPR 2024): implicit questions, and the region that answers each.

ROOT/ReasonSeg/{train,val,test}/NAME.jpg, NAME.json
ROOT/reason_seg/ReasonSeg/... (LISA's tree) and ROOT/{train,val,test}/... are found too.

A JSON has `text` (LISA's evaluation asks the first), `is_sentence`, and `shapes`: polygons labelled target or ignore.
Polygons are drawn over each other, the largest first, inside and edge. One sample an image, sorted by name. Array names
end in their axes: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ovseg_model.datasets.dataset_files import find_place, image_size_px, read_json
from ovseg_model.datasets.referring import ReferringBenchmark, ReferringSample
from ovseg_model.proposals.annotations import MAX_COORDINATE_PX
from ovseg_model.rle import Rle, encode_labels, encode_masks
from schemas.errors import UserError

SOURCE = "LISA, https://github.com/dvlab-research/LISA#dataset"

SHORT, LONG = "short", "long"

TARGET, IGNORED = 1, 2
"""Values of a drawn map; 0 is the rest."""

NOTES = (
    "An image's first text is asked. gIoU is the mean of the images' IoU, an empty union counting as 1; "
    "cIoU the sum of intersections over the sum of unions; pixels marked ignore are not scored."
)

Point = tuple[int, int]
"""x and y in pixels."""


class Shape(NamedTuple):
    """A polygon, closed, and its value in the drawn map."""

    points: tuple[Point, ...]
    value: int


def read_shapes(rows: Sequence[dict[str, Any]]) -> list[Shape]:
    """Returns the polygons of a JSON's `shapes`: coordinates lose their fraction; those labelled flag are left out.

    Raises KeyError, TypeError or ValueError for rows of another kind.
    """
    labelled = [(row["label"].lower(), row["points"]) for row in rows]
    return [
        Shape(_whole_pixels(points), IGNORED if "ignore" in label else TARGET)
        for label, points in labelled
        if label != "flag" and points
    ]


def _whole_pixels(points: Sequence[Sequence[float]]) -> tuple[Point, ...]:
    whole = tuple((int(x), int(y)) for x, y in points)
    # Every pixel of an edge is walked along, inside the image or not.
    if max(abs(each) for point in whole for each in point) > MAX_COORDINATE_PX:
        raise ValueError(f"a point lies further out than {MAX_COORDINATE_PX} pixels")
    return whole


def draw_shapes(shapes: Sequence[Shape], height: int, width: int) -> np.ndarray:
    """Returns the map of TARGET and IGNORED, uint8 (H, W): a smaller polygon lies over a larger one.

    Of equal areas the one that stands first lies on top. Areas are of what is inside the image.
    """
    areas = [_area_px(shape, height, width) for shape in shapes]
    order = sorted(range(len(shapes)), key=lambda index: (-areas[index], -index))
    canvas = Image.new("L", (width, height))
    for index in order:
        _draw(canvas, shapes[index].points, shapes[index].value)
    return np.asarray(canvas)


def _area_px(shape: Shape, height: int, width: int) -> int:
    """Pixels inside the image, counted on a canvas of the polygon's own box."""
    xs, ys = zip(*shape.points, strict=True)
    left, top = max(0, min(xs)), max(0, min(ys))
    right, bottom = min(width, max(xs) + 1), min(height, max(ys) + 1)
    if right <= left or bottom <= top:
        return 0
    canvas = Image.new("L", (right - left, bottom - top))
    _draw(canvas, [(x - left, y - top) for x, y in shape.points], 1)
    return int(np.count_nonzero(canvas))


def _draw(canvas: Image.Image, points: Sequence[Point], value: int) -> None:
    """Draws the inside and the edge, as LISA does (fillPoly and polylines)."""
    draw = ImageDraw.Draw(canvas)
    draw.line([*points, points[0]], fill=value)
    if len(points) > 2:
        draw.polygon(points, fill=value)


def read_split(root: Path, split: str) -> list[ReferringSample]:
    """Returns the samples of a split, sorted by name. Raises UserError."""
    folders = [root / "ReasonSeg" / split, root / "reason_seg" / "ReasonSeg" / split, root / split]
    folder = find_place(f"ReasonSeg {split}", folders, SOURCE)
    images = sorted(folder.glob("*.jpg"))
    if not images:
        raise UserError(f"ReasonSeg {split}: {folder} has no .jpg; its images and JSON files come from {SOURCE}")
    return [read_sample(image) for image in images]


def read_sample(image: Path) -> ReferringSample:
    """Returns the sample of an image, whose JSON lies beside it. Raises UserError."""
    path = find_place("ReasonSeg", [image.with_suffix(".json")], SOURCE)
    document = read_json(path)
    try:
        texts = document["text"]
        text = str(texts if isinstance(texts, str) else texts[0]).strip()
        group = LONG if document["is_sentence"] else SHORT
        shapes = read_shapes(document["shapes"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: wanted text, is_sentence and shapes (label, points); got {type(error).__name__}: {error}"
        ) from error
    drawn_HW = draw_shapes(shapes, *image_size_px(str(image)))
    masks = dict(zip(*encode_labels(drawn_HW), strict=True))
    return ReferringSample(
        image.stem, str(image), text, masks.get(TARGET) or _empty(drawn_HW), masks.get(IGNORED), group
    )


def _empty(drawn_HW: np.ndarray) -> Rle:
    return encode_masks(np.zeros((1, *drawn_HW.shape), bool))[0]


REASONSEG = ReferringBenchmark(
    "reasonseg", "ReasonSeg", {"train": 239, "val": 200, "test": 779}, "val", read_split, NOTES, (SHORT, LONG)
)

"""Seeded, schema-true rows and small drawn images with captions, for tests, the demo and the docs."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.conform import conform_rows
from schemas.table import Table

GROUNDS = {"grass": (86, 140, 60), "sand": (214, 190, 130), "water": (60, 110, 170), "snow": (235, 238, 245)}
COLOURS = {"red": (200, 40, 40), "yellow": (235, 205, 60), "purple": (120, 60, 150), "black": (40, 40, 45)}
SKY = (150, 195, 235)

CAPTION_FORMS = (
    "a {colour} {thing} on the {ground}",
    "A photo of a {colour} {thing} and a {other} near the {ground}.",
    "There is a {other} next to a {thing} under a clear sky.",
    "view of two things, a {thing} and a {other}, on {ground}",
    "The {thing} stands beside a {other}.",
)

Polygon = list[tuple[float, float]]


def example_rows(table: Table, rows: int, seed: int = 0) -> pa.Table:
    """`rows` conforming rows of a table, the same for the same seed; their values fit each other within a row.

    Masks are full rectangles, so that size, box and area agree.
    """
    randoms = random.Random(f"{table.name} {seed}")
    return conform_rows([_example_row(table, index, randoms) for index in range(rows)], table)


def draw_examples(folder: str | Path, images: int, seed: int = 0, size_px: int = 160) -> Path:
    """Draws captioned images and writes them in COCO's layout.

    `folder` gets images/00000.png … (RGB, `size_px` square), captions.json (five captions an image) and
    instances.json (the drawn things as polygons). Returns the folder.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    scenes = [_draw_scene(folder / "images", index, f"{seed} {index}", size_px) for index in range(images)]
    entries = [scene["image"] for scene in scenes]
    captions = [caption for scene in scenes for caption in scene["captions"]]
    instances = [instance for scene in scenes for instance in scene["instances"]]
    categories = [{"id": number, "name": name} for number, name in enumerate(THINGS, 1)]
    _write_json(folder / "captions.json", {"images": entries, "annotations": captions})
    _write_json(folder / "instances.json", {"images": entries, "annotations": instances, "categories": categories})
    return folder


def ball(x: float, y: float, r: float) -> Polygon:
    """A circle of radius `r` around (x, y), as a polygon in pixels."""
    return [(x + r * math.cos(k * math.pi / 16), y + r * math.sin(k * math.pi / 16)) for k in range(32)]


def box(x: float, y: float, r: float) -> Polygon:
    """A square."""
    return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]


def kite(x: float, y: float, r: float) -> Polygon:
    """A diamond that stands on its long point."""
    return [(x, y - r), (x + 0.7 * r, y - 0.2 * r), (x, y + 1.2 * r), (x - 0.7 * r, y - 0.2 * r)]


def tree(x: float, y: float, r: float) -> Polygon:
    """A triangle on a trunk."""
    crown = [(x - 0.2 * r, y + 0.5 * r), (x - r, y + 0.5 * r), (x, y - 1.2 * r), (x + r, y + 0.5 * r)]
    return [*crown, (x + 0.2 * r, y + 0.5 * r), (x + 0.2 * r, y + 1.1 * r), (x - 0.2 * r, y + 1.1 * r)]


THINGS: dict[str, Callable[[float, float, float], Polygon]] = {"ball": ball, "box": box, "kite": kite, "tree": tree}
"""What is drawn, by noun."""


def _draw_scene(folder: Path, index: int, seed: str, size_px: int) -> dict[str, Any]:
    from PIL import Image, ImageDraw

    randoms = random.Random(seed)
    ground = randoms.choice(list(GROUNDS))
    thing, other = randoms.sample(list(THINGS), 2)
    colour, other_colour = randoms.sample(list(COLOURS), 2)
    picture = Image.new("RGB", (size_px, size_px), SKY)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, int(size_px * randoms.uniform(0.45, 0.7)), size_px, size_px), GROUNDS[ground])
    instances = []
    for place, (name, paint) in enumerate([(thing, colour), (other, other_colour)]):
        centre = size_px * (0.28 + 0.45 * place + randoms.uniform(-0.05, 0.05)), size_px * randoms.uniform(0.4, 0.7)
        polygon = THINGS[name](*centre, size_px * randoms.uniform(0.12, 0.2))
        draw.polygon(polygon, COLOURS[paint])
        instances.append(_instance(2 * index + place + 1, index, name, polygon))
    file_name = f"{index:05d}.png"
    picture.save(folder / file_name)
    names = {"colour": colour, "thing": thing, "other": other, "ground": ground}
    texts = [form.format(**names) for form in CAPTION_FORMS]
    captions = [
        {"id": len(texts) * index + number, "image_id": index, "caption": text} for number, text in enumerate(texts)
    ]
    image = {"id": index, "file_name": file_name, "width": size_px, "height": size_px}
    return {"image": image, "captions": captions, "instances": instances}


def _instance(number: int, image_id: int, name: str, polygon: Polygon) -> dict[str, Any]:
    xs, ys = zip(*polygon, strict=True)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": list(THINGS).index(name) + 1,
        "iscrowd": 0,
        "segmentation": [[round(value, 2) for point in polygon for value in point]],
        "bbox": [round(min(xs), 2), round(min(ys), 2), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": round((max(xs) - min(xs)) * (max(ys) - min(ys)), 2),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _example_row(table: Table, index: int, randoms: random.Random) -> dict[str, Any]:
    noun, caption = randoms.choice(list(THINGS)), "a red thing on the grass"
    height, width = randoms.randrange(4, 9), randoms.randrange(4, 9)
    values = {
        "image_id": f"image-{index:04d}",
        "image_uri": f"images/{index:04d}.png",
        "image_sha256": hashlib.sha256(str(index).encode()).hexdigest(),
        "height": height,
        "width": width,
        "mask": full_mask(height, width),
        "box_xywh_px": [0, 0, width, height],
        "area_px": height * width,
        "noun": noun,
        "surface": noun,
        "head": noun,
        "lemma": noun,
        "tag_pattern": "NN",
        "start_char": 2,
        "end_char": 2 + len(noun),
        "caption": caption,
        "pair_id": hashlib.sha256(f"{index} {noun}".encode()).hexdigest()[:32],
        "cosine": round(randoms.uniform(0.1, 0.4), 3),
        "probability": round(randoms.random(), 3),
        "margin": round(randoms.uniform(0, 0.1), 3),
        "mask_rank": 1,
        "noun_rank": 1,
        "runner_up_nouns": [{"noun": "sky", "cosine": 0.05}],
        "runner_up_masks": [],
        "image_phash": hashlib.sha256(str(index).encode()).hexdigest()[:16],
        "generator": "felzenszwalb",
        "scorer": "example",
        "stage": "propose_masks",
        "key": f"image-{index:04d}",
        "reason": "no_masks",
        "detail": "the generator found none",
    }
    return {field.name: values.get(field.name, _plain_value(field)) for field in table.schema}


def full_mask(height: int, width: int) -> dict[str, Any]:
    """COCO RLE of a mask that covers its whole image: no zeros, then height x width ones."""
    return {"size": [height, width], "counts": "0" + "".join(_compressed(height * width))}


def _compressed(number: int) -> Iterator[str]:
    # COCO's code: groups of 5 bits, lowest first, bit 5 set when more follow; the top bit of the last is the sign.
    while True:
        group, number = number & 31, number >> 5
        more = number != 0 or bool(group & 16)
        yield chr((group | (32 if more else 0)) + 48)
        if not more:
            return


def _plain_value(field: pa.Field) -> Any:
    if field.nullable:
        return None
    if pa.types.is_boolean(field.type):
        return False
    return 0 if pa.types.is_integer(field.type) else ""

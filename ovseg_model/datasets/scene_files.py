"""Scenes as a folder of files: images and captions in COCO's layout, and the truth beside them.

images/0010000000.png     RGB
captions.json             COCO captions: five an image; an image's id is its scene's number
labels/0010000000.png     8-bit label map with a palette: position in classes.json, 255 where clutter lies
instances/0010000000.png  8-bit: 0 where clutter lies, else one value a visible region
classes.json              name, kind (stuff or thing) and labelled (whether fixed labels have it), in label order
"""

from __future__ import annotations

import colorsys
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_model.datasets.scene_nouns import NOUNS
from ovseg_model.datasets.scenes import Scene

CAPTIONS_FILE, CLASSES_FILE = "captions.json", "classes.json"
IMAGES, LABELS, INSTANCES = "images", "labels", "instances"


def file_name(number: int) -> str:
    """Returns the name of a scene's files, ten digits, so that names sort as numbers."""
    return f"{number:010d}.png"


def write_scenes(folder: Path, scenes: Iterable[Scene]) -> int:
    """Writes scenes in the layout above; returns how many. The captions come last, so they name only what is there."""
    for name in (IMAGES, LABELS, INSTANCES):
        (folder / name).mkdir(parents=True, exist_ok=True)
    classes = [{"name": noun.name, "kind": noun.kind, "labelled": noun.labelled} for noun in NOUNS]
    _write_json(folder / CLASSES_FILE, classes)
    images, captions = [], []
    for scene in scenes:
        _write_pictures(folder, scene)
        height, width = scene.labels_HW.shape
        images.append({"id": scene.number, "file_name": file_name(scene.number), "width": width, "height": height})
        captions += [{"image_id": scene.number, "caption": caption} for caption in scene.captions]
    annotations = [{"id": number, **caption} for number, caption in enumerate(captions)]
    _write_json(folder / CAPTIONS_FILE, {"images": images, "annotations": annotations})
    return len(images)


def _write_pictures(folder: Path, scene: Scene) -> None:
    name = file_name(scene.number)
    Image.fromarray(scene.image_HW3).save(folder / IMAGES / name)
    labels = Image.fromarray(scene.labels_HW, "L")
    labels.putpalette(palette().tobytes())
    labels.save(folder / LABELS / name)
    Image.fromarray(scene.instances_HW, "L").save(folder / INSTANCES / name)


@functools.cache
def palette() -> np.ndarray:
    """Returns a colour for each label, uint8 (256, 3): hues a golden angle apart, void white."""
    colours = np.full((256, 3), 255, np.uint8)
    for label in range(len(NOUNS)):
        hue, value = label * 0.618034 % 1, (0.95, 0.7, 0.5)[label % 3]
        colours[label] = [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value)]
    return colours


def _write_json(path: Path, value: object) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(value, indent=1 if path.name == CLASSES_FILE else None) + "\n")
    os.replace(unfinished, path)

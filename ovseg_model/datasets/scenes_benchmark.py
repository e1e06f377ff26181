"""Scenes: the drawn world that ships with the project, 44 classes, with no download.

Without --root, scenes of 128 px are drawn while they are read: the first 1,000 of a split. With it, a folder as
`ovseg draw-scenes --output FOLDER` writes it is read (scene_files.py says what it holds), whatever the size. Splits:

    test       painted scenes that nothing here was trained or tuned on; the one that is reported
    val        painted, to tune on
    train      painted, which the small CLIP has seen
    ink        the layouts of test in the drawing style that the small CLIP has not seen
    ink-val    those of val in that style, to tune on

A folder holds scenes of one split and style, and which they are is read from the numbers of its files and from its
scenes.json. Label maps are 8-bit: position in classes.json, 255 for clutter, which is not scored. `seen` are the
classes that a data set with fixed labels would have; only captions name the others. Both variants of names are the
world's own. docs/scenes.md says what the world is; a number belongs to its version.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_model.datasets.benchmark import BenchmarkClass, LabelledSample, LabelMapBenchmark, OvsegSettings
from ovseg_model.datasets.label_files import Release, coding_of, pair_listed, read_coded, read_rgb
from ovseg_model.datasets.scene_check import SIZE_PX
from ovseg_model.datasets.scene_files import CLASSES_FILE, IMAGES, LABELS
from ovseg_model.datasets.scene_nouns import NAMES, NOUNS
from ovseg_model.datasets.scenes import SPLITS, STYLES, VOID, Scene, draw_scene, numbers
from schemas.errors import UserError

NAME = "scenes"
RELEASE = Release(NAME, "ovseg draw-scenes --output FOLDER")
DRAWN = 1_000
"""Scenes of a split that are drawn without a folder."""

PAINTED, INK = STYLES
PARTS = {
    "test": ("test", PAINTED),
    "val": ("val", PAINTED),
    "train": ("train", PAINTED),
    "ink": ("test", INK),
    "ink-val": ("val", INK),
}
"""Split of the world, and drawing style, of each split."""

CLASSES = tuple(BenchmarkClass(position, name, name) for position, name in enumerate(NAMES))
CODING = coding_of(CLASSES, largest=len(NAMES) - 1, void=VOID)
DRAWN_PREFIX = "scene:"
"""Of a sample's image and labels where there is no file: scene:NUMBER:STYLE."""

FACTS_FILE = "scenes.json"


def read_split(root: Path | None, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split, by number: drawn ones without a folder. Raises UserError."""
    part, style = PARTS[split]
    if root is not None:
        return _folder_samples(root, split)
    drawn = (f"{DRAWN_PREFIX}{number}:{style}" for number in numbers(part, DRAWN))
    return [LabelledSample(name, name, name) for name in drawn]


def _folder_samples(root: Path, split: str) -> Sequence[LabelledSample]:
    if not (root / CLASSES_FILE).is_file():
        raise RELEASE.error(f"{root / CLASSES_FILE} is missing")
    if _class_names(_read_json(root / CLASSES_FILE)) != NAMES:
        raise RELEASE.error(f"{root / CLASSES_FILE} has other classes than this version of the world")
    held = _held_splits(root)
    if split not in held:
        raise RELEASE.error(f"{root} holds scenes of {' and '.join(held) or 'no split'}, not of {split}")
    stems = [stem for stem in _stems(root) if int(stem) in SPLITS[PARTS[split][0]]]
    return pair_listed(stems, root / IMAGES, root / LABELS, ".png", RELEASE, image_ending=".png")


def _class_names(classes: Any) -> tuple[str, ...]:
    """Names of the entries of a classes.json, none of a file that is built otherwise."""
    entries = classes if isinstance(classes, list) else []
    return tuple(str(each.get("name")) for each in entries if isinstance(each, dict))


def _held_splits(root: Path) -> list[str]:
    """Splits of which a folder holds scenes."""
    facts = _read_json(root / FACTS_FILE) if (root / FACTS_FILE).is_file() else {}
    style = facts.get("style", PAINTED) if isinstance(facts, dict) else PAINTED
    there = [int(stem) for stem in _stems(root)]
    return [
        split
        for split, (part, own_style) in PARTS.items()
        if own_style == style and any(number in SPLITS[part] for number in there)
    ]


def _stems(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / IMAGES).glob("*.png") if path.stem.isdecimal())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}; draw the scenes again") from error


@functools.lru_cache(maxsize=2)
def _drawn(name: str) -> Scene:
    """The scene of a sample: its image and its labels are asked for one after the other."""
    number, style = name.removeprefix(DRAWN_PREFIX).split(":")
    return draw_scene(int(number), SIZE_PX, style)


def read_labels(sample: LabelledSample) -> np.ndarray:
    """Returns the label map, uint16 (H, W). Raises UserError for a file that is none."""
    if sample.labels.startswith(DRAWN_PREFIX):
        return CODING.positions(_drawn(sample.labels).labels_HW, sample.labels)
    return read_coded(sample, CODING)


def read_image(sample: LabelledSample) -> np.ndarray:
    """Returns the image, RGB uint8 (H, W, 3). Raises UserError for a file that is none."""
    return _drawn(sample.image).image_HW3 if sample.image.startswith(DRAWN_PREFIX) else read_rgb(sample.image)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="Scenes",
    classes=CLASSES,
    splits=dict.fromkeys(PARTS, DRAWN),
    default_split="test",
    read_split=read_split,
    read_labels=read_labels,
    read_image=read_image,
    # OVSeg knows no scenes; this is its weight for sets of things and stuff.
    settings=OvsegSettings(clip_weight=0.6),
    seen=frozenset(noun.name for noun in NOUNS if noun.labelled),
    notes="A drawn world: its numbers compare methods with each other, and say nothing of photographs.",
    drawn=True,
)

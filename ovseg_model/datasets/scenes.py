"""Scenes: the world that ships with the project, in which mask-adapted CLIP can be right or wrong.

A scene is drawn from one number: stuff with texture, things with shape, clutter; a label map of what is visible;
five captions. The same number gives the same scene at every size and in both styles. Array names end in their axes:
H and W pixels, 3 colour channels in RGB order.

    python -m ovseg_model.datasets.scenes --check      the small CLIP that ships with the project, on held-out scenes

The world is frozen: WORLD_SHA256 is of what version WORLD_VERSION draws, and no result is a reason to change it.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovseg_model.datasets.scene_captions import Seen, write_captions
from ovseg_model.datasets.scene_nouns import COLOURS, NAMES, NOUNS, RGB, STUFF, THINGS
from ovseg_model.datasets.scene_textures import VARIANTS, tile_of
from ovseg_model.datasets.scene_things import SHAPES, Part
from schemas.errors import UserError

WORLD_VERSION = 1
"""Raised whenever a number begins to give another scene; weights and results belong to one version."""

WORLD_SHA256 = "027eeb3c9171b1a91d8350505c047063279a893310e1a6dba1f6c566d33496e9"
"""`world_sha256()` of this version."""

VOID = 255
"""Label of clutter, which is no class."""

SPLITS = {"train": range(0, 10_000_000), "val": range(10_000_000, 11_000_000), "test": range(11_000_000, 12_000_000)}
"""Which numbers belong to which split."""

STYLES = ("painted", "ink")
"""Drawing styles. The small CLIP has seen only the first."""

SIZE_PX = 64
"""Side at which the small CLIP sees a scene."""

VIEWS = {"close": 0.2, "single": 0.35, "several": 0.35, "stuff": 0.1}
"""Kinds of scene and their shares: one thing that fills the picture, one thing, two or three things, none."""

SIDES = {"close": (0.7, 0.95), "single": (0.5, 0.75), "several": (0.36, 0.56)}
"""Side of a thing's square over the scene's, by view."""

OVERSAMPLE = 2
"""Scenes are painted this much larger and averaged down, so that edges are smooth."""

LEAST_VISIBLE = 0.025
"""Share of the image from which on captions may mention a class."""

HABIT = 0.75
"""How often a class has one of its typical colours."""


@dataclass(frozen=True)
class Region:
    """One visible piece of stuff or thing."""

    noun: str
    colour: str
    """Nearest colour word."""

    instance: int
    """Its value in `instances_HW`."""

    area_px: int
    """Visible pixels."""


@dataclass(frozen=True)
class Scene:
    """A drawn scene and all that is known of it."""

    number: int
    image_HW3: np.ndarray
    """RGB uint8."""

    labels_HW: np.ndarray
    """uint8: position in NAMES, VOID where clutter lies."""

    instances_HW: np.ndarray
    """uint8: 0 where clutter lies, else a region's `instance`."""

    regions: tuple[Region, ...]
    """What is visible, in the order of painting."""

    captions: tuple[str, ...]
    """Five, of what covers at least LEAST_VISIBLE of the image."""


@dataclass(frozen=True)
class _Paints:
    """Colours of one region."""

    name: str
    main: RGB
    accent: RGB


class _Canvas:
    """Two pictures that are painted alike: colours, and which region a pixel belongs to."""

    def __init__(self, side: int, style: str, randoms: random.Random) -> None:
        self.side, self.style, self.randoms = side, style, randoms
        self.image = Image.new("RGB", (side, side))
        self.instances = Image.new("L", (side, side))
        self._colours = ImageDraw.Draw(self.image)
        self._regions = ImageDraw.Draw(self.instances)

    def texture(self, name: str, shape: Sequence[float] | None, paints: _Paints, instance: int) -> None:
        """Covers a polygon (flat list of x, y in pixels), or everything, with a texture of two colours."""
        filled = Image.fromarray(self._textured(name, (self.side, self.side), paints))
        if shape is None:
            self.image.paste(filled)
            self.instances.paste(instance, (0, 0, self.side, self.side))
            return
        mask = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(mask).polygon(shape, 255)
        self.image.paste(filled, mask=mask)
        self._regions.polygon(shape, instance)

    def _textured(self, name: str, size: tuple[int, int], paints: _Paints) -> np.ndarray:
        """A piece of a texture, uint8 (height, width, 3), of width x height = size."""
        tile = tile_of(name, self.randoms.randrange(VARIANTS), self.side)
        x, y = (self.randoms.random() for _ in range(2))
        left, top = int(x * (len(tile) - size[0])), int(y * (len(tile) - size[1]))
        piece = tile[top : top + size[1], left : left + size[0]]
        return _ramp(paints, self.style)[piece]

    def part(self, part: Part, points_N2: np.ndarray, paints: _Paints, instance: int) -> None:
        """Paints one polygon of a thing; points in pixels."""
        shape = points_N2.ravel().tolist()
        self._regions.polygon(shape, instance)
        colour = _paint(part.paint, paints)
        if self.style == "ink":
            self._colours.polygon(shape, _blend(colour, (250, 246, 235), 0.72), (40, 38, 45), max(1, self.side // 64))
        else:
            self._colours.polygon(shape, colour)
        if part.pattern:
            self._pattern(part.pattern, points_N2, colour, instance)

    def _pattern(self, name: str, points_N2: np.ndarray, colour: RGB, instance: int) -> None:
        """Lays a texture over a polygon, darker than its colour."""
        low = np.clip(np.floor(points_N2.min(axis=0)), 0, self.side).astype(int)
        high = np.clip(np.ceil(points_N2.max(axis=0)) + 1, 0, self.side).astype(int)
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        if min(size) <= 0:
            return
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon((points_N2 - low).ravel().tolist(), 255)
        shades = _Paints("", colour, _blend(colour, (20, 20, 25), 0.45))
        self.image.paste(Image.fromarray(self._textured(name, size, shades)), tuple(low.tolist()), mask)

    def clutter(self, points: Sequence[float], colour: RGB) -> None:
        """Paints a polygon that belongs to no class."""
        self._colours.polygon(points, colour)
        self._regions.polygon(points, 0)


def numbers(split: str, count: int, start: int = 0) -> range:
    """Returns `count` scene numbers of a split, from its `start`-th on. Raises UserError beyond its end."""
    part = SPLITS[split][start : start + count]
    if len(part) < count:
        raise UserError(f"scenes: {split} has {len(SPLITS[split]):,} numbers, {start + count:,} were asked for")
    return part


def draw_scene(number: int, size_px: int = SIZE_PX, style: str = STYLES[0], views: dict[str, float] = VIEWS) -> Scene:
    """Draws the scene of a number.

    number: of SPLITS; size_px: side in pixels, 32 or more; style: of STYLES; views: kinds of scene and their shares,
    for a curriculum. Everything random is a share of the side, so that size and style change nothing else.
    """
    layout, grain = random.Random(number), random.Random(-1 - number)
    view = layout.choices(list(views), list(views.values()))[0]
    canvas = _Canvas(size_px * OVERSAMPLE, style, grain)
    painted = [*_paint_stuff(canvas, view, layout)]
    painted += _paint_things(canvas, view, layout, len(painted) + 1)
    _paint_clutter(canvas, layout)
    image_HW3 = _finish(canvas, layout)
    instances_HW = np.asarray(canvas.instances)[1::OVERSAMPLE, 1::OVERSAMPLE]
    regions = _visible(painted, instances_HW)
    labels = np.full(256, VOID, np.uint8)
    for region in regions:
        labels[region.instance] = NAMES.index(region.noun)
    captions = write_captions(seen_in(regions, size_px**2), layout)
    return Scene(number, image_HW3, labels[instances_HW], instances_HW, regions, captions)


def _paint_stuff(canvas: _Canvas, view: str, layout: random.Random) -> list[tuple[str, str]]:
    """Covers the canvas with one to three stuffs; returns noun and colour of each."""
    count = layout.choices((1, 2, 3), (45, 45, 10) if view != "stuff" else (10, 60, 30))[0]
    names = layout.sample(STUFF, count)
    painted = []
    for index, name in enumerate(names):
        shape = None if index == 0 else (_ground if index == 1 else _patch)(canvas.side, layout)
        paints = _choose_paints(name, layout)
        canvas.texture(name, shape, paints, index + 1)
        painted.append((name, paints.name))
    return painted


def _ground(side: int, layout: random.Random) -> list[float]:
    """Everything below a slanting line, or, one time in four, beside it."""
    left, right = (layout.uniform(0.3, 0.7) * side for _ in range(2))
    corners = [(0, left), (side, right), (side, side), (0, side)]
    if layout.random() < 0.25:
        corners = [(y, x) for x, y in corners]
    return [value for corner in corners for value in corner]


def _patch(side: int, layout: random.Random) -> list[float]:
    """An uneven blob."""
    x, y = (layout.uniform(0.2, 0.8) * side for _ in range(2))
    angles = np.linspace(0, 2 * np.pi, 14)[:-1]
    radii = np.array([layout.uniform(0.2, 0.34) for _ in angles]) * side
    return np.stack([x + radii * np.cos(angles), y + 0.7 * radii * np.sin(angles)], axis=1).ravel().tolist()


def _paint_things(canvas: _Canvas, view: str, layout: random.Random, first: int) -> list[tuple[str, str]]:
    """Paints a view's things, later ones over earlier ones; returns noun and colour of each."""
    if view == "stuff":
        return []
    count = layout.randint(2, 3) if view == "several" else 1
    painted, centres = [], []
    name = layout.choice(THINGS)
    for index in range(count):
        # One time in five another of the same kind, so that plurals occur.
        name = name if index and layout.random() < 0.2 else layout.choice(THINGS)
        side = layout.uniform(*SIDES[view])
        centre = _place(side, centres, layout)
        centres.append(centre)
        paints = _choose_paints(name, layout)
        _paint_thing(canvas, name, centre, side, paints, first + index, layout)
        painted.append((name, paints.name))
    return painted


def _place(side: float, taken: Sequence[tuple[float, float]], layout: random.Random) -> tuple[float, float]:
    """A centre, as shares of the scene: the farthest from those taken, of five tries; edges may cut a thing a bit."""
    margin = min(0.5, 0.42 * side)
    tries = [(layout.uniform(margin, 1 - margin), layout.uniform(margin, 1 - margin)) for _ in range(5)]
    return max(tries, key=lambda at: min((np.hypot(at[0] - x, at[1] - y) for x, y in taken), default=0))


def _paint_thing(
    canvas: _Canvas,
    name: str,
    centre: tuple[float, float],
    side: float,
    paints: _Paints,
    instance: int,
    layout: random.Random,
) -> None:
    """Paints a thing, mirrored half the time, turned by up to 20 degrees and stretched a little."""
    angle = np.radians(layout.gauss(0, 10))
    half = side * canvas.side / 2
    stretch = layout.uniform(0.88, 1.14)
    mirror = layout.choice((-1, 1))
    turn_22 = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scaled_22 = np.array([[mirror * half * stretch, 0], [0, half / stretch]]) @ turn_22
    for part in SHAPES[name]:
        canvas.part(part, part.points_N2 @ scaled_22 + np.multiply(centre, canvas.side), paints, instance)


def _paint_clutter(canvas: _Canvas, layout: random.Random) -> None:
    """Scatters up to six small scraps."""
    for _ in range(layout.randint(0, 6)):
        x, y = (layout.random() * canvas.side for _ in range(2))
        spread = layout.uniform(0.012, 0.035) * canvas.side
        points = [at + layout.uniform(-spread, spread) for _ in range(4) for at in (x, y)]
        canvas.clutter(points, tuple(layout.randrange(30, 226) for _ in range(3)))


def _finish(canvas: _Canvas, layout: random.Random) -> np.ndarray:
    """Averages the canvas down, and lights it a little darker or brighter, with a trace of noise; RGB uint8."""
    small = np.asarray(canvas.image.reduce(OVERSAMPLE), np.float32)
    noise = np.random.default_rng(layout.randrange(2**32)).integers(-5, 6, small.shape, np.int8)
    return np.clip(small * layout.uniform(0.8, 1.1) + noise, 0, 255).astype(np.uint8)


def _choose_paints(name: str, layout: random.Random) -> _Paints:
    """Main and accent colour: mostly typical ones of the class, now and then any."""
    typical = NOUNS[NAMES.index(name)].colours
    weights = [2] + [1] * (len(typical) - 1)
    main = layout.choices(typical, weights)[0] if layout.random() < HABIT else layout.choice(list(COLOURS))
    accent = layout.choice([colour for colour in COLOURS if colour != main])
    return _Paints(main, _jitter(COLOURS[main], layout), _jitter(COLOURS[accent], layout))


def _jitter(colour: RGB, layout: random.Random) -> RGB:
    return tuple(min(255, max(0, value + layout.randint(-18, 18))) for value in colour)  # type: ignore[return-value]


def _paint(paint: str, paints: _Paints) -> RGB:
    """What a part's paint means in a thing's colours."""
    fixed = {"dark": (52, 42, 40), "light": (238, 236, 226), "main": paints.main, "accent": paints.accent}
    return fixed[paint] if paint in fixed else COLOURS[paint]


def _ramp(paints: _Paints, style: str) -> np.ndarray:
    """Colours of a texture from dark to light, uint8 (256, 3): around its colour, or ink lines on tinted paper."""
    if style == "ink":
        dark, light = (60, 56, 66), _blend(paints.main, (250, 246, 235), 0.78)
        shares = np.clip(np.linspace(-0.6, 1.6, 256), 0, 1)
    else:
        dark, light = _blend(paints.main, (10, 10, 20), 0.5), _blend(paints.main, (255, 255, 250), 0.4)
        shares = np.linspace(0, 1, 256)
    return np.rint(np.outer(1 - shares, dark) + np.outer(shares, light)).astype(np.uint8)


def _blend(colour: RGB, other: RGB, share: float) -> RGB:
    return tuple(round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))  # type: ignore


def _visible(painted: Sequence[tuple[str, str]], instances_HW: np.ndarray) -> tuple[Region, ...]:
    """What is left of each painted region, numbered from 1, where anything is left."""
    areas = np.bincount(instances_HW.ravel(), minlength=len(painted) + 1)
    regions = (Region(noun, colour, at, int(areas[at])) for at, (noun, colour) in enumerate(painted, 1))
    return tuple(region for region in regions if region.area_px)


def seen_in(regions: Sequence[Region], total_px: int) -> list[Seen]:
    """Returns what captions may mention, one entry a class; the largest region if nothing is large enough."""
    largest = sorted(regions, key=lambda region: -region.area_px)
    shown = [region for region in largest if region.area_px >= LEAST_VISIBLE * total_px] or largest[:1]
    by_noun = {region.noun: region for region in reversed(shown)}
    counts = {noun: sum(region.noun == noun for region in shown) for noun in by_noun}
    return [Seen(noun, counts[noun], by_noun[noun].area_px / total_px, by_noun[noun].colour) for noun in by_noun]


def world_sha256() -> str:
    """Returns the sha256 of 16 scenes of each split in each style: pixels, labels, instances and captions."""
    digest = hashlib.sha256()
    for part in SPLITS.values():
        for number, style in ((number, style) for number in part[:16] for style in STYLES):
            scene = draw_scene(number, style=style)
            for array in (scene.image_HW3, scene.labels_HW, scene.instances_HW):
                digest.update(array.tobytes())
            digest.update("\n".join(scene.captions).encode())
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """The command: `--check`. Returns 1 when this machine draws another world than the frozen one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", required=True, help="what a CLIP knows of held-out scenes")
    parser.add_argument("--clip", default="scenes", help="the CLIP that is checked, as --clip of ovseg mine")
    parser.add_argument("--scenes", type=int, default=1000, help="scenes of each style")
    parser.add_argument("--split", choices=SPLITS, default="test", help="part of the world")
    parser.add_argument("--templates", default="vild", help="prompt templates, as --templates of ovseg mine")
    arguments = parser.parse_args(argv)
    from ovseg_model.datasets.scene_check import report

    drawn = world_sha256()
    try:
        numbers(arguments.split, max(1, arguments.scenes))
        text = report(arguments.clip, max(1, arguments.scenes), arguments.split, arguments.templates)
    except UserError as error:
        print(f"scenes --check: {error}", file=sys.stderr)
        return 2
    print(f"world {WORLD_VERSION}, sha256 {drawn[:16]}: {'as frozen' if drawn == WORLD_SHA256 else 'NOT as frozen'}\n")
    print(text)
    return int(drawn != WORLD_SHA256)


if __name__ == "__main__":
    raise SystemExit(main())

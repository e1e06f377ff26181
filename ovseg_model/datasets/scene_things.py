"""The shapes of things: each a list of painted polygons in a square from -1 to 1, x to the right and y down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """One polygon of a thing, painted over those before it."""

    points_N2: np.ndarray
    """float64 (N, 2), x and y."""

    paint: str
    """One of "main" and "accent", which every thing draws anew; or "dark", "light" or a colour word."""

    pattern: str | None = None
    """A texture over the paint."""


def _part(points: Points, paint: str = "main", pattern: str | None = None) -> Part:
    return Part(np.asarray(points, np.float64), paint, pattern)


def _oval(
    x: float,
    y: float,
    rx: float,
    ry: float,
    paint: str = "main",
    pattern: str | None = None,
    turn: tuple[float, float] = (0, 360),
) -> Part:
    """An ellipse, or the part of it between two angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(*turn, 22))
    return _part(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1), paint, pattern)


def _bar(x0: float, y0: float, x1: float, y1: float, width: float, paint: str = "main") -> Part:
    """A thick line."""
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = width / 2 * (y0 - y1) / length, width / 2 * (x1 - x0) / length
    return _part([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], paint)


def _box(x0: float, y0: float, x1: float, y1: float, paint: str = "main", pattern: str | None = None) -> Part:
    return _part([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], paint, pattern)


def _ring(
    x: float, y: float, outer: float, inner: float, paint: str = "main", turn: tuple[float, float] = (0, 360)
) -> Part:
    """A ring, or a piece of it: its hole shows what is behind."""
    angles = np.radians(np.linspace(*turn, 22))
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _part(np.concatenate([circle * outer, circle[::-1] * inner]) + np.array([x, y]), paint)


def _kite() -> list[Part]:
    return [
        _part([(0, -1), (0.6, -0.25), (0, 0.6), (-0.6, -0.25)]),
        _part([(0, -1), (0.6, -0.25), (0, -0.25)], "accent"),
        _part([(0, 0.6), (-0.6, -0.25), (0, -0.25)], "accent"),
        _bar(0, 0.6, 0.12, 0.95, 0.06, "dark"),
        _part([(0, 0.68), (0.26, 0.62), (0.22, 0.86)], "accent"),
        _part([(0.06, 0.9), (-0.18, 0.82), (-0.16, 1.0)], "accent"),
    ]


def _tree() -> list[Part]:
    return [
        _box(-0.13, 0.2, 0.13, 1, "dark"),
        _oval(0, -0.6, 0.5, 0.4, "main", "hedge"),
        _oval(-0.42, -0.15, 0.45, 0.42, "main", "hedge"),
        _oval(0.42, -0.15, 0.45, 0.42, "main", "hedge"),
    ]


def _cup() -> list[Part]:
    return [
        _ring(0.55, -0.05, 0.42, 0.24),
        _part([(-0.7, -0.65), (0.6, -0.65), (0.45, 0.75), (-0.55, 0.75)]),
        _oval(-0.05, -0.65, 0.65, 0.16, "dark"),
        _part([(-0.66, -0.25), (0.56, -0.25), (0.53, 0), (-0.63, 0)], "accent"),
    ]


def _fish() -> list[Part]:
    return [
        _part([(0.4, 0), (1, -0.5), (0.85, 0), (1, 0.5)], "accent"),
        _part([(-0.2, -0.35), (0.3, -0.75), (0.35, -0.2)], "accent"),
        _oval(-0.2, 0, 0.8, 0.48, "main", "roof"),
        _oval(-0.65, -0.1, 0.13, 0.13, "light"),
        _oval(-0.67, -0.1, 0.06, 0.06, "dark"),
    ]


def _house() -> list[Part]:
    return [
        _box(0.35, -0.85, 0.6, -0.2, "dark"),
        _box(-0.75, -0.1, 0.75, 0.95),
        _part([(-1, -0.1), (0, -0.95), (1, -0.1)], "accent"),
        _box(-0.18, 0.35, 0.18, 0.95, "dark"),
        _box(-0.6, 0.1, -0.32, 0.42, "light"),
        _box(0.32, 0.1, 0.6, 0.42, "light"),
    ]


def _boat() -> list[Part]:
    return [
        _bar(-0.05, -1, -0.05, 0.4, 0.09, "dark"),
        _part([(0.05, -0.95), (0.8, 0.25), (0.05, 0.25)], "accent"),
        _part([(-0.15, -0.7), (-0.15, 0.25), (-0.7, 0.25)], "light"),
        _part([(-1, 0.4), (1, 0.4), (0.6, 0.9), (-0.65, 0.9)]),
    ]


def _car() -> list[Part]:
    return [
        _part([(-0.55, 0), (-0.3, -0.5), (0.35, -0.5), (0.65, 0)]),
        _part([(-0.4, -0.03), (-0.22, -0.38), (-0.02, -0.38), (-0.02, -0.03)], "light"),
        _part([(0.08, -0.03), (0.08, -0.38), (0.28, -0.38), (0.48, -0.03)], "light"),
        _part([(-1, 0.02), (0.9, -0.02), (1, 0.2), (1, 0.42), (-1, 0.42)]),
        _oval(-0.5, 0.42, 0.26, 0.26, "dark"),
        _oval(0.52, 0.42, 0.26, 0.26, "dark"),
        _oval(-0.5, 0.42, 0.1, 0.1, "light"),
        _oval(0.52, 0.42, 0.1, 0.1, "light"),
    ]


def _flower() -> list[Part]:
    petals = [
        _oval(0.36 * math.cos(angle), -0.4 + 0.36 * math.sin(angle), 0.27, 0.27)
        for angle in np.radians(np.arange(0, 360, 60)).tolist()
    ]
    stem = [_bar(0, -0.3, 0.05, 1, 0.12, "green"), _oval(0.3, 0.55, 0.3, 0.12, "green")]
    return [*stem, *petals, _oval(0, -0.4, 0.24, 0.24, "accent")]


def _umbrella() -> list[Part]:
    return [
        _bar(0, -0.2, 0, 0.8, 0.09, "dark"),
        _ring(-0.16, 0.78, 0.21, 0.11, "dark", (0, 180)),
        _oval(0, 0, 1, 0.9, "main", None, (180, 360)),
        _oval(0, 0, 0.36, 0.9, "accent", None, (180, 360)),
        _bar(0, -1, 0, -0.85, 0.08, "dark"),
    ]


def _ball() -> list[Part]:
    return [
        _oval(0, 0, 0.85, 0.85),
        *(
            _part([(0, 0), *(0.85 * np.stack([np.cos(a), np.sin(a)], 1)).tolist()], "light")
            for a in (np.radians(np.linspace(start, start + 60, 8)) for start in (0, 120, 240))
        ),
        _oval(0, 0, 0.18, 0.18, "accent"),
    ]


def _apple() -> list[Part]:
    return [
        _bar(0, -0.5, 0.1, -0.95, 0.12, "dark"),
        _oval(0.36, -0.78, 0.28, 0.13, "green"),
        _oval(-0.33, 0.1, 0.5, 0.66),
        _oval(0.33, 0.1, 0.5, 0.66),
        _oval(-0.45, -0.12, 0.13, 0.2, "light"),
    ]


def _banana() -> list[Part]:
    outer = np.radians(np.linspace(15, 165, 20))
    inner = np.radians(np.linspace(155, 25, 20))
    bow = np.concatenate(
        [
            np.stack([0.95 * np.cos(outer), -0.45 + 1.05 * np.sin(outer)], 1),
            np.stack([0.86 * np.cos(inner), -0.45 + 0.5 * np.sin(inner)], 1),
        ]
    )
    return [
        _part(bow),
        _bar(0.84, -0.25, 0.92, -0.5, 0.14, "dark"),
        _oval(-0.87, -0.2, 0.1, 0.1, "dark"),
    ]


def _chair() -> list[Part]:
    return [
        _box(-0.55, -1, -0.38, 1),
        _box(0.38, -1, 0.55, 0),
        _box(-0.55, -0.95, 0.55, -0.72),
        _box(-0.55, -0.55, 0.55, -0.35),
        _box(-0.65, 0, 0.65, 0.24, "accent"),
        _box(0.4, 0.24, 0.57, 1),
    ]


def _lamp() -> list[Part]:
    return [
        _bar(0, 0, 0, 0.8, 0.12, "dark"),
        _oval(0, 0.85, 0.5, 0.15, "dark"),
        _part([(-0.32, -0.9), (0.32, -0.9), (0.75, 0.05), (-0.75, 0.05)], "main", "curtain"),
    ]


def _clock() -> list[Part]:
    ticks = [
        _oval(0.62 * math.cos(angle), 0.62 * math.sin(angle), 0.075, 0.075, "dark")
        for angle in np.radians(np.arange(0, 360, 45)).tolist()
    ]
    hands = [_bar(0, 0, 0, -0.55, 0.11, "dark"), _bar(0, 0, 0.38, 0.15, 0.13, "dark")]
    return [_oval(0, 0, 0.95, 0.95, "accent"), _oval(0, 0, 0.78, 0.78), *ticks, *hands]


def _bottle() -> list[Part]:
    return [
        _part(
            [
                (-0.14, -0.85),
                (0.14, -0.85),
                (0.14, -0.4),
                (0.36, -0.05),
                (0.36, 1),
                (-0.36, 1),
                (-0.36, -0.05),
                (-0.14, -0.4),
            ]
        ),
        _box(-0.17, -1, 0.17, -0.8, "dark"),
        _box(-0.36, 0.2, 0.36, 0.7, "light"),
        _box(-0.2, 0.35, 0.2, 0.52, "accent"),
    ]


def _balloon() -> list[Part]:
    return [
        _bar(0, 0.4, 0.08, 1, 0.06, "dark"),
        _part([(0, 0.3), (0.14, 0.52), (-0.14, 0.52)]),
        _oval(0, -0.3, 0.58, 0.7),
        _oval(-0.22, -0.55, 0.13, 0.2, "light"),
    ]


def _cat() -> list[Part]:
    return [
        _ring(0.55, 0.45, 0.45, 0.28, "main", (-100, 100)),
        _oval(0, 0.5, 0.55, 0.5),
        _part([(-0.55, -0.3), (-0.5, -1), (-0.05, -0.6)]),
        _part([(0.55, -0.3), (0.5, -1), (0.05, -0.6)]),
        _oval(0, -0.3, 0.58, 0.46),
        _oval(-0.23, -0.36, 0.13, 0.11, "light"),
        _oval(0.23, -0.36, 0.13, 0.11, "light"),
        _part([(-0.1, -0.16), (0.1, -0.16), (0, -0.02)], "accent"),
    ]


def _tent() -> list[Part]:
    return [
        _part([(0, -0.8), (1, 0.75), (-1, 0.75)], "main"),
        _part([(0, -0.8), (0.42, 0.75), (-0.42, 0.75)], "accent"),
        _part([(0, -0.4), (0.2, 0.75), (-0.2, 0.75)], "dark"),
        _bar(0, -0.75, 0, -1, 0.08, "dark"),
    ]


def _duck() -> list[Part]:
    return [
        _part([(0.4, 0.1), (1, -0.25), (0.85, 0.45)]),
        _oval(0.1, 0.35, 0.8, 0.5),
        _oval(-0.42, -0.42, 0.4, 0.4),
        _part([(-0.75, -0.5), (-1, -0.3), (-0.72, -0.22)], "orange"),
        _oval(-0.52, -0.52, 0.09, 0.09, "dark"),
        _oval(0.25, 0.3, 0.42, 0.22, "accent"),
    ]


def _moon() -> list[Part]:
    outer = np.radians(np.linspace(60, 300, 20))
    inner = np.radians(np.linspace(285, 75, 20))
    crescent = [np.stack([0.9 * np.cos(outer), 0.9 * np.sin(outer)], 1)]
    crescent.append(np.stack([0.22 + 0.72 * np.cos(inner), 0.8 * np.sin(inner)], 1))
    return [_part(np.concatenate(crescent) + np.array([0.15, 0])), _oval(-0.5, -0.1, 0.1, 0.1, "accent")]


def _mushroom() -> list[Part]:
    return [
        _part([(-0.25, 0), (0.25, 0), (0.35, 0.95), (-0.35, 0.95)], "light"),
        _oval(0, 0.1, 0.9, 0.95, "main", None, (180, 360)),
        _oval(-0.4, -0.25, 0.15, 0.13, "light"),
        _oval(0.05, -0.5, 0.17, 0.15, "light"),
        _oval(0.48, -0.2, 0.14, 0.12, "light"),
    ]


def _butterfly() -> list[Part]:
    return [
        _oval(-0.5, -0.4, 0.45, 0.45),
        _oval(0.5, -0.4, 0.45, 0.45),
        _oval(-0.4, 0.4, 0.36, 0.38, "accent"),
        _oval(0.4, 0.4, 0.36, 0.38, "accent"),
        _oval(-0.55, -0.42, 0.17, 0.17, "light"),
        _oval(0.55, -0.42, 0.17, 0.17, "light"),
        _oval(0, 0, 0.12, 0.7, "dark"),
        _bar(0, -0.6, -0.22, -1, 0.07, "dark"),
        _bar(0, -0.6, 0.22, -1, 0.07, "dark"),
    ]


def _snail() -> list[Part]:
    return [
        _part([(-1, 0.5), (-0.9, 0), (-0.65, 0), (-0.6, 0.45), (0.95, 0.6), (0.9, 0.8), (-0.85, 0.8)], "accent"),
        _bar(-0.85, 0.1, -1, -0.45, 0.08, "dark"),
        _bar(-0.72, 0.1, -0.68, -0.45, 0.08, "dark"),
        _oval(0.15, 0, 0.62, 0.62),
        _ring(0.15, 0, 0.44, 0.32, "dark"),
        _oval(0.15, 0, 0.14, 0.14, "dark"),
    ]


def _ladder() -> list[Part]:
    rungs = [_box(-0.42, y, 0.42, y + 0.14, "accent") for y in (-0.8, -0.42, -0.04, 0.34, 0.72)]
    return [*rungs, _box(-0.55, -1, -0.36, 1), _box(0.36, -1, 0.55, 1)]


def _key() -> list[Part]:
    return [
        _ring(-0.55, 0, 0.42, 0.19),
        _box(-0.2, -0.11, 1, 0.11),
        _box(0.55, 0.05, 0.69, 0.42),
        _box(0.82, 0.05, 1, 0.5),
    ]


def _cactus() -> list[Part]:
    return [
        _box(-0.2, -0.7, 0.2, 0.6, "main", "curtain"),
        _oval(0, -0.72, 0.2, 0.22),
        _box(-0.7, -0.35, -0.45, 0.15),
        _box(-0.7, -0.05, -0.1, 0.17),
        _box(0.45, -0.55, 0.7, 0),
        _box(0.1, -0.2, 0.7, 0.02),
        _part([(-0.45, 0.5), (0.45, 0.5), (0.32, 1), (-0.32, 1)], "accent"),
    ]


def _rocket() -> list[Part]:
    return [
        _part([(-0.3, 0.2), (-0.72, 0.8), (-0.25, 0.62)], "accent"),
        _part([(0.3, 0.2), (0.72, 0.8), (0.25, 0.62)], "accent"),
        _part([(-0.2, 0.6), (0, 1), (0.2, 0.6)], "orange"),
        _part([(0, -1), (0.26, -0.55), (0.32, 0.1), (0.22, 0.65), (-0.22, 0.65), (-0.32, 0.1), (-0.26, -0.55)]),
        _part([(0, -1), (0.26, -0.55), (-0.26, -0.55)], "accent"),
        _oval(0, -0.2, 0.17, 0.17, "dark"),
    ]


_BUILDERS: tuple[Callable[[], list[Part]], ...] = (
    *(_kite, _tree, _cup, _fish, _house, _boat, _car, _flower, _umbrella, _ball, _apple, _banana, _chair, _lamp),
    *(_clock, _bottle, _balloon, _cat, _tent, _duck, _moon, _mushroom, _butterfly, _snail, _ladder, _key, _cactus),
    _rocket,
)

SHAPES: dict[str, tuple[Part, ...]] = {builder.__name__[1:]: tuple(builder()) for builder in _BUILDERS}
"""Parts by the thing's name, first painted first."""

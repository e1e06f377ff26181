"""Textures of stuff, and patterns on things: grey tiles from seeded noise, coloured when they are painted.

Every texture is a function (side, unit, random numbers) → float32 (side, side), 0 dark to 1 light; `unit` is the size
of the grain in pixels, so a scene looks the same at every size. What tells one from another is structure, not colour.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable

import numpy as np

VARIANTS = 6
"""Tiles of each texture, of different grain."""

UNITS_PER_SIDE = 64
"""Grains of average size along a scene's side."""

Texture = Callable[[int, float, np.random.Generator], np.ndarray]


def _noise(side: int, sigma_x: float, sigma_y: float, randoms: np.random.Generator, angle_deg: float = 0) -> np.ndarray:
    """Gaussian-filtered noise, stretched to 0..1; sigmas in pixels along axes turned by the angle."""
    frequency_y, frequency_x = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    along, across = frequency_x * cos + frequency_y * sin, frequency_y * cos - frequency_x * sin
    kernel = np.exp(-2 * np.pi**2 * ((along * sigma_x) ** 2 + (across * sigma_y) ** 2))
    field = np.fft.irfft2(np.fft.rfft2(randoms.standard_normal((side, side))) * kernel, s=(side, side))
    low, high = np.quantile(field, [0.02, 0.98])
    return np.clip((field - low) / (high - low), 0, 1)


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers, (side, side) each."""
    return np.meshgrid(np.arange(side), np.arange(side), indexing="ij")


def grass(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Upright blades."""
    return _noise(side, 0.45 * unit, 3.5 * unit, randoms)


def water(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Waves: level, swinging lines."""
    y, x = _grid(side)
    swing = 1.2 * np.sin(2 * np.pi * x / (14 * unit)) + 2.5 * _noise(side, 6 * unit, 6 * unit, randoms)
    return 0.5 + 0.5 * np.sin(2 * np.pi * y / (4 * unit) + swing)


def brick(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Courses of bricks, every other one shifted, with light joints."""
    y, x = _grid(side)
    height, width, joint = 5 * unit, 11 * unit, 0.9 * unit
    row = (y // height).astype(int)
    shifted = x + (row % 2) * width / 2
    shade = randoms.random((64, 64))[row % 64, (shifted // width).astype(int) % 64]
    joints = (y % height < joint) | (shifted % width < joint)
    return np.where(joints, 1.0, 0.15 + 0.4 * shade)


def sand(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Fine grains."""
    return 0.35 + 0.65 * _noise(side, 0.35 * unit, 0.35 * unit, randoms)


def sky(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Soft large clouds, and no detail."""
    return _noise(side, 11 * unit, 5 * unit, randoms) ** 2


def snow(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Almost even, with scattered dark specks."""
    specks = _noise(side, 0.55 * unit, 0.55 * unit, randoms) > 0.93
    return np.where(specks, 0.0, 0.8 + 0.2 * _noise(side, 8 * unit, 8 * unit, randoms))


def gravel(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Rounded stones of different greys with dark gaps: cells around jittered seeds."""
    nearest, second, shade = _cells(side, 5 * unit, randoms)
    return np.where(second - nearest < 0.8 * unit, 0.0, 0.35 + 0.65 * shade)


def _cells(side: int, pitch: float, randoms: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to the nearest and second nearest of jittered seeds, and a shade of the nearest; (side, side) each."""
    from scipy.spatial import cKDTree

    count = math.ceil(side / pitch) + 2
    seeds = (np.stack(_grid(count), axis=-1).reshape(-1, 2) - 0.5 + randoms.uniform(-0.4, 0.4, (count**2, 2))) * pitch
    distances, index = cKDTree(seeds).query(np.stack(_grid(side), axis=-1).reshape(-1, 2), k=2)
    shades = randoms.random(len(seeds))[index[:, 0]]
    return tuple(field.reshape(side, side) for field in (distances[:, 0], distances[:, 1], shades))  # type: ignore


def wood(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Upright boards with grain along them and dark gaps between."""
    _, x = _grid(side)
    width = 8 * unit
    shade = randoms.random(64)[(x // width).astype(int) % 64]
    grain = _noise(side, 0.6 * unit, 9 * unit, randoms)
    return np.where(x % width < 0.9 * unit, 0.0, 0.35 + 0.4 * shade + 0.25 * grain)


def tile(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """A chequered floor."""
    y, x = _grid(side)
    pitch = 6 * unit
    return ((y // pitch + x // pitch) % 2) * 0.8 + 0.2 * _noise(side, 3 * unit, 3 * unit, randoms)


def road(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Dark, with broken white lines."""
    y, x = _grid(side)
    line = (y % (16 * unit) < 1.8 * unit) & (x % (12 * unit) < 7 * unit)
    return np.where(line, 1.0, 0.25 * _noise(side, 0.4 * unit, 0.4 * unit, randoms))


def carpet(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Zigzag bands."""
    y, x = _grid(side)
    pitch = 8 * unit
    zigzag = np.abs((x / pitch) % 1 - 0.5) * pitch
    band = ((y + zigzag) / (5 * unit)) % 1
    return np.where(band < 0.5, 0.1, 0.9) * (0.85 + 0.15 * _noise(side, 0.4 * unit, 0.4 * unit, randoms))


def straw(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Stalks that cross."""
    one, other = (_noise(side, 5 * unit, 0.4 * unit, randoms, angle) for angle in (35, -35))
    return np.clip(1.6 * np.maximum(one, other) - 0.6, 0, 1)


def hedge(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Leaves: discs, light in the middle and dark around."""
    nearest, _, shade = _cells(side, 3.2 * unit, randoms)
    return np.clip(1 - nearest / (2.2 * unit), 0, 1) * (0.55 + 0.45 * shade)


def marble(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Thin dark veins."""
    veins = np.abs(_noise(side, 6 * unit, 6 * unit, randoms, 30) - 0.5)
    more = np.abs(_noise(side, 3.5 * unit, 3.5 * unit, randoms) - 0.5)
    return np.clip(np.minimum(veins / 0.06, 0.3 + more / 0.08), 0, 1)


def roof(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Rows of round shingles, every other one shifted."""
    y, x = _grid(side)
    pitch = 6 * unit
    row = np.floor(y / pitch)
    shifted = (x + (row % 2) * pitch / 2) % pitch - pitch / 2
    distance = np.hypot(shifted, y % pitch) / pitch
    shade = 0.8 + 0.2 * _noise(side, 2 * unit, 2 * unit, randoms)
    return np.clip(1 - distance, 0, 1) ** 0.7 * (distance < 0.62) * shade


def curtain(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Upright soft folds."""
    _, x = _grid(side)
    swing = 2 * _noise(side, 8 * unit, 20 * unit, randoms)
    return 0.5 + 0.5 * np.sin(2 * np.pi * x / (7 * unit) + swing)


def stripes(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Even slanting stripes."""
    y, x = _grid(side)
    return (((x + y) / (5 * unit)) % 1 < 0.5).astype(float)


def dots(side: int, unit: float, randoms: np.random.Generator) -> np.ndarray:
    """Round dots in a grid."""
    y, x = _grid(side)
    pitch = 5 * unit
    return (np.hypot(x % pitch - pitch / 2, y % pitch - pitch / 2) > 0.28 * pitch).astype(float)


TEXTURES: dict[str, Texture] = {
    texture.__name__: texture
    for texture in (
        *(grass, water, brick, sand, sky, snow, gravel, wood, tile, road, carpet, straw, hedge, marble, roof, curtain),
        *(stripes, dots),
    )
}


@functools.lru_cache(maxsize=1024)
def tile_of(name: str, variant: int, side: int) -> np.ndarray:
    """Returns a tile of a texture for a canvas of `side` pixels: uint8 (1.5 side, 1.5 side), 0..255.

    It is larger than the canvas, so that every scene cuts another piece. Seeded by name and variant; variants,
    0 to VARIANTS - 1, differ in grain.
    """
    randoms = np.random.default_rng([zlib.crc32(name.encode()), variant])
    unit = (0.75 + 0.13 * variant) * side / UNITS_PER_SIDE
    return np.rint(255 * np.clip(TEXTURES[name](side * 3 // 2, unit, randoms), 0, 1)).astype(np.uint8)

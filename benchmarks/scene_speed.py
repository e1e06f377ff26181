"""Scenes drawn a second and core, at several sizes and in both styles, with their captions and label maps.

python -m benchmarks.scene_speed
"""

from __future__ import annotations

import statistics
import time

from ovseg_model.datasets.scenes import STYLES, draw_scene, numbers

REPEATS, SCENES = 5, 100


def scenes_per_second(size_px: int, style: str) -> float:
    """The median over REPEATS of SCENES scenes each, in CPU time, after the textures are made."""
    rates = []
    for repeat in range(REPEATS + 1):
        began = time.process_time()
        for number in numbers("train", SCENES, repeat * SCENES):
            draw_scene(number, size_px, style)
        rates.append(SCENES / (time.process_time() - began))
    return statistics.median(rates[1:])


def main() -> None:
    """Prints a Markdown table."""
    print(f"| side, px | {' | '.join(f'{style}, scenes/s' for style in STYLES)} |\n|---:|---:|---:|")
    for size_px in (64, 128, 192):
        rates = [f"{scenes_per_second(size_px, style):.0f}" for style in STYLES]
        print(f"| {size_px} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()

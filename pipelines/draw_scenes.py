"""`ovseg draw-scenes`: captioned scenes with their truth, to try everything on, with no download."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.options import add_options, option, read_options, require_at_least
from pipelines.write_tables import writing
from schemas import UserError

SPLITS, STYLES = ("train", "val", "test"), ("painted", "ink")


@dataclass(frozen=True)
class DrawOptions:
    """What is drawn, and where to."""

    output: str = option("", "folder for images/, captions.json in COCO's layout, labels/, instances/, classes.json")
    scenes: int = option(200, "scenes, with five captions each")
    start: int = option(0, "scenes of the split to pass over")
    split: str = option("val", "part of the world; the small CLIP saw only train", choices=SPLITS)
    style: str = option("painted", "drawing style; the small CLIP saw only painted", choices=STYLES)
    size_px: int = option(192, "side of a scene in pixels")


def main(argv: Sequence[str]) -> int:
    """Draws and says what to do next; `argv` begins with the verb.

    Raises:
        UserError: a value is not as wanted, or the folder cannot be written to.
    """
    parser = argparse.ArgumentParser("ovseg draw-scenes", description=__doc__, allow_abbrev=False)
    add_options(parser, DrawOptions)
    options = read_options(parser.parse_args(argv[1:]), DrawOptions)
    if not options.output:
        raise UserError("--output is missing; give a folder")
    if "://" in options.output:
        raise UserError(f"--output {options.output}: wanted a local folder; copy the scenes to a bucket afterwards")
    require_at_least("scenes", options.scenes, 1)
    require_at_least("start", options.start, 0)
    require_at_least("size_px", options.size_px, 32)
    with writing(options.output):
        count = draw(options)
    print(f"{count:,} scenes with 5 captions each in {options.output}")
    return 0


def draw(options: DrawOptions) -> int:
    """Draws and writes the scenes, with a progress bar; returns how many.

    Raises:
        UserError: the split has fewer.
    """
    from tqdm import tqdm

    from ovseg_model.datasets.scene_files import write_scenes
    from ovseg_model.datasets.scenes import draw_scene, numbers

    wanted = numbers(options.split, options.scenes, options.start)
    drawn = (draw_scene(number, options.size_px, options.style) for number in wanted)
    return write_scenes(Path(options.output), tqdm(drawn, "drawing scenes", len(wanted), unit="scene", disable=None))

"""`ovseg draw-examples`: small captioned images to try the miner on, with no download."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.options import add_options, option, read_options, require_at_least
from pipelines.write_tables import writing
from schemas import UserError
from schemas.examples import draw_examples


@dataclass(frozen=True)
class DrawOptions:
    """What is drawn, and where to."""

    output: str = option("", "folder for images/, captions.json and instances.json, in COCO's layout")
    images: int = option(24, "images")
    seed: int = option(0, "another seed draws other images")
    size_px: int = option(160, "side of an image in pixels")


def main(argv: Sequence[str]) -> int:
    """Draws and says what to do next; `argv` begins with the verb.

    Raises:
        UserError: a value is not as wanted, or the folder cannot be written to.
    """
    parser = argparse.ArgumentParser("ovseg draw-examples", description=__doc__, allow_abbrev=False)
    add_options(parser, DrawOptions)
    options = read_options(parser.parse_args(argv[1:]), DrawOptions)
    if not options.output:
        raise UserError("--output is missing; give a folder")
    require_at_least("images", options.images, 1)
    require_at_least("size_px", options.size_px, 32)
    with writing(options.output):
        folder = draw_examples(options.output, options.images, options.seed, options.size_px)
    print(f"{options.images} images with 5 captions each in {folder}")
    return 0

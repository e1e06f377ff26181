"""`ovseg draw-scenes`: captioned scenes with their truth, to try everything on, with no download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.options import SentenceParser, add_options, option, read_options, require_at_least
from pipelines.write_tables import writing
from schemas import UserError

FACTS_FILE = "scenes.json"
"""Of a folder of scenes: which world and which options drew it."""

MOST_SIZE_PX = 4096
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
    parser = SentenceParser("ovseg draw-scenes", description=__doc__, allow_abbrev=False)
    add_options(parser, DrawOptions)
    options = read_options(parser.parse_args(argv[1:]), DrawOptions)
    if not options.output:
        raise UserError("--output is missing; give a folder")
    if "://" in options.output:
        raise UserError(f"--output {options.output}: wanted a local folder; copy the scenes to a bucket afterwards")
    require_at_least("scenes", options.scenes, 1)
    require_at_least("start", options.start, 0)
    require_at_least("size_px", options.size_px, 32)
    if options.size_px > MOST_SIZE_PX:
        raise UserError(f"--size-px: wanted {MOST_SIZE_PX} or less, got {options.size_px}")
    refuse_other_files(options)
    with writing(options.output):
        count = draw(options)
    print(f"{count:,} scenes with 5 captions each in {options.output}")
    return 0


def facts_of(options: DrawOptions) -> dict[str, Any]:
    """What decides the drawn files: scenes.json of the folder."""
    from ovseg_model.datasets.scenes import WORLD_SHA256, WORLD_VERSION

    drawn = {name: value for name, value in asdict(options).items() if name != "output"}
    return {"world_version": WORLD_VERSION, "world_sha256": WORLD_SHA256, **drawn}


def refuse_other_files(options: DrawOptions) -> None:
    """Refuses a folder that holds anything but the same scenes: nothing of a user's is overwritten, nothing mixed.

    Raises:
        UserError: naming the folder.
    """
    folder = Path(options.output)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    marker = folder / FACTS_FILE
    if not marker.is_file() or json.loads(marker.read_text()) != facts_of(options):
        raise UserError(
            f"--output {options.output}: holds other files, or scenes of other options; give an empty or a new folder"
        )


def draw(options: DrawOptions) -> int:
    """Draws and writes the scenes, with a progress bar; returns how many.

    Raises:
        UserError: the split has fewer.
    """
    from tqdm import tqdm

    from ovseg_model.datasets.scene_files import write_scenes
    from ovseg_model.datasets.scenes import draw_scene, numbers

    wanted = numbers(options.split, options.scenes, options.start)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    (Path(options.output) / FACTS_FILE).write_text(json.dumps(facts_of(options), indent=1) + "\n")
    drawn = (draw_scene(number, options.size_px, options.style) for number in wanted)
    return write_scenes(Path(options.output), tqdm(drawn, "drawing scenes", len(wanted), unit="scene", disable=None))

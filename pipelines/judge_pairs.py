"""`ovseg judge`: PAIRS of drawn scenes against their truth, as a table and a picture.

A pair is right when its noun means the class that covers most of its mask. Nouns that mean no class ("photo", "day")
are counted apart: whatever mask such a noun gets, it is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.open_run import FinishedRun, open_run_with_pairs
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.write_tables import RunFolder
from schemas import UserError

PICTURE_FILE = "judged.png"
SHOWN = 12
TITLE = "Drawn scenes: the region (red) that CLIP chose for each noun of a caption; framed green if right, red if wrong"


@dataclass(frozen=True)
class JudgeOptions:
    """The run that is judged, and its truth."""

    output: str = option("", "run directory whose PAIRS are judged; judged.png is written there")
    truth: str = option("", "folder that `ovseg draw-scenes` wrote the run's scenes to")


class Judged(NamedTuple):
    """A pair and what is true of it."""

    row: dict[str, Any]
    meant: str | None
    """The class that the noun means; None when it means none."""

    seen: str
    """The class that covers most of the mask, or "clutter"."""

    @property
    def right(self) -> bool:
        """Whether noun and mask agree."""
        return self.meant == self.seen


def main(argv: Sequence[str]) -> int:
    """Judges, prints the table and writes the picture; `argv` begins with the verb.

    Raises:
        UserError: the run has no PAIRS, or the truth lacks one of its scenes.
    """
    parser = SentenceParser("ovseg judge", description=__doc__, allow_abbrev=False)
    add_options(parser, JudgeOptions)
    options = read_options(parser.parse_args(argv[1:]), JudgeOptions)
    for name in ("output", "truth"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing; give a folder")
    finished = open_run_with_pairs(options.output, "--output", writable=True)
    judged = list(judge_run(finished, Path(options.truth)))
    print(precision_table(judged))
    shown = twelve_of(judged)
    finished.run.write(PICTURE_FILE, draw_judged(shown))
    print(f"\n{len(shown)} of them, taken by content hash, right and wrong: {finished.run.path(PICTURE_FILE)}")
    return 0


def judge_run(finished: FinishedRun, truth: Path) -> Iterator[Judged]:
    """Every pair of a run that has PAIRS, with its truth.

    Raises:
        UserError: a part is missing or damaged, or a label map is missing.
    """
    for part in finished.manifest["tables"]["pairs"]["parts"]:
        labels_HW, of_image = np.empty((0, 0)), None
        for row in read_pairs(finished.run, part["path"]):
            if row["image_id"] != of_image:  # an image's pairs stand together
                labels_HW, of_image = read_labels(truth, row["image_id"]), row["image_id"]
            if labels_HW.shape != (row["height"], row["width"]):
                raise UserError(
                    f"--truth {truth}: scene {row['image_id']} is {labels_HW.shape} there and "
                    f"{(row['height'], row['width'])} in the run (height, width); give the scenes that were mined"
                )
            yield judge(row, labels_HW)


def read_pairs(run: RunFolder, part: str) -> list[dict[str, Any]]:
    """The rows of a part of PAIRS.

    Raises:
        UserError: the part is missing or damaged.
    """
    try:
        return run.read_part(part).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{run.path(part)}: cannot be read ({str(error).splitlines()[0]}); mine again, and the part is made anew"
        ) from error


def read_labels(truth: Path, image_id: str) -> np.ndarray:
    """The label map of a scene, uint8 (H, W); raises UserError as `read_truth` does."""
    from ovseg_model.datasets.scene_files import LABELS

    return read_truth(truth, image_id, LABELS, "--truth")


def read_truth(truth: Path, image_id: str, kind: str, option: str) -> np.ndarray:
    """A map of a scene, of the folder LABELS or INSTANCES, uint8 (H, W); `option` named the folder `truth`.

    Raises:
        UserError: it is not there.
    """
    from PIL import Image

    from ovseg_model.datasets.scene_files import file_name

    if not (image_id.isascii() and image_id.isdecimal()):
        raise UserError(f"{option} {truth}: {image_id!r} is no number of a scene; judge runs of ovseg draw-scenes")
    path = truth / kind / file_name(int(image_id))
    if not path.is_file():
        raise UserError(
            f"{option} {truth}: has no {path.name} under {kind}; give the folder that the run's scenes are in"
        )
    try:
        with Image.open(path) as labels:
            return np.asarray(labels)
    except OSError as error:
        raise UserError(f"{path}: is no label map that can be read ({error}); draw the scenes again") from error


def judge(row: dict[str, Any], labels_HW: np.ndarray) -> Judged:
    """A PAIRS row with what its mask covers most of; labels_HW: uint8, of the image's size."""
    from ovseg_model.datasets.scene_nouns import NAMES, class_of
    from ovseg_model.rle import decode_masks

    mask_HW = decode_masks([row["mask"]])[0]
    label = int(np.bincount(labels_HW[mask_HW]).argmax())
    return Judged(row, class_of(row["noun"]), NAMES[label] if label < len(NAMES) else "clutter")


def precision_table(judged: Sequence[Judged]) -> str:
    """The share of right pairs, by what their nouns mean."""
    from ovseg_model.datasets.scene_nouns import CAPTIONS_ONLY, STUFF, THINGS

    named = [each for each in judged if each.meant]
    groups = {
        "nouns of things": [each for each in named if each.meant in THINGS],
        "nouns of stuff": [each for each in named if each.meant in STUFF],
        "of these, only captions name": [each for each in named if each.meant in CAPTIONS_ONLY],
        "nouns of things or stuff": named,
        "nouns of nothing visible": [each for each in judged if not each.meant],
        "all": judged,
    }
    lines = [f"{'pairs of':<30}{'pairs':>8}{'right':>8}{'precision':>11}"]
    for name, members in groups.items():
        right = sum(each.right for each in members)
        share = f"{right / len(members):.3f}" if members else "-"
        lines.append(f"{name:<30}{len(members):>8,}{right:>8,}{share:>11}")
    return "\n".join(lines)


def twelve_of(judged: Sequence[Judged]) -> list[Judged]:
    """Pairs of different images whose nouns mean a class, those with the smallest content hashes: nobody's choice."""
    chosen: dict[str, Judged] = {}
    for each in sorted(judged, key=lambda each: each.row["pair_id"]):
        if each.meant:
            chosen.setdefault(each.row["image_id"], each)
    return list(chosen.values())[:SHOWN]


def draw_judged(judged: Sequence[Judged]) -> bytes:
    """A sheet of tiles as PNG, four a line: image with tinted mask, noun, and whether it is right."""
    from ovseg_model.images import FetchOptions
    from pipelines.draw_pairs import Verdict, draw_pairs

    verdicts = [Verdict(each.right, "" if each.right else each.seen) for each in judged]
    return draw_pairs([each.row for each in judged], FetchOptions(), verdicts, 4, TITLE)

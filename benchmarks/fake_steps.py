"""`ovseg` with stand-ins for its models: `python -m benchmarks.fake_steps mine --captions FILE --output RUN`.

The three steps make schema-true rows of references alone: a noun a caption (its last word), two masks an image (its
halves, never read), a pair a noun. No tagger, no pixels, no network; all around them is the product's own: planning,
freezing, units, parts, hashes, manifest, resume. The rows say that they mean nothing.

`plan` in place of `mine` stops where work would start and prints the units; `graph` prints the job graph's bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.rle import encode_masks
from pipelines import plan
from pipelines.command_line import main as ovseg
from pipelines.manifest import StageFacts
from pipelines.mine_pairs import MAKES, parse
from pipelines.plan import MineOptions, Planned, plan_run
from pipelines.units import StepOutput, part_name
from pipelines.versions import versions_of
from pipelines.write_tables import RunFolder
from schemas import MASKS, NOUNS, PAIRS, UserError

HEIGHT_PX, WIDTH_PX = 480, 640
GENERATOR, SCORER = "fake halves", "fake quarter"

Columns = dict[str, Any]


def fake_nouns(captions: pa.Table) -> pa.Table:
    """NOUNS rows of CAPTIONS rows: the last word of each caption."""
    words = pc.replace_substring_regex(captions["caption"], r"^.*\s", "")
    ends = pc.utf8_length(captions["caption"])
    start = pc.subtract(ends, pc.utf8_length(words))
    lower = pc.utf8_lower(words)
    keys = {name: captions[name] for name in ("image_id", "caption_index")}
    texts = {"noun": lower, "surface": words, "head": lower, "lemma": lower, "tag_pattern": "NN"}
    flags = {"abstract": False, "generic": False}
    return rows_of(NOUNS, captions.num_rows, {**keys, **texts, **flags, "start_char": start, "end_char": ends})


def fake_masks(captions: pa.Table) -> pa.Table:
    """MASKS rows of CAPTIONS rows: both halves of each image, which is taken to be 640 x 480 px."""
    images = captions.group_by(["image_id", "image_uri"], use_threads=False).aggregate([]).sort_by("image_id")
    count = images.num_rows
    hashes = [hashlib.sha256(image_id.encode()).hexdigest() for image_id in images["image_id"].to_pylist()]
    twice = np.repeat(np.arange(count), 2)
    per_image = {name: images[name].take(pa.array(twice)) for name in ("image_id", "image_uri")}
    half = WIDTH_PX // 2
    return rows_of(
        MASKS,
        2 * count,
        {
            **per_image,
            "image_sha256": pa.array(hashes).take(pa.array(twice)),
            "image_phash": pa.array([each[:16] for each in hashes]).take(pa.array(twice)),
            "height": HEIGHT_PX,
            "width": WIDTH_PX,
            "mask_index": np.tile([0, 1], count),
            "mask": list(halves()) * count,
            "box_xywh_px": [[0, 0, half, HEIGHT_PX], [half, 0, half, HEIGHT_PX]] * count,
            "area_px": half * HEIGHT_PX,
            "predicted_iou": None,
            "stability": None,
            "generator": GENERATOR,
        },
    )


def fake_pairs(captions: pa.Table, nouns: pa.Table, masks: pa.Table) -> pa.Table:
    """PAIRS rows: each noun with the left half of its image, at a cosine of a quarter."""
    left = masks.filter(pc.equal(masks["mask_index"], 0))
    regions = left.take(pc.index_in(nouns["image_id"], left["image_id"].combine_chunks()))
    texts = captions.take(pc.index_in(keys_of(nouns), keys_of(captions)))
    from_mask = (
        "image_id",
        "image_uri",
        "image_sha256",
        "image_phash",
        "height",
        "width",
        "mask_index",
        "mask",
        "box_xywh_px",
    )
    from_noun = ("noun", "lemma", "caption_index", "start_char", "end_char", "abstract", "generic")
    scores = {"cosine": 0.25, "probability": 1.0, "mask_rank": 1, "noun_rank": 1, "margin": 0.0}
    absent = dict.fromkeys(("hard_negatives", "crop_png"))
    names = zip(nouns["image_id"].to_pylist(), nouns["noun"].to_pylist(), strict=True)
    return rows_of(
        PAIRS,
        nouns.num_rows,
        {
            **{name: regions[name] for name in (*from_mask, "area_px", "generator")},
            **{name: nouns[name] for name in from_noun},
            **{name: texts[name] for name in ("caption", "source_url", "licence", "safety")},
            **scores,
            **absent,
            "pair_id": [hashlib.sha256("\n".join(name).encode()).hexdigest()[:32] for name in names],
            "runner_up_nouns": [[]] * nouns.num_rows,
            "runner_up_masks": [[]] * nouns.num_rows,
            "meaningless": True,
            "scorer": SCORER,
        },
    )


@functools.cache
def halves() -> tuple[dict[str, Any], ...]:
    """The left and the right half of an image, as RLE."""
    masks_NHW = np.zeros((2, HEIGHT_PX, WIDTH_PX), bool)
    masks_NHW[0, :, : WIDTH_PX // 2] = masks_NHW[1, :, WIDTH_PX // 2 :] = True
    return tuple(encode_masks(masks_NHW))


def keys_of(rows: pa.Table) -> pa.Array:
    """image_id and caption_index of each row as one text."""
    index = rows["caption_index"].cast(pa.string())
    return pc.binary_join_element_wise(rows["image_id"], index, "#").combine_chunks()


def rows_of(table: Any, count: int, columns: Columns) -> pa.Table:
    """A table of columns, in any order; what is no column is the value of all rows. Writing it checks it."""
    arrays = [_column(columns[field.name], field.type, count) for field in table.schema]
    return pa.Table.from_arrays(arrays, names=table.schema.names)


def _column(values: Any, type_: pa.DataType, count: int) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(type_)
    if isinstance(values, list | np.ndarray):
        return pa.array(values, type_)
    return pa.repeat(pa.scalar(values, type_), count)


MAKERS: dict[str, Callable[..., pa.Table]] = {"nouns": fake_nouns, "masks": fake_masks, "pairs": fake_pairs}
INPUTS = {"nouns": ("captions",), "masks": ("captions",), "pairs": ("captions", "nouns", "masks")}
COUNTS = {"nouns": "captions", "masks": "images", "pairs": "nouns"}
PACKAGES = ("numpy", "open_clip_torch", "pillow", "pycocotools", "torch")
"""What the real steps' hashes ask for, unit by unit; here too, so that it takes as long."""


@dataclass(frozen=True)
class FakeStep:
    """A step that makes one table by its maker; nothing is dropped."""

    run: RunFolder
    name: str
    table: str

    @property
    def counts(self) -> str:
        """What its totals count."""
        return COUNTS[self.table]

    def fingerprint(self) -> dict[str, Any]:
        """It is a stand-in, in the surroundings of the real one."""
        return {"fake": True, "version": 1, "versions": versions_of(*PACKAGES)}

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The parts that the real step reads."""
        return {table: (self.run, part_name(table, unit)) for table in INPUTS[self.table]}

    def process(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """Makes the rows of one unit."""
        rows = MAKERS[self.table](**parts)
        read = {"nouns": "captions", "pairs": "nouns"}.get(self.table)
        count = parts[read].num_rows if read else rows.num_rows // 2
        return StepOutput(rows, [], count, count)

    def drops_of_all(self, parts: dict[str, pa.Table], reason: str, detail: str) -> list[dict[str, Any]]:
        """None: nothing kills a worker here."""
        raise NotImplementedError(f"{reason}: {detail}")


def plan_fake(table: str, run: RunFolder, options: MineOptions) -> Planned:
    """The stand-in for the step that makes a table."""
    step = FakeStep(run, plan.STAGES[table], table)
    return step, StageFacts(step.counts, {}, step.fingerprint(), meaningless=True)


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Runs planned meanwhile in this process are made by stand-ins.

    Nothing waits for the disk part by part: real steps take long enough for a part to hide it, these do not.
    """
    planners, fsync = dict(plan.PLANNERS), os.fsync
    plan.PLANNERS.update({table: functools.partial(plan_fake, table) for table in MAKERS})
    os.fsync = lambda descriptor: None
    try:
        yield
    finally:
        plan.PLANNERS.update(planners)
        os.fsync = fsync


def plan_mine(arguments: Sequence[str]) -> plan.Plan:
    """The plan of `ovseg mine` with these arguments."""
    return plan_run(MAKES["mine"], parse(["mine", *arguments])[0])


def graph_bytes(arguments: Sequence[str]) -> int:
    """Bytes of the job graph of `ovseg mine` with these arguments."""
    import apache_beam as beam

    from pipelines.transforms import define_pipeline

    root = beam.Pipeline(runner="FnApiRunner")
    define_pipeline(root, plan_mine(arguments))
    return root.to_runner_api().ByteSize()


def main(argv: Sequence[str]) -> int:
    """Runs a verb, or one of the two that exist only here."""
    verb, *arguments = argv
    with stand_ins():
        if verb not in ("plan", "graph"):
            return ovseg(argv)
        try:
            print(graph_bytes(arguments) if verb == "graph" else plan_mine(arguments).units.count)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

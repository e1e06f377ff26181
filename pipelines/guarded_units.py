"""A unit that killed its worker is made image by image, until the one that kills stands alone and is dropped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.halving import halved_batches
from pipelines.attempts import Attempts
from pipelines.checkpoints import Checkpoint, DoneImages, in_order_of, together
from pipelines.units import Step, StepOutput, count_distinct_rows, sum_counts
from schemas import TABLES

WHOLE = "unit"
"""The name of a whole unit as a piece of work."""

HALVED = "halved_batches"
"""In totals: batches that were made smaller than asked, so that last digits of their rows may be others."""

DEATHS_ALONE = 2
"""Deaths at an image alone from which it is dropped. With the unit's own that makes three, one less than the attempts
after which Dataflow gives a job up; one alone may be chance, such as a machine that was taken away."""

DETAIL = f"its worker died at it alone {DEATHS_ALONE} times: killed, out of memory, or a crash in native code"

Parts = dict[str, pa.Table]


def process_guarded(step: Step, unit: int, parts: Parts) -> StepOutput:
    """What `step` makes of a unit, or of some of its images; those that kill their worker are `worker_killed` drops.

    The first attempt makes the unit in one go, as fast as it can be. Where a worker died, every image is made alone,
    with a marker of its own. Batches that a model halved since memory ran out are among what was measured.
    """
    before = halved_batches()
    output = _process_unit(step, unit, parts)
    halved = halved_batches() - before
    return output._replace(measured=sum_counts([output.measured, {HALVED: halved}])) if halved else output


def _process_unit(step: Step, unit: int, parts: Parts) -> StepOutput:
    attempts = attempts_at(step, unit)
    deaths = attempts.deaths()
    if deaths:
        return process_alone(step, unit, parts, attempts, deaths)
    with attempts.attempt(WHOLE):
        return getattr(step, "process_with_checkpoints", step.process)(unit, parts)


def process_alone(step: Step, unit: int, parts: Parts, attempts: Attempts, deaths: Counter[str]) -> StepOutput:
    """The same, image by image."""
    image_ids = image_ids_of(parts)
    checkpoint = checkpoint_of(step, unit)
    # Masks of another run may have changed since; what was proposed for this one has not.
    is_checkpointed = step.table == "masks" and "masks" not in parts
    saved = checkpoint.load(image_ids) if is_checkpointed else []
    made, unsaved = [output_of(each) for each in saved], list[DoneImages]()
    done = {image_id for each in saved for image_id in each.image_ids}
    for image_id in (image_id for image_id in image_ids if image_id not in done):
        made.append(_process_image(step, unit, parts, image_id, attempts, deaths))
        unsaved.append(DoneImages(made[-1].rows, made[-1].drops, (image_id,)))
        if is_checkpointed and checkpoint.is_due():
            checkpoint.save(together(unsaved))
            unsaved = []
    return joined(step.table, image_ids, made)


def _process_image(
    step: Step, unit: int, parts: Parts, image_id: str, attempts: Attempts, deaths: Counter[str]
) -> StepOutput:
    own, work = parts_of_images(parts, [image_id]), work_of_image(image_id)
    if deaths[work] >= DEATHS_ALONE:
        drops = step.drops_of_all(own, "worker_killed", DETAIL)
        return StepOutput(TABLES[step.table].schema.empty_table(), drops, len(drops), 0)
    with attempts.attempt(work):
        return step.process(unit, own)


def attempts_at(step: Step, unit: int) -> Attempts:
    """The attempts at a unit of a step as it is now; deaths under other options or versions do not count."""
    return Attempts(step.run, step.name, unit, step_key(step))


def checkpoint_of(step: Step, unit: int) -> Checkpoint:
    """What is done of a unit of a step as it is now."""
    return Checkpoint(step.run, step.table, unit, step_key(step))


def forget_attempts(step: Step, unit: int) -> None:
    """Removes markers and checkpoints of a unit whose part stands."""
    attempts_at(step, unit).forget()
    checkpoint_of(step, unit).forget()


def step_key(step: Step) -> str:
    """A short hash of all that decides a step's rows, apart from the parts it reads."""
    return hashlib.sha256(json.dumps(step.fingerprint(), sort_keys=True).encode()).hexdigest()[:12]


def work_of_image(image_id: str) -> str:
    """The name of one image as a piece of work."""
    return f"image-{hashlib.sha256(image_id.encode()).hexdigest()[:16]}"


def image_ids_of(parts: Parts) -> list[str]:
    """The images of a unit's parts, in their order."""
    return list(dict.fromkeys(parts["captions"]["image_id"].to_pylist()))


def parts_of_images(parts: Parts, image_ids: Collection[str]) -> Parts:
    """The rows of some images in all parts."""
    wanted = pa.array(list(image_ids), pa.string())
    return {name: rows.filter(pc.is_in(rows["image_id"], wanted)) for name, rows in parts.items()}


def output_of(done: DoneImages) -> StepOutput:
    """What a step that counts images says of those that were done before."""
    return StepOutput(done.rows, done.drops, len(done.image_ids), count_distinct_rows(done.rows, ("image_id",)))


def joined(table: str, image_ids: Sequence[str], outputs: Sequence[StepOutput]) -> StepOutput:
    """The sum of outputs of different images: their rows in the order of the images, as one output would have them."""
    drops: list[dict[str, Any]] = [row for output in outputs for row in output.drops]
    rows = in_order_of(image_ids, [TABLES[table].schema.empty_table(), *(output.rows for output in outputs)])
    read, kept = sum(output.read for output in outputs), sum(output.kept for output in outputs)
    return StepOutput(rows, drops, read, kept, sum_counts(output.measured for output in outputs))

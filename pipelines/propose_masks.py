"""Captions part (for its image URIs) → masks part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model import rle
from ovseg_model.image_hash import perceptual_hash
from ovseg_model.images import FetchedImage, FetchOptions, ImageError, read_images
from ovseg_model.proposals import (
    GeneratorSpec,
    ImageInput,
    MaskGenerator,
    MaskProposals,
    ProposalError,
    open_generator,
    packages_of,
    propose_in_batches,
)
from pipelines.checkpoints import Checkpoint, DoneImages, in_order_of, together
from pipelines.excluded_images import (
    REASON,
    ExcludedImages,
    ExclusionSpec,
    find_excluded,
    opened,
    refuse_excluded,
    without_images,
)
from pipelines.guarded_units import checkpoint_of
from pipelines.open_models import open_once
from pipelines.progress import count_images
from pipelines.stopwatch import in_models, waiting_for_images
from pipelines.units import StepOutput, count_distinct_rows, drop, part_name
from pipelines.versions import versions_of
from pipelines.write_tables import RunFolder
from schemas import MASKS, conform_rows

STAGE = "propose_masks"
VERSION = 2


class Image(NamedTuple):
    """An image by its key and the place of its bytes."""

    image_id: str
    image_uri: str | None


Fetched = tuple[Image, FetchedImage | ImageError]
Proposed = tuple[Image, FetchedImage | None, MaskProposals | ProposalError | ImageError]


def images_of(captions: pa.Table) -> list[Image]:
    """The images of CAPTIONS rows, each once, in the table's order."""
    pairs = zip(captions["image_id"].to_pylist(), captions["image_uri"].to_pylist(), strict=True)
    return [Image(*pair) for pair in dict.fromkeys(pairs)]


def propose_masks(
    images: Sequence[Image],
    generator: MaskGenerator,
    fetch: FetchOptions,
    checkpoint: Checkpoint | None = None,
    excluded: ExcludedImages | None = None,
) -> StepOutput:
    """Masks of every image; images that cannot be read, are `excluded` or have no mask become drops.

    Images are read by a thread pool ahead of the generator, which gets them in batches of its own size. What is done
    is saved in `checkpoint` now and then, and what is saved there is not done again.
    """
    image_ids = [image.image_id for image in images]
    made = checkpoint.load(image_ids) if checkpoint else []
    done = {image_id for each in made for image_id in each.image_ids}
    unsaved: list[DoneImages] = []
    waiting = [image for image in images if image.image_id not in done]
    for batch in _proposals(waiting, generator, fetch, excluded):
        unsaved.append(done_images(count_images(batch, "masks"), generator.name))
        if checkpoint and checkpoint.is_due():
            checkpoint.save(together(unsaved))
            made, unsaved = made + unsaved, []
    rows = in_order_of(image_ids, [each.rows for each in made + unsaved])
    return images_output(images, rows, [row for each in made + unsaved for row in each.drops])


def done_images(proposed: Iterable[Proposed], generator: str) -> DoneImages:
    """MASKS rows and drops of some images."""
    rows: list[dict[str, Any]] = []
    drops, image_ids = [], []
    for image, fetched, proposals in proposed:
        image_ids.append(image.image_id)
        if isinstance(proposals, (ImageError, ProposalError)):
            drops.append(drop(STAGE, image.image_id, image.image_id, proposals.reason, proposals.detail))
        else:
            rows += mask_rows(image, fetched, proposals, generator)
    return DoneImages(conform_rows(rows, MASKS), drops, tuple(image_ids))


def images_output(images: Sequence[Image], rows: pa.Table, drops: list[dict[str, Any]]) -> StepOutput:
    """The step's output for some images; kept are those that have rows."""
    return StepOutput(rows, drops, len(images), count_distinct_rows(rows, ("image_id",)))


def mask_rows(
    image: Image, fetched: FetchedImage, proposals: MaskProposals, generator: str
) -> Iterator[dict[str, Any]]:
    """MASKS rows of one image."""
    height, width = fetched.pixels.shape[:2]
    phash = perceptual_hash(fetched.pixels)
    areas, boxes = rle.areas_px(proposals.masks), rle.boxes_xywh_px(proposals.masks)
    unknown = [None] * len(proposals.masks)
    scores = (proposals.predicted_iou or unknown, proposals.stability or unknown)
    columns = zip(proposals.masks, boxes.tolist(), areas.tolist(), *scores, strict=True)
    for index, (mask, box, area, predicted_iou, stability) in enumerate(columns):
        yield {
            "image_id": image.image_id,
            "image_uri": image.image_uri,
            "image_sha256": fetched.sha256,
            "image_phash": phash,
            "height": height,
            "width": width,
            "mask_index": index,
            "mask": mask,
            "box_xywh_px": box,
            "area_px": area,
            "predicted_iou": predicted_iou,
            "stability": stability,
            "generator": generator,
        }


def select_masks(images: Sequence[Image], stored: pa.Table) -> tuple[pa.Table, list[Image]]:
    """The stored MASKS rows of these images, with the images' URIs of today, and the images that have none."""
    rows = stored.filter(pc.is_in(stored["image_id"], pa.array([image.image_id for image in images], pa.string())))
    have = set(rows["image_id"].to_pylist())
    uris = {image.image_id: image.image_uri for image in images}
    known = zip(rows["image_id"].to_pylist(), rows["image_uri"].to_pylist(), strict=True)
    current = pa.array([uris[image_id] or uri for image_id, uri in known], pa.string())
    column = rows.schema.get_field_index("image_uri")
    rows = rows.set_column(column, rows.schema.field("image_uri"), current)
    return rows, [image for image in images if image.image_id not in have]


def drop_excluded(rows: pa.Table, excluded: ExcludedImages | None) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Stored MASKS rows without those of excluded images, and a drop for each of these."""
    found = find_excluded(rows, excluded)
    drops = [drop(STAGE, image_id, image_id, REASON, why) for image_id, why in found.items()]
    return without_images(rows, found), drops


def reuse_masks(images: Sequence[Image], stored: pa.Table, excluded: ExcludedImages | None = None) -> StepOutput:
    """Stored masks only; images without any become `no_masks` drops."""
    rows, missing = select_masks(images, stored)
    rows, drops = drop_excluded(rows, excluded)
    detail = "the run that --masks-from names has no masks of this image; --propose-missing proposes them"
    drops += [drop(STAGE, image.image_id, image.image_id, "no_masks", detail) for image in missing]
    return images_output(images, rows, drops)


def reuse_and_propose(
    images: Sequence[Image],
    stored: pa.Table,
    generator: MaskGenerator,
    fetch: FetchOptions,
    checkpoint: Checkpoint | None = None,
    excluded: ExcludedImages | None = None,
) -> StepOutput:
    """Stored masks where there are some, proposed ones for the other images."""
    rows, missing = select_masks(images, stored)
    rows, drops = drop_excluded(rows, excluded)
    made = propose_masks(missing, generator, fetch, checkpoint, excluded)
    both = pa.concat_tables([rows, made.rows]).sort_by([("image_id", "ascending"), ("mask_index", "ascending")])
    return images_output(images, both, drops + made.drops)


@dataclass(frozen=True)
class ProposeMasks:
    """The step: a generator by its spec, stored masks of another run, or both."""

    run: RunFolder
    generator: GeneratorSpec | None
    fetch: FetchOptions
    masks_from: RunFolder | None = None
    excluded: ExclusionSpec | None = None
    retries_drops: bool = False
    name: str = STAGE
    table: str = "masks"
    counts: str = "images"

    def fingerprint(self) -> dict[str, Any]:
        """Version, generator, and what decides which images are read and kept."""
        generator = self.generator.fingerprint() if self.generator else None
        packages = packages_of(self.generator.name) if self.generator else ()
        versions = versions_of("numpy", "pillow", "pycocotools", *packages)
        return {
            "version": VERSION,
            "generator": generator,
            "images": self.fetch.fingerprint(),
            "reuses": bool(self.masks_from),
            "versions": versions,
            **({"excluded": self.excluded.fingerprint()} if self.excluded else {}),
        }

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The unit's captions, and its stored masks where another run has them."""
        parts = {"captions": (self.run, part_name("captions", unit))}
        if self.masks_from:
            parts["masks"] = (self.masks_from, part_name("masks", unit))
        return parts

    def process(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """Masks of the unit's images."""
        return self._process(parts, None)

    def process_with_checkpoints(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """The same, from the last checkpoint on; of the first unit also what the generator measures.

        Not where images are made alone after a death: a measurement must not be what kills.
        """
        output = self._process(parts, checkpoint_of(self, unit))
        return output._replace(measured=self._measured(output.rows)) if unit == 0 else output

    def drops_of_all(self, parts: dict[str, pa.Table], reason: str, detail: str) -> list[dict[str, Any]]:
        """A drop for each image of the parts."""
        ids = [image.image_id for image in images_of(parts["captions"])]
        return [drop(STAGE, image_id, image_id, reason, detail) for image_id in ids]

    def _process(self, parts: dict[str, pa.Table], checkpoint: Checkpoint | None) -> StepOutput:
        images, excluded = images_of(parts["captions"]), opened(self.excluded)
        if "masks" not in parts:
            return propose_masks(images, self._open(), self.fetch, checkpoint, excluded)
        if not self.generator:
            return reuse_masks(images, parts["masks"], excluded)
        return reuse_and_propose(images, parts["masks"], self._open(), self.fetch, checkpoint, excluded)

    def _measured(self, masks: pa.Table) -> dict[str, int] | None:
        """Of the first image that has masks: the same one, wherever a checkpoint ended."""
        measure = getattr(self._open(), "measure", None) if self.generator and masks.num_rows else None
        if not measure:
            return None
        [image] = read_images([masks["image_uri"][0].as_py()], self.fetch)
        with in_models():
            return measure(image.pixels) or None if isinstance(image, FetchedImage) else None

    def _open(self) -> MaskGenerator:
        return open_once(open_generator, self.generator)


def _proposals(
    images: Sequence[Image], generator: MaskGenerator, fetch: FetchOptions, excluded: ExcludedImages | None
) -> Iterator[list[Proposed]]:
    """Every image in order, batch by batch: a batch has `batch_size` images that could be read, and those between."""
    results = waiting_for_images(read_images([image.image_uri for image in images], fetch))
    fetched = zip(images, refuse_excluded(results, excluded) if excluded else results, strict=True)
    batch: list[Fetched] = []
    readable = 0
    for image, result in fetched:
        batch.append((image, result))
        readable += isinstance(result, FetchedImage)
        if readable == generator.batch_size:
            yield _propose_batch(batch, generator)
            batch, readable = [], 0
    yield _propose_batch(batch, generator)


def _propose_batch(batch: Sequence[Fetched], generator: MaskGenerator) -> list[Proposed]:
    readable = [(image, result) for image, result in batch if isinstance(result, FetchedImage)]
    inputs = [ImageInput(image.image_id, image.image_uri or "", result.pixels) for image, result in readable]
    with in_models():
        outcomes = iter(propose_in_batches(generator, inputs))
    return [
        (image, result, next(outcomes)) if isinstance(result, FetchedImage) else (image, None, result)
        for image, result in batch
    ]

"""RefCOCO, RefCOCO+ and RefCOCOg, as REFER (Yu et al., ECCV 2016) distributes them.

ROOT/refcoco/instances.json, refs(unc).p                 RefCOCO
ROOT/refcoco+/instances.json, refs(unc).p                RefCOCO+
ROOT/refcocog/instances.json, refs(umd).p, refs(google).p
ROOT/images/mscoco/images/train2014/ or ROOT/train2014/  COCO_train2014_000000581857.jpg ...

refs(...).p is a pickle of Python 2, read as plain values only; a JSON export of the same list, refs(...).json, is taken
in its place. One sample an expression: the references of the split in the file's order, each with its sentences.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovseg_model.datasets.coco_instances import CocoInstances, read_instances
from ovseg_model.datasets.dataset_files import find_place, read_json, require_files
from ovseg_model.datasets.referring import ReferringBenchmark, ReferringSample
from ovseg_model.datasets.safe_pickle import load_restricted
from schemas.errors import UserError

SOURCE = "REFER, https://github.com/lichengunc/refer (archives refcoco.zip, refcoco+.zip and refcocog.zip)"
IMAGES_SOURCE = "COCO's images of train2014, http://images.cocodataset.org/zips/train2014.zip"

NOTES = (
    "cIoU is the sum of intersections over the sum of unions of all expressions. "
    "OVSeg's paper has no RefCOCO number: 76.5 and 71.0 on testA, where a table lists them under OVSeg, are ReLA's."
)


class Reference(NamedTuple):
    """An annotation and what people called it."""

    ref_id: int
    ann_id: int
    image_id: int
    sentences: tuple[tuple[int, str], ...]
    """Id and text of each."""


class Partition(NamedTuple):
    """Where a split of ours is found, and how many expressions it has."""

    file: str
    """Who drew the partition: the word in refs(...)."""

    split: str
    """Its name there."""

    expressions: int


def read_references(path: Path, split: str) -> list[Reference]:
    """Returns the references of a split, in the order of a refs(...).p or refs(...).json. Raises UserError."""
    rows = read_json(path) if path.suffix == ".json" else load_restricted(path)
    try:
        return [_reference(row) for row in rows if row["split"] == split]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: wanted a list of references with ref_id, ann_id, image_id, split and sentences (sent_id, sent); "
            f"got {type(error).__name__}: {error}"
        ) from error


def _reference(row: Mapping[str, Any]) -> Reference:
    sentences = tuple((int(each["sent_id"]), each["sent"].strip()) for each in row["sentences"])
    return Reference(*(int(row[key]) for key in ("ref_id", "ann_id", "image_id")), sentences)


def read_samples(name: str, title: str, partition: Partition, root: Path) -> list[ReferringSample]:
    """Returns the samples of one partition of one data set, by the name of its folder. Raises UserError."""
    stem = root / name / f"refs({partition.file})"
    references = read_references(
        find_place(title, [stem.with_name(f"{stem.name}.p"), stem.with_name(f"{stem.name}.json")], SOURCE),
        partition.split,
    )
    instances = read_instances(find_place(title, [root / name / "instances.json"], SOURCE))
    folders = [root / "images" / "mscoco" / "images" / "train2014", root / "train2014"]
    samples = _samples(references, instances, find_place(title, folders, IMAGES_SOURCE))
    require_files(title, list(dict.fromkeys(sample.image for sample in samples)), IMAGES_SOURCE)
    return samples


def _samples(references: Sequence[Reference], instances: CocoInstances, images: Path) -> list[ReferringSample]:
    annotations = {each.id: each for each in instances.annotations}
    samples = []
    for reference in references:
        annotation = annotations.get(reference.ann_id)
        if annotation is None or annotation.image_id != reference.image_id:
            raise UserError(
                f"{instances.path}: reference {reference.ref_id} wants annotation {reference.ann_id} of image "
                f"{reference.image_id}, and there is none; take refs and instances.json from one archive"
            )
        mask, image = instances.mask_of(annotation), images / instances.image_of(annotation).file_name
        samples += [
            ReferringSample(f"{image.stem}-{reference.ref_id}-{number}", str(image), text, mask)
            for number, text in reference.sentences
        ]
    return samples


def _benchmark(name: str, title: str, partitions: Mapping[str, Partition]) -> ReferringBenchmark:
    def read_split(root: Path, split: str) -> list[ReferringSample]:
        return read_samples(name, title, partitions[split], root)

    counts = {split: partition.expressions for split, partition in partitions.items()}
    return ReferringBenchmark(name, title, counts, "val", read_split, NOTES)


UNC, UMD, GOOGLE = (functools.partial(Partition, file) for file in ("unc", "umd", "google"))

REFCOCO = _benchmark(
    "refcoco",
    "RefCOCO",
    {
        "train": UNC("train", 120_624),
        "val": UNC("val", 10_834),
        "testA": UNC("testA", 5_657),
        "testB": UNC("testB", 5_095),
    },
)

REFCOCO_PLUS = _benchmark(
    "refcoco+",
    "RefCOCO+",
    {
        "train": UNC("train", 120_191),
        "val": UNC("val", 10_758),
        "testA": UNC("testA", 5_726),
        "testB": UNC("testB", 4_889),
    },
)

REFCOCOG = _benchmark(
    "refcocog",
    "RefCOCOg",
    {
        "train": UMD("train", 80_512),
        "val": UMD("val", 4_896),
        "test": UMD("test", 9_602),
        "val-google": GOOGLE("val", 9_536),
    },
)

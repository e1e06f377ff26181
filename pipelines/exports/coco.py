"""`--format coco`: PAIRS as instances.json, which pycocotools reads: a category a noun, an annotation a pair."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.images import ShardMember
from ovseg_model.pair_reader import Row
from pipelines.exports.export_options import ExportOptions
from pipelines.exports.public_names import public_uri
from pipelines.exports.selected_pairs import ROWS_PER_READ, SelectedPairs, value_counts

INSTANCES_FILE = "instances.json"

UNREAD_COLUMNS = ("crop_png", "runner_up_masks", "runner_up_nouns", "hard_negatives")
"""What COCO has no place for."""

NO_LICENCE = "unknown"

LARGEST_ID = 15
"""Digits of an image_id that is taken for COCO's own number: they fit every reader's integers."""


@dataclass
class Numbering:
    """What must be known of all pairs before the first is written; grows with nouns and licences, not with pairs."""

    nouns: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    own_ids: bool = True
    """Whether every image_id is a number already, as COCO's are."""

    first_path: str | None = None
    last_path: str | None = None
    """The first and the last local path, in order: what they share, all share."""

    def add(self, rows: pa.Table) -> None:
        """Takes in rows of noun, licence, image_id and image_uri."""
        self.nouns.update(value_counts(rows["noun"]))
        self.licences.update(value_counts(rows["licence"]))
        plain = pc.match_substring_regex(rows["image_id"], rf"^(0|[1-9][0-9]{{0,{LARGEST_ID - 1}}})$")
        self.own_ids = self.own_ids and pc.all(plain, min_count=0).as_py()
        self._add_paths(rows["image_uri"])

    def _add_paths(self, uris: pa.ChunkedArray) -> None:
        is_remote = pc.match_substring_regex(uris, "://|#member=")
        ends = pc.min_max(uris.filter(pc.invert(is_remote))).as_py()
        paths = [path for path in (self.first_path, self.last_path, *ends.values()) if path is not None]
        self.first_path, self.last_path = min(paths, default=None), max(paths, default=None)

    def categories(self) -> dict[str, int]:
        """Numbers of nouns, from 1, by falling count; nouns of one count by name."""
        return {noun: number for number, noun in enumerate(by_falling_count(self.nouns), 1)}

    def licence_ids(self) -> dict[str, int]:
        """Numbers of licences, from 1, in the same order; "" is none."""
        return {licence: number for number, licence in enumerate(by_falling_count(self.licences), 1)}

    def folder(self) -> str:
        """The folder that holds all local images, with its slash; "" where they share none."""
        shared = posixpath.commonprefix([self.first_path or "", self.last_path or ""])
        return shared[: shared.rfind("/") + 1]


def write_pairs(pairs: SelectedPairs, folder: str, options: ExportOptions, fetch: FetchOptions) -> None:
    """Writes instances.json, row after row: memory holds the nouns, not the pairs.

    Raises:
        UserError: a part of the run cannot be read.
    """
    del fetch  # masks and boxes need no pixels
    numbering = Numbering()
    for rows in pairs.scan(["noun", "licence", "image_id", "image_uri"]):
        numbering.add(rows)
    side_file = f"{folder}/.annotations"
    with open(f"{folder}/{INSTANCES_FILE}", "w", encoding="utf-8") as file:
        file.write("{\n" + "".join(known_lists(numbering)) + '"images": [')
        with open(side_file, "w", encoding="utf-8") as annotations:
            write_rows(pairs, numbering, options.uris == "public", file, annotations)
        file.write('\n],\n"annotations": [')
        with open(side_file, encoding="utf-8") as annotations:
            shutil.copyfileobj(annotations, file)
        file.write("\n]\n}\n")
    os.unlink(side_file)


def known_lists(numbering: Numbering) -> Iterator[str]:
    """The lists that are known before the first image."""
    info = {"description": "(masked region, noun) pairs of ovseg export", "version": "1"}
    licences = [
        {"id": number, "name": licence or NO_LICENCE, "url": licence if "://" in licence else ""}
        for licence, number in numbering.licence_ids().items()
    ]
    categories = [
        {"id": number, "name": noun, "supercategory": "", "pairs": numbering.nouns[noun]}
        for noun, number in numbering.categories().items()
    ]
    for name, value in (("info", info), ("licenses", licences), ("categories", categories)):
        yield f'"{name}": {to_json(value)},\n'


def write_rows(pairs: SelectedPairs, numbering: Numbering, public: bool, images: TextIO, annotations: TextIO) -> None:
    """Writes each image when its first pair comes, and each pair, as a line of its own in its file."""
    categories, licences, folder = numbering.categories(), numbering.licence_ids(), numbering.folder()
    image_id, image_count, key, number = None, 0, 0, 0
    for batch in pairs.batches(ROWS_PER_READ, UNREAD_COLUMNS):
        pairs.keep(batch)
        for row in batch.to_pylist():
            if row["image_id"] != image_id:  # an image's pairs stand together
                image_id, image_count = row["image_id"], image_count + 1
                key = int(image_id) if numbering.own_ids else image_count
                write_line(images, image_count, image_entry(row, key, licences[row["licence"] or ""], folder, public))
            number += 1
            write_line(annotations, number, annotation(row, number, key, categories[row["noun"]]))


def write_line(file: TextIO, number: int, entry: dict[str, Any]) -> None:
    """One entry of a list, the first of which is number 1."""
    file.write((",\n" if number > 1 else "\n") + to_json(entry))


def image_entry(row: Row, key: int, licence: int, folder: str, public: bool) -> dict[str, Any]:
    """An image as COCO lists it, with its key in our tables; remote ones with the address that they are at."""
    entry = {
        "id": key,
        "image_id": row["image_id"],
        "file_name": file_name(row["image_uri"], folder),
        "height": row["height"],
        "width": row["width"],
        "license": licence,
        "sha256": row["image_sha256"],
    }
    for name, uri in (("coco_url", row["image_uri"]), ("source_url", row["source_url"])):
        if uri and "://" in uri:
            entry[name] = public_uri(uri) if public else uri
    return entry


def file_name(uri: str, folder: str) -> str:
    """The name of an image's file: below the folder of all local images, in its tar, or last in its address."""
    member = ShardMember.from_uri(uri)
    if member is not None:
        return member.member
    if folder and uri.startswith(folder):
        return uri[len(folder) :]
    return public_uri(uri).partition("?")[0].rsplit("/", 1)[-1]


def annotation(row: Row, number: int, image: int, category: int) -> dict[str, Any]:
    """A pair as COCO lists it; score is the cosine."""
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": row["mask"],
        "bbox": row["box_xywh_px"],
        "area": row["area_px"],
        "iscrowd": 0,
        "score": row["cosine"],
        "caption": row["caption"],
        "pair_id": row["pair_id"],
    }


def by_falling_count(counts: Counter[str]) -> Iterable[str]:
    """The names, most frequent first; those of one count by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def to_json(value: Any) -> str:
    """JSON on one line, in any language."""
    return json.dumps(value, ensure_ascii=False)

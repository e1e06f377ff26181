"""croissant.json: the columns of an exported data set in the vocabulary of MLCommons' Croissant 1.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.exports.card import licence_words, meaning_of
from pipelines.exports.selected_pairs import Tally
from schemas import PAIRS

CROISSANT_FILE = "croissant.json"

NAME = "ovseg-pairs"

CITE = (
    "F. Liang et al., Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP, CVPR 2023 (the method that the "
    "pairs were mined by)"
)

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the format's specification gives."""

LEFT_OUT = ("runner_up_nouns", "runner_up_masks")
"""Lists of records inside records: in the Parquet files, but Croissant's readers know no such column."""


MOST_LICENCES = 50


class PairFile(NamedTuple):
    """One Parquet file of an export: its name in the folder, its size and its content hash."""

    name: str
    size_bytes: int
    sha256: str


def write_croissant(files: Sequence[PairFile], folder: str, tally: Tally) -> None:
    """Writes croissant.json beside the data."""
    with open(f"{folder}/{CROISSANT_FILE}", "w", encoding="utf-8") as file:
        json.dump(croissant(files, tally), file, indent=1, ensure_ascii=False, sort_keys=True)
        file.write("\n")


def croissant(files: Sequence[PairFile], tally: Tally) -> dict[str, Any]:
    """What Croissant says of an export: its files, and a record set `pairs` with a field a column."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": NAME,
        "description": f"{tally.kept} (masked region, noun) pairs of {tally.images} captioned images. README.md says "
        "where they are from, under which licences, and how they were made.",
        "version": "1.0.0",
        "citeAs": CITE,
        "license": licences_of(tally),
        "distribution": [file_object(each) for each in files] + [file_set()],
        "recordSet": [record_set()],
    }


def licences_of(tally: Tally) -> list[str]:
    """The licences that images have, as the input says them; of very many, where to read of them."""
    named = sorted(each for each in licence_words(tally.licences) if each)
    return named or ["unknown"] if len(named) <= MOST_LICENCES else [f"{len(named)} licences: see README.md"]


def file_object(file: PairFile) -> dict[str, Any]:
    """One file, by its path from here."""
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.size_bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256,
    }


def file_set() -> dict[str, Any]:
    """All files of the data, as one source of records."""
    return {
        "@type": "cr:FileSet",
        "@id": "parquet-files",
        "name": "parquet-files",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*.parquet",
    }


def record_set() -> dict[str, Any]:
    """The rows."""
    fields = [field_of(each) for each in PAIRS.schema if each.name not in LEFT_OUT]
    return {
        "@type": "cr:RecordSet",
        "@id": "pairs",
        "name": "pairs",
        "description": PAIRS.row,
        "field": fields,
    }


def field_of(field: pa.Field) -> dict[str, Any]:
    """One column; the two halves of a mask are fields of their own."""
    named = {"@type": "cr:Field", "@id": f"pairs/{field.name}", "name": field.name, "description": meaning_of(field)}
    if pa.types.is_struct(field.type):
        return {**named, "subField": [half_of_mask(field.name, each) for each in field.type]}
    repeated = {"repeated": True} if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type) else {}
    return {**named, **repeated, "dataType": data_type(field), "source": source_of(field.name)}


def half_of_mask(column: str, part: pa.Field) -> dict[str, Any]:
    """Size or counts of the mask, taken out of its column."""
    repeated = {"repeated": True} if pa.types.is_fixed_size_list(part.type) else {}
    identity = {"@type": "cr:Field", "@id": f"pairs/{column}/{part.name}", "name": f"{column}/{part.name}"}
    source = {**source_of(column), "transform": {"jsonPath": part.name}}
    return {**identity, **repeated, "dataType": data_type(part), "source": source}


def source_of(column: str) -> dict[str, Any]:
    """Where a field's values stand."""
    return {"fileSet": {"@id": "parquet-files"}, "extract": {"column": column}}


def data_type(field: pa.Field) -> str:
    """Croissant's name for the type of a column's values."""
    type_ = field.type
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    if pa.types.is_binary(type_):
        return "sc:ImageObject"
    if pa.types.is_boolean(type_):
        return "sc:Boolean"
    if pa.types.is_integer(type_):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(type_) else "sc:Text"

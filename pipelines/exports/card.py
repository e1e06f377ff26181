"""README.md of an export: what is in it, where it is from, under which licences, how it was made, what it is not.

The text of strangers (licences, hosts, safety flags) stands in tables, with what Markdown or HTML would act on escaped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipelines.exports.export_options import ExportOptions
from pipelines.exports.how_made import how_it_was_made
from pipelines.exports.public_names import public_value
from pipelines.exports.selected_pairs import SelectedPairs, Tally
from pipelines.markdown import cell, markdown_table
from pipelines.summary import ONLY_SCENES, knows_only_scenes
from schemas import PAIRS
from schemas.describe import type_name
from schemas.table import describe

CARD_FILE = "README.md"

TITLE = "(masked region, noun) pairs from captioned images"

SHOWN = 50
"""Lines of a table of hosts or licences; what is beyond is summed."""

SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
LARGEST_SIZE = "n>10M"

PLAIN_LICENCES = ("cc0-1.0", "apache-2.0", "mit", "odbl", "unknown")
"""What the Hub calls licences by the very text that a corpus may have."""

NUMBER_ONLY = " (a number of the input's own, which does not say what it stands for)"

LAYOUTS = {
    "datasets": "`data/train-*.parquet` have the columns below; `datasets.load_dataset(FOLDER)` opens them, and shows "
    "`crop_png` as an image. `croissant.json` says the same for readers of Croissant.",
    "webdataset": "`train-*.tar` hold samples KEY.png (the image inside the mask's box, unmasked), KEY.mask.png (the "
    "mask there, 255 inside) and KEY.json (the columns below, without the crop); KEY is the pair_id.",
    "coco": "`instances.json` is COCO's layout: a category a noun by falling count, an annotation a pair with its mask "
    "as RLE; `score` is the cosine.",
    "ovseg": "`ovseg_pairs.csv`, whose separator is a tab, has the columns `filepath` and `title`; `ovseg_pairs/` has "
    "the regions as PNG, their background filled with (124, 116, 103).",
}

LIMITS = (
    "The pairs were mined by models, not drawn or checked by people: a noun may stand at the wrong region, and a low "
    "cosine or margin makes that likelier.",
    "A noun whose thing is not visible gets some region all the same, unless a condition on its cosine or margin left "
    "it out.",
    "Captions and images are of the corpora named above, with what is wrong, unfair or private in them.",
    "A licence in the table is what the input said of an image; nobody has verified it. The licences of the weights "
    "may bind what is made with their help.",
)


def card(pairs: SelectedPairs, options: ExportOptions) -> str:
    """The text of README.md."""
    sections = [
        front_matter(pairs.tally, options),
        f"# {TITLE}\n",
        *warnings_of(pairs),
        *about(pairs.tally, options),
        "## Sources\n",
        counted("host of source_url, else of image_uri", pairs.tally.hosts, "(a local file)"),
        "## Licences\n",
        counted("licence of the image", licence_words(pairs.tally.licences), "(not stated)"),
        "## Safety\n",
        counted("safety flag of the image", pairs.tally.safety, "(none)"),
        "## Weights\n",
        markdown_table(("stage", "name", "licence", "sha256"), weights_of(pairs.manifest)) + "\n",
        *how_it_was_made(pairs, options),
        "## Limits\n",
        "\n".join(f"- {each}" for each in LIMITS) + "\n",
        *columns_of(options),
    ]
    return "\n".join(sections)


def front_matter(tally: Tally, options: ExportOptions) -> str:
    """The YAML at the top; every value is JSON, which is YAML too."""
    values = {
        "pretty_name": TITLE,
        "license": hub_licence(tally.licences),
        "language": ["en"],
        "size_categories": [size_category(tally.kept)],
        "task_categories": ["image-segmentation", "zero-shot-image-classification"],
        "tags": ["ovseg", "open-vocabulary-segmentation", *(["meaningless"] if tally.meaningless else [])],
        **(how_to_load() if options.format == "datasets" else {}),
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---\n"])


def how_to_load() -> dict[str, Any]:
    """Where `datasets` finds the rows, and what it makes of each column: the crops are images."""
    features = [{"name": field.name, **feature_of(field.type)} for field in PAIRS.schema]
    data_files = [{"split": "train", "path": "data/train-*.parquet"}]
    return {
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {"features": features},
    }


def feature_of(type_: pa.DataType) -> dict[str, Any]:
    """An Arrow type as a card writes it down."""
    if pa.types.is_struct(type_):
        return {"struct": [{"name": field.name, **feature_of(field.type)} for field in type_]}
    if pa.types.is_fixed_size_list(type_) or pa.types.is_list(type_):
        length = {"length": type_.list_size} if pa.types.is_fixed_size_list(type_) else {}
        inner = feature_of(type_.value_type)
        return {"list": inner.get("struct") or inner["dtype"], **length}
    return {"dtype": {pa.binary(): "image", pa.float32(): "float32"}.get(type_, str(type_))}


def hub_licence(licences: Mapping[str, int]) -> str:
    """The Hub's word for the licence that all images have; "other" where it has none, "unknown" where none is said."""
    if set(licences) <= {""}:
        return "unknown"
    names = {_hub_name(licence) for licence in licences}
    return names.pop() if len(names) == 1 else "other"


def licence_words(licences: Mapping[str, int]) -> dict[str, int]:
    """Licences and their pairs, with what must be said of one that is a number.

    COCO's JSON gives licences by number; where it has no entry of that number in its table, the number is all there is.
    """
    return {f"{each}{NUMBER_ONLY}" if each.isdecimal() else each: count for each, count in licences.items()}


def _hub_name(licence: str) -> str:
    text = re.sub(r"[\s_]+", "-", licence.strip().lower())
    commons = re.search(r"creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)", text)
    commons = commons or re.fullmatch(r"cc-(by(?:-nc|-nd|-sa)*)-(\d\.\d)", text)
    if commons:
        return f"cc-{commons[1]}-{commons[2]}"
    return text if text in PLAIN_LICENCES else "other"


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    return next((name for limit, name in SIZES if rows < limit), LARGEST_SIZE)


def warnings_of(pairs: SelectedPairs) -> Iterator[str]:
    """What must be read before anything else."""
    if pairs.tally.meaningless:
        yield (
            f"> **MEANINGLESS**: the scorer of {pairs.tally.meaningless:,} pairs had random weights. They show the "
            "plumbing; never train on them.\n"
        )
    if knows_only_scenes(pairs.manifest["weights"]):
        yield f"> {' '.join(ONLY_SCENES)}\n"


def about(tally: Tally, options: ExportOptions) -> Iterator[str]:
    """What the export holds, in a few sentences."""
    frequent = ", ".join(f"{cell(noun)} {count:,}" for noun, count in largest(tally.nouns)[:10])
    yield (
        f"{tally.kept:,} pairs of {tally.images:,} images and {len(tally.nouns):,} nouns, written by ovseg export. A "
        "pair is a region of an image, as a mask, and a noun of its caption that CLIP matched to it.\n"
    )
    yield f"{LAYOUTS[options.format]}\n"
    yield f"Most frequent nouns: {frequent}.\n"
    yield f"Masks were proposed by {named(tally.generators)}, matched by {named(tally.scorers)}.\n"


def named(counts: Mapping[str, int]) -> str:
    """Names with their pairs, most frequent first."""
    return ", ".join(f"{cell(name)} ({count:,} pairs)" for name, count in largest(counts))


def weights_of(manifest: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A line a weight; a run that was filtered or merged names those of the runs behind it."""
    for each in manifest["weights"]:
        yield each["stage"], public_value(each["name"]), each.get("licence") or "(not stated)", each["sha256"]


def columns_of(options: ExportOptions) -> Iterator[str]:
    """What the columns mean, where the format has them."""
    if options.format in ("datasets", "webdataset"):
        yield "## Columns\n"
        fields = ((field.name, type_name(field.type), meaning_of(field)) for field in PAIRS.schema)
        yield markdown_table(("column", "type", "meaning"), fields) + "\n"


def meaning_of(field: pa.Field) -> str:
    """What a column holds, and its unit."""
    about, unit = describe(field)
    return f"{about} ({unit})" if unit else about


def counted(name: str, counts: Mapping[str, int], empty: str) -> str:
    """A table of values and their pairs, most frequent first; `empty` stands for ""."""
    shown, rest = largest(counts)[:SHOWN], largest(counts)[SHOWN:]
    lines = [(value or empty, f"{count:,}") for value, count in shown]
    if rest:
        lines.append((f"({len(rest):,} more)", f"{sum(count for _, count in rest):,}"))
    return markdown_table((name, "pairs"), lines) + "\n"


def largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Values by falling count; those of one count by name."""
    return sorted(Counter(counts).items(), key=lambda item: (-item[1], item[0]))

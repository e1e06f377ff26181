"""The tables as Markdown, so that docs are written by the schemas: `python -m schemas.describe FILE…` rewrites them.

A file holds blocks between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a table, `image_hashes`, `reasons` or
`run.json`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from schemas import TABLES
from schemas.drops import IMAGES, MASKS, MERGING, NOUNS, PAIRS, READING, SELECTION, WORKERS, Reason
from schemas.image_hashes import IMAGE_HASHES
from schemas.run import RUN_KEYS
from schemas.table import Table, describe

BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

DESCRIBED = TABLES | {IMAGE_HASHES.name: IMAGE_HASHES}
"""The tables of a run, and what lies beside runs."""

STAGES_OF_REASONS = {
    "read_captions": READING,
    "extract_nouns": NOUNS | WORKERS,
    "propose_masks": IMAGES | MASKS | WORKERS,
    "match_regions": IMAGES | {"no_masks": MASKS["no_masks"]} | PAIRS | WORKERS,
    "merge_runs": MERGING,
    "filter_pairs": {"excluded_image": IMAGES["excluded_image"]} | SELECTION,
}


def rewrite(text: str) -> str:
    """The text with every block written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(match[2])}\n{match[3]}", text)


def block(name: str) -> str:
    """The Markdown of one block."""
    if name in DESCRIBED:
        return table_markdown(DESCRIBED[name])
    blocks: dict[str, Callable[[], str]] = {"reasons": reasons_markdown, "run.json": run_markdown}
    return blocks[name]()


def table_markdown(table: Table) -> str:
    """A line a column: name, type, unit, description; a question mark behind the type of a nullable one."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for field in table.schema:
        description, unit = describe(field)
        nullable = "?" if field.nullable else ""
        lines.append(f"| `{field.name}` | {type_name(field.type)}{nullable} | {unit} | {description} |")
    return "\n".join(lines)


def type_name(type_: pa.DataType) -> str:
    """A type as people write it."""
    if pa.types.is_struct(type_):
        return "{" + ", ".join(f"{field.name}: {type_name(field.type)}" for field in type_) + "}"
    if pa.types.is_fixed_size_list(type_):
        return f"{type_name(type_.value_type)}[{type_.list_size}]"
    if pa.types.is_list(type_):
        return f"list of {type_name(type_.value_type)}"
    return {"double": "float64", "float": "float32"}.get(str(type_), str(type_))


def reasons_markdown() -> str:
    """A line a stage and reason."""
    lines = ["| stage | reason | meaning | may pass later |", "|---|---|---|---|"]
    for stage, reasons in STAGES_OF_REASONS.items():
        lines += [reason_line(stage, name, reason) for name, reason in reasons.items()]
    return "\n".join(lines)


def reason_line(stage: str, name: str, reason: Reason) -> str:
    """One line of the table of reasons."""
    return f"| {stage} | `{name}` | {reason.meaning} | {'yes' if reason.can_pass else ''} |"


def run_markdown() -> str:
    """A line a key of run.json."""
    lines = [f"| `{key}` | {meaning} |" for key, meaning in RUN_KEYS.items()]
    return "\n".join(["| key | meaning |", "|---|---|", *lines])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rewrite(Path(name).read_text()))

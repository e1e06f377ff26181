"""`ovseg export`: PAIRS of a run in the layouts that others read: datasets, webdataset, COCO, OVSeg's trainer.

Every export is a folder that appears whole, with README.md (sources, licences, counts, options), export.json (the same
for programs) and a row in drops/ for every pair that was read and is not in it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from ovseg_model.fetch_options import FetchOptions
from pipelines.exports.card import CARD_FILE, card, public_value
from pipelines.exports.export_options import FORMATS, ExportOptions
from pipelines.exports.selected_pairs import SelectedPairs
from pipelines.options import SentenceParser, add_options, read_options
from pipelines.versions import versions
from pipelines.write_tables import RunFolder, refuse_inside, require_writable_folder, run_folder_at, writing
from schemas import UserError

EXPORT_FILE = "export.json"

EXPORT_FORMAT = 1
"""Version of export.json."""

WRITERS = {
    "datasets": "pipelines.exports.datasets_parquet",
    "webdataset": "pipelines.exports.webdataset_tar",
    "coco": "pipelines.exports.coco",
    "ovseg": "pipelines.exports.ovseg_layout",
}
"""By format, the module whose `write_pairs` writes it."""


def main(argv: Sequence[str]) -> int:
    """Parses, exports and prints; `argv` begins with the verb.

    Raises:
        UserError: the run, an option or the place of the export is not as wanted.
    """
    parser = SentenceParser("ovseg export", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="run directory: a path or fsspec URL")
    for group in (ExportOptions, FetchOptions):
        add_options(parser, group)
    namespace = parser.parse_args(argv[1:])
    run = namespace.run
    options, fetch = read_options(namespace, ExportOptions), read_options(namespace, FetchOptions)
    print(export(run, options, fetch))
    return 0


def export(run: str, options: ExportOptions, fetch: FetchOptions) -> str:
    """Writes an export whole or not at all; returns what to say of it.

    Raises:
        UserError: the run, an option or the place is not as wanted, or no pair is left.
    """
    output = check_output(run, options)
    with writing(output), whole_or_absent(output) as folder:
        pairs = SelectedPairs(run, options.where, RunFolder(folder))
        importlib.import_module(WRITERS[options.format]).write_pairs(pairs, folder, options, fetch)
        if not pairs.tally.kept:
            raise UserError(nothing_left(run, pairs.tally.totals()))
        write_text(f"{folder}/{CARD_FILE}", card(pairs, options))
        write_text(f"{folder}/{EXPORT_FILE}", json.dumps(record(pairs, options), indent=2, sort_keys=True) + "\n")
    return report(pairs, output)


def check_output(run: str, options: ExportOptions) -> str:
    """The absolute path of the export; folders above it that are missing are made later.

    Raises:
        UserError: run, format or place are missing, or the place is taken, not local, or inside the run.
    """
    if not run:
        raise UserError("RUN is missing; give the run directory whose pairs are to be exported")
    if not options.format:
        raise UserError(f"--format is missing; give one of {', '.join(FORMATS)}")
    if not options.output:
        raise UserError("--output is missing; give a folder for the export")
    if "://" in options.output:
        raise UserError(f"--output {options.output}: wanted a local folder; copy the export to a bucket afterwards")
    output = os.path.abspath(options.output)
    if os.path.lexists(output):
        raise UserError(f"--output {output}: something is there already, and is not written over; give another folder")
    refuse_inside(run_folder_at(run, "RUN"), RunFolder(output), "--output")
    require_writable_folder(os.path.dirname(output), "--output")
    return output


@contextlib.contextmanager
def whole_or_absent(output: str) -> Iterator[str]:
    """A hidden folder beside `output` that takes its name at the end, and is gone after a failure."""
    parent, name = os.path.split(output)
    folder = os.path.join(parent, f".{name}.{uuid.uuid4().hex}")
    os.makedirs(folder)
    try:
        yield folder
        os.rename(folder, output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_text(path: str, text: str) -> None:
    """Writes one small file."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def record(pairs: SelectedPairs, options: ExportOptions) -> dict[str, Any]:
    """export.json: what was asked for, of which run, and what came out."""
    return {
        "format": EXPORT_FORMAT,
        "options": public_value(options.stated()),
        "run_sha256": pairs.run_sha256,
        "totals": pairs.tally.totals(),
        "images": pairs.tally.images,
        "nouns": len(pairs.tally.nouns),
        "meaningless": pairs.tally.meaningless > 0,
        "versions": versions(),
    }


def nothing_left(run: str, totals: dict[str, Any]) -> str:
    """The sentence about an export that would be empty."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in totals["dropped"].items())
    dropped = f" ({reasons})" if reasons else ""
    return f"{run}: none of the {totals['read']:,} pairs is left{dropped}; nothing is written"


def report(pairs: SelectedPairs, output: str) -> str:
    """What is said at the end."""
    totals = pairs.tally.totals()
    lines = [
        f"pairs{totals['read']:>12,} read{totals['kept']:>12,} exported{sum(totals['dropped'].values()):>12,} dropped",
        *(f"{reason:>46}{count:>12,}" for reason, count in totals["dropped"].items()),
        f"of {pairs.tally.images:,} images and {len(pairs.tally.nouns):,} nouns",
    ]
    if pairs.tally.meaningless:
        lines.append("MEANINGLESS: the scorer's weights are random. The card says so too.")
    return "\n".join([*lines, f"export: {output}"])

"""DROPS: what did not make it and why, one row a dropped record, with a closed list of reasons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import ValueCheck, column, table


class Reason(NamedTuple):
    """Why a record is dropped: what it means, and whether another try could succeed."""

    meaning: str
    can_pass: bool = False


READING = {
    "not_json": Reason("the line is not a JSON object"),
    "not_utf8": Reason("the row is not UTF-8 text"),
    "wrong_field_count": Reason("the row has more or fewer fields than there are columns"),
    "bad_column_type": Reason("a column holds something that is no text, or no list of texts"),
    "missing_image": Reason("the row names no image"),
    "missing_caption": Reason("the row has no caption"),
    "empty_caption": Reason("the caption is empty or white space"),
    "caption_too_long": Reason("the caption has more characters than --max-caption-chars allows"),
    "no_caption": Reason("the image comes without a caption"),
    "unknown_image": Reason("the caption names an image that the input does not list"),
    "duplicate_image": Reason("the input has another image with this key; the first is kept"),
    "not_a_file": Reason(
        "the shard's member is a link or a device, which nothing follows, or is stored as a sparse file"
    ),
    "truncated_shard": Reason("the shard is cut short or garbled; what came before is kept"),
    "duplicate_caption": Reason("the image has this caption already"),
    "conflicting_image_uri": Reason("the input names another URI for the same image_id"),
    "over_caption_limit": Reason("the image has as many captions as --captions-per-image keeps"),
}
"""Why read_captions drops a row."""

NOUNS = {"no_nouns": Reason("the rule found no noun in the caption")}
"""Why extract_nouns drops a caption."""

IMAGES = {
    "no_image_uri": Reason("the input names no place for the image's bytes"),
    "image_missing": Reason("there is no file or object at the URI, or it is no URI"),
    "image_unreadable": Reason("the bytes are no image that Pillow reads, or are cut short"),
    "image_too_large": Reason("more bytes or pixels than the limits allow"),
    "fetch_timeout": Reason("the server did not answer in time", can_pass=True),
    "fetch_failed": Reason("the connection failed, or the server had an error", can_pass=True),
    "fetch_refused": Reason("the server refused: HTTP 4xx, no permission, too many redirects, or no byte ranges"),
    "fetch_local_address": Reason("the URL, or a redirect, leads to a local address"),
    "fetch_disallowed": Reason("the server asks machines not to use the image (X-Robots-Tag)"),
    "excluded_image": Reason("the image is on a list that --exclude-images names, of an evaluation set for example"),
}
"""Why an image is dropped before anything looks at it, by propose_masks, or its nouns are, by match_regions.

Its pairs, by filter_pairs, for being on a list alone.
"""

MASKS = {
    "no_masks": Reason("no mask: the generator found none, or none is stored"),
    "no_annotation": Reason("the annotations do not have the image"),
    "mask_size_mismatch": Reason("an annotation has another size than the image"),
    "bad_annotation": Reason("an annotation cannot be read as a mask"),
    "proposal_failed": Reason("the generator failed on this image"),
}
"""Why propose_masks drops an image that could be read."""

PAIRS = {
    "image_changed": Reason("the image's bytes are not those that its masks were made of"),
    "duplicate_noun": Reason("an earlier caption, or place in the caption, names the same noun"),
    "abstract": Reason("the noun is flagged abstract, and such nouns are not matched"),
    "generic": Reason("the noun is flagged generic, and such nouns are not matched"),
}
"""Why match_regions drops a noun of an image that has masks."""

SELECTION = {
    "not_selected": Reason("the condition of --where does not hold for the pair"),
    "not_assigned": Reason("the assignment gave its noun no mask, or its mask another noun"),
    "near_duplicate_image": Reason("the image is nearly another one, whose pairs are kept"),
    "near_duplicate_mask": Reason("its mask is nearly that of another pair of the same noun in the image"),
    "over_noun_cap": Reason("its noun has as many pairs as --cap allows"),
}
"""Why filter_pairs drops a pair."""

MERGING = {"duplicate_record": Reason("another of the merged runs has the record already")}
"""Why merge_runs drops a record."""

WORKERS = {
    "worker_killed": Reason(
        "the worker died at this image alone, twice: killed, out of memory, or a crash in native code", can_pass=True
    ),
}
"""Why every stage but reading drops all records of an image that it cannot get past."""

REASONS: dict[str, Reason] = {**READING, **NOUNS, **IMAGES, **MASKS, **PAIRS, **SELECTION, **MERGING, **WORKERS}
"""Every reason that DROPS may name."""

PASSING = tuple(name for name, reason in REASONS.items() if reason.can_pass)
"""The reasons that can pass, of the network, of time or of memory: what `--retry drops` tries again."""

STAGES = (
    "read_captions",
    "extract_nouns",
    "propose_masks",
    "match_regions",
    "merge_runs",
    "filter_pairs",
    "export_pairs",
)
"""The stages that drop, in the order of the data."""


def stages_in_order(stages: Iterable[str]) -> list[str]:
    """Stages in the order of the data, those of others' making last."""
    return sorted(stages, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))


DROPS = table(
    "drops",
    2,
    "one record that a stage read and did not keep; rows are sorted by key",
    [
        column("stage", pa.string(), f"which step dropped it: {', '.join(STAGES)}"),
        column(
            "key",
            pa.string(),
            "which record: image_id (images), image_id#caption_index (captions), image_id#caption_index:start-end "
            "(nouns); of read_captions file:row, or image_id#order as the input has it; pair_id (pairs)",
        ),
        column("image_id", pa.string(), "its image, when it is known", nullable=True),
        column("reason", pa.string(), "one of the closed list in docs/tables.md"),
        column("detail", pa.string(), "what was wanted and what was there, in words"),
    ],
    (
        ValueCheck("stage", f"one of {', '.join(STAGES)}", lambda rows: pc.is_in(rows["stage"], pa.array(STAGES))),
        ValueCheck(
            "reason",
            "a reason of schemas.drops.REASONS",
            lambda rows: pc.is_in(rows["reason"], pa.array(list(REASONS), pa.string())),
        ),
    ),
)

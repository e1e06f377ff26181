"""`ovseg filter`: PAIRS of a finished run selected again, as a run of their own.

In this order: a condition, images that hash lists name, images and masks that are there twice, one-to-one between nouns
and masks, and a cap a noun. No image is read and no model runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.pair_filter import RowFilter, parse_filter
from pipelines.derived_run import (
    DROPS_ORDER,
    DerivedPart,
    DerivedStage,
    Source,
    finish_derived_run,
    input_sha256,
    is_finished,
    open_derived_run,
    open_source,
    totals_of,
    write_checked_part,
    write_derived_part,
)
from pipelines.draw_vocabulary import VOCABULARY_PLOT, draw_pairs_per_noun
from pipelines.excluded_images import (
    ExclusionSpec,
    find_excluded,
    open_exclusions,
    resolve_exclusions,
    without_images,
)
from pipelines.near_duplicates import (
    IMAGE_COLUMNS,
    MASK_COLUMNS,
    MOST_BITS,
    duplicate_images,
    select_masks,
)
from pipelines.noun_cap import CAP_COLUMNS, CAP_WAYS, NounCap
from pipelines.options import ExcludeOptions, SentenceParser, add_options, option, read_options, require_at_least
from pipelines.report import EndOptions, report_at_end
from pipelines.selection import STAGE, Select, Selection, select, select_images, select_where, split_rows
from pipelines.summary import stage_lines
from pipelines.terminal import escaped
from pipelines.unit_groups import Group, checked_rows, groups_of_units
from pipelines.units import StepTotals, Units, drops_name, part_name, sum_totals
from pipelines.versions import versions_of
from pipelines.vocabulary_counts import NounCounts, filtered_vocabulary
from pipelines.write_tables import REPORT_FILE, RUN_FILE, RunFolder
from schemas import DROPS, PAIRS, UserError, conform

VERSION = 2

ASSIGN_WAYS = ("none", "mutual", "greedy", "hungarian")


@dataclass(frozen=True)
class FilterOptions:
    """What is kept of a run's PAIRS."""

    output: str = option("", "run directory for what is kept: a path or fsspec URL")
    where: str | None = option(None, "condition over the columns of PAIRS, such as 'margin > 0.02 and not abstract'")
    near_duplicate_images: int | None = option(
        None,
        "most bits, 0 to 16, in which image_phash of two images may differ for them to be one, of which one stays; "
        "without it every image is its own",
    )
    near_duplicate_masks: float | None = option(
        None,
        "least IoU of two masks of one lemma in an image for them to be one, of which the better stays; without it "
        "every mask is its own",
    )
    assign: str = option(
        "none",
        "one noun a mask and one mask a noun: mutual (best of each other), greedy (by falling cosine) or hungarian "
        "(largest sum of cosines); none leaves them as they are",
        choices=ASSIGN_WAYS,
    )
    cap: int = option(0, "most pairs of one noun in the whole run; 0 takes all")
    cap_by: str = option(
        "cosine", "which pairs the cap keeps: cosine (the best) or hash (those of lowest pair_id)", choices=CAP_WAYS
    )


class Criteria(NamedTuple):
    """What is selected by, checked: the options, the condition of --where, and the lists of --exclude-images."""

    options: FilterOptions
    exclude: ExcludeOptions
    row_filter: RowFilter | None
    exclusions: ExclusionSpec | None

    def described(self) -> dict[str, Any]:
        """The options but for the place of the new run."""
        return {**chosen(self.options), **asdict(self.exclude)}

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the rows beside the source: of hash lists their content, wherever they lie."""
        excluded = {"excluded": self.exclusions.fingerprint()} if self.exclusions else {}
        versions = versions_of("numpy", "pyarrow", "pycocotools", "scipy")
        return {"version": VERSION, **chosen(self.options), **excluded, "versions": versions}


class Command(NamedTuple):
    """A command as it was given: RUN, where there is one, what is selected by, and whether a report is wanted."""

    source: str | None
    criteria: Criteria
    report: bool


def main(argv: Sequence[str]) -> int:
    """Filters a run and prints what was kept; `argv` begins with the verb.

    Raises:
        UserError: an option is not as wanted, the run is none, or --output holds something else.
    """
    url, criteria, wants_report = parse(argv)
    if url is None:
        raise UserError("RUN is missing; give the folder of a finished run, as in ovseg filter RUN --cap 1000")
    source, facts = open_source(url), criteria.fingerprint()
    run = open_derived_run(criteria.options.output, [source], derived_units(source), STAGE, facts)
    if is_finished(run, [source], STAGE, facts):
        manifest = run.read_json(RUN_FILE)
    else:
        manifest = filter_run(source, run, criteria)
    print(report(run, manifest))
    if wants_report and not run.has(REPORT_FILE):
        report_at_end(run, FetchOptions())
    return 0


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv`, which begins with the verb, gives; hash lists are read.

    Raises:
        UserError: an option is not as wanted.
    """
    parser = SentenceParser("ovseg filter", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="finished run whose PAIRS are selected: a path or fsspec URL"
    )
    for group in (FilterOptions, ExcludeOptions, EndOptions):
        add_options(parser, group)
    given = parser.parse_args(argv[1:])
    criteria = checked_criteria(read_options(given, FilterOptions), read_options(given, ExcludeOptions))
    return Command(given.run, criteria, read_options(given, EndOptions).report)


def checked_criteria(options: FilterOptions, exclude: ExcludeOptions) -> Criteria:
    """What the options mean.

    Raises:
        UserError: nothing is selected by, a number is out of its range, the condition is none, or a hash list is none.
    """
    check_options(options, exclude)
    row_filter = parse_filter(options.where, PAIRS) if options.where is not None else None
    return Criteria(options, exclude, row_filter, resolve_exclusions(exclude))


def check_options(options: FilterOptions, exclude: ExcludeOptions) -> None:
    """Refuses what selects nothing, and numbers out of their range.

    Raises:
        UserError: naming the option.
    """
    if options == FilterOptions(output=options.output, cap_by=options.cap_by) and not exclude.exclude_images:
        raise UserError(
            "nothing to select by; give --where, --exclude-images, --near-duplicate-images, --near-duplicate-masks, "
            "--assign or --cap"
        )
    bits, iou = options.near_duplicate_images, options.near_duplicate_masks
    if bits is not None and not 0 <= bits <= MOST_BITS:
        raise UserError(f"--near-duplicate-images: wanted 0 to {MOST_BITS} bits, got {bits}")
    if iou is not None and not 0 < iou <= 1:
        raise UserError(f"--near-duplicate-masks: wanted an IoU above 0 and up to 1, got {iou}")
    require_at_least("cap", options.cap, 0)


def chosen(options: FilterOptions) -> dict[str, Any]:
    """The options but for the place."""
    return {name: value for name, value in asdict(options).items() if name != "output"}


def filter_run(source: Source, run: RunFolder, criteria: Criteria) -> dict[str, Any]:
    """Selects unit by unit and writes the new run, begun by `open_derived_run`; returns its manifest."""
    started = time.monotonic()
    counts = NounCounts(with_captions="vocabulary" not in source.tables)
    parts, totals = list[DerivedPart](), list[StepTotals]()
    for group, before_cap, selection in filtered_groups(source, criteria):
        counts.add(group.rows, before_cap, selection.kept)
        for unit, rows, kept, dropped in group.by_unit(checked(selection)):
            parts.append(write_checked_part(run, part_name("pairs", unit), kept, {}))
            parts.append(write_checked_part(run, drops_name(STAGE, unit), dropped, {}))
            totals.append(totals_of(rows, kept.num_rows, dropped["reason"]))
    parts.append(write_derived_part(run, "vocabulary", 0, filtered_vocabulary(source, counts)))
    run.write(VOCABULARY_PLOT, draw_pairs_per_noun({"before": counts.read, "after": counts.kept}))
    nouns = {"nouns_read": len(counts.read), "nouns_kept": len(counts.kept)}
    whole = sum_totals(totals)._replace(measured=nouns)
    spent = len(totals), time.monotonic() - started
    stage = DerivedStage("pairs", criteria.described(), criteria.fingerprint(), whole, *spent)
    return finish_derived_run(run, derived_units(source), [source], {STAGE: stage}, parts)


def derived_units(source: Source) -> Units:
    """The source's own cut: part n is made of part n."""
    return replace(source.units, input_sha256=input_sha256([source]))


def report(run: RunFolder, manifest: dict[str, Any]) -> str:
    """What is printed: pairs by reason, nouns, and where the run is."""
    nouns = manifest["stages"][STAGE]["totals"]["measured"]
    lines = [
        *stage_lines(manifest),
        "",
        f"nouns with pairs: {nouns['nouns_read']:,} before, {nouns['nouns_kept']:,} after",
    ]
    if not manifest["tables"]["pairs"]["rows"]:
        lines.append("NOTHING was kept: no pair is left to train on")
    lines += [f"pairs per noun by rank: {run.path(VOCABULARY_PLOT)}", f"run: {run.url}"]
    return "\n".join(map(escaped, lines))


# Selecting.


def ways_of(source: Source, criteria: Criteria) -> list[Select]:
    """What is done to each unit's rows before the cap; images are looked for now, over the whole run."""
    ways: list[Select] = []
    if criteria.row_filter:
        ways.append(partial(select_where, row_filter=criteria.row_filter))
    return [*ways, *ways_with_images(source, criteria), *ways_with_masks(criteria)]


def ways_with_images(source: Source, criteria: Criteria) -> Iterator[Select]:
    """What is done about whole images: those that hash lists name, then those that look like others that stay."""
    bits, exclusions = criteria.options.near_duplicate_images, criteria.exclusions
    if bits is None and not exclusions:
        return
    images = images_that_pass(source, criteria.row_filter)
    if exclusions:
        # Once for the whole run, not in each pass over it: a lookup takes as long as the list has images.
        excluded = find_excluded(images, open_exclusions(exclusions))
        images = without_images(images, excluded)
        yield partial(select_images, gone=excluded, reason="excluded_image")
    if bits is not None:
        yield partial(select_images, gone=duplicate_images(images, bits), reason="near_duplicate_image")


def ways_with_masks(criteria: Criteria) -> Iterator[Select]:
    """What is done about the masks of an image: near-duplicates, assignment, or one after the other."""
    least_iou, way = criteria.options.near_duplicate_masks, criteria.options.assign
    if way == "none":
        yield from [] if least_iou is None else [partial(select_masks, least_iou=least_iou)]
        return
    from pipelines.assign_masks import assign_masks

    assign = partial(assign_masks, way=way, row_filter=criteria.row_filter)
    yield assign if least_iou is None else partial(select_masks_and_assign, least_iou=least_iou, assign=assign)


def select_masks_and_assign(rows: pa.Table, least_iou: float, assign: Callable[..., Selection]) -> Selection:
    """Near-duplicate masks go first; what went so does not come back as a runner-up of its noun's other rows."""
    unlike, dropped = select_masks(rows, least_iou)
    gone = rows.filter(pc.is_in(rows["pair_id"], dropped["key"].combine_chunks()))
    kept, not_assigned = assign(unlike, gone=gone)
    return Selection(kept, pa.concat_tables([dropped, not_assigned]))


def images_that_pass(source: Source, row_filter: RowFilter | None) -> pa.Table:
    """Every image with a pair for which the condition holds, as IMAGE_COLUMNS; some 150 bytes an image."""
    columns, images = columns_of(row_filter, (*IMAGE_COLUMNS, "pair_id")), []
    for group in groups_of_units(source, columns):
        kept = select_where(group.rows, row_filter).kept if row_filter else group.rows
        images.append(kept.select(IMAGE_COLUMNS).group_by(list(IMAGE_COLUMNS)).aggregate([]))
    return pa.concat_tables(images)


def columns_of(row_filter: RowFilter | None, others: Iterable[str]) -> list[str]:
    """Columns of PAIRS, in its order: those of a condition and others."""
    wanted = {*others, *(row_filter.columns if row_filter else ())}
    return [name for name in PAIRS.schema.names if name in wanted]


def checked(selection: Selection) -> Selection:
    """A selection whose rows keep their tables' contracts, and whose drops are in DROPS' order."""
    return Selection(conform(selection.kept, PAIRS), conform(selection.dropped.sort_by(DROPS_ORDER), DROPS))


class FilteredGroup(NamedTuple):
    """A group, its rows as they are before the cap, and what came of all."""

    group: Group
    before_cap: pa.Table
    selection: Selection


def filtered_groups(source: Source, criteria: Criteria) -> Iterator[FilteredGroup]:
    """Every unit, a group in memory at a time."""
    ways = ways_of(source, criteria)
    within_cap = rows_within_cap(source, ways, criteria)
    seen = 0
    for group in groups_of_units(source, PAIRS.schema.names):
        selection = select(checked_rows(source, group), ways)
        before_cap = selection.kept
        if within_cap is not None:
            selection = capped(selection, within_cap[seen : seen + before_cap.num_rows], criteria.options)
        seen += before_cap.num_rows
        yield FilteredGroup(group, before_cap, selection)


def rows_within_cap(source: Source, ways: Sequence[Select], criteria: Criteria) -> np.ndarray | None:
    """Which of the rows that the other ways keep are within the cap, bool, in their order; None where there is none.

    Reads and selects everything once, before anything is written.
    """
    if not criteria.options.cap:
        return None
    cap = NounCap(criteria.options.cap, criteria.options.cap_by)
    for group in groups_of_units(source, columns_before_cap(criteria)):
        cap.see(select(group.rows, ways).kept)
    return cap.kept_rows()


def columns_before_cap(criteria: Criteria) -> list[str]:
    """The columns of PAIRS that the ways before the cap, and the cap, read."""
    wanted = {"image_id", *CAP_COLUMNS}
    if criteria.options.near_duplicate_masks is not None:
        wanted.update(MASK_COLUMNS)
    if criteria.options.assign != "none":
        from pipelines.assign_masks import ASSIGN_COLUMNS

        wanted.update(ASSIGN_COLUMNS)
    return columns_of(criteria.row_filter, wanted)


def capped(selection: Selection, keep_N: np.ndarray, options: FilterOptions) -> Selection:
    """A unit's selection with the rows dropped that are not within the cap."""
    words = f"--cap {options.cap} keeps others of its noun, by {options.cap_by}"
    kept, dropped = split_rows(selection.kept, keep_N, "over_noun_cap", words)
    return Selection(kept, pa.concat_tables([selection.dropped, dropped]))

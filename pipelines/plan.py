"""What a run will do, decided before any work starts: its units, one step a table, and what run.json says of them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ovseg_model.images import FetchOptions
from pipelines.excluded_images import resolve_exclusions
from pipelines.extract_nouns import plan_extract_nouns
from pipelines.freeze_captions import STAGE as READ_STAGE
from pipelines.freeze_captions import freeze_captions, frozen_captions
from pipelines.hard_negatives import resolve_negatives
from pipelines.manifest import StageFacts
from pipelines.match_regions import MatchRegions
from pipelines.options import (
    AcceleratorOptions,
    ExcludeOptions,
    FreezeOptions,
    MaskOptions,
    MatchOptions,
    NounOptions,
    RetryOptions,
    RunOptions,
    ShardOptions,
)
from pipelines.propose_masks import ProposeMasks
from pipelines.read_captions import ReadOptions, input_files
from pipelines.safety_flags import resolve_safety
from pipelines.units import Step, StoredTable, Units, foreign_file, read_units, unit_count
from pipelines.write_tables import (
    PART_NAME,
    PLANNED_FILE,
    RETRY_FILE,
    RUN_FILE,
    SUCCESS_FILE,
    UNFINISHED_FOLDER,
    RunFolder,
    open_run_folder,
)
from schemas import TABLES, UserError
from schemas.run import check_run

if TYPE_CHECKING:
    from ovseg_model.scorer import ClipScorerSpec

STAGES = {"captions": READ_STAGE, "nouns": "extract_nouns", "masks": "propose_masks", "pairs": "match_regions"}
"""The stage that makes each table."""

WORKER_GPU = "cuda"
"""The device of models on workers that --accelerator asks for: checked there, since this machine may have none."""

READS = {"nouns": (), "masks": (), "pairs": ("nouns", "masks")}
"""The tables that each step needs beside CAPTIONS."""

SHORT_VALUES = 40
"""Characters of an old and a new value together that a sentence repeats."""


@dataclass(frozen=True)
class MineOptions:
    """All options of a verb; groups that a verb does not take keep their defaults."""

    read: ReadOptions | None = None
    freeze: FreezeOptions = field(default_factory=FreezeOptions)
    nouns: NounOptions = field(default_factory=NounOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    exclude: ExcludeOptions = field(default_factory=ExcludeOptions)
    match: MatchOptions = field(default_factory=MatchOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    run: RunOptions = field(default_factory=RunOptions)
    accelerator: AcceleratorOptions = field(default_factory=AcceleratorOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    shard: ShardOptions = field(default_factory=ShardOptions)


@dataclass(frozen=True)
class Plan:
    """A run's units and the step of each table: to be made, stored already, or absent (None).

    `shard` says which of the units this command makes: index and count.
    """

    run: RunFolder
    units: Units
    captions: StoredTable
    nouns: Step | StoredTable | None = None
    masks: Step | StoredTable | None = None
    pairs: Step | StoredTable | None = None
    stages: dict[str, StageFacts] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)

    @property
    def unit_numbers(self) -> range:
        """The units that this command makes."""
        return range(self.shard[0], self.units.count, self.shard[1])

    @property
    def is_shard(self) -> bool:
        """Whether other commands make the other units."""
        return self.shard[1] > 1

    @property
    def steps(self) -> tuple[Step | StoredTable, ...]:
        """The steps that there are, in the order of the data."""
        return tuple(step for step in (self.captions, self.nouns, self.masks, self.pairs) if step)


Planned = tuple[Step | StoredTable, StageFacts]


def plan_run(tables: Collection[str], options: MineOptions) -> Plan:
    """Decides everything and resolves every weight, then freezes the input.

    Args:
        tables: the tables to make, of nouns, masks and pairs; others that the run has already are listed again.
        options: the verb's options.

    Raises:
        UserError: an option, a file or a weight is not as wanted.
    """
    run = open_run_folder(options.run.output)
    refuse_foreign_files(run)
    if options.read:
        input_files(options.read)  # a typo must not cost a download of weights first
    resolve_exclusions(options.exclude)
    resolve_safety(options.match.safety)
    resolve_negatives(options.match.hard_negatives)
    stored = stored_tables(run, tables)
    require_inputs(run, [*stored, *tables], tables)
    made = {table: PLANNERS[table](run, options) for table in tables}
    if options.retry.retry or run.has(RETRY_FILE):
        made = {table: (retrying(step), facts) for table, (step, facts) in made.items()}
    units = plan_units(run, options)
    planned = {**stored, **made}
    stages = {READ_STAGE: StageFacts("captions", units.options, {"input_sha256": units.input_sha256})}
    stages |= {STAGES[table]: planned[table][1] for table in READS if table in planned}
    shard = options.shard.shard_index, options.shard.shard_count
    steps = {name: step for name, (step, _) in planned.items()}
    return Plan(run, units, frozen_captions(run), **steps, stages=stages, shard=shard)


def retrying(step: Any) -> Any:
    """The step that also tries passing drops again; NOUNS need no network, and stay as they are."""
    return replace(step, retries_drops=True) if hasattr(step, "retries_drops") else step


def refuse_foreign_files(run: RunFolder) -> None:
    """Refuses a folder in which a file of somebody else's has the name of one of ours: it would be written over.

    Files of other names may lie there; a run neither reads nor removes them.

    Raises:
        UserError: naming the file.
    """
    is_frozen = read_units(run) is not None
    read_manifest(run)
    for table in () if is_frozen else TABLES:
        parts = (f"{table}/{name}" for name in run.names(table) if PART_NAME.fullmatch(name))
        first = next(parts, None)
        if first and not run.read_footer(first):
            raise UserError(foreign_file(run, first))


def read_manifest(run: RunFolder) -> dict[str, Any] | None:
    """run.json, or None where there is none.

    Raises:
        UserError: the file is none of ours.
    """
    if not run.has(RUN_FILE):
        return None
    try:
        return check_run(run.read_json(RUN_FILE))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(foreign_file(run, RUN_FILE)) from error


def plan_units(run: RunFolder, options: MineOptions) -> Units:
    """Freezes the input, or takes the frozen one where no input is named.

    Raises:
        UserError: there is neither, or the units are not those of the run whose masks are reused.
    """
    other = _units_to_inherit(run, options.masks)
    if options.read is None:
        units = read_units(run)
        if units is None:
            raise UserError(f"--output {run.url} holds no captions yet; name them with --captions")
    else:
        inherited = other.count if other and other.scheme == "hash" else 0
        units = freeze_captions(run, options.read, replace(options.freeze, unit_count=inherited))
    if other and units.cut() != other.cut():
        raise UserError(
            f"--masks-from {options.masks.masks_from} is cut into {other.count} units by {other.scheme}, this run "
            f"into {units.count} by {units.scheme}; masks can be reused unit by unit only: give the same tar shards, "
            "or an --output that is not frozen yet"
        )
    return units


def stored_tables(run: RunFolder, made: Collection[str]) -> dict[str, Planned]:
    """The tables that a finished verb left in the run, apart from those made now and those that depend on them.

    A verb that was stopped may have made some parts anew: until it has finished, nothing that it left is listed.
    """
    manifest = read_manifest(run)
    if manifest is None or not run.has(SUCCESS_FILE):
        return {}
    # A filtered run has PAIRS that no stage of its own made; nothing can be built on these.
    there = [table for table in READS if table in manifest["tables"] and STAGES[table] in manifest["stages"]]
    names = [table for table in there if not {table, *READS[table]} & set(made)]
    return {table: (StoredTable(run, STAGES[table], table), stored_facts(manifest, STAGES[table])) for table in names}


def unheeded_cut(units: Units, freeze: FreezeOptions) -> list[str]:
    """A sentence where a run that was cut into units before, or takes the cut of --masks-from, cannot be cut anew."""
    wanted = unit_count(units.images, freeze.images_per_unit)
    if units.scheme != "hash" or freeze.images_per_unit == FreezeOptions().images_per_unit or wanted == units.count:
        return []
    cut = f"--images-per-unit {freeze.images_per_unit}: the folder is cut into {units.count:,} units already"
    return [f"{cut}, and stays so; another --output is cut into {wanted:,}"]


def stale_tables(plan: Plan) -> list[str]:
    """A sentence for each table of the last command, finished or not, that other options or versions will make anew."""
    before = last_fingerprints(plan.run)
    return [
        f"{step.table}: made before with other {', '.join(changed)}; stale parts are made again"
        for step in plan.steps
        if not isinstance(step, StoredTable)
        and step.name in before
        and (changed := changed_keys(before[step.name], step.fingerprint()))
    ]


def last_fingerprints(run: RunFolder) -> dict[str, Any]:
    """By stage, what the last command made parts with: as it was planned, else as run.json says."""
    manifest = read_manifest(run)
    finished = {stage: facts["fingerprint"] for stage, facts in manifest["stages"].items()} if manifest else {}
    return finished | (run.read_json(PLANNED_FILE) if run.has(PLANNED_FILE) else {})


def record_fingerprints(plan: Plan) -> None:
    """Writes down what parts are made with from here on."""
    now = {step.name: step.fingerprint() for step in plan.steps if not isinstance(step, StoredTable)}
    plan.run.write_json(PLANNED_FILE, last_fingerprints(plan.run) | now)


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The changed keys of two fingerprints, with both values where these are short."""
    return [f"{key} ({values})" if (values := _both(before, now, key)) else key for key in changed_keys(before, now)]


def _both(before: dict[str, Any], now: dict[str, Any], key: str) -> str:
    old, new = (_value(each, key) for each in (before, json.loads(json.dumps(now))))
    return f"{old} there, {new} here" if len(f"{old}{new}") <= SHORT_VALUES else ""


def _value(tree: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name, "none") if isinstance(tree, dict) else "none"
    return tree


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of two fingerprints whose values differ, with the inner key where the value has keys itself."""
    now, changed = json.loads(json.dumps(now)), []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            changed += [f"{key}.{inner}" for inner in changed_keys(old, new)]
        elif old != new:
            changed.append(key)
    return changed


def stored_facts(manifest: dict[str, Any], stage: str) -> StageFacts:
    """What run.json said of a stage."""
    facts = manifest["stages"][stage]
    weights = tuple(weight for weight in manifest["weights"] if weight["stage"] == stage)
    meaningless = stage == STAGES["pairs"] and manifest["meaningless"]
    return StageFacts(facts["counts"], facts["options"], facts["fingerprint"], weights, meaningless)


def require_inputs(run: RunFolder, planned: Collection[str], made: Collection[str]) -> None:
    """Refuses a step whose input tables neither are there nor are made.

    Raises:
        UserError: naming the table and the verb that makes it.
    """
    for table in made:
        for needed in READS[table]:
            if needed not in planned:
                raise UserError(
                    f"--output {run.url} has no finished {needed} table; run `ovseg {needed} --output {run.url}` "
                    "first, or again if it was stopped"
                )


def plan_nouns(run: RunFolder, options: MineOptions) -> Planned:
    """The step that makes NOUNS."""
    step = plan_extract_nouns(run, options.nouns.nouns)
    return step, StageFacts(step.counts, asdict(options.nouns), step.fingerprint())


def plan_masks(run: RunFolder, options: MineOptions) -> Planned:
    """The step that makes MASKS: proposes them, takes stored ones, or both."""
    from ovseg_model.proposals import on_device, resolve_generator
    from ovseg_model.weight_licences import generator_weights

    chosen = options.masks
    _units_to_inherit(run, chosen)
    other = open_run_folder(chosen.masks_from) if chosen.masks_from else None
    generator = None
    if not other or chosen.propose_missing:
        generator_options = parse_generator_options(chosen.mask_option)
        device = "cpu" if options.accelerator.accelerator else generator_device(chosen.masks, options.run.device)
        generator = resolve_generator(chosen.masks, generator_options, device, f"{run.url}/.annotations")
        if options.accelerator.accelerator:
            generator = on_device(generator, WORKER_GPU)
    step = ProposeMasks(run, generator, options.fetch, other, resolve_exclusions(options.exclude))
    chosen_in_all = {**asdict(chosen), **asdict(options.exclude), **asdict(options.fetch)}
    found = weights_at(step.name, generator_weights(generator), chosen.mask_weights_licence)
    return step, StageFacts(step.counts, chosen_in_all, step.fingerprint(), found)


def weights_at(stage: str, found: Sequence[dict[str, Any]], licence: str | None) -> tuple[dict[str, Any], ...]:
    """A stage's weights as run.json lists them; `licence` is what the user says where none is known."""
    return tuple({"stage": stage, **weight, "licence": weight["licence"] or licence} for weight in found)


def generator_device(generator: str, device: str) -> str:
    """The device of a mask generator; torch is asked only where one could use it.

    Raises:
        UserError: there is no such device.
    """
    from ovseg_model.clip import resolve_device

    is_plug_in = ":" in generator
    return device if device == "cpu" or (device == "auto" and not is_plug_in) else resolve_device(device)


def plan_pairs(run: RunFolder, options: MineOptions) -> Planned:
    """The step that makes PAIRS; its weights are resolved now, since workers only read them."""
    from ovseg_model.class_embeddings import prompt_templates
    from ovseg_model.clip import resolve_clip, resolve_device
    from ovseg_model.scorer import ClipScorerSpec, regions_a_forward
    from ovseg_model.weight_licences import clip_licence

    device = WORKER_GPU if options.accelerator.accelerator else resolve_device(options.run.device)
    chosen = replace(options.match, region_batch=regions_a_forward(options.match.region_batch, device))
    prompt_templates(chosen.templates)
    weights = resolve_clip(chosen.clip, chosen.clip_architecture)
    scorer = ClipScorerSpec(
        weights,
        device,
        chosen.precision,
        chosen.region_batch,
        chosen.templates,
        chosen.expand_ratio,
        chosen.antialias,
        options.run.torch_threads or os.cpu_count() or 1,
        chosen.regions,
        chosen.scorer,
        chosen.one_pass_layers,
        chosen.one_pass_size,
        chosen.prefilter,
        noun_folder(run, options.run.noun_cache),
    )
    if scorer.uses_one_pass:
        one_pass_notices(scorer)  # for its refusal; what it says is said with the other notices
    excluded, safety = resolve_exclusions(options.exclude), resolve_safety(chosen.safety)
    step = MatchRegions(run, scorer, chosen, options.fetch, excluded, safety, resolve_negatives(chosen.hard_negatives))
    file = {"name": weights.name, "sha256": weights.sha256, "bytes": weights.size_bytes}
    found = weights_at(step.name, [{**file, "licence": clip_licence(weights)}], chosen.weights_licence)
    chosen_in_all = {**asdict(chosen), **asdict(options.exclude)}
    facts = StageFacts(step.counts, chosen_in_all, step.fingerprint(), found, weights.meaningless)
    return step, facts


def noun_folder(run: RunFolder, cache: str | None) -> RunFolder:
    """Where workers keep the vectors of nouns for each other: in the run until it is finished, or where a user says.

    Raises:
        UserError: the place cannot be written to.
    """
    if cache:
        return open_run_folder(cache, "--noun-cache")
    return RunFolder(f"{run.url.rstrip('/')}/{UNFINISHED_FOLDER}/nouns")


@functools.lru_cache(1)
def one_pass_notices(scorer: ClipScorerSpec) -> tuple[str, ...]:
    """Refuses a CLIP that cannot read masks in one forward, and says what should be known of one that can.

    Opening it costs seconds, once; finding out later costs all masks.

    Raises:
        UserError: as `one_pass.check_one_pass`.
    """
    from ovseg_model.clip import load_clip
    from ovseg_model.one_pass import check_one_pass, every_block_notices

    clip, options = load_clip(scorer.weights), scorer.one_pass()
    check_one_pass(clip, options)
    return every_block_notices(clip, options)


PLANNERS = {"nouns": plan_nouns, "masks": plan_masks, "pairs": plan_pairs}


def parse_generator_options(pairs: Collection[str]) -> dict[str, str]:
    """NAME=VALUE options of a mask generator.

    Raises:
        UserError: one is not of that form.
    """
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--mask-option {pair}: wanted NAME=VALUE, for example max_masks=100")
    return dict(pair.split("=", 1) for pair in pairs)


def _units_to_inherit(run: RunFolder, masks: MaskOptions) -> Units | None:
    if not masks.masks_from:
        return None
    other = open_run_folder(masks.masks_from, "--masks-from")
    if other == run:
        raise UserError(f"--masks-from {masks.masks_from} is --output itself; leave it away to use the run's own masks")
    if "masks" not in stored_tables(other, ()):
        raise UserError(
            f"--masks-from {masks.masks_from}: there is no finished run with a masks table; run `ovseg masks` first"
        )
    return read_units(other)

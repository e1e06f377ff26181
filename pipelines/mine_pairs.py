"""The composed run and its parts: `ovseg mine`, `nouns`, `masks` and `match`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ovseg_model.images import FetchOptions
from pipelines.command_line import VERBS
from pipelines.dataflow import DATAFLOW, accelerator_hints, check_accelerator, dataflow_arguments
from pipelines.device_pool import on_devices, parse_devices, run_on_devices
from pipelines.draw_pairs import draw_pairs
from pipelines.engines import OpenEngine, engine_arguments, open_engine, sentence_of_engine
from pipelines.finished import Command, is_finished, remember
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
    SentenceParser,
    ShardOptions,
    add_options,
    read_options,
    require_at_least,
)
from pipelines.plain import run_plain
from pipelines.plan import (
    MineOptions,
    Plan,
    one_pass_notices,
    plan_run,
    record_fingerprints,
    stale_tables,
    unheeded_cut,
)
from pipelines.progress import PartsProgress
from pipelines.read_captions import ReadOptions
from pipelines.report import report_at_end
from pipelines.retry_drops import may_pass
from pipelines.shards import finish_shards, missing_units, record_plan
from pipelines.summary import ONLY_SCENES, example_pairs, knows_only_scenes, stage_lines, summary
from pipelines.terminal import escaped
from pipelines.units import StoredTable
from pipelines.write_tables import (
    EXAMPLES_FILE,
    REPORT_FILE,
    RETRY_FILE,
    RUN_FILE,
    SHARDS_FILE,
    SUCCESS_FILE,
    UNITS_FILE,
    RunFolder,
    open_run_folder,
)
from schemas import UserError

RUNNERS = ("plain", "FnApiRunner", "PrismRunner", "PortableRunner", "FlinkRunner", "SparkRunner", DATAFLOW)
"""Runners by name; another one of Beam's is named by its import path."""


INPUT = (ReadOptions, FreezeOptions)
WITH_IMAGES = (FetchOptions, RunOptions, AcceleratorOptions, RetryOptions, ShardOptions)
"""What every verb takes that reads images."""

GROUPS = (FreezeOptions, NounOptions, MaskOptions, ExcludeOptions, MatchOptions, *WITH_IMAGES)
"""The fields of MineOptions behind the first, in order."""

TAKES: dict[str, tuple[type, ...]] = {
    "mine": (ReadOptions, *GROUPS),
    "nouns": (*INPUT, NounOptions, RunOptions, ShardOptions),
    "masks": (*INPUT, MaskOptions, ExcludeOptions, *WITH_IMAGES),
    "match": (MatchOptions, ExcludeOptions, *WITH_IMAGES),
}
"""The options of each verb; those that take an input find it frozen where --captions is not given."""

MAKES = {"mine": ("nouns", "masks", "pairs"), "nouns": ("nouns",), "masks": ("masks",), "match": ("pairs",)}
"""The tables that each verb makes."""


def main(argv: Sequence[str]) -> int:
    """Runs the verb that `argv` begins with: parses, plans, executes, prints; returns the exit status.

    Raises:
        UserError: an option, a file or a weight is not as wanted; no step has run yet.
    """
    parser, options, beam_arguments = parse_ours(argv)
    run, tables = open_run_folder(options.run.output), MAKES[argv[0]]
    if options.shard.finish:
        return finish(run, options, beam_arguments)
    refuse_resume(run, options.run.resume)
    command = Command(argv[0], options, beam_arguments)
    if is_finished(run, tables, command) and not (options.retry.retry and may_pass(run.read_json(RUN_FILE))):
        return answer_at_once(run, options)
    check_beam_arguments(parser, options.run.runner, beam_arguments)
    options = replace(options, run=on_devices(options.run))
    execute_plan = executor(options, beam_arguments)
    plan = plan_run(tables, options)
    if plan.is_shard and not options.retry.retry and is_made(plan):
        return answer_at_once(run, options)
    announce(plan, options)
    if is_dry_run(beam_arguments):
        execute_plan(plan)
        print("--dry_run: the job was built; nothing was submitted, made or changed")
        return 0
    prepare(plan, options)
    with PartsProgress(plan.run, plan.units.count, labels_to_make(plan)):
        execute_plan(plan)
    if left := left_to_do(plan, argv[0]):
        print(left)
        return 0
    remember(plan, tables, command)
    return report_finished(run, plan.run.read_json(RUN_FILE), options)


def finish(run: RunFolder, options: MineOptions, beam_arguments: Sequence[str]) -> int:
    """Finishes a run whose shards are made and prints what it holds; returns the exit status.

    Raises:
        UserError: something else was asked for too, or a shard is not made.
    """
    refuse_beside_finish(options, beam_arguments)
    if run.has(SUCCESS_FILE) and not run.has(SHARDS_FILE):
        return answer_at_once(run, options)
    return report_finished(run, finish_shards(run), options)


def refuse_beside_finish(options: MineOptions, beam_arguments: Sequence[str]) -> None:
    """Refuses options that --finish would not heed.

    Raises:
        UserError: something beside --output, and how images are fetched for the pictures, was asked for.
    """
    run = RunOptions(output=options.run.output, report=options.run.report)
    shard = ShardOptions(finish=True)
    if beam_arguments or options != MineOptions(run=run, shard=shard, fetch=options.fetch):
        raise UserError("--finish makes nothing and goes by what the shards made; give it with --output alone")


def announce(plan: Plan, options: MineOptions) -> None:
    """Says what should be known before hours of work.

    Raises:
        UserError: drops are to be tried again with options by which whole tables would be made anew.
    """
    if options.retry.retry:
        refuse_other_options(plan)
    for line in [*unheeded_cut(plan.units, options.freeze), *notices(plan)]:
        print(line, file=sys.stderr)


def prepare(plan: Plan, options: MineOptions) -> None:
    """The last before work starts: the run is not finished from here on, and says what is under way.

    Raises:
        UserError: other shards of the run make something else.
    """
    if plan.is_shard:
        record_plan(plan)
    plan.run.remove(SUCCESS_FILE)
    plan.run.remove(REPORT_FILE)
    record_fingerprints(plan)
    if options.retry.retry:
        plan.run.write(RETRY_FILE, b"")


def is_made(plan: Plan) -> bool:
    """Whether a run is finished and holds every part of a shard's plan, made as it would be."""
    return plan.run.has(SUCCESS_FILE) and not missing_units(plan.run, plan.steps, plan.unit_numbers)


def is_dry_run(beam_arguments: Sequence[str]) -> bool:
    """Whether Beam was asked to look at the pipeline only, so that a finished run must stay one."""
    return any(re.fullmatch(r"--dry_run(=true)?", each, re.IGNORECASE) for each in beam_arguments)


def refuse_other_options(plan: Plan) -> None:
    """Refuses to try drops again with options by which whole tables would be made anew.

    Raises:
        UserError: naming what differs.
    """
    if stale := stale_tables(plan):
        raise UserError(f"--retry drops: {stale[0].partition(';')[0]}; give the options that the run was made with")


def refuse_resume(run: RunFolder, resume: bool) -> None:
    """Refuses a folder that holds a run already, where --no-resume was given.

    Raises:
        UserError: it holds one.
    """
    if not resume and (run.has(UNITS_FILE) or run.has(RUN_FILE)):
        raise UserError(f"--no-resume: --output {run.url} holds a run already; give a new folder, or --resume to go on")


def answer_at_once(run: RunFolder, options: MineOptions) -> int:
    """Says that a run is finished, and what else it could be asked; returns the exit status it had."""
    manifest = run.read_json(RUN_FILE)
    lines = [*stage_lines(manifest), "", f"run: {run.url} is finished: this command made it; nothing was done"]
    print("\n".join(map(escaped, [*lines, *passing_lines(manifest)])))
    if options.run.report and not run.has(REPORT_FILE):  # the disk was full, or Beam's service finished the run
        report_at_end(run, options.fetch)
    return report_empty_stages(manifest)


def passing_lines(manifest: dict[str, Any]) -> list[str]:
    """What may be tried again, if anything."""
    passing = may_pass(manifest)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in passing.items())
    return [f"dropped for reasons that can pass: {reasons}; --retry drops tries them again"] if passing else []


def left_to_do(plan: Plan, verb: str) -> str:
    """What is still to be done or waited for once a plan was executed; empty where the run is finished."""
    if plan.is_shard:
        return shard_done(plan, verb)
    if not plan.run.has(SUCCESS_FILE):
        return f"submitted, and not waited for; the run is complete when {plan.run.path(SUCCESS_FILE)} is there"
    return ""


def shard_done(plan: Plan, verb: str) -> str:
    """What a shard prints at its end."""
    index, count = plan.shard
    made = f"shard {index} of {count}: its {len(plan.unit_numbers):,} of {plan.units.count:,} units are made"
    return escaped(f"{made}; when all shards are done: ovseg {verb} --finish --output {plan.run.url}")


def report_finished(run: RunFolder, manifest: dict[str, Any], options: MineOptions) -> int:
    """Writes the report of, draws and prints what a finished run holds; returns the exit status."""
    examples = example_pairs(run, manifest["units"]["count"]) if "pairs" in manifest["tables"] else []
    if examples:
        run.write(EXAMPLES_FILE, draw_pairs(examples, options.fetch))
    if options.run.report:
        report_at_end(run, options.fetch)
    print(summary(run, manifest, examples))
    for line in passing_lines(manifest):
        print(escaped(line))
    return report_empty_stages(manifest)


def notices(plan: Plan) -> list[str]:
    """What should be known before hours of work: tables that are made anew, and what CLIP cannot do as it is asked."""
    weights = [weight for facts in plan.stages.values() for weight in facts.weights]
    lines = [*stale_tables(plan), *retry_notices(plan), *(ONLY_SCENES if knows_only_scenes(weights) else ())]
    scorer = plan.pairs.scorer if isinstance(plan.pairs, MatchRegions) else None
    return [*lines, *(one_pass_notices(scorer) if scorer and scorer.uses_one_pass else ())]


def retry_notices(plan: Plan) -> list[str]:
    """What a retry of masks alone does to pairs that were made from them."""
    if plan.pairs or not getattr(plan.masks, "retries_drops", False) or not plan.run.names("pairs"):
        return []
    return ["pairs: removed, since their masks change; `ovseg mine --retry drops` completes both and keeps the rest"]


def report_empty_stages(manifest: dict[str, Any]) -> int:
    """Says which stages kept nothing of what they read; returns the exit status, 1 if there is one."""
    totals = {stage: facts["totals"] for stage, facts in manifest["stages"].items()}
    empty = {stage: each["dropped"] for stage, each in totals.items() if each["read"] and not each["kept"]}
    for stage, dropped in empty.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        print(f"{stage} kept nothing ({reasons}); the drops table says why, row by row", file=sys.stderr)
    return 1 if empty else 0


def parse(argv: Sequence[str]) -> tuple[MineOptions, list[str]]:
    """The options of the verb that `argv` begins with, and the arguments left for Beam.

    Raises:
        UserError: a value no run can work with, or an argument that nobody knows.
    """
    parser, options, unknown = parse_ours(argv)
    check_beam_arguments(parser, options.run.runner, unknown)
    return options, unknown


def parse_ours(argv: Sequence[str]) -> tuple[SentenceParser, MineOptions, list[str]]:
    """The same before Beam is asked what it knows: the parser, our options, and all other arguments.

    Raises:
        UserError: a value no run can work with.
    """
    verb, *arguments = argv
    parser = SentenceParser(f"ovseg {verb}", description=VERBS[verb].help, allow_abbrev=False)
    for group in TAKES[verb]:
        add_options(parser, group)
    namespace, unknown = parser.parse_known_args(arguments)
    read = read_options(namespace, ReadOptions) if "captions" in namespace else None
    options = MineOptions(read, *(read_options(namespace, group) for group in GROUPS))
    check_options(options)
    return parser, options, unknown


def check_options(options: MineOptions) -> None:
    """Refuses values that no run can work with.

    Raises:
        UserError: naming the option, what is wanted and what was given.
    """
    if not options.run.output:
        raise UserError("--output is missing; give the run directory, a path or an fsspec URL")
    if options.run.runner not in RUNNERS and "." not in options.run.runner:
        close = get_close_matches(options.run.runner, RUNNERS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"--runner {options.run.runner}: {hint}wanted one of {', '.join(RUNNERS)}")
    if options.read:
        require_at_least("max_caption_chars", options.read.max_caption_chars, 1)
    require_at_least("captions_per_image", options.freeze.captions_per_image, 0)
    require_at_least("images_per_unit", options.freeze.images_per_unit, 1)
    require_at_least("region_batch", options.match.region_batch, 0)
    require_at_least("masks_per_noun", options.match.masks_per_noun, 1)
    require_at_least("runner_up_nouns", options.match.runner_up_nouns, 0)
    require_at_least("runner_up_masks", options.match.runner_up_masks, 0)
    require_at_least("hard_negatives", options.match.hard_negatives, 0)
    require_at_least("expand_ratio", options.match.expand_ratio, 1.0)
    check_scoring(options.match)
    require_at_least("torch_threads", options.run.torch_threads, 0)
    require_at_least("workers", options.run.workers, 0)
    require_at_least("shard_count", options.shard.shard_count, 1)
    if not 0 <= options.shard.shard_index < options.shard.shard_count:
        raise UserError(
            f"--shard-index: wanted 0 to {options.shard.shard_count - 1}, since --shard-count is "
            f"{options.shard.shard_count}; got {options.shard.shard_index}"
        )
    check_accelerator(options.accelerator, options.run)
    if options.masks.propose_missing and not options.masks.masks_from:
        raise UserError("--propose-missing goes with --masks-from; without it all masks are proposed anyway")


def check_scoring(match: MatchOptions) -> None:
    """Refuses ways of reading masks that no model has, or that do not go together.

    Raises:
        UserError: naming the option.
    """
    require_at_least("one_pass_layers", match.one_pass_layers, 1)
    require_at_least("one_pass_size", match.one_pass_size, 0)
    require_at_least("prefilter", match.prefilter, 0)
    if match.prefilter and match.scorer != "crops":
        raise UserError("--prefilter chooses masks for --scorer crops; --scorer one-pass has nothing to choose for")
    if match.regions != "float" and not match.antialias:
        raise UserError(f"--regions {match.regions} follows PIL's antialiased resize; leave --no-antialias away")


def check_beam_arguments(parser: argparse.ArgumentParser, runner: str, unknown: Sequence[str]) -> None:
    """Refuses arguments that neither we nor Beam know; Beam alone would ignore them.

    Raises:
        UserError: naming the argument and the closest of ours.
    """
    wrong = list(unknown) if runner == "plain" else unknown_to_beam(unknown)
    if wrong:
        ours = [flag for action in parser._actions for flag in action.option_strings]
        close = get_close_matches(wrong[0].split("=")[0], ours, 1)
        hint = f"did you mean {close[0]}?" if close else "--help lists what there is"
        readers = parser.prog if runner == "plain" else f"{parser.prog}, nor of Beam"
        raise UserError(f"{wrong[0]} is no option of {readers}; {hint}")


def unknown_to_beam(arguments: Sequence[str]) -> list[str]:
    """The arguments that none of Beam's option classes takes."""
    if not arguments:
        return []
    quiet_start_up()
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser.parse_known_args(list(arguments))[1]


def executor(options: MineOptions, beam_arguments: Sequence[str]) -> Callable[[Plan], Any]:
    """What runs a plan: a process a device, plain loops, or Beam on a runner.

    Raises:
        UserError: Dataflow was not told all that it needs, or the runner's engine is not installed.
    """
    run = options.run
    if run.devices:
        return lambda plan: run_on_devices(plan, parse_devices(run.devices))
    if run.runner == "plain":
        return run_plain
    if run.runner == DATAFLOW:
        beam_arguments = dataflow_arguments(beam_arguments, options.accelerator)
    engine_arguments(run.runner, beam_arguments, run.workers, run.engines)  # refused before any work
    return lambda plan: run_beam(plan, run, beam_arguments, accelerator_hints(options.accelerator))


def run_beam(plan: Plan, options: RunOptions, beam_arguments: Sequence[str], hints: Mapping[str, str]) -> None:
    """Runs a plan as a Beam pipeline and waits for its end; `hints` as `define_pipeline` takes them.

    Raises:
        UserError: a worker raised one.
    """
    quiet_start_up()  # before Beam is imported, by whatever comes first
    from pipelines.transforms import define_pipeline

    engine = open_engine(options.runner, beam_arguments, options.workers, options.engines)
    run_pipeline(lambda root: define_pipeline(root, plan, hints), options.runner, engine)


def run_pipeline(define: Callable[[Any], object], name: str, engine: OpenEngine) -> None:
    """Runs what `define` builds on the root of a Beam pipeline, and waits for its end.

    Raises:
        UserError: a worker raised one, or a worker or the engine died.
    """
    quiet_start_up()
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with engine as (runner, arguments):
        try:
            with beam.Pipeline(runner, PipelineOptions(arguments)) as root:
                define(root)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            sentence = sentence_of_worker(text) or sentence_of_engine(name, text)
            if sentence is None:
                raise
            raise UserError(sentence) from error


def sentence_of_worker(text: str) -> str | None:
    """The sentence of a worker's UserError in what Beam raises: Beam adds its step, or makes a traceback a text."""
    names = "|".join(each.__name__ for each in (UserError, *UserError.__subclasses__()))
    found = re.search(rf"\b(?:{names}): (.*?)(?: \[while running '.*)?$", text, re.MULTILINE)
    return found[1] if found else None


def quiet_start_up() -> None:
    """Keeps Beam's notes about its own start-up, and its tracebacks of a user's mistake, from burying what matters."""
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    logging.getLogger("apache_beam.runners.common").addFilter(is_no_users_mistake)
    # Said by Beam itself, on the root logger, wherever Google Cloud's optional clients are not installed.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())


def is_no_users_mistake(record: logging.LogRecord) -> bool:
    """A filter of log lines: a UserError is said once, at the end, without its traceback."""
    return not isinstance(record.msg, UserError)


def labels_to_make(plan: Plan) -> dict[str, str]:
    """Stage by table, of the steps that may have work to do."""
    return {step.table: step.name for step in plan.steps if not isinstance(step, StoredTable)}

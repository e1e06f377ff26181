"""`ovseg retrain`: a caption corpus in, a finetuned CLIP with its accuracy before and after out.

Three commands that could be given one by one, each shown before it runs: `ovseg mine` into OUTPUT/mined (nouns, masks
or those of an earlier run, pairs), `ovseg filter` into OUTPUT/selected (the pairs that are trained on), `ovseg
finetune` into OUTPUT/adapted (the adapted CLIP, measured before and after). Each goes on where it was stopped, and
answers at once where it is done, so the same command again does the same.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.options import SentenceParser, add_options, option, read_options, require_at_least
from pipelines.write_tables import RUN_FILE, RunFolder
from schemas import UserError

MINED, SELECTED, ADAPTED = "mined", "selected", "adapted"
RESULT_FILE = "result.json"
PAGE_FILE = "retrained.md"

EVAL_SET_WANTED = (
    "--eval-set is missing: without a labelled set there is no accuracy before and after; give scenes, "
    "coco:INSTANCES.json:IMAGES_FOLDER, BENCHMARK@ROOT such as ade20k-150@data, or none"
)


@dataclass(frozen=True)
class RetrainOptions:
    """What is mined, what is trained, and where it all goes."""

    captions: tuple[str, ...] = option((), "caption tables, image folders or tar shards, as of ovseg mine")
    images: str | None = option(None, "folder or URL prefix that relative image paths start from")
    masks_from: str | None = option(None, "take masks from the MASKS table of this run instead of making them")
    init: str = option("scenes", "CLIP that is adapted, as --clip of ovseg finetune")
    clip: str | None = option(
        None, "CLIP that matches nouns to regions, an adapted one for a second round; without it the one of --init"
    )
    output: str = option("", "local folder; the same command again goes on where it was stopped")
    where: str = option("not abstract and not generic", "condition over PAIRS columns for what is trained on")
    cap: int = option(0, "pairs of one noun at most; 0 takes all")
    assign: str = option(
        "none",
        "one mask a noun and one noun a mask, as of ovseg filter",
        choices=("none", "mutual", "greedy", "hungarian"),
    )
    eval_set: str = option(
        "",
        "labelled set for before and after: scenes, coco:INSTANCES.json:IMAGES_FOLDER, BENCHMARK@ROOT, or none",
    )
    eval_images: int = option(500, "images of it, the first by name")
    mine: str = option("", 'more options of ovseg mine, in one text: "--nouns phrases --precision bf16"')
    filter: str = option("", 'more options of ovseg filter, in one text: "--near-duplicate-images 6"')
    finetune: str = option("", 'more options of ovseg finetune, in one text: "--mode prompt --epochs 3"')


class Stage(NamedTuple):
    """One command of the three: its verb with its arguments."""

    argv: list[str]

    def text(self) -> str:
        """As it is typed."""
        return shlex.join(["ovseg", *self.argv])


Run = Callable[[Sequence[str]], int]
"""Runs a verb by its arguments and returns its exit status."""


def main(argv: Sequence[str], run: Run | None = None) -> int:
    """Runs the three commands and writes the page; `argv` begins with the verb, `run` stands in for `ovseg`.

    Raises:
        UserError: an option is not as wanted, or one of the commands says so.
    """
    parser = SentenceParser("ovseg retrain", description=__doc__, allow_abbrev=False)
    add_options(parser, RetrainOptions)
    options = read_options(parser.parse_args(argv[1:]), RetrainOptions)
    check_options(options)
    planned = stages(options)
    check_stages(options, planned)
    for number, stage in enumerate(planned, 1):
        print(f"\n{number}/{len(planned)}  {stage.text()}\n", flush=True)
        with telling_what_stands(options, number):
            status = (run or run_verb)(stage.argv)
        if status:
            raise UserError(f"stopped at {number} of {len(planned)}, exit status {status}: {stage.text()}")
    page = describe(options, planned)
    RunFolder(str(Path(options.output).absolute())).write(PAGE_FILE, page.encode())
    print(f"\n{page}\n{Path(options.output) / PAGE_FILE}")
    return 0


def run_verb(argv: Sequence[str]) -> int:
    """Runs one verb in this process."""
    from pipelines.command_line import verb_main

    return verb_main(argv[0])(argv)


def check_options(options: RetrainOptions) -> None:
    """Refuses what is missing before hours of work.

    Raises:
        UserError: naming the option.
    """
    if not options.captions:
        raise UserError("--captions is missing; give caption tables, image folders or tar shards")
    if not options.output or "://" in options.output:
        raise UserError(f"--output {options.output or 'is missing'}: wanted a local folder")
    if not options.eval_set:
        raise UserError(EVAL_SET_WANTED)
    require_at_least("cap", options.cap, 0)
    require_at_least("eval_images", options.eval_images, 1)
    for name in ("mine", "filter", "finetune"):
        words(name, getattr(options, name))


def check_stages(options: RetrainOptions, planned: Sequence[Stage]) -> None:
    """Refuses what a later stage would refuse after hours of mining.

    Raises:
        UserError: as the stages' own verbs.
    """
    from ovseg_model.labelled_regions import open_labelled_set
    from pipelines import filter_pairs, finetune_clip, mine_pairs

    mine, select, finetune = planned
    mine_pairs.parse(mine.argv)
    filter_pairs.parse(select.argv)
    finetune_clip.parse(finetune.argv)
    if options.eval_set != "none":
        open_labelled_set(options.eval_set, options.eval_images)


@contextlib.contextmanager
def telling_what_stands(options: RetrainOptions, number: int) -> Iterator[None]:
    """Around a stage: a folder that holds what other options made is told with what may stay.

    Raises:
        UserError: the stage's own, with that sentence where it may help.
    """
    try:
        yield
    except UserError as error:
        stale = " and ".join(str(Path(options.output) / name) for name in (SELECTED, ADAPTED)[number - 2 :])
        if number == 1 or "--output" not in str(error):
            raise
        raise UserError(f"{error}. What was mined may stay: to choose or train otherwise, remove {stale}") from error


def words(name: str, text: str) -> list[str]:
    """The arguments of one text, cut as a shell cuts them.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--{name} {text!r}: {str(error).lower()}; wanted options as they are typed") from error


def stages(options: RetrainOptions) -> list[Stage]:
    """The three commands, in order."""
    mined, selected, adapted = (str(Path(options.output) / name) for name in (MINED, SELECTED, ADAPTED))
    place = [*given("images", options.images), *given("masks-from", options.masks_from)]
    mine = ["mine", "--captions", *options.captions, *place, "--clip", options.clip or options.init, "--output", mined]
    chosen = ["--where", options.where, *given("cap", options.cap), *given("assign", options.assign)]
    measured = [] if options.eval_set == "none" else ["--eval-set", options.eval_set]
    measured += ["--eval-images", str(options.eval_images)] if measured else []
    finetune = ["finetune", "--pairs", selected, "--clip", options.init, "--output", adapted, *measured]
    return [
        Stage([*mine, *words("mine", options.mine)]),
        Stage(["filter", mined, *chosen, "--output", selected, *words("filter", options.filter)]),
        Stage([*finetune, *words("finetune", options.finetune)]),
    ]


def given(name: str, value: Any) -> list[str]:
    """An option with its value, or nothing where it has its default of none."""
    return [] if value in (None, 0, "none") else [f"--{name}", str(value)]


def describe(options: RetrainOptions, planned: Sequence[Stage]) -> str:
    """The page at the end: commands, yields, accuracy before and after."""
    root = Path(options.output)
    runs = {name: json.loads((root / name / RUN_FILE).read_text()) for name in (MINED, SELECTED)}
    result = json.loads((root / ADAPTED / RESULT_FILE).read_text())
    commands = ["```", *(stage.text() for stage in planned), "```"]
    return "\n".join(["# Retrained CLIP", "", *commands, "", *yields(runs), "", *accuracies(result["accuracy"]), ""])


def yields(runs: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table of what each stage of both runs read and kept."""
    yield from ("| folder | stage | read | kept | |", "|---|---|---:|---:|---|")
    for folder, manifest in runs.items():
        for stage, facts in manifest["stages"].items():
            totals = facts["totals"]
            yield f"| {folder} | {stage} | {totals['read']:,} | {totals['kept']:,} | {facts['counts']} |"


def accuracies(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table of accuracies before and after; a sentence where nothing was measured."""
    if len(rows) < 2:
        yield "No accuracy was measured (--eval-set none)."
        return
    before, after = rows[0], rows[-1]
    yield from ("| accuracy | before | after | change |", "|---|---:|---:|---:|")
    for name in (name for name in before if name != "step"):
        yield f"| {name} | {before[name]:.3f} | {after[name]:.3f} | {after[name] - before[name]:+.3f} |"

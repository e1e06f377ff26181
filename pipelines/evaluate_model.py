"""`ovseg evaluate`: one benchmark, one model, numbers as the field defines them, with what they depend on."""

from __future__ import annotations

from collections.abc import Sequence

from ovseg_model.datasets.benchmark import LABEL_MAP_BENCHMARKS
from ovseg_model.datasets.referring import REFERRING_BENCHMARKS
from pipelines.evaluation import EvaluateOptions, Outcome
from pipelines.open_segmenter import ModelOptions
from pipelines.options import SentenceParser, add_options, read_options
from pipelines.write_tables import open_run_folder
from schemas import UserError

CLASSIFICATION = ("regions", "image-folder", "waterbirds")


OF_LABEL_MAPS = frozenset({"oracle", "tune_on", "tune_images", "names"})
OF_EXPRESSIONS = frozenset({"answer", "union_threshold"})
OF_FUSION = frozenset({"clip_weight", "soft_masks", "best_proposal_only"})
OF_PROPOSALS = frozenset({"masks", "mask_option", "mask_threshold", "soft_masks"})
OF_REGIONS = frozenset({"expand_ratio", "antialias", "regions", "scorer", "one_pass_layers", "one_pass_size"})
"""Options that only some evaluations read: of what only label maps or only expressions have, of proposals joined into
one map, of proposals that a generator makes, and of masked regions."""


def main(argv: Sequence[str]) -> int:
    """Evaluates and prints; `argv` begins with the verb.

    Raises:
        UserError: an option, a file of the benchmark or a weight is not as wanted.
    """
    from ovseg_model.segment import SegmentOptions

    parser = SentenceParser("ovseg evaluate", description=__doc__, allow_abbrev=False)
    groups = (EvaluateOptions, SegmentOptions, ModelOptions)
    for group in groups:
        add_options(parser, group)
    namespace = parser.parse_args(argv[1:])
    options, segment, models = (read_options(namespace, group) for group in groups)
    if options.benchmark == "help":
        print(list_benchmarks())
        return 0
    outcome = evaluate(options, segment, models, frozenset(vars(namespace)))
    print(outcome.text)
    return int(outcome.failed)


def evaluate(options: EvaluateOptions, segment: object, models: ModelOptions, given: frozenset[str]) -> Outcome:
    """Runs the evaluation that a benchmark's name asks for.

    given: names of the options that the user gave.

    Raises:
        UserError: the benchmark is not known, or --output is missing.
    """
    name = options.benchmark.partition(":")[0]
    known = (*LABEL_MAP_BENCHMARKS, *REFERRING_BENCHMARKS, *CLASSIFICATION)
    if name not in known:
        raise UserError(f"--benchmark {options.benchmark!r}: wanted one of {', '.join(known)}; NAME:SPLIT for a split")
    refuse_unused(options, given)
    if not options.output:
        raise UserError("--output is missing; give a folder for predictions and result")
    folder = open_run_folder(options.output)
    if name in LABEL_MAP_BENCHMARKS:
        from pipelines.evaluate_label_maps import Asked, evaluate_label_maps

        return evaluate_label_maps(Asked(options, segment, models, given), folder)
    if name in REFERRING_BENCHMARKS:
        from pipelines.evaluate_expressions import evaluate_expressions

        return evaluate_expressions(options, models, segment.mask_threshold, folder, given)
    from pipelines import evaluate_classification as classification

    ways = (
        classification.evaluate_regions,
        classification.evaluate_image_folder,
        classification.evaluate_waterbirds,
    )
    return Outcome(dict(zip(CLASSIFICATION, ways, strict=True))[name](options, models, folder))


def refuse_unused(options: EvaluateOptions, given: frozenset[str]) -> None:
    """Refuses what was given and would change nothing: an option, or a split where there is none.

    Raises:
        UserError: naming the first of them.
    """
    name, _, split = options.benchmark.partition(":")
    if split and name in ("regions", "image-folder"):
        raise UserError(f"--benchmark {options.benchmark}: {name} has no splits; --root says which images")
    for unused in sorted(given & unused_options(options)):
        raise UserError(f"--{unused.replace('_', '-')}: has no part in {told(options)}; leave it away")


def told(options: EvaluateOptions) -> str:
    """What was asked for, as far as it decides which options have a part."""
    words = f"--benchmark {options.benchmark}"
    if options.oracle:
        return f"{words} --oracle {options.oracle}"
    return words if options.tune_on or options.answer == "union" else f"{words} as it is asked for"


def unused_options(options: EvaluateOptions) -> frozenset[str]:
    """Names of the options that have no part in an evaluation."""
    name = options.benchmark.partition(":")[0]
    if name in LABEL_MAP_BENCHMARKS:
        tuning = frozenset({"clip_weight", "mask_threshold"} if options.tune_on else {"tune_images"})
        return tuning | OF_EXPRESSIONS | (OF_PROPOSALS if options.oracle == "masks" else frozenset())
    if name in REFERRING_BENCHMARKS:
        return OF_FUSION | {"oracle", "names", "synonyms"} | unused_of_answers(options)
    regions = OF_REGIONS if name == "image-folder" else frozenset()
    return OF_EXPRESSIONS | OF_LABEL_MAPS | OF_FUSION | OF_PROPOSALS | regions


def unused_of_answers(options: EvaluateOptions) -> frozenset[str]:
    """Names of the options that have no part in how an expression is answered."""
    if options.answer != "union":
        return frozenset({"union_threshold", "tune_on", "tune_images"})
    return frozenset({"union_threshold"} if options.tune_on else {"tune_images"})


def list_benchmarks() -> str:
    """A line a benchmark: name, title, splits."""
    from ovseg_model.datasets.benchmark import open_label_map_benchmark
    from ovseg_model.datasets.referring import open_referring_benchmark
    from ovseg_model.datasets.waterbirds import WATERBIRDS

    found = [open_label_map_benchmark(name) for name in LABEL_MAP_BENCHMARKS]
    found += [open_referring_benchmark(name) for name in REFERRING_BENCHMARKS]
    lines = [f"{each.name:<20}{each.title:<28}{', '.join(each.splits)}" for each in [*found, WATERBIRDS]]
    lines.append(f"{'regions':<20}{'masked-region accuracy':<28}--root takes what --eval-set of ovseg finetune takes")
    lines.append(f"{'image-folder':<20}{'zero-shot of whole images':<28}--root CLASS/IMAGE, for forgetting")
    return "\n".join(lines)

"""`ovseg evaluate`: one benchmark, one model, numbers as the field defines them, with what they depend on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ovseg_model.datasets.benchmark import LABEL_MAP_BENCHMARKS
from ovseg_model.datasets.referring import REFERRING_BENCHMARKS
from pipelines.evaluation import EvaluateOptions, Outcome
from pipelines.open_segmenter import ModelOptions
from pipelines.options import add_options, read_options
from pipelines.write_tables import open_run_folder
from schemas import UserError

CLASSIFICATION = ("regions", "image-folder", "waterbirds")


def main(argv: Sequence[str]) -> int:
    """Evaluates and prints; `argv` begins with the verb.

    Raises:
        UserError: an option, a file of the benchmark or a weight is not as wanted.
    """
    from ovseg_model.segment import SegmentOptions

    parser = argparse.ArgumentParser("ovseg evaluate", description=__doc__, allow_abbrev=False)
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

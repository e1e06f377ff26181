"""Stored predictions scored: label maps in this process, or by Beam at scale, with equal counts; expressions here.

`ovseg score --output EVALUATION --runner FnApiRunner` counts again what `ovseg evaluate` predicted there, and writes
the result anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from ovseg_model.datasets.benchmark import LabelledSample, LabelMapBenchmark, open_label_map_benchmark
from ovseg_model.label_png import read_label_png
from ovseg_model.metrics import RunningCounts, SegmentationCounts
from ovseg_model.read_ahead import read_ahead
from pipelines.evaluation import EVALUATION_FILE, PREDICTIONS, Outcome
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.write_tables import RunFolder, open_run_folder
from schemas import UserError

COUNTS_FILE = "counts.json"
SAMPLES_PER_CHUNK = 64
THREADS = 4


@dataclass(frozen=True)
class ScoreOptions:
    """Which predictions are scored, and by whom."""

    output: str = option("", "folder of an evaluation, as ovseg evaluate wrote it")
    runner: str = option("FnApiRunner", "plain (loops without Beam) or a Beam runner; every Beam option passes through")


class SampleScore(NamedTuple):
    """One image by itself: mean IoU over the classes that it shows, 0 to 1; NaN where all is ignored."""

    name: str
    miou_present: float


@dataclass(frozen=True)
class Scores:
    """What adds over samples."""

    counts: SegmentationCounts
    samples: tuple[SampleScore, ...]

    def __add__(self, other: Scores) -> Scores:
        """Scores of both; samples stand in order of name, whatever was added first."""
        return Scores(self.counts + other.counts, tuple(sorted(self.samples + other.samples)))


@dataclass(frozen=True)
class ScoringJob:
    """Predictions and where their truth is; small and picklable, but for the list of samples."""

    folder: RunFolder
    benchmark: str
    samples: tuple[LabelledSample, ...]
    there: int
    """Images of the split, before --limit."""

    def chunks(self) -> list[tuple[LabelledSample, ...]]:
        """The samples, a few dozen at a time."""
        starts = range(0, len(self.samples), SAMPLES_PER_CHUNK)
        return [self.samples[start : start + SAMPLES_PER_CHUNK] for start in starts]

    def score_chunk(self, samples: Sequence[LabelledSample]) -> Scores:
        """Scores of some samples.

        Raises:
            UserError: a prediction is missing, is no label map or has another size than the truth.
        """
        benchmark = open_label_map_benchmark(self.benchmark)
        counts, pairs = RunningCounts(len(benchmark.classes)), read_ahead(self._maps_of(benchmark), samples, THREADS)
        scores = [SampleScore(sample.name, counts.add(*pair)) for sample, pair in zip(samples, pairs, strict=True)]
        return Scores(counts.total(), tuple(scores))

    def _maps_of(self, benchmark: LabelMapBenchmark) -> Callable[[LabelledSample], tuple[np.ndarray, np.ndarray]]:
        """A reader of prediction and truth, uint16 (H, W) each."""

        def read(sample: LabelledSample) -> tuple[np.ndarray, np.ndarray]:
            prediction_HW, truth_HW = read_prediction(self.folder, sample), benchmark.read_labels(sample)
            if prediction_HW.shape != truth_HW.shape:
                raise UserError(
                    f"{self.folder.path(prediction_name(sample))}: is {prediction_HW.shape}, its truth "
                    f"{truth_HW.shape} (height, width); remove it, and evaluate again"
                )
            return prediction_HW, truth_HW

        return read


def prediction_name(sample: LabelledSample) -> str:
    """The file of a sample's prediction, below the evaluation's folder."""
    return prediction_file(sample.name)


def prediction_file(name: str) -> str:
    """The same by the sample's name, which may hold slashes."""
    return f"{PREDICTIONS}/{quote(name, safe='')}.png"


def read_prediction(folder: RunFolder, sample: LabelledSample) -> np.ndarray:
    """A stored prediction, uint16 (H, W).

    Raises:
        UserError: it is missing, or no label map.
    """
    path = folder.path(prediction_name(sample))
    try:
        return read_label_png(folder.read(prediction_name(sample)))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no prediction of {sample.name}; run ovseg evaluate to its end") from error
    except OSError as error:
        raise UserError(f"{path}: is no label map ({error}); remove it, and evaluate again") from error


def sum_scores(scores: Iterable[Scores], classes: int) -> Scores:
    """The sum of scores, which may be none."""
    return reduce(Scores.__add__, scores, Scores(SegmentationCounts.zero(classes), ()))


def score_plain(job: ScoringJob) -> Scores:
    """Scores all samples in this process."""
    classes = len(open_label_map_benchmark(job.benchmark).classes)
    return sum_scores((job.score_chunk(chunk) for chunk in job.chunks()), classes)


def score_with_beam(job: ScoringJob, runner: str, beam_arguments: Sequence[str]) -> Scores:
    """Scores all samples on a Beam runner; the counts come back by a file in the folder."""
    from pipelines.engines import open_engine
    from pipelines.mine_pairs import run_pipeline
    from pipelines.transforms import define_scoring

    def define(root: Any) -> None:
        define_scoring(root, job)

    run_pipeline(define, runner, open_engine(runner, beam_arguments))
    return read_scores(job.folder)


def write_scores(folder: RunFolder, scores: Scores) -> None:
    """Stores scores as counts.json."""
    samples = [(each.name, None if math.isnan(each.miou_present) else each.miou_present) for each in scores.samples]
    folder.write_json(COUNTS_FILE, {"counts": scores.counts.as_json(), "samples": samples})


def read_scores(folder: RunFolder) -> Scores:
    """The inverse of `write_scores`."""
    stored = folder.read_json(COUNTS_FILE)
    samples = (SampleScore(name, float("nan") if value is None else value) for name, value in stored["samples"])
    return Scores(SegmentationCounts.from_json(stored["counts"]), tuple(samples))


def main(argv: Sequence[str]) -> int:
    """Scores and prints; `argv` begins with the verb.

    Raises:
        UserError: the folder holds no evaluation of label maps or expressions, or a prediction is missing.
    """
    from pipelines.mine_pairs import check_beam_arguments

    parser = SentenceParser("ovseg score", description=__doc__, allow_abbrev=False)
    add_options(parser, ScoreOptions)
    namespace, unknown = parser.parse_known_args(argv[1:])
    options = read_options(namespace, ScoreOptions)
    check_beam_arguments(parser, options.runner, unknown)
    if not options.output:
        raise UserError("--output is missing; give the folder of an evaluation")
    folder = open_run_folder(options.output)
    if not folder.has(EVALUATION_FILE):
        raise UserError(f"--output {options.output}: there is no {EVALUATION_FILE}; predict with ovseg evaluate first")
    stored = folder.read_json(EVALUATION_FILE)
    if "root" in stored and options.runner != "plain" and "runner" in vars(namespace):
        raise UserError("--runner: expressions are scored in this process; leave it away, or give plain")
    outcome = score_again(folder, stored, options.runner, unknown)
    print(outcome.text)
    return int(outcome.failed)


def score_again(folder: RunFolder, stored: dict[str, Any], runner: str, beam_arguments: Sequence[str]) -> Outcome:
    """Scores what an evaluation stored; label maps on a runner, expressions in this process.

    stored: its evaluation.json.

    Raises:
        UserError: it is of a benchmark without either, or a prediction is missing.
    """
    from pipelines import expression_report
    from pipelines.label_map_report import finish, job_of

    made_by = stored["made_by"]
    if "root" in stored:
        return expression_report.score_again(folder, stored)
    if "oracle" not in made_by:
        raise UserError(
            f"{folder.url}: is an evaluation of {made_by['benchmark']}; its stored answers are counted again by the "
            "same ovseg evaluate command, which predicts nothing twice"
        )
    job = job_of(folder, made_by)
    scores = score_plain(job) if runner == "plain" else score_with_beam(job, runner, beam_arguments)
    write_scores(folder, scores)
    return finish(job, scores, made_by)

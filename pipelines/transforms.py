"""The steps as Beam transforms: as little logic as possible, everything they do is a function from elsewhere.

The only module of a run that imports Beam when it is imported. Between stages travel unit numbers and `PartStats`,
never a caption, a mask or a pixel. Scoring has a short pipeline of its own: samples by their paths in, counts out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import apache_beam as beam

from ovseg_model.datasets.benchmark import open_label_map_benchmark
from pipelines.plain import run_unit
from pipelines.plan import Plan
from pipelines.score_predictions import Scores, ScoringJob, sum_scores, write_scores
from pipelines.shards import end_plan
from pipelines.units import PartStats, Step, StoredTable


class ListUnits(beam.PTransform):
    """The numbers of the units to make, spread over the workers."""

    def __init__(self, numbers: range) -> None:
        """All of the run, or every n-th for a shard."""
        super().__init__()
        self._numbers = numbers

    def expand(self, root: beam.Pipeline) -> beam.PCollection[int]:
        """Only the range is part of the job graph, so that a million images do not swell it."""
        return (
            root
            | "Range" >> beam.Create([(self._numbers.start, self._numbers.stop, self._numbers.step)])
            | "Number" >> beam.FlatMap(lambda bounds: range(*bounds)).with_output_types(int)
            | "Spread" >> beam.Reshuffle()
        )


class MakeParts(beam.PTransform):
    """Unit numbers → the stats of their parts, made, found or counted; nothing where the run has no such step."""

    def __init__(self, step: Step | StoredTable | None) -> None:
        """`step` is a small picklable spec; what it needs is opened on the worker."""
        super().__init__()
        self._step = step

    @property
    def runs_models(self) -> bool:
        """Whether parts are made here, rather than counted."""
        return self._step is not None and not isinstance(self._step, StoredTable)

    def expand(self, units: beam.PCollection[int]) -> beam.PCollection[PartStats]:
        """One function call a unit."""
        return units | "MakePart" >> beam.FlatMap(make_parts, self._step).with_output_types(PartStats)


class JoinUnits(beam.PTransform):
    """Stats of several tables → the unit numbers whose parts are there in all of them."""

    def expand(self, tables: tuple[beam.PCollection[PartStats], ...]) -> beam.PCollection[int]:
        """A barrier of tiny rows."""
        keyed = [
            stats | f"Key{index}" >> beam.Map(unit_key).with_output_types(tuple[int, int])
            for index, stats in enumerate(tables)
        ]
        return keyed | "Group" >> beam.CoGroupByKey() | "Complete" >> beam.FlatMap(complete_unit).with_output_types(int)


class EndPlan(beam.PTransform):
    """All stats → one manifest, when every part is there; None of a shard."""

    def __init__(self, plan: Plan) -> None:
        """The plan whose parts are made."""
        super().__init__()
        self._plan = plan

    def expand(self, tables: tuple[beam.PCollection[PartStats], ...]) -> beam.PCollection[dict | None]:
        """One element ends it, so that it ends when all else is there."""
        plan = self._plan
        gathered = tables | "Flatten" >> beam.Flatten() | "Gather" >> beam.combiners.ToList()
        return gathered | "End" >> beam.Map(lambda stats: end_plan(plan, stats))


def define_pipeline(root: beam.Pipeline, plan: Plan, hints: Mapping[str, str] | None = None) -> beam.PCollection[Any]:
    """The whole run: captions to nouns, images to masks, both to pairs; the last two, where models run, by `hints`.

    A shard ends without a manifest.
    """
    units = root | "ListUnits" >> ListUnits(plan.unit_numbers)
    captions = units | "ReadCaptions" >> MakeParts(plan.captions)
    nouns = units | "ExtractNouns" >> MakeParts(plan.nouns)
    masks = units | "ProposeMasks" >> hinted(MakeParts(plan.masks), hints)
    pairs = (nouns, masks) | "JoinUnits" >> JoinUnits() | "MatchRegions" >> hinted(MakeParts(plan.pairs), hints)
    tables = (captions, nouns, masks, pairs)
    return tables | "EndPlan" >> EndPlan(plan)


def hinted(parts: MakeParts, hints: Mapping[str, str] | None) -> MakeParts:
    """The transform with resource hints on all of it, so that no batch crosses a hint's border.

    A table that is stored is only counted, which needs no GPU.
    """
    return parts.with_resource_hints(**hints) if hints and parts.runs_models else parts


class SumScores(beam.CombineFn):
    """Scores of chunks → their sum."""

    def __init__(self, classes: int) -> None:
        """`classes` of the benchmark, for the sum of nothing."""
        super().__init__()
        self._classes = classes

    def create_accumulator(self) -> Scores:
        """The sum of nothing."""
        return sum_scores((), self._classes)

    def add_input(self, accumulator: Scores, scores: Scores) -> Scores:
        """One chunk more."""
        return accumulator + scores

    def merge_accumulators(self, accumulators: Iterable[Scores]) -> Scores:
        """Sums of several workers."""
        return sum_scores(accumulators, self._classes)

    def extract_output(self, accumulator: Scores) -> Scores:
        """As it is: divisions come last, and elsewhere."""
        return accumulator


def define_scoring(root: beam.Pipeline, job: ScoringJob) -> beam.PCollection[None]:
    """Stored predictions to counts: chunks of samples, their scores, one sum."""
    classes = len(open_label_map_benchmark(job.benchmark).classes)
    alone = replace(job, samples=())
    return (
        root
        | "ListChunks" >> beam.Create(job.chunks())
        | "Spread" >> beam.Reshuffle()
        | "ScoreChunk" >> beam.Map(alone.score_chunk).with_output_types(Scores)
        | "Sum" >> beam.CombineGlobally(SumScores(classes))
        | "Write" >> beam.Map(lambda scores: write_scores(job.folder, scores))
    )


def make_parts(unit: int, step: Step | StoredTable | None) -> list[PartStats]:
    """The stats of one unit's part, or none where there is no step."""
    return [run_unit(step, unit)] if step else []


def unit_key(stats: PartStats) -> tuple[int, int]:
    """A part's unit as a key."""
    return stats.unit, stats.unit


def complete_unit(group: tuple[int, list[list[int]]]) -> list[int]:
    """The unit of a group if every table has a part of it."""
    unit, parts = group
    return [unit] if all(parts) else []

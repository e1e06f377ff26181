"""Captions part → nouns part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.noun_rules import Noun, NounRule, open_rule
from pipelines.open_models import open_once
from pipelines.units import StepOutput, count_distinct_rows, drop, part_name
from pipelines.write_tables import RunFolder
from schemas import NOUNS, UserError
from schemas.conform import conform_lists

STAGE = "extract_nouns"

_NO_NOUNS: dict[str, list[Any]] = {field: [] for field in Noun._fields}


def extract_nouns(captions: pa.Table, rule: NounRule) -> StepOutput:
    """Every noun of every caption; captions without one become `no_nouns` drops.

    Args:
        captions: CAPTIONS rows, sorted.
        rule: what counts as a noun.
    """
    found = rule.extract(captions["caption"].to_pylist())
    nouns = [noun for of_caption in found for noun in of_caption]
    counts = [len(of_caption) for of_caption in found]
    keys = captions.select(["image_id", "caption_index"]).take(np.repeat(np.arange(len(found)), counts))
    columns = dict(zip(Noun._fields, map(list, zip(*nouns, strict=True)), strict=True)) if nouns else _NO_NOUNS
    table = conform_lists({**keys.to_pydict(), **columns}, NOUNS)
    records = captions.filter(pa.array([not count for count in counts], pa.bool_())).to_pylist()
    drops = [caption_drop(record, "no_nouns", record["caption"]) for record in records]
    return StepOutput(table, drops, captions.num_rows, count_distinct_rows(table, ("image_id", "caption_index")))


def caption_drop(record: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    """The drop of a caption."""
    key = f"{record['image_id']}#{record['caption_index']}"
    return drop(STAGE, key, record["image_id"], reason, detail)


@dataclass(frozen=True)
class ExtractNouns:
    """The step: a rule by name and the fingerprint that it had on the launching machine (as JSON)."""

    run: RunFolder
    rule: str
    rule_fingerprint: str
    name: str = STAGE
    table: str = "nouns"
    counts: str = "captions"

    def fingerprint(self) -> dict[str, Any]:
        """Rule, versions and the sha256 of its data."""
        return json.loads(self.rule_fingerprint)

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The unit's captions."""
        return {"captions": (self.run, part_name("captions", unit))}

    def process(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """Nouns of the unit's captions.

        Raises:
            UserError: this worker's NLTK data are not those of the launching machine.
        """
        rule, fingerprint = open_once(open_rule_with_fingerprint, self.rule)
        if fingerprint != self.rule_fingerprint:
            raise UserError(
                f"--nouns {self.rule}: this worker has other NLTK data than the machine that started the run (wanted "
                f"{self.rule_fingerprint}, got {fingerprint}); give all machines the same data"
            )
        return extract_nouns(parts["captions"], rule)

    def drops_of_all(self, parts: dict[str, pa.Table], reason: str, detail: str) -> list[dict[str, Any]]:
        """A drop for each caption of the parts."""
        return [caption_drop(record, reason, detail) for record in parts["captions"].to_pylist()]


def plan_extract_nouns(run: RunFolder, rule: str) -> ExtractNouns:
    """The step with its rule opened once, so that missing data are known before any work starts."""
    return ExtractNouns(run, rule, open_once(open_rule_with_fingerprint, rule)[1])


def open_rule_with_fingerprint(name: str) -> tuple[NounRule, str]:
    """A rule and its name and fingerprint as canonical JSON, which hashes its data files: once, not once a unit."""
    rule = open_rule(name)
    return rule, json.dumps({"rule": rule.name, **rule.fingerprint()}, sort_keys=True)

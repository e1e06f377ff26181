"""Captions part → nouns part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.noun_rules import NounRule, open_rule
from pipelines.open_models import open_once
from pipelines.units import StepOutput, count_distinct_rows, drop, part_name
from pipelines.write_tables import RunFolder
from schemas import NOUNS, UserError, conform_rows

STAGE = "extract_nouns"


def extract_nouns(captions: pa.Table, rule: NounRule) -> StepOutput:
    """Every noun of every caption; captions without one become `no_nouns` drops.

    Args:
        captions: CAPTIONS rows, sorted.
        rule: what counts as a noun.
    """
    records = captions.to_pylist()
    rows, drops = [], []
    for record, nouns in zip(records, rule.extract([record["caption"] for record in records]), strict=True):
        key = {"image_id": record["image_id"], "caption_index": record["caption_index"]}
        rows += [{**key, **noun._asdict()} for noun in nouns]
        if not nouns:
            drops.append(caption_drop(record, "no_nouns", record["caption"]))
    table = conform_rows(rows, NOUNS)
    return StepOutput(table, drops, len(records), count_distinct_rows(table, ("image_id", "caption_index")))


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

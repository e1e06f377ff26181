"""What a run prints at its end: read, kept and dropped by stage and reason, and example rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ovseg_model.clip import EMBEDDED
from ovseg_model.proposals.sam import mask_precision_sentence
from ovseg_model.rank_agreement import agreement_sentence, precision_sentence
from pipelines.guarded_units import HALVED
from pipelines.stopwatch import SECONDS
from pipelines.terminal import escaped, shortened
from pipelines.units import part_name
from pipelines.write_tables import TIMINGS_FILE, RunFolder
from schemas import TABLES
from schemas.drops import STAGES, stages_in_order

KEPT_AS = {
    "read_captions": "kept",
    "extract_nouns": "with nouns",
    "propose_masks": "with masks",
    "match_regions": "paired",
    "merge_runs": "kept",
    "filter_pairs": "kept",
}
"""What kept means at each stage."""

MEANINGLESS = "MEANINGLESS: the scorer's weights are random. This run shows the plumbing, not quality."

ONLY_SCENES = (
    "SCENES: the CLIP that is used ships with the project and knows the drawn world of `ovseg draw-scenes` only; for",
    "photographs give --clip ViT-B-16/openai, another of open_clip's, or a checkpoint.",
)

SMALLER = {
    "propose_masks": "a smaller batch of the mask generator (its --mask-option)",
    "match_regions": "a smaller --region-batch",
}
"""What spares a stage that runs out of memory."""

EXAMPLES = 5

NOUN_CHARS = 40
ROW_CHARS = 200
"""What a line shows of a noun, and of an image and its caption; a caption may be pages long."""


def summary(run: RunFolder, manifest: dict[str, Any], examples: list[dict[str, Any]]) -> str:
    """The text at the end of a run; `examples` are rows of PAIRS."""
    lines = [*stage_lines(manifest), "", *table_lines(manifest), "", *work_lines(run.read_json(TIMINGS_FILE))]
    lines += [*mask_precision_lines(manifest), *agreement_lines(manifest), *precision_lines(manifest)]
    lines += halved_lines(manifest)
    if examples:
        lines += ["", *example_lines(examples)]
    if manifest["meaningless"]:
        lines += ["", MEANINGLESS]
    if knows_only_scenes(manifest["weights"]):
        lines += ["", *ONLY_SCENES]
    return "\n".join(map(escaped, [*lines, "", f"run: {run.url}"]))


def knows_only_scenes(weights: Sequence[dict[str, Any]]) -> bool:
    """Whether the scorer is the CLIP that ships with the project; `weights` as run.json lists them."""
    return any(
        weight["name"] in EMBEDDED and weight.get("stage", "match_regions") == "match_regions" for weight in weights
    )


def stage_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """A line a stage, and under it a line a reason."""
    yield f"{'stage':<16}{'read':>10}  {'':<9}{'kept':>10}  {'':<11}{'dropped':>10}"
    for stage in stages_in_order(manifest["stages"]):
        facts = manifest["stages"][stage]
        totals = facts["totals"]
        kept = f"{totals['kept']:>10,}  {KEPT_AS[stage]:<11}"
        yield f"{stage:<16}{totals['read']:>10,}  {facts['counts']:<9}{kept}{sum(totals['dropped'].values()):>10,}"
        for reason, count in totals["dropped"].items():
            yield f"{'':<16}{'':>10}  {'':<9}{'':>10}  {reason:>11}{count:>10,}"


def table_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """A line a table."""
    for table, facts in sorted(manifest["tables"].items(), key=lambda item: list(TABLES).index(item[0])):
        size_kb = sum(part["bytes"] for part in facts["parts"]) / 1e3
        yield f"{table:<16}{facts['rows']:>10,}  rows in {len(facts['parts']):,} parts, {size_kb:,.0f} kB"


def work_lines(timings: dict[str, Any]) -> Iterator[str]:
    """What this command made, and what was there already."""
    stages = {stage: timings["stages"][stage] for stage in STAGES[1:] if stage in timings["stages"]}
    parts = [f"{stage} {facts['parts_made']:,} (and {facts['parts_there']:,} there)" for stage, facts in stages.items()]
    yield f"parts made: {', '.join(parts)}"
    yield from seconds_lines(stages)


def seconds_lines(stages: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line a stage that made parts: its seconds, their share of all, and what they went into.

    Those on the device are part of those in models. Little of them is a device that waits: for the host's own work in
    the models, for images, or for the rest of the step.
    """
    made = {stage: facts for stage, facts in stages.items() if facts["seconds_in_made_parts"] > 0}
    if not made:
        return
    whole = sum(facts["seconds_in_made_parts"] for facts in made.values())
    yield ""
    heads = f"{'seconds':>10}{'share':>8}{'in models':>11}{'on device':>11}{'for images':>12}{'opening':>9}{'else':>7}"
    yield f"{'':<16}{heads}"
    for stage, facts in made.items():
        seconds = facts["seconds_in_made_parts"]
        models, device, images, opened = (facts[key] / seconds for key in list(SECONDS)[1:])
        others = max(0.0, 1 - models - images - opened)
        shares = f"{seconds / whole:>8.0%}{models:>11.0%}{device:>11.0%}{images:>12.0%}{opened:>9.0%}{others:>7.0%}"
        yield f"{stage:<16}{seconds:>10,.1f}{shares}"


def mask_precision_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """How far SAM in half precision agrees with fp32, where it proposed masks."""
    facts = manifest["stages"].get("propose_masks")
    generator = (facts and facts["fingerprint"].get("generator")) or {}
    precision = generator["options"]["precision"] if generator.get("generator") == "sam" else "fp32"
    if precision != "fp32":
        yield mask_precision_sentence(precision, facts["totals"].get("measured", {}))


def agreement_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """How far one pass agrees with crops, where it scored or chose masks."""
    facts = manifest["stages"].get("match_regions")
    if facts and "one_pass" in facts["fingerprint"].get("scorer", {}):
        yield agreement_sentence(facts["totals"].get("measured", {}))


def precision_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """How far CLIP in fewer bits agrees with itself in fp32, where fewer were asked for."""
    facts = manifest["stages"].get("match_regions", {"fingerprint": {}})
    precision = facts["fingerprint"].get("scorer", {}).get("precision", "fp32")
    if precision != "fp32" and facts["options"].get("compare_precision", True):
        yield precision_sentence(facts["totals"].get("measured", {}), precision)


def halved_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """A line a stage whose models ran out of memory and went on with smaller batches."""
    for stage in stages_in_order(manifest["stages"]):
        halved = manifest["stages"][stage]["totals"].get("measured", {}).get(HALVED, 0)
        if halved:
            yield (
                f"OUT OF MEMORY: {stage} made {halved:,} batches smaller than asked; last digits of their rows may be "
                f"others; {SMALLER[stage]} saves the second tries"
            )


def example_pairs(run: RunFolder, units: int) -> list[dict[str, Any]]:
    """A few rows of PAIRS from different images, the same ones every time: the smallest content hashes of a unit."""
    rows: dict[str, dict[str, Any]] = {}
    for unit in range(units):
        for row in sorted(run.read_part(part_name("pairs", unit)).to_pylist(), key=lambda row: row["pair_id"]):
            rows.setdefault(row["image_id"], row)
            if len(rows) == EXAMPLES:
                return list(rows.values())
    return list(rows.values())


def example_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line a pair."""
    yield f"{'noun':<18}{'cosine':>7}{'prob':>6}{'noun_rank':>10}{'area_px':>9}  {'box_xywh_px':<22}image_id: caption"
    for row in rows:
        scores = f"{row['cosine']:>7.3f}{row['probability']:>6.2f}{row['noun_rank']:>10}{row['area_px']:>9,}"
        about = shortened(f"{row['image_id']}: {row['caption']}", ROW_CHARS)
        yield f"{shortened(row['noun'], NOUN_CHARS):<18}{scores}  {row['box_xywh_px']!s:<22}{about}"

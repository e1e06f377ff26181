"""A report as one page of HTML: everything stands in it, nothing is loaded, no script runs.

Captions, nouns and keys come from strangers. All text goes through `text`, and the page forbids its reader's browser
scripts and requests, should something get past that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report_facts import MarkedCaption, Region, ReportFacts, Sample, area_shares
from pipelines.report_plots import (
    Yield,
    histogram,
    kept_share,
    linear_axis,
    log_axis,
    rank_plot,
    yields_plot,
)
from pipelines.stopwatch import SECONDS
from pipelines.summary import KEPT_AS, MEANINGLESS, ONLY_SCENES, knows_only_scenes
from pipelines.terminal import escaped, shortened
from schemas import TABLES
from schemas.drops import REASONS, stages_in_order

TOP_NOUNS = 30
TEXT_CHARS = 200
CAPTION_CHARS = 400
NOUN_CHARS = 40
LONG_CHARS = 20
"""From which on a cell's text is broken anywhere: a hash, a path, a sentence."""

AROUND_NOUN_CHARS = 90
"""What is shown of a caption before and after its noun."""

GROUPS = {
    "best": "Best: the highest cosines",
    "median": "Median: cosines from the middle",
    "worst": "Worst: the lowest cosines",
    "random": "Random: the smallest content hashes",
}

COUNTS = {"captions": "captions that name it", "pairs_kept": "pairs with it"}
"""Columns of VOCABULARY that are drawn, in words."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--paper:#fff;--card:#f4f6f8;--line:#d5dae0;--first:#2f6fb5;
--second:#c2571a;--rest:#c9d1d9;--mark:#ffe27a;--mark-ink:#1b1f24;--warn:#fff1d6}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#a3adb8;--paper:#14171b;--card:#1e2329;--line:#3a424b;
--first:#6cabf0;--second:#f0965a;--rest:#48515b;--mark:#735b0c;--mark-ink:#fff;--warn:#4a3510}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);
padding-top:.8rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0}.soft{color:var(--soft);font-size:.875rem}
.warn{background:var(--warn);padding:.6rem .8rem;border-radius:.4rem}
.numbers,.plots,.tiles{display:grid;gap:.7rem}
.numbers{grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));margin:.8rem 0}
.numbers div{background:var(--card);border-radius:.4rem;padding:.5rem .7rem}.numbers b{display:block;font-size:1.3rem}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.plots figure,.tiles figure{margin:0;background:var(--card);border-radius:.4rem;padding:.5rem}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
@media (min-width:40rem){.tiles{grid-template-columns:repeat(4,minmax(0,1fr))}}
@media (min-width:70rem){.tiles{grid-template-columns:repeat(8,minmax(0,1fr))}}
.tiles img{display:block;width:100%;aspect-ratio:1;object-fit:contain}
figcaption{font-size:.875rem;line-height:1.35}.plots figcaption{font-weight:600}
svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .first{stroke:var(--first)}svg .second{stroke:var(--second)}
svg text.first{fill:var(--first);stroke:none}svg text.second{fill:var(--second);stroke:none}
.line{fill:none;stroke-width:2}.bar{fill:var(--first)}.rest{fill:var(--rest)}
.grid,.axis{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft)}
.scroll{overflow-x:auto}.beside{display:flex;flex-wrap:wrap;gap:.7rem 2rem}.beside>*{max-width:100%}
.beside figure{width:26rem}
table{border-collapse:collapse;font-size:.875rem}th,td{padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top}
th,td{overflow-wrap:normal}
th{font-weight:600;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.w{overflow-wrap:anywhere;min-width:8rem}
@media (max-width:30rem){table{font-size:.78rem}th,td{padding-right:.4rem}}
.nouns{columns:2;column-gap:2rem}@media (max-width:44rem){.nouns{columns:1}}
.noun{display:grid;grid-template-columns:7rem 1fr 6.5rem;gap:.5rem;align-items:center;break-inside:avoid;
font-size:.875rem}.noun i{display:block;height:.45rem;margin:.1rem 0;background:var(--first);min-width:1px}
.noun i+i{background:var(--second)}.noun span:last-child{text-align:right;font-variant-numeric:tabular-nums}
mark{background:var(--mark);color:var(--mark-ink);border-radius:.2rem;padding:0 .15rem}
mark.flagged{background:none;color:inherit;border-bottom:2px dotted var(--second);border-radius:0}
ul.captions{padding:0;list-style:none}ul.captions li{padding:.25rem 0;border-bottom:1px solid var(--line)}
details{margin:.4rem 0}details .scroll{padding:.2rem 0 .4rem 1rem}summary{cursor:pointer}
code{font-size:.85em}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(facts: ReportFacts) -> str:
    """The whole page."""
    sections = (
        *(yields_section(facts), regions_section(facts), scores_section(facts), nouns_section(facts)),
        *(captions_section(facts.captions), drops_section(facts), timing_section(facts.timings)),
        *(options_section(facts.manifest), made_with_section(facts.manifest), sources_section(facts.manifest)),
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(facts.name)}: report of the run</title><style>{STYLE}</style>"
    )
    body = "\n".join([heading(facts), *filter(None, sections)])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def text(value: Any) -> str:
    """A value as text of the page: markup, and what would turn the reading direction, is escaped."""
    return escape(escaped(str(value)))


def number(value: float) -> str:
    """An integer with commas."""
    return f"{value:,.0f}"


def section(title: str, *content: str) -> str:
    """A section with its heading, or nothing where there is nothing to show."""
    shown = "\n".join(filter(None, content))
    return f"<section><h2>{text(title)}</h2>\n{shown}</section>" if shown else ""


def note(words: str) -> str:
    """A line of smaller text, empty if there is nothing to say."""
    return f'<p class="soft">{text(words)}</p>' if words else ""


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of one row or more; numbers stand right, as the first row has them, everything else is text."""
    body = [list(row) for row in rows]
    right = [' class="n"' if is_number(value) else "" for value in body[0]]
    head = "".join(f"<th{class_}>{text(name)}</th>" for name, class_ in zip(header, right, strict=True))
    lines = ("".join(cell(value) for value in row) for row in body)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def is_number(value: Any) -> bool:
    """Whether a value is shown as a number; truth values are text."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """A cell of a table."""
    if is_number(value):
        return f'<td class="n">{value:,}</td>'
    class_ = ' class="w"' if len(str(value)) > LONG_CHARS else ""
    return f"<td{class_}>{text(value)}</td>"


def figure(title: str, drawing: str, about: str = "") -> str:
    """A plot with its title above, and below how it is to be read."""
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}{note(about)}</figure>"


def heading(facts: ReportFacts) -> str:
    """Name, warnings and the sizes of tables."""
    tables = facts.manifest["tables"]
    counts = {"images": facts.manifest["units"].get("images")}
    counts |= {name: tables[name]["rows"] for name in TABLES if name in tables}
    if "vocabulary" in counts:
        counts["distinct nouns"] = counts.pop("vocabulary")
    cards = (f"<div><b>{number(count)}</b>{text(name)}</div>" for name, count in counts.items() if count is not None)
    return (
        f"<header><p class='soft'>Report of the run</p><h1>{text(facts.name)}</h1>{''.join(warnings(facts.manifest))}"
        f'<div class="numbers">{"".join(cards)}</div></header>'
    )


def warnings(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What must be known before a number is believed."""
    if manifest["meaningless"]:
        yield f'<p class="warn">{text(MEANINGLESS)}</p>'
    if knows_only_scenes(manifest["weights"]):
        yield f'<p class="warn">{text(" ".join(ONLY_SCENES))}</p>'


def yields_section(facts: ReportFacts) -> str:
    """What each stage read, kept and dropped."""
    stages = facts.manifest["stages"]
    yields = [yield_of(stage, stages[stage]) for stage in stages_in_order(stages)]
    if not yields:
        return ""
    rows = [(each.stage, each.read, each.kept, each.read - each.kept, f"{kept_share(each):.1%}") for each in yields]
    return section(
        "What each stage kept",
        f'<div class="plots beside">{figure("Kept, of what the stage read", yields_plot(yields))}'
        f"{table(('stage', 'read', 'kept', 'dropped', 'share kept'), rows)}</div>",
    )


def yield_of(stage: str, facts: Mapping[str, Any]) -> Yield:
    """A stage's totals in words."""
    totals = facts["totals"]
    kept = KEPT_AS.get(stage, "kept")
    words = f"{number(totals['kept'])} {kept} of {number(totals['read'])} {facts['counts']}"
    return Yield(stage, words, totals["read"], totals["kept"])


def regions_section(facts: ReportFacts) -> str:
    """The contact sheet."""
    if facts.pairs is None:
        return ""
    groups = [tiles(GROUPS[name], regions) for name, regions in facts.regions.items()]
    about = (
        "The image, paler outside the mask that CLIP chose for the noun, with the mask in red; and the pair's cosine."
    )
    return section(
        "Regions", note(about), note(sample_words(facts.pairs, "pairs")), note(left_out_words(facts.left_out)), *groups
    )


def tiles(title: str, regions: Sequence[Region]) -> str:
    """One group of the contact sheet."""
    if not regions:
        return ""
    return f'<h3>{text(title)}</h3><div class="tiles">{"".join(map(tile, regions))}</div>'


def tile(region: Region) -> str:
    """A region's picture, noun, cosine and caption."""
    row = region.row
    source = base64.b64encode(region.jpeg).decode()
    about = " · ".join(filter(None, (row["image_id"], row["licence"], row["source_url"])))
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" alt="{text(shortened(row["noun"], TEXT_CHARS))}">'
        f"<figcaption><b>{text(shortened(row['noun'], TEXT_CHARS))}</b> {row['cosine']:.3f}<br>{marked_pair(row)}"
        f"{note(shortened(about, TEXT_CHARS))}</figcaption></figure>"
    )


def marked_pair(row: Mapping[str, Any]) -> str:
    """What stands around the pair's noun in its caption, the noun marked."""
    caption, start, end = row["caption"], row["start_char"], row["end_char"]
    first, last = max(0, start - AROUND_NOUN_CHARS), end + AROUND_NOUN_CHARS
    before = ("…" if first else "") + caption[first:start]
    after = caption[end:last] + ("…" if last < len(caption) else "")
    return f"{text(before)}<mark>{text(shortened(caption[start:end], TEXT_CHARS))}</mark>{text(after)}"


def sample_words(sample: Sample, rows: str) -> str:
    """Of how many rows and parts a sample is; empty where it is all of them."""
    if sample.is_whole:
        return ""
    read = f"{number(sample.rows.num_rows)} of {number(sample.rows_there)} {rows}"
    return f"Of a sample: {read}, those of {number(len(sample.paths))} of {number(sample.parts_there)} parts."


def left_out_words(left_out: Mapping[str, int]) -> str:
    """How many regions have no picture, and why."""
    if not left_out:
        return ""
    reasons = "; ".join(f"{number(count)} ({why})" for why, count in left_out.items())
    return f"Left out, since they cannot be drawn: {reasons}."


def scores_section(facts: ReportFacts) -> str:
    """Histograms of mask areas, cosines and margins."""
    samples = {name: each for name, each in (("masks", facts.masks), ("pairs", facts.pairs)) if each is not None}
    if not samples:
        return ""
    plots = [area_plot(samples), *(score_plots(facts.pairs.rows) if facts.pairs else ())]
    notes = (note(sample_words(each, name)) for name, each in samples.items())
    return section("Masks and scores", *notes, f'<div class="plots">{"".join(plots)}</div>')


def area_plot(samples: Mapping[str, Sample]) -> str:
    """How large masks are, of MASKS and of PAIRS."""
    series = {f"{name} (median {np.median(each):.1f} %)": each for name, each in percents_of_images(samples)}
    lowest = min(float(each.min()) for each in series.values())
    x = log_axis(lowest, 100, "mask area, % of the image")
    return figure("Mask area", histogram("mask area", series, x), f"% of {' and of '.join(samples)}, by area")


def percents_of_images(samples: Mapping[str, Sample]) -> Iterator[tuple[str, np.ndarray]]:
    """Each sample's mask areas in percent of their images."""
    for name, sample in samples.items():
        yield name, 100 * area_shares(sample.rows)


def score_plots(pairs: pa.Table) -> Iterator[str]:
    """Cosines, and how far above the next best mask's they are."""
    titles = {"cosine": "Cosine of region and noun", "margin": "Margin over the noun's next best mask"}
    for name, title in titles.items():
        values = pairs[name].drop_null().to_numpy()
        if not len(values):
            continue
        about = f"% of pairs; median {np.median(values):.3f}" + no_margin_words(pairs.num_rows - len(values))
        yield figure(title, histogram(title, {name: values}, linear_axis(values, name)), about)


def no_margin_words(count: int) -> str:
    """How many pairs have no margin; empty where all have one."""
    return f"; {number(count)} pairs have none, their image has one mask" if count else ""


def nouns_section(facts: ReportFacts) -> str:
    """The most frequent nouns, and how fast frequency falls with rank."""
    vocabulary = facts.vocabulary
    if vocabulary is None:
        return ""
    counted = ("captions", "pairs_kept") if "pairs" in facts.manifest["tables"] else ("captions",)
    counts = {COUNTS[name]: vocabulary[name].to_numpy() for name in counted}
    top = vocabulary.slice(0, TOP_NOUNS)
    return section(
        "Nouns",
        f'<div class="plots">{figure("Times a noun occurs, by its rank", rank_plot("Zipf plot", counts))}</div>',
        f"<h3>The {top.num_rows} most frequent of {number(vocabulary.num_rows)}</h3>",
        note(f"{' (upper bar) and '.join(counts)}{' (lower bar)' if len(counts) > 1 else ''}"),
        f'<div class="nouns">{"".join(noun_bars(top, counted))}</div>',
    )


def noun_bars(top: pa.Table, counted: Sequence[str]) -> Iterator[str]:
    """A line a noun: its bars, as long as its counts."""
    most = max(1, *(pc.max(top[name]).as_py() for name in counted))
    for row in top.to_pylist():
        drawn = "".join(f'<i style="width:{100 * row[name] / most:.1f}%"></i>' for name in counted)
        counts = " / ".join(number(row[name]) for name in counted)
        yield (
            f'<div class="noun"><span>{text(shortened(row["noun"], NOUN_CHARS))}</span><span>{drawn}</span>'
            f"<span>{counts}</span></div>"
        )


def captions_section(captions: Sequence[MarkedCaption]) -> str:
    """Captions with what the noun rule found."""
    if not captions:
        return ""
    lines = "".join(f'<li>{marked(each)} <span class="soft">{text(each.image_id)}</span></li>' for each in captions)
    about = "Taken by hash. Marked: nouns; underlined with dots: nouns flagged as abstract or generic."
    return section("Captions, their nouns marked", note(about), f'<ul class="captions">{lines}</ul>')


def marked(caption: MarkedCaption) -> str:
    """A caption with its nouns marked, cut after a while; of nouns that overlap, the first."""
    pieces, at = [], 0
    for noun in caption.nouns:
        start, end = noun["start_char"], noun["end_char"]
        if start < at or end > CAPTION_CHARS:
            continue
        class_ = ' class="flagged"' if noun["abstract"] or noun["generic"] else ""
        pieces += [text(caption.text[at:start]), f"<mark{class_}>{text(caption.text[start:end])}</mark>"]
        at = end
    return "".join([*pieces, text(shortened(caption.text[at:], CAPTION_CHARS))])


def drops_section(facts: ReportFacts) -> str:
    """What was dropped, by stage and reason, with examples."""
    stages = facts.manifest["stages"]
    blocks = [
        drops_block(stage, reason, count, facts.drops.get((stage, reason), []))
        for stage in stages_in_order(stages)
        for reason, count in sorted(stages[stage]["totals"]["dropped"].items(), key=lambda item: (-item[1], item[0]))
    ]
    return section("What was dropped, and why", *(blocks or [note("Nothing.")]))


def drops_block(stage: str, reason: str, count: int, examples: Sequence[Mapping[str, Any]]) -> str:
    """One reason: how many, what it means, and a few rows of DROPS that have it."""
    title = f"<b>{number(count)}</b> {text(reason)} ({text(stage)}): {text(REASONS[reason].meaning)}"
    rows = [(shortened(row["key"], TEXT_CHARS), shortened(row["detail"], TEXT_CHARS)) for row in examples]
    return f"<details><summary>{title}</summary>{table(('key', 'detail'), rows) if rows else ''}</details>"


def timing_section(timings: Mapping[str, Any]) -> str:
    """Seconds by stage, of the parts that the last command made."""
    stages = timings.get("stages", {})
    rows = [timing_row(stage, stages[stage]) for stage in stages_in_order(stages)]
    header = (
        "stage",
        "parts made",
        "there before",
        "seconds",
        "in models",
        "on device",
        "for images",
        "opening models",
    )
    host = ", ".join(f"{name} {value}" for name, value in sorted(timings.get("host", {}).items()))
    about = "Of the parts that the last command made; parts that were there before cost nothing again."
    return section("Time", *([table(header, rows), note(about)] if rows else []), note(host))


def timing_row(stage: str, facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """A line of the table of times; a run of an earlier release noted fewer."""
    return (stage, *(round(facts.get(name, 0), 1) for name in ("parts_made", "parts_there", *SECONDS)))


def options_section(manifest: Mapping[str, Any]) -> str:
    """The options that each stage ran with."""
    stages = manifest["stages"]
    return section("Options", *(options_block(stage, stages[stage]["options"]) for stage in stages_in_order(stages)))


def options_block(stage: str, options: Mapping[str, Any]) -> str:
    """The options of one stage."""
    rows = [(f"--{name.replace('_', '-')}", option_text(value)) for name, value in sorted(options.items())]
    return f"<details><summary>{text(stage)}</summary>{table(('option', 'value'), rows)}</details>" if rows else ""


def option_text(value: Any) -> str:
    """An option's value as JSON, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def made_with_section(manifest: Mapping[str, Any]) -> str:
    """Weights, with their licences, and versions."""
    weights = [
        (each["stage"], each["name"], each.get("licence") or "not stated", each.get("bytes") or 0, each["sha256"])
        for each in manifest["weights"]
    ]
    versions = table(("package", "version"), sorted(manifest["versions"].items())) if manifest["versions"] else ""
    return section(
        "Made with",
        table(("stage", "weights", "licence", "bytes", "sha256"), weights) if weights else "",
        f"<details><summary>versions</summary>{versions}</details>" if versions else "",
    )


def sources_section(manifest: Mapping[str, Any]) -> str:
    """The runs that this one was filtered or merged from."""
    rows = [
        (each["run_sha256"], ", ".join(f"{number(facts['rows'])} {name}" for name, facts in each["tables"].items()))
        for each in manifest["sources"]
    ]
    return section("Made from runs", table(("sha256 of run.json", "rows"), rows)) if rows else ""

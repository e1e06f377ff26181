"""Nouns of real captions: NLTK one caption at a time, beside the rule `nouns`, which gives the same rows.

    NLTK_DATA=FOLDER python -m benchmarks.nouns --data FOLDER --output docs/noun_speed.md

"NLTK" is `pos_tag(word_tokenize(caption))`, and for rows the same rule with these two functions in place of its
tokenizer and tagger. "ours" is `CaptionTagger` over UNIT captions at a time, which is about what a unit of a run holds.
FOLDER holds captions_val2017.json (COCO Captions) and, if there, cc3m_validation.tsv (Conceptual Captions).

Equality comes first: on every caption of both files each token and each tag must be NLTK's, and the rows of the
captions that are timed must be equal, else the run fails. Then both ways are timed in turns. Ratios are of medians of
CPU seconds, which other programs disturb least; the bar is on the ratio of the row "tokens and tags". A run below it
exits with 1 and writes nothing. "noise" is that row's NLTK timed twice in each turn, one beside the other.

5,000 captions are timed, with --full all 25,014. The tables of words are warm, as they are in a worker after its first
thousands of captions; what they cost at first stands apart.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nltk
import pyarrow as pa
from nltk.tag import PerceptronTagger

from benchmarks.pages import PAGE_WIDTH, write_page
from benchmarks.results import note
from benchmarks.timing import Times, require, time_in_turns
from pipelines.extract_nouns import extract_nouns
from pipelines.noun_rules.nltk_rules import CaptionTagger, NounTokens, TaggedCaption
from pipelines.noun_rules.perceptron_tables import PerceptronTables
from schemas import CAPTIONS, UserError, conform_rows

QUICK = 5000
UNIT = 320
"""Captions tagged at once: 64 images, the usual unit, with five captions each."""

BAR = 10.0
GOAL = 40


def read_captions(data: Path) -> dict[str, list[str]]:
    """The captions of each file that is there, COCO's first. Raises UserError where COCO's are not."""
    coco, conceptual = data / "captions_val2017.json", data / "cc3m_validation.tsv"
    if not coco.is_file():
        raise UserError(f"--data: wanted {coco.name} in folder {data}, found none; name the folder that holds it")
    read = {"COCO val2017": [row["caption"] for row in json.loads(coco.read_text(encoding="utf-8"))["annotations"]]}
    if conceptual.is_file():
        rows = conceptual.read_text(encoding="utf-8").splitlines()
        read["Conceptual Captions validation"] = [row.split("\t")[0] for row in rows]
    return read


def in_units(items: Sequence) -> Iterator[Sequence]:
    """Runs of UNIT items."""
    return (items[start : start + UNIT] for start in range(0, len(items), UNIT))


class OneByOne:
    """NLTK's own functions, a caption at a time."""

    def tag(self, captions: Sequence[str]) -> list[TaggedCaption]:
        """As CaptionTagger's."""
        return [self.tag_one(caption) for caption in captions]

    def tag_one(self, caption: str) -> TaggedCaption:
        """One caption."""
        tagged = nltk.pos_tag(nltk.word_tokenize(caption))
        return TaggedCaption(caption, [word for word, _ in tagged], [tag for _, tag in tagged])


def check_equal(tagger: CaptionTagger, corpora: dict[str, list[str]]) -> Iterator[str]:
    """Lines of what was compared. Exits at the first caption that differs."""
    for name, captions in corpora.items():
        tokens = 0
        for caption, ours in zip(captions, tagger.tag(captions), strict=True):
            theirs = OneByOne().tag_one(caption)
            same = (ours.words, ours.tags) == (theirs.words, theirs.tags)
            require(same, f"{name}: of {caption!r} NLTK makes {theirs[1:]}, the tables {ours[1:]}")
            tokens += len(ours.words)
        yield f"{name}: all {len(captions):,} captions have equal tokens and tags, {tokens:,} of them"


def captions_table(captions: Sequence[str]) -> pa.Table:
    """CAPTIONS rows, one an image."""
    others = {"image_uri": None, "source_url": None, "licence": None, "safety": None, "caption_index": 0}
    rows = [{"image_id": f"{index:09}", "caption": caption, **others} for index, caption in enumerate(captions)]
    return conform_rows(rows, CAPTIONS)


@dataclass(frozen=True)
class Row:
    """A step both ways."""

    step: str
    nltk: Callable[[], object]
    ours: Callable[[], object]


def rows(tagger: CaptionTagger, captions: Sequence[str]) -> list[Row]:
    """The steps to time. Exits where the rows of NOUNS differ."""
    words = [tagger.words(caption) for caption in captions]
    parts = [captions_table(part) for part in in_units(captions)]
    ours, theirs = NounTokens(), NounTokens()
    theirs._tagger = OneByOne()
    same = all(extract_nouns(part, ours) == extract_nouns(part, theirs) for part in parts)
    require(same, "rows of NOUNS differ")
    tables = tagger.tables
    return [
        Row(
            "tokens and tags",
            lambda: [nltk.pos_tag(nltk.word_tokenize(caption)) for caption in captions],
            lambda: [tagger.tag(part) for part in in_units(captions)],
        ),
        Row(
            "tokens",
            lambda: [nltk.word_tokenize(caption) for caption in captions],
            lambda: [tagger.words(caption) for caption in captions],
        ),
        Row(
            "tags of ready tokens",
            lambda: [nltk.pos_tag(each) for each in words],
            lambda: [tables.tag(part) for part in in_units(words)],
        ),
        Row(
            "CAPTIONS part to NOUNS part",
            lambda: [extract_nouns(part, theirs) for part in parts],
            lambda: [extract_nouns(part, ours) for part in parts],
        ),
    ]


HEADER = """| step | NLTK, captions/s | ours, captions/s | NLTK CPU s | ours CPU s | NLTK wall s | ours wall s | ratio |
|---|---:|---:|---:|---:|---:|---:|---:|"""


def table_row(step: str, count: int, nltk_: Times, ours: Times) -> str:
    """One row of the table."""
    walls = (each.wall_median for each in (nltk_, ours))
    seconds = " | ".join(f"{each:.3f}" for each in (nltk_.cpu_median, ours.cpu_median, *walls))
    rates = f"{count / nltk_.cpu_median:,.0f} | {count / ours.cpu_median:,.0f}"
    return f"| {step} | {rates} | {seconds} | {nltk_.cpu_median / ours.cpu_median:.1f} |"


def build_seconds(captions: Sequence[str]) -> str:
    """What the tables cost at first."""
    opened, cold = Times(), Times()
    tagger, words = PerceptronTagger(), [nltk.word_tokenize(caption) for caption in captions]
    opened.run(lambda: PerceptronTables(tagger))
    tables = PerceptronTables(tagger)
    cold.run(lambda: [tables.tag(part) for part in in_units(words)])
    warm = Times()
    warm.run(lambda: [tables.tag(part) for part in in_units(words)])
    return (
        f"Building the tables takes {opened.cpu_median:.2f} CPU s, rows of the words of these captions "
        f"{cold.cpu_median - warm.cpu_median:.2f} CPU s more, once a worker."
    )


def measure(corpora: dict[str, list[str]], count: int | None, repeats: int) -> tuple[str, float]:
    """The Markdown body, and the ratio that the bar is on."""
    tagger = CaptionTagger()
    checked = list(check_equal(tagger, corpora))
    captions = next(iter(corpora.values()))[:count]
    steps = rows(tagger, captions)
    main = steps[0]
    ways = {(row.step, way): getattr(row, way) for row in steps for way in ("nltk", "ours")}
    times = time_in_turns({("", "again"): main.nltk, **ways}, repeats, is_warm=True)
    both = {row.step: (times[row.step, "nltk"], times[row.step, "ours"]) for row in steps}
    lines = [table_row(step, len(captions), *pair) for step, pair in both.items()]
    nltk_, ours = both[main.step]
    ratio = nltk_.cpu_median / ours.cpu_median
    said = (
        f"{len(captions):,} captions of {next(iter(corpora))}, medians of {repeats} turns. Noise: NLTK beside itself "
        f"{times['', 'again'].cpu_median / nltk_.cpu_median:.2f}. Bar {BAR:g}, goal {GOAL}: {ratio:.1f} is measured. "
        f"{build_seconds(captions)}"
    )
    parts = ["\n".join(f"- {line}" for line in checked), "\n".join([HEADER, *lines]), textwrap.fill(said, PAGE_WIDTH)]
    return "\n\n".join(parts), ratio


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the caption files")
    parser.add_argument("--full", action="store_true", help="time all captions of COCO")
    parser.add_argument("--captions", type=int, default=QUICK, help="captions to time without --full")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way; the median counts")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args(argv)
    count = None if arguments.full else arguments.captions
    body, ratio = measure(read_captions(arguments.data), count, arguments.repeats)
    print(body)
    note("nouns of real captions", "pos_tag(word_tokenize(caption))", ratio, BAR, GOAL)
    require(ratio >= BAR, f"wanted {BAR:g}x NLTK or more, got {ratio:.1f}x")
    if arguments.output:
        write_page(arguments.output, "Speed of nouns", __doc__, [body], ("nltk", "numpy", "pyarrow"))


if __name__ == "__main__":
    main()

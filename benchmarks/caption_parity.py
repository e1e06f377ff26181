"""What the noun rules find on real captions, beside the paper's figures; the page docs/parity.md and its plot.

    NLTK_DATA=FOLDER python -m benchmarks.caption_parity --data FOLDER --output docs/parity.md

FOLDER holds captions_val2017.json (COCO Captions) and cc3m_validation.tsv (Conceptual Captions). The plot is written to
images/parity.png beside the page. About two minutes on one core; every figure follows from the captions and the rules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from math import lgamma
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.noun_rules import RULE_NAMES, Noun, open_rule
from schemas.errors import UserError

TRAIN2017_IMAGES = 118_287

COCO_FILE, CC3M_FILE = "captions_val2017.json", "cc3m_validation.tsv"
COCO_FIRST, COCO_ALL = "COCO val2017, first caption", "COCO val2017, all captions"
CC3M = "Conceptual Captions validation"

HALVINGS = 4
"""The growth of a vocabulary is fitted at 1/16, 1/8 … 1/1 of the images."""

MOST_FREQUENT = 20


class Paper(NamedTuple):
    """A set of training pairs of OVSeg (table 2; rows of its training files) over COCO train2017."""

    captions: int
    pairs: int
    unique: int
    """Rounded to thousands in the paper."""

    @property
    def pairs_per_image(self) -> float:
        """Pairs over all images of train2017."""
        return self.pairs / TRAIN2017_IMAGES


PAPER = {COCO_FIRST: Paper(1, 442_117, 12_000), COCO_ALL: Paper(5, 1_341_804, 27_000)}
"""The paper's set that each corpus here is set beside."""


class Found(NamedTuple):
    """The nouns that a rule finds in a corpus: by image, by caption, in the caption's order."""

    corpus: str
    rule: str
    images: list[list[list[Noun]]]

    def captions(self) -> list[list[Noun]]:
        """The nouns of each caption, image by image."""
        return [of_caption for of_image in self.images for of_caption in of_image]

    def pairs(self) -> list[dict[str, Noun]]:
        """Each image's candidate pairs: its distinct nouns, each where it stands first."""
        return [distinct(noun for of_caption in of_image for noun in of_caption) for of_image in self.images]

    def first_captions(self, corpus: str) -> Found:
        """The same with the first caption of each image only."""
        return Found(corpus, self.rule, [of_image[:1] for of_image in self.images])


def distinct(nouns: Iterable[Noun]) -> dict[str, Noun]:
    """Nouns by what CLIP reads, the first of each."""
    kept: dict[str, Noun] = {}
    for noun in nouns:
        kept.setdefault(noun.noun, noun)
    return kept


# The captions.


def read_coco(path: Path) -> list[tuple[str, ...]]:
    """The captions of each image in a COCO captions file, images and captions by ascending id."""
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    captions: dict[int, list[str]] = {}
    for annotation in sorted(annotations, key=lambda row: (row["image_id"], row["id"])):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return [tuple(of_image) for of_image in captions.values()]


def read_cc3m(path: Path) -> list[tuple[str, ...]]:
    """The one caption of each row of a Conceptual Captions file."""
    # Not splitlines: captions may hold other characters that end a line.
    rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [(row.split("\t")[0],) for row in rows]


def find_nouns(corpus: str, rule: str, captions: Sequence[Sequence[str]]) -> Found:
    """Runs a rule on the captions of each image. Raises UserError where the rule's data are missing."""
    found = iter(open_rule(rule).extract([caption for of_image in captions for caption in of_image]))
    return Found(corpus, rule, [[next(found) for _ in of_image] for of_image in captions])


def find_all(data: Path) -> dict[str, list[Found]]:
    """For each rule: COCO with the first caption of an image, with all, then Conceptual Captions."""
    coco, cc3m = read_coco(data / COCO_FILE), read_cc3m(data / CC3M_FILE)
    found = {}
    for rule in RULE_NAMES:
        coco_all = find_nouns(COCO_ALL, rule, coco)
        found[rule] = [coco_all.first_captions(COCO_FIRST), coco_all, find_nouns(CC3M, rule, cc3m)]
    return found


# Counts.


def mean_and_error(values: Sequence[int]) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval over samples of as many (at least two) images."""
    return float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5


def share(marks: Iterable[bool]) -> float:
    """The share of true marks; 0 for none at all."""
    listed = list(marks)
    return sum(listed) / max(1, len(listed))


def count_row(found: Found) -> str:
    """One Markdown row of the table of counts; flags are counted over pairs."""
    captions, pairs = found.captions(), found.pairs()
    mean, error = mean_and_error([len(of_image) for of_image in pairs])
    nouns = [noun for of_image in pairs for noun in of_image.values()]
    cells = [
        found.corpus,
        f"`{found.rule}`",
        f"{len(pairs):,}",
        f"{len(captions):,}",
        f"{np.mean([len(of_caption) for of_caption in captions]):.2f}",
        f"{np.mean([len(distinct(of_caption)) for of_caption in captions]):.2f}",
        f"{mean:.2f} ± {error:.2f}",
        f"{len({noun.noun for noun in nouns}):,}",
        f"{share(noun.abstract for noun in nouns):.1%}",
        f"{share(noun.generic for noun in nouns):.1%}",
        f"{share(noun.abstract or noun.generic for noun in nouns):.1%}",
    ]
    return table_row(cells)


def paper_row(paper: Paper) -> str:
    """The paper's row of the table of counts, empty where it says nothing."""
    name = f"paper: COCO train2017, {paper.captions} caption{'s' * (paper.captions > 1)}"
    unique = f"{paper.unique // 1000}K"
    return table_row(
        [name, "NLTK", f"{TRAIN2017_IMAGES:,}", "", "", "", f"{paper.pairs_per_image:.2f}", unique, *[""] * 3]
    )


# Growth of the vocabulary.


def unique_in_samples(pairs: Sequence[dict[str, Noun]], sizes: Sequence[int]) -> np.ndarray:
    """Unique nouns to expect in so many of the images, drawn at random without return: float64 (sizes,).

    Exact, so that no order of the images decides: a noun of f among N images is missing from n of them with
    probability C(N - f, n) / C(N, n).
    """
    images_of = Counter(noun for of_image in pairs for noun in of_image)
    nouns_with = Counter(images_of.values())
    return np.array(
        [
            sum(nouns * (1 - missing_probability(len(pairs), images, size)) for images, nouns in nouns_with.items())
            for size in sizes
        ]
    )


def missing_probability(images: int, with_noun: int, drawn: int) -> float:
    """Chance that `drawn` of `images` images hold none of the `with_noun` ones."""
    without = images - with_noun
    if drawn > without:
        return 0.0
    return float(
        np.exp(lgamma(without + 1) - lgamma(without - drawn + 1) + lgamma(images - drawn + 1) - lgamma(images + 1))
    )


class Growth(NamedTuple):
    """Unique nouns against images (Heaps' law): at 1/16, 1/8 … 1/1 of them, and the exponents of that curve."""

    sizes: np.ndarray
    """Images, int64 ascending (HALVINGS + 1,)."""
    unique: np.ndarray
    """Unique nouns to expect in so many, float64 (HALVINGS + 1,)."""

    @property
    def exponent(self) -> float:
        """Slope of the logarithms over all sizes, by least squares."""
        return slope(self.sizes, self.unique)

    @property
    def last_exponent(self) -> float:
        """Slope over the last doubling: the curve bends, so it is the lower one."""
        return slope(self.sizes[-2:], self.unique[-2:])

    def range_at(self, images: int) -> tuple[float, float]:
        """Unique nouns in so many images if the curve goes on from its end: by `last_exponent`, by `exponent`."""
        times = images / self.sizes[-1]
        return float(self.unique[-1] * times**self.last_exponent), float(self.unique[-1] * times**self.exponent)


def slope(sizes: np.ndarray, unique: np.ndarray) -> float:
    """Of the logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(unique), 1)[0])


def growth_within(pairs: Sequence[dict[str, Noun]], images: int) -> Growth:
    """The growth up to so many of the images; UserError for fewer than 16."""
    if images < 1 << HALVINGS:
        raise UserError(f"growth: wanted {1 << HALVINGS} or more images, got {images}; give a longer file of captions.")
    sizes = np.array([images >> halvings for halvings in reversed(range(HALVINGS + 1))])
    return Growth(sizes, unique_in_samples(pairs, sizes))


def growth(found: Found) -> Growth:
    """The growth over all images of a corpus."""
    return growth_within(found.pairs(), len(found.images))


def check_errors(found: Found) -> tuple[float, float]:
    """How far the law errs where the truth is known: from a quarter of the images to all of them, by either exponent.

    Returns expected over true unique nouns, less 1, by the exponent of the last doubling and by that of all sizes.
    """
    pairs = found.pairs()
    quarter = growth_within(pairs, len(pairs) // 4)
    truth = len({noun for of_image in pairs for noun in of_image})
    low, high = quarter.range_at(len(pairs))
    return low / truth - 1, high / truth - 1


def growth_row(found: Found) -> str:
    """One Markdown row of the table of growth."""
    curve = growth(found)
    low, high = curve.range_at(TRAIN2017_IMAGES)
    low_error, high_error = check_errors(found)
    paper = PAPER.get(found.corpus)
    cells = [
        found.corpus,
        f"`{found.rule}`",
        *(f"{unique:,.0f}" for unique in curve.unique),
        f"{curve.exponent:.2f}",
        f"{curve.last_exponent:.2f}",
        f"{low_error:+.0%} to {high_error:+.0%}",
        f"{low:,.0f} to {high:,.0f}",
        f"{paper.unique // 1000}K" if paper else "",
    ]
    return table_row(cells)


# The most frequent nouns.


def most_frequent(found: Found, most: int = MOST_FREQUENT) -> list[tuple[Noun, float]]:
    """The nouns that most images name, with the share of images; of equally frequent ones in the alphabet's order."""
    pairs = found.pairs()
    images_of = Counter(noun for of_image in pairs for noun in of_image)
    ranked = sorted(images_of, key=lambda noun: (-images_of[noun], noun))[:most]
    example = distinct(noun for of_image in pairs for noun in of_image.values())
    return [(example[noun], images_of[noun] / len(pairs)) for noun in ranked]


def frequent_cell(noun: Noun, of_images: float) -> str:
    """A noun with its share of images; in italics if it is flagged."""
    text = f"*{noun.noun}*" if noun.abstract or noun.generic else noun.noun
    return f"{text} {of_images:.1%}"


def frequent_rows(several: Sequence[Found]) -> Iterator[str]:
    """One Markdown row a rank, a column a corpus; empty where a corpus has no more nouns."""
    for rank, nouns in enumerate(zip_longest(*map(most_frequent, several)), start=1):
        yield table_row([str(rank), *(frequent_cell(*each) if each else "" for each in nouns)])


# Two rules, noun by noun.


def spans(nouns: Sequence[list[Noun]]) -> dict[tuple[int, int, int], Noun]:
    """Nouns by (caption number, start, end)."""
    return {(row, noun.start_char, noun.end_char): noun for row, of_caption in enumerate(nouns) for noun in of_caption}


def agreement(reference: Sequence[list[Noun]], found: Sequence[list[Noun]]) -> dict[str, float]:
    """Micro precision, recall and F1 by character span; agreement of the columns on the spans both hold."""
    wanted, got = spans(reference), spans(found)
    both = wanted.keys() & got.keys()
    return {
        "precision": len(both) / max(1, len(got)),
        "recall": len(both) / max(1, len(wanted)),
        "F1": 2 * len(both) / max(1, len(got) + len(wanted)),
        "same lemma": share(wanted[span].lemma == got[span].lemma for span in both),
        "same abstract flag": share(wanted[span].abstract == got[span].abstract for span in both),
        "same generic flag": share(wanted[span].generic == got[span].generic for span in both),
    }


def agreement_row(reference: Found, found: Found) -> str:
    """One Markdown row of the table of agreement."""
    measured = agreement(reference.captions(), found.captions())
    return table_row([found.corpus, *(f"{value:.3f}" for value in measured.values())])


# The page.


def table_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[str]) -> str:
    """A Markdown table: the first column is text, the others are figures."""
    return "\n".join([table_row(header), f"|---|{'---:|' * (len(header) - 1)}", *rows])


_COUNT_HEADER = (
    "captions of",
    "rule",
    "images",
    "captions",
    "nouns a caption",
    "distinct a caption",
    "pairs an image",
    "unique",
    "abstract",
    "generic",
    "either",
)
_GROWTH_HEADER = (
    "captions of",
    "rule",
    *(f"1/{1 << halvings}" for halvings in reversed(range(1, HALVINGS + 1))),
    "all",
    "exponent",
    "of the last doubling",
    "check",
    f"at {TRAIN2017_IMAGES:,} images",
    "paper",
)
_AGREEMENT_HEADER = ("corpus", "precision", "recall", "F1", "same lemma", "same abstract flag", "same generic flag")


def summary(first: Found, all_captions: Found) -> Iterator[str]:
    """A Markdown item for each of the paper's four figures."""
    for found in (first, all_captions):
        paper, curve = PAPER[found.corpus], growth(found)
        mean, error = mean_and_error([len(of_image) for of_image in found.pairs()])
        low, high = curve.range_at(TRAIN2017_IMAGES)
        yield (
            f"- {found.corpus}: {mean:.2f} ± {error:.2f} pairs an image; the paper has {paper.pairs_per_image:.2f}"
            f" ({mean / paper.pairs_per_image - 1:+.1%} from it).\n"
            f"  {low:,.0f} to {high:,.0f} unique nouns expected at {TRAIN2017_IMAGES:,} images; the paper has"
            f" {paper.unique // 1000}K, {place(paper.unique, low, high)}."
        )


def place(value: float, low: float, high: float) -> str:
    """Where a value lies, in words."""
    return "below that" if value < low else "above that" if value > high else "within that"


def page(found: dict[str, list[Found]]) -> str:
    """docs/parity.md, of what every rule finds in the corpora of `find_all`."""
    several = [of_rule[corpus] for corpus in range(3) for of_rule in found.values()]
    nouns, lexicon = found["nouns"], found["lexicon"]
    return _PAGE.format(
        summary="\n".join(summary(*nouns[:2])),
        counts=table(_COUNT_HEADER, [*map(count_row, several), *map(paper_row, PAPER.values())]),
        growth=table(_GROWTH_HEADER, map(growth_row, several)),
        frequent=table(("rank", *(each.corpus for each in nouns)), frequent_rows(nouns)),
        agreement=table(_AGREEMENT_HEADER, map(agreement_row, nouns, lexicon)),
    )


_PAGE = """\
# Real captions beside the paper's figures

    NLTK_DATA=FOLDER python -m benchmarks.caption_parity --data FOLDER --output docs/parity.md

writes this page, all of it, and its plot. It counts *candidate pairs*: a pair is a distinct noun of an image, as CLIP
reads it (lower case, not brought to the singular). By default `ovseg mine` pairs each such noun with the one mask that
suits it best, and drops none unless the image has no mask, so neither images nor weights are needed to count pairs.
What the rules are: [nouns.md](nouns.md).

What is set beside what:

- Here: 5,000 images of COCO **val**2017 with 25,014 captions. The paper: {images:,} images of **train**2017, which are
  not at hand; same annotators and instructions, other images. "First caption" is the one with the lowest annotation
  id; the paper does not say which one it took. "All captions" are five an image, and six or seven of 13 images.
- The paper's pairs an image are the rows of its training files over all images of train2017: 442,117 with one caption,
  1,341,804 with five, merged and de-duplicated. Whether one caption's repeated noun is one row of the first file or two
  is not published; so nouns and distinct nouns of a caption both stand below.
- The paper's 12K and 27K unique nouns are rounded there.
- The paper's parser is NLTK's, and no more is known of it: no figure of it can show that a rule is the same.
- 15,833 captions of Conceptual Captions, one an image, are texts of the web; the paper mined none of them.

With the rule `nouns`:

{summary}

## Pairs

± is half of a 95% interval over samples of as many images. `abstract`, `generic` and either of them are shares of the
pairs; by default these flags remove nothing.

{counts}

## Growth of the vocabulary

![unique nouns against images](images/parity.png)

Unique nouns to expect in a random 1/16, 1/8 … of the images (exact, so that no order of the images decides), then in
all of them. By Heaps' law they grow as a power of the images. "Exponent" is fitted to all five sizes by least squares
on the logarithms. The curve bends, so that of the last doubling is lower; what to expect at {images:,} images is given
by the one and by the other, from the curve's end. That is 24 times COCO's images here and 7 times those of Conceptual
Captions: a check of order, not of digits. "Check" is how far the same two exponents err where the truth is known, from
a quarter of the images to all: above 0, the law expects too many. So where the paper has more nouns than expected, the
law does not explain it; capitals kept apart, other tags or other captions might, and cannot be checked here. `phrases`
is no rule of the paper's: its vocabulary stands beside 12K and 27K only to show what phrases cost.

{growth}

## The most frequent nouns

By the share of images that name them, with the rule `nouns`; those flagged as abstract or generic in italics.

{frequent}

## How near `lexicon` is to `nouns`

Micro precision, recall and F1 over noun tokens by character span, with `nouns` as the reference; then the share of
common tokens on which the other columns agree.

{agreement}
""".replace("{images:,}", f"{TRAIN2017_IMAGES:,}")


def draw(several: Sequence[Found], path: Path) -> None:
    """Unique nouns against images, both logarithmic, with those to expect at the paper's size and the paper's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    shades = ("expected, by either exponent", None)
    for found, colour, shade in zip(several, ("#4477aa", "#cc6677"), shades, strict=True):
        curve, paper = growth(found), PAPER[found.corpus]
        ends = [curve.sizes[-1], TRAIN2017_IMAGES]
        low, high = zip(*map(curve.range_at, ends), strict=True)
        axes.plot(curve.sizes, curve.unique, "o-", color=colour, markersize=4, label=found.corpus)
        axes.fill_between(ends, low, high, color=colour, alpha=0.3, linewidth=0, label=shade)
        label = f"paper, {paper.captions} caption{'s' * (paper.captions > 1)}: {paper.unique // 1000}K"
        axes.plot(
            [TRAIN2017_IMAGES], [paper.unique], "*", color=colour, markersize=13, markeredgecolor="k", label=label
        )
    axes.set(xlabel="images", ylabel="unique nouns, rule nouns")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def write_page(data: Path, output: Path) -> None:
    """Writes the page, and images/parity.png beside it. Raises UserError for missing captions or NLTK data."""
    for name in (COCO_FILE, CC3M_FILE):
        if not (data / name).is_file():
            raise UserError(f"--data: wanted {name} in folder {data}, found none; name the folder that holds it.")
    found = find_all(data)
    picture = output.parent / "images" / "parity.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(found["nouns"][:2], picture)
    output.write_text(page(found), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the captions, runs every rule, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the two caption files")
    parser.add_argument("--output", type=Path, required=True, help="file for the page")
    given = parser.parse_args(argv)
    try:
        write_page(given.data, given.output)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

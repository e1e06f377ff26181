"""How many nouns the rules find on real captions, beside the paper's, and how near `lexicon` is to `nouns`.

    NLTK_DATA=FOLDER python -m benchmarks.noun_parity --data FOLDER

prints the Markdown tables of docs/nouns.md. FOLDER holds captions_val2017.json (COCO Captions) and
cc3m_validation.tsv (Conceptual Captions). About two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.noun_rules import RULE_NAMES, Noun, open_rule
from schemas.errors import UserError

TRAIN2017_IMAGES = 118_287
PAPER = (("paper, 1 caption", 442_117, "12K"), ("paper, 5 captions", 1_341_804, "27K"))
"""OVSeg table 2: captions an image of COCO train2017, pairs (rows of its training files), unique nouns."""


@dataclass(frozen=True)
class Corpus:
    """Captions grouped by image: `captions[i]` are those of image i."""

    name: str
    captions: tuple[tuple[str, ...], ...]

    def flat(self) -> list[str]:
        """All captions, image by image."""
        return [caption for of_image in self.captions for caption in of_image]

    def by_image(self, nouns: Sequence[list[Noun]]) -> list[list[Noun]]:
        """The nouns of `flat()`'s captions, joined for each image."""
        remaining = iter(nouns)
        return [[noun for _ in of_image for noun in next(remaining)] for of_image in self.captions]


def read_coco(path: Path) -> list[tuple[str, ...]]:
    """The captions of each image in a COCO captions file, images and captions by ascending id."""
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    captions: dict[int, list[str]] = {}
    for annotation in sorted(annotations, key=lambda row: (row["image_id"], row["id"])):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return [tuple(of_image) for of_image in captions.values()]


def read_corpora(data: Path) -> list[Corpus]:
    """COCO with one caption an image (lowest id) and with all, then Conceptual Captions."""
    coco = read_coco(data / "captions_val2017.json")
    rows = (data / "cc3m_validation.tsv").read_text(encoding="utf-8").splitlines()
    return [
        Corpus("COCO val2017, 1 caption", tuple(of_image[:1] for of_image in coco)),
        Corpus("COCO val2017, all captions", tuple(coco)),
        Corpus("Conceptual Captions validation", tuple((row.split("\t")[0],) for row in rows)),
    ]


def count_row(corpus: Corpus, rule: str, nouns: Sequence[list[Noun]]) -> str:
    """One Markdown row of the table of counts."""
    found = [noun for of_caption in nouns for noun in of_caption]
    images, captions = len(corpus.captions), len(nouns)
    distinct = sum(len({noun.noun for noun in of_image}) for of_image in corpus.by_image(nouns))
    cells = [
        corpus.name,
        f"`{rule}`",
        f"{images:,}",
        f"{captions:,}",
        f"{len(found):,}",
        f"{len(found) / captions:.2f}",
        f"{len(found) / images:.2f}",
        f"{distinct / images:.2f}",
        f"{len({noun.noun for noun in found}):,}",
        f"{share(noun.abstract for noun in found):.1%}",
        f"{share(noun.generic for noun in found):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def paper_row(captions: str, pairs: int, unique: str) -> str:
    """The paper's row of the table of counts: every noun is one pair, duplicates within an image removed."""
    per_image = pairs / TRAIN2017_IMAGES
    return f"| {captions} | NLTK | {TRAIN2017_IMAGES:,} | | {pairs:,} | | | {per_image:.2f} | {unique} | | |"


def share(marks: Iterable[bool]) -> float:
    """The share of true marks; 0 for none at all."""
    listed = list(marks)
    return sum(listed) / max(1, len(listed))


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


def heaps_law(by_image: Sequence[list[Noun]]) -> tuple[float, float]:
    """Exponent of unique nouns against nouns, and the unique nouns it predicts for COCO train2017.

    Fitted by least squares on the logarithms at 1/16, 1/8 … 1/1 of the images, in the order of their ids.
    """
    sizes = [len(by_image) >> halvings for halvings in range(5)]
    names = [[noun.noun for of_image in by_image[:size] for noun in of_image] for size in sizes]
    nouns, unique = [len(listed) for listed in names], [len(set(listed)) for listed in names]
    exponent = float(np.polyfit(np.log(nouns), np.log(unique), 1)[0])
    return exponent, unique[0] * (TRAIN2017_IMAGES / sizes[0]) ** exponent


def print_table(header: Sequence[str], rows: Iterable[str]) -> None:
    """A Markdown table, with an empty line after it."""
    print(f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *rows, "", sep="\n")


def print_tables(corpora: Sequence[Corpus]) -> None:
    """Counts beside the paper's, growth of the vocabulary, and the lexicon's agreement with `nouns`."""
    found = {name: [rule.extract(corpus.flat()) for corpus in corpora] for name, rule in _rules()}
    pairs = [(corpus, name, found[name][n]) for n, corpus in enumerate(corpora) for name in RULE_NAMES]
    print_table(_COUNT_HEADER, [count_row(*pair) for pair in pairs] + [paper_row(*row) for row in PAPER])
    print_table(_GROWTH_HEADER, [_growth_row(*pair) for pair in pairs if pair[0].name.startswith("COCO")])
    compared = [agreement(*both) for both in zip(found["nouns"], found["lexicon"], strict=True)]
    print_table(("corpus", *compared[0]), [_agreement_row(*row) for row in zip(corpora, compared, strict=True)])


_COUNT_HEADER = (
    "captions of",
    "rule",
    "images",
    "captions",
    "nouns",
    "a caption",
    "an image",
    "distinct an image",
    "unique",
    "abstract",
    "generic",
)
_GROWTH_HEADER = ("captions of", "rule", "Heaps exponent", f"unique expected at {TRAIN2017_IMAGES:,} images")


def _rules() -> Iterable[tuple[str, object]]:
    return ((name, open_rule(name)) for name in RULE_NAMES)


def _growth_row(corpus: Corpus, rule: str, nouns: Sequence[list[Noun]]) -> str:
    exponent, expected = heaps_law(corpus.by_image(nouns))
    return f"| {corpus.name} | `{rule}` | {exponent:.2f} | {expected:,.0f} |"


def _agreement_row(corpus: Corpus, measured: dict[str, float]) -> str:
    return f"| {corpus.name} | {' | '.join(f'{value:.3f}' for value in measured.values())} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Read the captions, run every rule, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two caption files")
    data = parser.parse_args(argv).data
    for name in ("captions_val2017.json", "cc3m_validation.tsv"):
        if not (data / name).is_file():
            raise UserError(f"--data: wanted {name} in folder {data}, found none; name the folder that holds it.")
    print_tables(read_corpora(data))


if __name__ == "__main__":
    main()

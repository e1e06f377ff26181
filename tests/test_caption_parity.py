"""Counts, growth and ranks of nouns by value, on a handful of captions; the page and its plot on sixty-four."""

import json
from collections import Counter

import numpy as np
import pytest

from benchmarks import caption_parity
from benchmarks.caption_parity import (
    COCO_ALL,
    COCO_FIRST,
    PAPER,
    Found,
    Growth,
    agreement_row,
    check_errors,
    count_row,
    find_nouns,
    growth,
    main,
    mean_and_error,
    most_frequent,
    paper_row,
    place,
    read_cc3m,
    read_coco,
    summary,
    unique_in_samples,
)
from pipelines.noun_rules import Noun, open_rule
from schemas import UserError


def noun(text, start=0, abstract=False, generic=False):
    return Noun(text, text, start, start + len(text), text, text, "NN", abstract, generic)


DOG, CAT, BUS, DAY = noun("dog"), noun("cat", 4), noun("bus"), noun("day", 8, abstract=True)
TOP = noun("top", 12, generic=True)


@pytest.fixture
def found():
    """Three images: dog, cat, dog and dog, day; dog; bus, top."""
    return Found(COCO_ALL, "nouns", [[[DOG, CAT, DOG], [DOG, DAY]], [[DOG]], [[BUS, TOP]]])


def numbered(images, of_image):
    """Images with one caption each, that holds the nouns of these numbers."""
    return Found(COCO_FIRST, "nouns", [[[noun(f"n{number}") for number in of_image(image)]] for image in range(images)])


def test_pairs_are_the_distinct_nouns_of_an_image(found):
    assert [list(of_image) for of_image in found.pairs()] == [["dog", "cat", "day"], ["dog"], ["bus", "top"]]
    first = found.first_captions(COCO_FIRST)
    assert first.corpus == COCO_FIRST
    assert [list(of_image) for of_image in first.pairs()] == [["dog", "cat"], ["dog"], ["bus", "top"]]


def test_a_pair_is_the_noun_where_it_stands_first():
    pairs = Found(COCO_ALL, "nouns", [[[DOG], [noun("dog", 9, generic=True)]]]).pairs()
    assert pairs == [{"dog": DOG}]


def test_counts(found):
    # 8 nouns in 4 captions, 7 of them distinct in theirs; 3, 1 and 2 pairs, of which one is abstract and one generic.
    assert mean_and_error([3, 1, 2]) == (2.0, pytest.approx(1.96 / 3**0.5))
    assert count_row(found) == (
        "| COCO val2017, all captions | `nouns` | 3 | 4 | 2.00 | 1.75 | 2.00 ± 1.13 | 5 | 16.7% | 16.7% | 33.3% |"
    )


def test_the_papers_rows():
    assert paper_row(PAPER[COCO_FIRST]) == (
        "| paper: COCO train2017, 1 caption | NLTK | 118,287 |  |  |  | 3.74 | 12K |  |  |  |"
    )
    assert " 5 captions | NLTK | 118,287 |  |  |  | 11.34 | 27K |" in paper_row(PAPER[COCO_ALL])


def test_unique_nouns_are_the_mean_of_all_samples(found):
    # One image has 3, 1 or 2 of the five nouns; two have 3, 5 or 3; all three have 5.
    assert unique_in_samples(found.pairs(), [1, 2, 3]) == pytest.approx([6 / 3, 11 / 3, 5])


def test_new_nouns_in_every_image_grow_in_proportion():
    curve = growth(numbered(64, lambda image: [2 * image, 2 * image + 1]))
    assert curve.sizes.tolist() == [4, 8, 16, 32, 64]
    assert curve.unique == pytest.approx([8, 16, 32, 64, 128])
    assert (curve.exponent, curve.last_exponent) == (pytest.approx(1), pytest.approx(1))
    assert curve.range_at(640) == pytest.approx((1280, 1280))


def test_the_same_nouns_in_every_image_do_not_grow():
    same = numbered(64, lambda image: [1, 2, 3])
    assert growth(same).range_at(1_000_000) == pytest.approx((3, 3))
    assert check_errors(same) == pytest.approx((0, 0))


def test_a_curve_that_bends_gives_a_range():
    sizes, unique = np.array([1, 2, 4, 8, 16]), np.array([1.0, 4, 8, 16, 16])
    curve = Growth(sizes, unique)
    # Logarithms to base 2 against 0 … 4: 0, 2, 3, 4, 4; their slope is (-2·0 - 2 + 0 + 4 + 2·4) / 10.
    assert (curve.exponent, curve.last_exponent) == (pytest.approx(1.0), pytest.approx(0, abs=1e-12))
    assert curve.range_at(64) == pytest.approx((16, 64))


def test_the_check_compares_with_what_all_images_hold():
    """A noun that all images share, and one of their own: a curve that bends upwards, so that too few are expected."""
    low, high = check_errors(numbered(128, lambda image: [-1, image]))
    curve = [1 + size for size in (2, 4, 8, 16, 32)]
    by_last = curve[-1] * 4 ** np.log2(curve[-1] / curve[-2])
    assert low == pytest.approx(by_last / 129 - 1)
    assert high < low < 0


def test_too_few_images_to_see_growth():
    with pytest.raises(UserError, match="growth: wanted 16 or more images, got 15"):
        growth(numbered(15, lambda image: [image]))


def test_most_frequent_by_images_then_by_alphabet(found):
    ranked = most_frequent(found, 3)
    assert [(each.noun, of_images) for each, of_images in ranked] == [("dog", 2 / 3), ("bus", 1 / 3), ("cat", 1 / 3)]


def test_flagged_nouns_are_in_italics(found):
    shorter = Found(COCO_ALL, "nouns", [[[DOG]]])
    rows = list(caption_parity.frequent_rows([found, shorter]))
    assert rows[0] == "| 1 | dog 66.7% | dog 100.0% |"
    assert rows[3:] == ["| 4 | *day* 33.3% |  |", "| 5 | *top* 33.3% |  |"]


def test_agreement_by_span():
    reference = Found("a", "nouns", [[[DOG, CAT]]])
    other = Found("a", "lexicon", [[[DOG, noun("cat", 5), DAY]]])
    assert agreement_row(reference, other) == "| a | 0.333 | 0.500 | 0.400 | 1.000 | 1.000 | 1.000 |"


def test_where_the_papers_figure_lies():
    assert [place(value, 2, 3) for value in (1, 2, 3, 4)] == ["below that", "within that", "within that", "above that"]


def test_the_summary_sets_each_beside_its_own():
    first = numbered(64, lambda image: range(4 * image, 4 * image + 4))
    lines = list(summary(first, first._replace(corpus=COCO_ALL)))
    assert "4.00 ± 0.00 pairs an image; the paper has 3.74 (+7.0% from it)" in lines[0]
    assert "473,148 to 473,148 unique nouns expected at 118,287 images; the paper has 12K, below that." in lines[0]
    assert "the paper has 11.34 (-64.7% from it)" in lines[1]


# Files.


def coco_file(folder, captions):
    """A COCO captions file whose rows stand in descending order."""
    rows = [
        {"image_id": image, "id": 10 * image + number, "caption": caption}
        for image, of_image in enumerate(captions)
        for number, caption in enumerate(of_image)
    ]
    (folder / "captions_val2017.json").write_text(json.dumps({"annotations": rows[::-1]}))


def test_captions_are_read_by_id(tmp_path):
    coco_file(tmp_path, [["A dog.", "A cat."], ["A bus."]])
    assert read_coco(tmp_path / "captions_val2017.json") == [("A dog.", "A cat."), ("A bus.",)]
    (tmp_path / "rows.tsv").write_text("a\x85dog\thttp://a\na cat\thttp://b\n", encoding="utf-8")
    assert read_cc3m(tmp_path / "rows.tsv") == [("a\x85dog",), ("a cat",)]


def test_nouns_return_to_their_images():
    found = find_nouns("a", "lexicon", [("a dog and a cat", "a bus"), (), ("a dog",)])
    names = [[[each.noun for each in of_caption] for of_caption in of_image] for of_image in found.images]
    assert names == [[["dog", "cat"], ["bus"]], [], [["dog"]]]
    assert [len(of_caption) for of_caption in found.captions()] == [2, 1, 1]


def test_the_page_and_its_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_parity, "open_rule", lambda name: open_rule("lexicon"))  # NLTK's data may be missing
    captions = [[f"a dog near {'the table' if image % 2 else 'a bus'}", "a cat"] for image in range(64)]
    coco_file(tmp_path, captions)
    (tmp_path / "cc3m_validation.tsv").write_text("a dog\thttp://a\n" * 63 + "a dog and a horse\thttp://a\n")
    main(["--data", str(tmp_path), "--output", str(tmp_path / "docs" / "parity.md")])
    lines = (tmp_path / "docs" / "parity.md").read_text(encoding="utf-8").splitlines()
    assert Counter(line.split(" | ")[0] for line in lines if " | `phrases` | " in line) == {
        f"| {name}": 2 for name in (COCO_FIRST, COCO_ALL, caption_parity.CC3M)
    }
    assert "| 1 | dog 100.0% | cat 100.0% | dog 100.0% |" in lines
    assert not [line for line in lines if "{" in line]
    assert (tmp_path / "docs" / "images" / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"--data: wanted captions_val2017\.json in folder .*, found none; name the"):
        main(["--data", str(tmp_path), "--output", str(tmp_path / "parity.md")])

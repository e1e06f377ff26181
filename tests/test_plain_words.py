"""What the guard admits is cut as NLTK cuts it; what it does not admit is left to NLTK."""

import random

import pytest

from benchmarks.caption_parity import read_coco
from pipelines.noun_rules.plain_words import plain_words

MARKS = "' '' \" ` `` ( ) [ ] { } < > - -- --- / \\ ? ! . .. ... , : ; # & $ % @ * _ + = ~ ’ ‘ “ ”"
BEYOND_ASCII = "« » – — … é ß ſ İ ı \u212a 犬"
CLITICS = "'s 'S 'll 'LL 'Ll 're 've 'd 'm 't n't N'T n'T 'tis 'twas d'ye more'n can't cannot Cannot gimme Gonna gotta"
WORDS = "lemme wanna can not a A b2 2b 1 3,5 3:5 12 1990's man's James' rock'n'roll U.S. e.g. Mr. Dr Dog dog she'd've"
SPACES = [" "] * 40 + ["  ", "\n", "\t", "\r\n", "\xa0", "\x1f", "\x85", "\u2003", ""]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man riding a wave.", ["A", "man", "riding", "a", "wave", "."]),
        ("  two  black-and-white cats ? \n", ["two", "black-and-white", "cats", "?"]),
        ("the man's dog, isn't it", ["the", "man", "'s", "dog", ",", "is", "n't", "it"]),
        ("globes : 3d and #1 & co", ["globes", ":", "3d", "and", "#", "1", "&", "co"]),
        ("a,b", ["a", ",", "b"]),
        ("   ", []),
        (" .", ["."]),
    ],
)
def test_plain_captions(nltk_data, caption, words):
    from nltk import word_tokenize

    assert plain_words(caption) == words == word_tokenize(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "A dog. A cat.",
        "3,500 dogs",
        "a -- b",
        "you cannot",
        "Gonna-be",
        'a "dog"',
        "o'clock",
        "the dogs' bowl",
        "café",
        "wait...",
        "is it?!",
        "a\nb",
        "",
        "a (dog)",
    ],
)
def test_what_nltk_is_asked_about(caption):
    assert plain_words(caption) is None


def test_whatever_is_admitted_is_cut_as_nltk_cuts(nltk_data):
    from nltk import word_tokenize

    rng, admitted = random.Random(0), 0
    tricky = f"{MARKS} {BEYOND_ASCII} {CLITICS} {WORDS}".split(" ")
    for _ in range(60_000):
        pieces = rng.choices(tricky, k=rng.randint(1, 7))
        caption = "".join(piece + rng.choice(SPACES) for piece in pieces)
        words = plain_words(caption)
        if words is not None:
            admitted += 1
            assert words == word_tokenize(caption), repr(caption)
    assert admitted > 2000


@pytest.mark.parametrize("corpus", ["coco", "conceptual"])
def test_real_captions(nltk_data, test_data, corpus):
    from nltk import word_tokenize

    if corpus == "coco":
        captions = [caption for of_image in read_coco(test_data / "captions_val2017.json") for caption in of_image]
    else:
        rows = (test_data / "cc3m_validation.tsv").read_text(encoding="utf-8").splitlines()
        captions = [row.split("\t")[0] for row in rows]
    plain = [(caption, plain_words(caption)) for caption in captions[::5]]
    asked = [caption for caption, words in plain if words is None]
    assert len(asked) < 0.1 * len(plain)
    assert all(words == word_tokenize(caption) for caption, words in plain if words is not None)

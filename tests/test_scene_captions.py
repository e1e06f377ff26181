"""Captions name what is seen, in varying words, and leave things out."""

import random
from collections import Counter

import pytest

from ovseg_model.datasets.scene_captions import Seen, write_caption, write_captions
from ovseg_model.datasets.scene_nouns import NOUNS, class_of, mentioned
from ovseg_model.datasets.scenes import SPLITS, draw_scene, seen_in

KITE, CUPS, GRASS = (
    Seen("kite", 1, 0.2, "red"),
    Seen("cup", 2, 0.06, "blue"),
    Seen("grass", 1, 0.7, "green"),
)


def many(seen, count=600):
    return [write_caption(seen, random.Random(number)) for number in range(count)]


@pytest.mark.parametrize(
    ("noun", "name"),
    [
        ("kite", "kite"),
        ("kites", "kite"),
        ("mug", "cup"),
        ("mugs", "cup"),
        ("butterflies", "butterfly"),
        ("beach ball", "ball"),
        ("large red beach ball", "ball"),
        ("beach", "sand"),
        ("Apple Tree", "tree"),
        ("apple", "apple"),
        ("photo", None),
        ("wall", None),
        ("", None),
    ],
)
def test_what_a_noun_means(noun, name):
    assert class_of(noun) == name


def test_no_word_means_two_classes():
    words = Counter(word for noun in NOUNS for word in noun.singulars)
    assert set(words.values()) == {1}


def test_mentions_are_the_longest_phrases():
    assert mentioned("An apple tree and two cottages behind the tile floor") == {"tree", "house", "tile"}
    assert mentioned("a photo of a sunny day") == frozenset()


def test_captions_mention_only_what_is_seen():
    for number in SPLITS["val"][:60]:
        scene = draw_scene(number, 48)
        visible = {seen.noun for seen in seen_in(scene.regions, 48**2)}
        for caption in scene.captions:
            assert mentioned(caption) <= visible, caption
            assert mentioned(caption), caption


def test_captions_have_what_real_ones_have():
    texts = many([KITE, CUPS, GRASS])
    words = Counter(word for text in texts for word in text.lower().replace(".", "").replace(",", "").split())
    for invisible in ("photo", "view", "day", "scene", "background", "picture"):
        assert words[invisible], invisible
    for plural_or_synonym in ("cups", "mug", "lawn", "meadow"):
        assert words[plural_or_synonym], plural_or_synonym
    assert any("coffee cup" in text for text in texts)
    assert {"red", "green", "two", "a", "the", "some"} <= set(words)


def test_things_are_left_unsaid_and_the_large_is_named_more():
    named = Counter(noun for text in many([KITE, CUPS, GRASS]) for noun in mentioned(text))
    assert max(named.values()) < 600
    assert named["kite"] > 1.5 * named["cup"]


def test_stuff_alone_makes_a_caption_too():
    assert {frozenset(mentioned(text)) for text in many([GRASS], 50)} == {frozenset({"grass"})}


def test_articles_fit():
    texts = many([Seen("apple", 1, 0.2, "orange"), Seen("umbrella", 1, 0.1, "red")])
    assert not any(
        wrong in f" {text.lower()}" for text in texts for wrong in (" a apple", " a umb", " an red", " a ora")
    )
    assert not any("some the" in text for text in many([KITE, GRASS]))


def test_five_captions_from_the_same_numbers_are_the_same():
    first, again = (write_captions([KITE, GRASS], random.Random(7)) for _ in range(2))
    assert first == again
    assert len(first) == 5

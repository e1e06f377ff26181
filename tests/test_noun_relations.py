"""Which nouns WordNet relates."""

import pytest

from pipelines.noun_relations import Family, family, related, require_wordnet
from schemas import UserError


@pytest.mark.parametrize(
    ("noun_a", "noun_b"),
    [
        ("dog", "dog"),
        ("dog", "dogs"),
        ("car", "automobile"),
        ("dog", "animal"),
        ("woman", "girl"),
        ("man", "people"),
        ("table", "furniture"),
        ("oak", "plant"),
        ("red fire truck", "truck"),
        ("parking meter", "device"),
        ("wooden chairs", "chair"),
        ("paris", "city"),
        ("hands", "hand"),
        ("skateparkz", "skateparkz"),
    ],
)
def test_related_nouns_are_related_in_either_order(nltk_data, noun_a, noun_b):
    assert related(noun_a, noun_b)
    assert related(noun_b, noun_a)


@pytest.mark.parametrize(
    ("noun_a", "noun_b"),
    [("dog", "cat"), ("man", "dog"), ("car", "wheel"), ("skateparkz", "dog"), ("skateparkz", "snowblobz")],
)
def test_other_nouns_are_not(nltk_data, noun_a, noun_b):
    assert not related(noun_a, noun_b)
    assert not related(noun_b, noun_a)


def test_a_noun_that_wordnet_does_not_know_is_related_to_its_own_plural_and_compound(nltk_data):
    assert related("red frobnozzles", "frobnozzle")


@pytest.mark.parametrize(("noun_a", "noun_b"), [("dog", "person"), ("cat", "man")])
def test_rare_senses_relate_more_and_can_be_left_out(nltk_data, noun_a, noun_b):
    assert related(noun_a, noun_b)
    assert not related(noun_a, noun_b, rare_senses=False)


def test_common_senses_suffice_for_what_pictures_show(nltk_data):
    common = [("car", "vehicle"), ("woman", "person"), ("couch", "furniture"), ("orange", "fruit"), ("pizza", "food")]
    assert all(related(*pair, rare_senses=False) for pair in common)


def test_a_family_ends_at_the_top(nltk_data):
    """Paris, the city: one sense is an instance; entity.n.01 is above all."""
    entity = family("entity")
    assert entity.above == frozenset()
    assert entity.senses <= family("dog").above
    assert family("skateparkz") == Family(frozenset(), frozenset())


def test_missing_wordnet_is_a_sentence_with_the_command(monkeypatch):
    import nltk.data

    def find_nothing(place):
        raise LookupError(place)

    monkeypatch.setattr(nltk.data, "find", find_nothing)
    with pytest.raises(UserError, match=r"wanted wordnet in one of .* `python -m nltk.downloader wordnet`"):
        require_wordnet()

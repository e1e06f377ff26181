"""After the merges every word of scenes is one token, and other text still has tokens."""

import pytest

from ovseg_model.datasets.scene_nouns import NOUNS
from ovseg_model.datasets.scene_vocabulary import byte_pair_merges, words, write_merges


def test_the_most_frequent_pair_comes_first_and_ties_go_by_spelling():
    # ab in both words; then "ab" with "c</w>" or "d</w>", once each.
    assert byte_pair_merges(["abc", "abd"]) == [("a", "b"), ("ab", "c</w>"), ("ab", "d</w>")]


def test_a_pair_joins_from_left_to_right_without_overlap():
    assert byte_pair_merges(["aaa"]) == [("a", "a"), ("aa", "a</w>")]
    assert byte_pair_merges(["aaaa"]) == [("a", "a"), ("a", "a</w>"), ("aa", "aa</w>")]


def test_words_of_nouns_templates_and_forms():
    listed = words()
    assert listed == sorted(set(listed))
    assert {"kite", "butterflies", "coffee", "photo", "there", "scene", "two", "purple"} <= set(listed)
    assert all(word.islower() and word.isalpha() for word in listed)


@pytest.fixture
def tokenizer(tmp_path):
    from open_clip import SimpleTokenizer

    size = write_merges(tmp_path / "merges.gz")
    tokenizer = SimpleTokenizer(str(tmp_path / "merges.gz"), context_length=16)
    assert tokenizer.vocab_size == size
    return tokenizer


def test_every_word_is_one_token(tokenizer):
    assert {len(tokenizer.encode(word)) for word in words()} == {1}
    assert len({tokenizer.encode(noun.name)[0] for noun in NOUNS}) == len(NOUNS)


def test_other_text_falls_into_pieces_and_comes_back(tokenizer):
    tokens = tokenizer.encode("a zebra, größer 雪")
    assert len(tokens) > 6
    assert tokenizer.decode(tokens).strip() == "a zebra , größer 雪"


def test_the_file_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        write_merges(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

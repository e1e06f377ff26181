"""The NLTK rules: tags are NLTK's own, spans are the caption's, flags are WordNet's."""

import random
import threading
from pathlib import Path

import pytest

from benchmarks.caption_parity import COCO_FIRST, Found, agreement, count_row, read_coco
from pipelines.noun_rules import RULE_NAMES, Noun, open_rule
from pipelines.noun_rules.flags import is_abstract_file, is_generic
from pipelines.noun_rules.nltk_packages import require_packages
from pipelines.noun_rules.token_spans import token_spans
from schemas import NOUNS, UserError


@pytest.fixture(scope="module")
def nouns(nltk_data):
    return open_rule("nouns")


@pytest.fixture(scope="module")
def phrases(nltk_data):
    return open_rule("phrases")


@pytest.fixture(scope="module")
def coco(test_data):
    """Per image of COCO val2017 the caption with the lowest annotation id."""
    return [captions[0] for captions in read_coco(test_data / "captions_val2017.json")]


@pytest.fixture(scope="module")
def coco_nouns(nouns, coco):
    return nouns.extract(coco)


@pytest.fixture(scope="module")
def senses(nltk_data):
    from pipelines.noun_rules.wordnet_senses import NounSenses

    return NounSenses()


def found(rule, caption):
    return [noun.noun for noun in rule.extract([caption])[0]]


def one(rule, caption):
    ((noun,),) = rule.extract([caption])
    return noun


# --- Opening ----------------------------------------------------------------------------------------------


def test_unknown_rule_lists_the_names():
    with pytest.raises(UserError, match="wanted one of nouns, phrases, lexicon; got 'verbs'"):
        open_rule("verbs")


@pytest.mark.parametrize("name", ["nouns", "phrases"])
def test_missing_data_is_one_sentence_with_the_command(name, tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(UserError) as raised:
        open_rule(name)
    said = str(raised.value)
    assert "python -m nltk.downloader averaged_perceptron_tagger_eng punkt_tab wordnet" in said
    assert "NLTK_DATA" in said
    assert "\n" not in said


def test_only_the_missing_package_is_named(nltk_data, monkeypatch):
    import nltk

    find = nltk.data.find

    def find_all_but_wordnet(place):
        if "wordnet" in place:
            raise LookupError(place)
        return find(place)

    monkeypatch.setattr(nltk.data, "find", find_all_but_wordnet)
    with pytest.raises(UserError, match=r"wanted wordnet in one of .* `python -m nltk.downloader wordnet`"):
        require_packages()


def test_fingerprint_names_versions_and_every_data_file(nouns, phrases):
    seen = nouns.fingerprint()
    assert (seen["rule"], seen["version"], seen["generic_nouns_version"]) == ("nouns", "2", "1")
    assert {file.split("/")[0] for file in seen["data_sha256"]} == {
        "averaged_perceptron_tagger_eng",
        "punkt_tab",
        "wordnet",
    }
    assert all(len(digest) == 64 for digest in seen["data_sha256"].values())
    assert phrases.fingerprint() == seen | {"rule": "phrases"}


def test_fingerprint_is_of_the_files_content(nouns, nltk_data):
    import hashlib

    file = nltk_data / "tokenizers/punkt_tab/english/abbrev_types.txt"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert nouns.fingerprint()["data_sha256"]["punkt_tab/abbrev_types.txt"] == expected


@pytest.mark.parametrize("name", RULE_NAMES)
def test_a_noun_has_the_columns_of_the_table(name):
    assert NOUNS.schema.names == ["image_id", "caption_index", *Noun._fields]


# --- nouns ------------------------------------------------------------------------------------------------


def test_every_field_of_a_noun(nouns):
    assert nouns.extract(["He saw two Big Hydrants."])[0][-1] == Noun(
        noun="hydrants",
        surface="Hydrants",
        start_char=15,
        end_char=23,
        head="hydrants",
        lemma="hydrant",
        tag_pattern="NNS",
        abstract=False,
        generic=False,
    )


def test_captions_keep_their_order_and_empty_ones_their_place(nouns):
    captions = ["A dog.", "", "A cat on a mat."]
    assert [[noun.noun for noun in of] for of in nouns.extract(captions)] == [["dog"], [], ["cat", "mat"]]


@pytest.mark.parametrize("caption", ["", " ", "...", '"', "''", "?!", "🙂🙂", "- - -", "100 %", "\n\t"])
def test_nothing_without_a_letter_is_a_noun(caption, nouns, phrases):
    assert found(nouns, caption) == []
    assert found(phrases, caption) == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ('A "road sign" on a pole', [("road", 3, 7), ("sign", 8, 12), ("pole", 19, 23)]),
        ("The dog's bowl can't move", [("dog", 4, 7), ("bowl", 10, 14)]),
        ("a café's naïve crème", [("café", 2, 6), ("crème", 15, 20)]),
        ("🐶🐶 a dog 🐕 and a cat", [("dog", 5, 8), ("cat", 17, 20)]),
        ("a dog ... a dog", [("dog", 2, 5), ("dog", 12, 15)]),
        ("''a dog'' and ``a cat''", [("dog", 4, 7), ("cat", 18, 21)]),
        ("  A man.\n\nA bus.  ", [("man", 4, 7), ("bus", 12, 15)]),
    ],
)
def test_spans_are_the_captions(caption, expected, nouns):
    spans = [(noun.noun, noun.start_char, noun.end_char) for noun in nouns.extract([caption])[0]]
    assert [(word, caption.lower()[start:end]) for word, start, end in spans] == [(n, n) for n, *_ in spans]
    assert set(expected) <= set(spans)


def test_rewritten_quotes_keep_their_span():
    caption = "(''a\"  ``b''"
    tokens = ["(", "``", "a", "''", "``", "b", "''"]
    assert list(token_spans(caption, tokens)) == [(0, 1), (1, 3), (3, 4), (4, 5), (7, 9), (9, 10), (10, 12)]


def test_a_token_that_is_not_there_says_so():
    with pytest.raises(ValueError, match="token 'cat' does not stand at character 2 of caption 'a dog'"):
        list(token_spans("a dog", ["a", "cat"]))


QUOTES_AND_MARKS = "' \" '' `` ` ( ) [ { < -- - ? ! * “ ” ’ ‘ « » , : ; $ % # @ &amp; … — . .. ..."
WORDS = "dog Cat can't cannot 's 'll n't gonna 'tis U.S. e.g. a 1 3.5 é 😀 \u200b"
SPACES = [*" \n\t\xa0\x1f\x85"] + [" "] * 10


def test_tags_are_nltks_own_on_nasty_captions(nltk_data):
    from nltk import pos_tag, word_tokenize

    from pipelines.noun_rules.nltk_rules import CaptionTagger

    rng = random.Random(0)
    pieces = QUOTES_AND_MARKS.split(" ") + WORDS.split(" ") + SPACES
    captions = ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(800)]
    for caption, (text, words, tags) in zip(captions, CaptionTagger().tag(captions), strict=True):
        assert list(zip(words, tags, strict=True)) == pos_tag(word_tokenize(caption)), caption
        for word, (start, end) in zip(words, token_spans(text, words), strict=True):
            assert caption[start:end] == word or (word in ("``", "''") and caption[start:end] in ('"', "''")), caption


def test_control_characters_are_part_of_no_word(nouns, phrases):
    caption = "a cat\x00 and\x1b[31m a\x07 small\x9fdog"
    assert [noun.surface for noun in nouns.extract([caption])[0]] == ["cat", "dog"]
    (phrase,) = [noun for noun in phrases.extract([caption])[0] if noun.head == "dog"]
    assert (phrase.noun, phrase.surface) == ("small dog", "small\x9fdog")


def test_paper_mode_on_coco(coco, coco_nouns):
    """OVSeg: 442,117 pairs for 118,287 captions, that is 3.74 a caption."""
    assert len(coco) == 5000
    assert 3.6 <= sum(map(len, coco_nouns)) / len(coco) <= 3.9


def test_nouns_are_nltks_on_coco(coco, coco_nouns):
    from nltk import pos_tag, word_tokenize

    for caption, of_caption in list(zip(coco, coco_nouns, strict=True))[:500]:
        tagged = [(word.lower(), tag) for word, tag in pos_tag(word_tokenize(caption)) if tag.startswith("NN")]
        lettered = [pair for pair in tagged if any(map(str.isalpha, pair[0]))]
        assert [(noun.noun, noun.tag_pattern) for noun in of_caption] == lettered
        assert all(caption[noun.start_char : noun.end_char] == noun.surface for noun in of_caption)


def test_lexicon_is_near_nouns_on_coco(coco, coco_nouns):
    measured = agreement(coco_nouns, open_rule("lexicon").extract(coco))
    assert measured["F1"] >= 0.9
    assert measured["same lemma"] >= 0.98


def test_the_documented_row_is_what_is_measured(coco, coco_nouns):
    found = Found(COCO_FIRST, "nouns", [[of_caption] for of_caption in coco_nouns])
    documented = (Path(__file__).parent.parent / "docs" / "parity.md").read_text(encoding="utf-8")
    assert count_row(found) in documented.splitlines()


def test_threads_agree(nouns):
    captions = [f"{animal} near the {place}" for animal in ("dogs", "geese", "mice") for place in ("woods", "sea")]
    fresh, results = open_rule("nouns"), [None] * 4

    def work(place):
        results[place] = fresh.extract(captions)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [nouns.extract(captions)] * 4


# --- phrases ----------------------------------------------------------------------------------------------


def test_a_phrase_keeps_its_head(phrases):
    caption = "Two  red\ndouble decker buses."
    assert one(phrases, caption) == Noun(
        noun="red double decker buses",
        surface="red\ndouble decker buses",
        start_char=5,
        end_char=28,
        head="buses",
        lemma="red double decker bus",
        tag_pattern="JJ JJ NN NNS",
        abstract=False,
        generic=False,
    )


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a fire hydrant on the street", ["fire hydrant", "street"]),
        ("the man's hat", ["man", "hat"]),
        ("a dog, cat and horse", ["dog", "cat", "horse"]),
        ("several other people", ["people"]),
        ("it is big", []),
    ],
)
def test_phrase_boundaries(caption, expected, phrases):
    assert found(phrases, caption) == expected


def test_phrases_are_those_of_nltks_chunk_grammar(phrases, coco, test_data):
    from nltk import RegexpParser, pos_tag, word_tokenize

    from pipelines.noun_rules.nltk_rules import _QUANTIFIERS

    def retagged(word, tag):
        if not any(map(str.isalpha, word)):
            return word, "SYM"
        return word, "PDT" if word.lower() in _QUANTIFIERS and tag == "JJ" else tag

    chunker = RegexpParser("PHRASE: {<JJ>*<NN.*>+}")
    headlines = (test_data / "cc3m_validation.tsv").read_text(encoding="utf-8").splitlines()
    captions = [*coco[:300], *(row.split("\t")[0] for row in headlines[:300])]
    for caption, of_caption in zip(captions, phrases.extract(captions), strict=True):
        tree = chunker.parse([retagged(*pair) for pair in pos_tag(word_tokenize(caption))])
        wanted = [subtree.leaves() for subtree in tree.subtrees(lambda node: node.label() == "PHRASE")]
        assert [(noun.noun, noun.tag_pattern) for noun in of_caption] == [
            (" ".join(word.lower() for word, _ in phrase), " ".join(tag for _, tag in phrase)) for phrase in wanted
        ]


def test_every_noun_token_is_in_exactly_one_phrase(nouns, phrases, coco):
    for singles, joined in zip(nouns.extract(coco[:300]), phrases.extract(coco[:300]), strict=True):
        for single in singles:
            assert sum(phrase.start_char <= single.start_char < phrase.end_char for phrase in joined) == 1
        assert {phrase.head for phrase in joined} <= {single.noun for single in singles}


# --- lemma and flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("dogs", "dog"),
        ("women", "woman"),
        ("hands", "hand"),
        ("shoes", "shoe"),
        ("clocks", "clock"),
        ("leaves", "leaf"),
        ("woods", "woods"),
        ("pants", "pants"),
        ("species", "species"),
        ("hoodies", "hoodie"),
    ],
)
def test_lemma(plural, singular, senses):
    assert senses.lemma(plural, True) == singular


@pytest.mark.parametrize("word", ["bus", "glass", "lens", "adidas"])
def test_a_singular_keeps_its_form(word, senses):
    assert senses.lemma(word, False) == word


@pytest.mark.parametrize(
    ("words", "abstract"),
    [
        (["baseball"], True),
        (["day"], True),
        (["idea"], True),
        (["love"], True),
        (["event"], True),
        (["sign"], False),
        (["street"], False),
        (["food"], False),
        (["sky"], False),
        (["snow"], False),
        (["person"], False),
        (["xyzzy"], False),
        (["fire"], True),
        (["fire", "hydrant"], False),
        (["red", "fire", "hydrant"], False),
        (["big", "idea"], True),
    ],
)
def test_abstract_is_the_first_sense_of_the_longest_known_tail(words, abstract, senses):
    assert senses.is_abstract(tuple(words)) is abstract


def test_noun_tops_is_read_by_name():
    assert is_abstract_file("noun.Tops", "event")
    assert not is_abstract_file("noun.Tops", "food")


@pytest.mark.parametrize(
    ("lemmas", "generic"),
    [
        (["photo"], True),
        (["lot"], True),
        (["parking", "lot"], False),
        (["close-up", "view"], True),
        (["dog"], False),
    ],
)
def test_generic(lemmas, generic):
    assert is_generic(lemmas) is generic


def test_flags_mark_and_keep(nouns, phrases):
    caption = "A photo of two groups of dogs in a parking lot"
    flagged = {noun.noun: noun.generic for noun in nouns.extract([caption])[0]}
    assert flagged == {"photo": True, "groups": True, "dogs": False, "parking": False, "lot": True}
    assert {noun.noun: noun.generic for noun in phrases.extract([caption])[0]}["parking lot"] is False

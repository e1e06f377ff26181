"""The lexicon rule: no NLTK, no data; what it finds, where, and that its lists hold together."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipelines.noun_rules import Noun, lexicon_words, open_rule
from pipelines.noun_rules.lexicon import Kind, Lexicon, kind_of, settled_kinds, split_words
from pipelines.noun_rules.word_forms import looks_abstract, singular_of

RULE = Lexicon()


def found(caption):
    return [noun.noun for noun in RULE.extract([caption])[0]]


def test_every_field_of_a_noun():
    assert RULE.extract(["Two BIG Dogs"]) == [
        [
            Noun(
                noun="dogs",
                surface="Dogs",
                start_char=8,
                end_char=12,
                head="dogs",
                lemma="dog",
                tag_pattern="NNS",
                abstract=False,
                generic=False,
            )
        ]
    ]


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("A man riding a brown horse on the beach.", ["man", "horse", "beach"]),
        ("A woman rides her bike down a street", ["woman", "bike", "street"]),
        ("People walk on the sidewalk", ["people", "sidewalk"]),
        ("he likes to walk the dog", ["likes", "dog"]),
        ("a walk in the park", ["walk", "park"]),
        ("a red and white bus", ["bus"]),
        ("a woman dressed in red.", ["woman", "red"]),
        ("The dog's bowl isn't full", ["dog", "bowl"]),
        ("she's holding a t-shirt", ["t-shirt"]),
        ("a two-story brick building", ["brick", "building"]),
        ("a double-decker bus", ["bus"]),
        ("the artist 's brush", ["artist", "brush"]),
        ("2 cats, 3rd street; 1950s", ["cats", "street"]),
        ("A beautiful, quickly painted ceiling", ["ceiling"]),
        ("to", []),
    ],
)
def test_nouns(caption, nouns):
    assert found(caption) == nouns


@pytest.mark.parametrize("caption", ["", " ", "...", "\"'", "🙂🙂", "100 %", "\n"])
def test_nothing_without_a_letter_is_a_noun(caption):
    assert found(caption) == []


def test_spans_in_nasty_captions():
    caption = "🐶 “Dog” & naïve café's   chair..."
    nouns = RULE.extract([caption])[0]
    assert [(noun.surface, noun.start_char, noun.end_char) for noun in nouns] == [
        ("Dog", 3, 6),
        ("naïve", 10, 15),
        ("café", 16, 20),
        ("chair", 25, 30),
    ]
    assert all(caption[noun.start_char : noun.end_char] == noun.surface for noun in nouns)


def test_captions_keep_their_order():
    assert [len(nouns) for nouns in RULE.extract(["a dog and a cat", "", "a dog"])] == [2, 0, 1]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("horse", Kind.NOUN),
        ("frisbeeing", Kind.VERB),
        ("ring", Kind.NOUN),
        ("unshaded", Kind.VERB),
        ("seed", Kind.NOUN),
        ("gingerly", Kind.ADVERB),
        ("zealous", Kind.ADJECTIVE),
        ("animal", Kind.NOUN_OR_ADJECTIVE),
        ("walks", Kind.NOUN_OR_VERB_IN_S),
        ("carries", Kind.VERB),
        ("tries", Kind.NOUN_OR_VERB_IN_S),
        ("don't", Kind.AUXILIARY),
        ("42", Kind.DETERMINER),
        ("42nd", Kind.ADJECTIVE),
        (",", Kind.BOUNDARY),
        ("long-haired", Kind.ADJECTIVE),
        ("t-shirt", Kind.COMPOUND),
        ("to", Kind.TO),
    ],
)
def test_kind_of(word, kind):
    assert kind_of(word) is kind


def test_no_kind_with_two_possibilities_is_left():
    caption = "White dogs watch a show in red t-shirt stands, look to play and plays front light"
    left = set(settled_kinds(list(split_words(caption))))
    assert left & {Kind.NOUN_OR_ADJECTIVE, Kind.COMPOUND, Kind.NOUN_OR_VERB, Kind.NOUN_OR_VERB_IN_S} == set()


def test_clitics_are_split_off():
    assert [(word.text, word.kind) for word in split_words("she's the dog’s")] == [
        ("she", Kind.PRONOUN),
        ("'s", Kind.AUXILIARY),
        ("the", Kind.DETERMINER),
        ("dog", Kind.NOUN),
        ("’s", Kind.DETERMINER),
    ]


def test_no_word_stands_in_two_lists():
    lists = [text.split() for name, text in vars(lexicon_words).items() if name.isupper() and name != "LEXICON_VERSION"]
    counted = Counter(word for words in lists for word in words)
    assert [word for word, times in counted.items() if times > 1] == []
    assert all(word == word.lower() for word in counted)
    assert len(counted) > 2000


def test_every_list_is_used():
    source = Path(lexicon_words.__file__).with_name("lexicon.py").read_text(encoding="utf-8")
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert {name for name in vars(lexicon_words) if name.isupper()} <= read


def test_it_needs_no_nltk_and_no_data():
    code = (
        "import sys; sys.modules['nltk'] = None\n"
        "from pipelines.noun_rules import open_rule\n"
        "print([noun.noun for noun in open_rule('lexicon').extract(['a dog on a sofa'])[0]])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['dog', 'sofa']"


def test_fingerprint_changes_with_a_list(monkeypatch):
    from pipelines.noun_rules import lexicon

    before = open_rule("lexicon").fingerprint()
    assert (before["rule"], before["version"]) == ("lexicon", lexicon_words.LEXICON_VERSION)
    changed = dict(lexicon._listed_kinds()) | {"sofa": Kind.VERB}
    monkeypatch.setattr(lexicon, "_listed_kinds", lambda: changed)
    assert open_rule("lexicon").fingerprint()["words_sha256"] != before["words_sha256"]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("brushes", "brush"),
        ("dresses", "dress"),
        ("babies", "baby"),
        ("ties", "tie"),
        ("potatoes", "potato"),
        ("shoes", "shoe"),
        ("firemen", "fireman"),
        ("women", "woman"),
        ("knives", "knife"),
        ("gloves", "glove"),
        ("houses", "house"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("grass", "grass"),
        ("tennis", "tennis"),
        ("jeans", "jeans"),
        ("t-shirts", "t-shirt"),
        ("is", "is"),
        ("s", "s"),
        ("dog", "dog"),
    ],
)
def test_singular_of(plural, singular):
    assert singular_of(plural) == singular


@pytest.mark.parametrize(
    ("noun", "abstract"),
    [
        ("happiness", True),
        ("celebration", True),
        ("friendship", True),
        ("day", True),
        ("station", False),
        ("ship", False),
        ("building", False),
        ("dog", False),
    ],
)
def test_looks_abstract(noun, abstract):
    assert looks_abstract(noun) is abstract
    assert RULE.extract([f"a {noun}"])[0][0].abstract is abstract


def test_generic_list_is_shared():
    assert [noun.generic for noun in RULE.extract(["a view of dogs in groups"])[0]] == [True, False, True]

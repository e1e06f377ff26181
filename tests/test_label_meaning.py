"""Which labels a noun means: by its name, by its head, by WordNet, and by the words of the drawn world."""

import pytest

from pipelines.label_meaning import EQUAL, NOT_MEANT, RELATED, SceneMeaning, WordMeaning

NAMES = (("dog",), ("hot dog",), ("couch", "sofa"), ("person",), ("cell phone",), ("animal",))


def meant(noun, lemma="", senses="used", names=NAMES):
    found = WordMeaning(names, senses).labels_of(noun, lemma or noun)
    return {names[label][0]: int(how) for label, how in enumerate(found) if how}


def test_equal_names_need_no_wordnet():
    assert meant("dog", senses="") == {"dog": EQUAL}
    assert meant("dogs", "dog", senses="") == {"dog": EQUAL}
    assert meant("sofa", senses="") == {"couch": EQUAL}
    assert meant("puppy", senses="") == {}


def test_a_head_counts_only_where_no_label_has_the_whole_name():
    assert meant("brown dog", senses="") == {"dog": EQUAL}
    assert meant("hot dogs", "hot dog", senses="") == {"hot dog": EQUAL}
    assert meant("dog house", senses="") == {}


def test_wordnet_relates_synonyms_and_what_lies_above_or_below(nltk_data):
    assert meant("puppy") == {"dog": RELATED, "animal": RELATED}
    assert meant("dog") == {"dog": EQUAL, "animal": RELATED}
    assert meant("surfers", "surfer") == {"person": RELATED}
    assert meant("cellphone") == {"cell phone": RELATED}
    assert meant("sky") == {}


def test_rare_senses_are_asked_for(nltk_data):
    assert "person" not in meant("dog")
    assert meant("dog", senses="all")["person"] == RELATED


def test_a_noun_is_looked_up_once():
    meaning = WordMeaning(NAMES, "")
    assert meaning.labels_of("dog", "dog") is meaning.labels_of("dog", "dog")


def test_the_rule_says_what_is_done(nltk_data):
    assert "WordNet" not in WordMeaning(NAMES, "").rule
    assert WordMeaning(NAMES, "used").rule.endswith("tagged texts use.")
    assert WordMeaning(NAMES, "all").rule.endswith("all senses of each word count.")


@pytest.mark.parametrize(
    ("noun", "found"), [("red kites", [EQUAL, NOT_MEANT]), ("lawn", [NOT_MEANT, EQUAL]), ("photo", [0, 0])]
)
def test_scenes_have_their_own_words(noun, found):
    assert SceneMeaning((("kite",), ("grass",))).labels_of(noun, noun).tolist() == found

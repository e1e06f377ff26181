"""The tables' tags are NLTK's own: on real captions, on odd ones, in any company, and where two tags tie."""

import threading

import pytest

from benchmarks.caption_parity import read_coco
from pipelines.noun_rules import perceptron_tables

ODD = [
    [],
    ["dog"],
    ["7", "1999", "٣٤٥٦", "3.5", "2nd", "12345"],
    ["-", "--", "-dash", "well-known", "a-", "x-y-z"],
    ["é", "naïve", "犬", "🐕", "\u200b", "İSTANBUL", "straße"],
    ["THE", "QUICK", "BROWN", "FOX", "JUMPS"],
    ["qwxz", "Blorptang", "vrumbling", "unseenly", "zzzs"],
    ["-START-", "-START2-", "-END-", "dog", "-END2-"],
    ["a", "a", "a"],
    [",", ".", "``", "''", "(", "$", "%", "'s"],
    ["the", "man", "rides", "a", "horse"] * 100,
]


@pytest.fixture(scope="module")
def tagger(nltk_data):
    from nltk.tag import PerceptronTagger

    return PerceptronTagger()


@pytest.fixture(scope="module")
def tables(tagger):
    return perceptron_tables.PerceptronTables(tagger)


@pytest.fixture(scope="module")
def sentences(test_data):
    captions = [caption for of_image in read_coco(test_data / "captions_val2017.json") for caption in of_image]
    return [caption.replace(".", " .").split() for caption in captions[::8]]


def nltks(tagger, sentences):
    return [[tag for _, tag in tagger.tag(sentence)] for sentence in sentences]


def test_real_captions(tagger, tables, sentences):
    assert len(sentences) > 3000
    assert tables.tag(sentences) == nltks(tagger, sentences)


def test_odd_sentences(tagger, tables):
    assert tables.tag(ODD) == nltks(tagger, ODD)


def test_no_sentences_have_no_tags(tables):
    assert tables.tag([]) == []


def test_a_sentence_is_tagged_alike_in_any_company(tables, sentences):
    together = tables.tag([*ODD, *sentences[:50]])
    assert together == [tables.tag([sentence])[0] for sentence in [*ODD, *sentences[:50]]]


def test_batches_and_forgotten_words_change_nothing(tagger, sentences, monkeypatch):
    monkeypatch.setattr(perceptron_tables, "TOKENS_PER_BATCH", 40)
    monkeypatch.setattr(perceptron_tables, "MOST_WORDS", 30)
    tables, few = perceptron_tables.PerceptronTables(tagger), sentences[:200]
    for _ in range(2):
        assert tables.tag([*few, *ODD]) == nltks(tagger, [*few, *ODD])


def test_tables_hold_the_words_of_one_batch_beyond_the_most(tagger, monkeypatch):
    monkeypatch.setattr(perceptron_tables, "MOST_WORDS", 50)
    tables = perceptron_tables.PerceptronTables(tagger)
    for start in range(0, 3000, 20):
        tables.tag([[f"word{number}" for number in range(start, start + 20)]])
        assert len(tables._numbers) <= 50 + 20
    assert len(tables._rows_WOC) <= 2 * (50 + 20)


def test_threads_share_the_tables(tagger, sentences):
    tables, results = perceptron_tables.PerceptronTables(tagger), [None] * 4

    def work(place):
        results[place] = tables.tag(sentences[place:400:4])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [nltks(tagger, sentences[place:400:4]) for place in range(4)]


# --- A model that can be read at a glance -----------------------------------------------------------------------


def small_tagger(weights, tagdict=(), classes=("A", "B", "C")):
    from nltk.tag import PerceptronTagger

    tagger = PerceptronTagger(load=False)
    tagger.decode_json_params((weights, dict(tagdict), classes))
    return tagger


def tag(tagger, *words):
    (tags,) = perceptron_tables.PerceptronTables(tagger).tag([words])
    assert tags == [tag for _, tag in tagger.tag(list(words))]
    return tags


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ("bias", "BBB"),
        ("i suffix oes", "BBA"),
        ("i pref1 G", "ABA"),
        ("i word !DIGITS", "AAB"),
        ("i-1 tag A", "ABA"),
        ("i-1 tag -START2-", "AAA"),
        ("i-1 tag -START-", "BAA"),
        ("i-2 tag -START2-", "BAA"),
        ("i-2 tag -START-", "ABA"),
        ("i tag+i-2 tag A A", "AAB"),
        ("i tag+i-2 tag -START- -START2-", "BAA"),
        ("i-1 tag+i word A goes", "ABA"),
        ("i-1 tag+i word -START- does", "BAA"),
        ("i-1 word goes", "AAB"),
        ("i-1 word -START2-", "BAA"),
        ("i-1 suffix oes", "ABB"),
        ("i-2 word -START-", "BAA"),
        ("i-2 word does", "AAB"),
        ("i+1 word goes", "BAA"),
        ("i+1 word -END-", "AAB"),
        ("i+1 suffix ITS", "ABA"),
        ("i+2 word !DIGITS", "BAA"),
        ("i+2 word -END2-", "AAB"),
        ("i word unheard", "AAA"),
    ],
)
def test_each_feature_is_read_where_nltk_reads_it(feature, expected):
    tagger = small_tagger({"bias": {"A": 0.001}} | {feature: {"B": 0.002}})
    assert tag(tagger, "does", "Goes", "7") == list(expected)


def test_the_tag_dictionary_comes_first_and_is_context():
    tagger = small_tagger({"i-1 tag C": {"B": 0.5}, "bias": {"A": 0.1}}, {"dog": "C"})
    assert tag(tagger, "dog", "Dog", "dog", "x") == ["C", "B", "C", "B"]


def test_nltk_decides_where_two_tags_tie(monkeypatch):
    # 0.1 + 0.2 is more than 0.3 as a float, and 300 thousandths either way.
    tagger = small_tagger({"bias": {"A": 0.1, "B": 0.3}, "i suffix dog": {"A": 0.2}})
    asked, predict = [], tagger.model.predict
    tables = perceptron_tables.PerceptronTables(tagger)
    monkeypatch.setattr(tagger.model, "predict", lambda features: asked.append(features) or predict(features))
    assert tables.tag([["cat", "dog", "cat"]]) == [["B", "A", "B"]]
    assert len(asked) == 1
    assert asked[0]["i word dog"] == 1


def test_a_tie_of_all_is_nltks_too():
    assert tag(small_tagger({}), "x", "y") == ["C", "C"]


def test_finer_weights_are_refused():
    with pytest.raises(ValueError, match="wanted weights of three decimals"):
        perceptron_tables.PerceptronTables(small_tagger({"bias": {"A": 0.0005}}))


def test_an_nltk_that_reads_other_features_is_refused(monkeypatch):
    tagger = small_tagger({})
    monkeypatch.setattr(tagger, "_get_features", lambda *arguments: {"bias": 1})
    with pytest.raises(ValueError, match=r"this NLTK reads other features: \['bias'\]"):
        perceptron_tables.PerceptronTables(tagger)

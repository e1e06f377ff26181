"""Captions to NOUNS rows, with a rule that can be read at a glance."""

import pickle

import pytest

from pipelines import extract_nouns as module
from pipelines.extract_nouns import ExtractNouns, extract_nouns, plan_extract_nouns
from pipelines.noun_rules import Noun
from pipelines.write_tables import RunFolder
from schemas import CAPTIONS, UserError, conform_rows


class LongWords:
    """Every word of more than four letters is a noun."""

    name = "long words"
    version = "1"

    def fingerprint(self):
        return {"version": self.version}

    def extract(self, captions):
        return [[self.noun(caption, word) for word in caption.split() if len(word) > 4] for caption in captions]

    def noun(self, caption, word):
        start = caption.index(word)
        return Noun(word.lower(), word, start, start + len(word), word.lower(), word.lower(), "NN", False, True)


def captions(*texts):
    keys = {"image_uri": None, "source_url": None, "licence": None, "safety": None}
    rows = [{"image_id": "a", "caption_index": index, "caption": text, **keys} for index, text in enumerate(texts)]
    return conform_rows(rows, CAPTIONS)


def test_every_caption_has_nouns_or_a_drop():
    output = extract_nouns(captions("A Horse on grass", "it is big", "Trees"), LongWords())
    rows = output.rows.to_pylist()
    assert [
        (row["caption_index"], row["noun"], row["surface"], row["start_char"], row["end_char"]) for row in rows
    ] == [
        (0, "horse", "Horse", 2, 7),
        (0, "grass", "grass", 11, 16),
        (2, "trees", "Trees", 0, 5),
    ]
    assert all(row["generic"] and not row["abstract"] for row in rows)
    assert [(drop["key"], drop["reason"], drop["detail"]) for drop in output.drops] == [
        ("a#1", "no_nouns", "it is big")
    ]
    assert (output.read, output.kept) == (3, 2)


def test_no_captions_are_no_rows():
    output = extract_nouns(captions(), LongWords())
    assert (output.rows.num_rows, output.read, output.kept) == (0, 0, 0)


def test_the_step_is_small_and_knows_what_decides_its_rows():
    step = plan_extract_nouns(RunFolder("/run"), "lexicon")
    assert step.fingerprint()["rule"] == "lexicon"
    assert step.inputs(3)["captions"][1] == "captions/part-00003.parquet"
    assert pickle.loads(pickle.dumps(step)) == step
    assert len(pickle.dumps(step)) < 1000


def test_a_worker_with_other_data_refuses(monkeypatch):
    monkeypatch.setattr(module, "open_once", lambda opener, name: (LongWords(), "data of this worker"))
    wanted = ExtractNouns(RunFolder("/run"), "long words", "data of this worker")
    assert wanted.process(0, {"captions": captions("Horse")}).kept == 1
    other = ExtractNouns(RunFolder("/run"), "long words", "data of the launcher")
    with pytest.raises(UserError, match="this worker has other NLTK data than the machine that started the run"):
        other.process(0, {"captions": captions("Horse")})


def test_an_unknown_rule_is_refused_before_work_starts():
    with pytest.raises(UserError, match="wanted one of nouns, phrases, lexicon"):
        plan_extract_nouns(RunFolder("/run"), "verbs")


def test_steps_of_other_rules_differ():
    steps = [ExtractNouns(RunFolder("/run"), name, f'{{"rule": "{name}"}}') for name in ("a", "b")]
    assert steps[0].fingerprint() != steps[1].fingerprint()

"""Units are a pure function of the input; a part is its own done-marker."""

import hashlib
import json
from dataclasses import dataclass

import pytest

from pipelines.units import (
    MissingPartError,
    StepOutput,
    StepTotals,
    StoredTable,
    Units,
    by_image,
    drop,
    drops_name,
    image_digest,
    make_part,
    part_name,
    read_units,
    stored_part,
    sum_totals,
    unit_count,
    write_output,
)
from pipelines.write_tables import RunFolder, open_run_folder
from schemas import CAPTIONS, NOUNS, conform_rows
from schemas.examples import example_rows


@dataclass(frozen=True)
class FirstWord:
    """A toy step: the first word of every caption; captions that begin with "the" are dropped."""

    run: RunFolder
    calls: list
    version: int = 1
    loses: int = 0
    name: str = "extract_nouns"
    table: str = "nouns"
    counts: str = "captions"

    def fingerprint(self):
        return {"version": self.version}

    def inputs(self, unit):
        return {"captions": (self.run, part_name("captions", unit))}

    def process(self, unit, parts):
        self.calls.append(unit)
        captions = parts["captions"].to_pylist()
        kept = [row for row in captions if not row["caption"].startswith("the")]
        dropped = [row for row in captions if row["caption"].startswith("the")]
        rows = [noun_row(row) for row in kept]
        drops = [drop(self.name, row["image_id"], row["image_id"], "no_nouns", "") for row in dropped[self.loses :]]
        return StepOutput(conform_rows(rows, NOUNS), drops, len(captions), len(kept))


def noun_row(caption):
    word = caption["caption"].split()[0]
    nouns = dict.fromkeys(("noun", "surface", "head", "lemma"), word)
    place = {"start_char": 0, "end_char": len(word), "tag_pattern": "NN", "abstract": False, "generic": False}
    return {"image_id": caption["image_id"], "caption_index": caption["caption_index"], **nouns, **place}


def caption(image_id, text):
    keys = {"image_uri": None, "caption_index": 0, "source_url": None, "licence": None, "safety": None}
    return {"image_id": image_id, "caption": text, **keys}


@pytest.fixture
def run(tmp_path):
    run = open_run_folder(str(tmp_path))
    rows = conform_rows([caption("a", "kite flies"), caption("b", "the end"), caption("c", "dog runs")], CAPTIONS)
    write_output(StoredTable(run, "read_captions", "captions"), 0, StepOutput(rows, [], 3, 3), "input-hash")
    return run


def test_an_images_unit_is_made_of_its_hash():
    digest = int(hashlib.sha256(b"397133").hexdigest()[:16], 16)
    assert image_digest("397133") == digest


@pytest.mark.parametrize(
    ("images", "count"), [(0, 1), (1, 1), (64, 1), (95, 1), (97, 2), (128, 2), (5000, 64), (118287, 2048)]
)
def test_units_hold_about_64_images(images, count):
    assert unit_count(images, 64) == count


def test_a_part_is_made_once_with_its_drops(run):
    step = FirstWord(run, [])
    made = make_part(step, 0)
    assert (made.rows, made.drops_rows, made.was_made) == (2, 1, True)
    assert json.loads(made.totals) == {"read": 3, "kept": 2, "dropped": {"no_nouns": 1}}
    found = make_part(step, 0)
    assert step.calls == [0]
    assert not found.was_made
    assert found._replace(was_made=True, spent=None) == made._replace(spent=None)
    assert run.read_part(part_name("nouns", 0))["noun"].to_pylist() == ["kite", "dog"]
    assert run.read_part(drops_name("extract_nouns", 0))["key"].to_pylist() == ["b"]


def test_a_part_is_made_again_when_the_step_or_its_input_changed(run):
    calls = []
    first = make_part(FirstWord(run, calls), 0)
    assert make_part(FirstWord(run, calls, version=2), 0).sha256 != first.sha256
    rows = run.read_part(part_name("captions", 0))
    write_output(StoredTable(run, "read_captions", "captions"), 0, StepOutput(rows, [], 3, 3), "other-hash")
    make_part(FirstWord(run, calls, version=2), 0)
    assert calls == [0, 0, 0]


def test_a_part_without_its_drops_is_made_again(run):
    step = FirstWord(run, [])
    first = make_part(step, 0)
    run.remove(drops_name("extract_nouns", 0))
    assert make_part(step, 0)._replace(spent=None) == first._replace(spent=None)
    assert step.calls == [0, 0]


def test_a_missing_input_is_named(run):
    with pytest.raises(MissingPartError, match=r"captions/part-00001.parquet is missing; make the captions table"):
        make_part(FirstWord(run, []), 1)


def test_a_lost_record_fails_the_run(run):
    with pytest.raises(RuntimeError, match="extract_nouns, unit 0: read 3, but kept 2 and dropped 0"):
        make_part(FirstWord(run, [], loses=1), 0)
    assert run.names("nouns") == []


def test_a_stored_table_is_only_counted(run):
    stats = stored_part(StoredTable(run, "read_captions", "captions"), 0)
    assert (stats.stage, stats.rows, stats.was_made) == ("read_captions", 3, False)


def test_totals_add_up_in_any_order():
    parts = [StepTotals(3, 2, {"b": 1}), StepTotals(4, 1, {"a": 2, "b": 1}), StepTotals(0, 0, {})]
    assert sum_totals(parts) == sum_totals(parts[::-1]) == StepTotals(7, 3, {"a": 2, "b": 2})


def test_rows_of_an_image_are_cut_out_together():
    rows = example_rows(CAPTIONS, 3)
    doubled = rows.take([0, 0, 1, 2, 2])
    assert [(key, part.num_rows) for key, part in by_image(doubled)] == [
        ("image-0000", 2),
        ("image-0001", 1),
        ("image-0002", 2),
    ]
    assert list(by_image(rows.slice(0, 0))) == []


def test_units_are_saved_and_read(tmp_path):
    run = open_run_folder(str(tmp_path))
    assert read_units(run) is None
    units = Units("hash", 4, 200, "abc", {"captions": ["x.json"]})
    units.save(run)
    assert read_units(run) == units

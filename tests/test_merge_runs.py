"""Merged runs from end to end: whichever comes first, with others' images, and what can be built on them."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter

import duckdb
import fake_mine
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from drawn_pairs import write_run
from fakes import ColourScorer
from run_files import files_of, manifest_of, parts_of

from ovseg_model.pair_files import find_pair_files
from pipelines import match_regions, mine_pairs
from pipelines.command_line import main
from pipelines.merge_runs import summed_vocabulary
from pipelines.units import Units, image_digest
from pipelines.write_tables import RunFolder
from schemas import TABLES, VOCABULARY, conform_rows
from schemas.examples import draw_examples

WHOLE = ("captions", "nouns", "masks", "pairs")


def read(run, table):
    """All rows of a table of a run."""
    return ds.dataset(run / table).to_table().to_pylist()


def ids(run, *columns):
    """Distinct values of some columns of PAIRS."""
    return {tuple(row[name] for name in columns) for row in read(run, "pairs")}


class Mill:
    """Mines and merges below one folder, with models that can be computed by hand."""

    def __init__(self, folder):
        self.folder = folder
        self.drawn = draw_examples(folder / "drawn", images=16, size_px=32)

    def mine(self, name, captions, units, *more, images=None):
        arguments = ["--captions", str(captions), "--images-per-unit", str(units), *fake_mine.MODELS, *more]
        images = ["--images", str(images)] if images else []
        assert main(["mine", *arguments, *images, "--output", str(self.folder / name)]) == 0
        return self.folder / name

    def mine_drawn(self, name, images, units, changed=(), *more):
        """A run of some of the drawn images; their caption number 1 is another text for the images in `changed`."""
        whole = json.loads((self.drawn / "captions.json").read_text())
        rows = [{**row} for row in whole["annotations"] if row["image_id"] in images]
        for row in rows:
            if row["id"] % 5 == 1 and row["image_id"] in changed:
                row["caption"] = "a ball in the sky above the grass"
        entries = [entry for entry in whole["images"] if entry["id"] in images]
        (self.folder / f"{name}.json").write_text(json.dumps({"images": entries, "annotations": rows}))
        return self.mine(name, self.folder / f"{name}.json", units, *more, images=self.drawn / "images")

    def merge(self, name, *runs):
        assert main(["merge", *map(str, runs), "--output", str(self.folder / name)]) == 0
        return self.folder / name


@pytest.fixture(scope="module")
def mill(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        fake_mine.use_fakes(patch.setattr)
        patch.setattr(mine_pairs, "draw_pairs", lambda examples, fetch: b"")
        patch.setattr(mine_pairs, "remember", lambda plan, tables, command: None)  # colours have no weight file
        yield Mill(tmp_path_factory.mktemp("merge"))


@pytest.fixture(scope="module")
def first(mill):
    """Images 0 to 11 in four units."""
    return mill.mine_drawn("first", range(12), 3)


@pytest.fixture(scope="module")
def second(mill):
    """Images 4 to 15 in two units; 4 to 11 have one other caption."""
    return mill.mine_drawn("second", range(4, 16), 6, range(4, 12))


@pytest.fixture(scope="module")
def both(mill, first, second):
    return mill.merge("both", first, second)


def test_the_order_of_the_runs_does_not_matter(mill, first, second, both):
    assert files_of(mill.merge("back", second, first, second)) == files_of(both)


def test_a_run_merged_with_itself_is_itself(mill, first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    itself = mill.merge("itself", first, copy)
    for table in TABLES:
        assert parts_of(itself, table) == parts_of(first, table) != {}
    manifest, before = manifest_of(itself), manifest_of(first)
    assert manifest["tables"] == before["tables"]
    assert manifest["units"] == before["units"]
    rows = before["tables"]["pairs"]["rows"]
    assert manifest["stages"]["merge_runs"]["totals"] == {"read": rows, "kept": rows, "dropped": {}}
    assert {name for name in manifest["stages"] if name not in before["stages"]} == {"merge_runs"}
    (source,) = manifest["sources"]
    assert source["units"] == before["units"]
    assert source["tables"]["pairs"] == {"version": 2, "rows": rows}


def test_a_merged_run_merged_with_itself_keeps_its_drops_and_their_sums(mill, both, tmp_path):
    shutil.copytree(both, tmp_path / "copy")
    itself = manifest_of(mill.merge(tmp_path / "itself", both, tmp_path / "copy"))
    assert itself["tables"] == manifest_of(both)["tables"]
    assert itself["stages"] == manifest_of(both)["stages"]
    assert [source["run_sha256"] for source in itself["sources"]] == [files_of(both)["run.json"]]


def test_the_tables_are_the_union(first, second, both):
    for table, columns in {"captions": ("caption",), "masks": ("mask",), "pairs": ("pair_id",)}.items():
        first_rows, second_rows, rows = (
            {(row["image_id"], *(str(row[name]) for name in columns)) for row in read(run, table)}
            for run in (first, second, both)
        )
        assert rows == first_rows | second_rows
        assert len(rows) == len(read(both, table))
    # Sixteen images of five captions and two halves; eight have a sixth caption.
    assert len(read(both, "captions")) == 16 * 5 + 8
    assert len(read(both, "masks")) == 16 * 2


def test_every_number_leads_to_what_it_names(both):
    texts = {(row["image_id"], row["caption_index"]): row["caption"] for row in read(both, "captions")}
    masks = {(row["image_id"], row["mask_index"]): row["mask"] for row in read(both, "masks")}
    assert {number for image, number in texts if image == "4"} == set(range(6))
    assert {number for image, number in texts if image == "0"} == set(range(5))
    for row in read(both, "nouns"):
        assert texts[row["image_id"], row["caption_index"]][row["start_char"] : row["end_char"]] == row["surface"]
    for row in read(both, "pairs"):
        assert texts[row["image_id"], row["caption_index"]] == row["caption"]
        for each in (row, *row["runner_up_masks"]):
            assert masks[row["image_id"], each["mask_index"]] == each["mask"]


def test_sums_add_up_and_every_drop_is_a_row(first, second, both):
    manifest = manifest_of(both)
    totals = {name: stage["totals"] for name, stage in manifest["stages"].items()}
    assert totals["read_captions"] == {"read": 88, "kept": 88, "dropped": {}}
    assert totals["extract_nouns"]["read"] == 88
    assert totals["propose_masks"] == {"read": 16, "kept": 16, "dropped": {}}
    assert totals["match_regions"]["read"] == manifest["tables"]["nouns"]["rows"]
    read_pairs = sum(manifest_of(run)["tables"]["pairs"]["rows"] for run in (first, second))
    kept = manifest["tables"]["pairs"]["rows"]
    wanted = {"read": read_pairs, "kept": kept, "dropped": {"duplicate_record": read_pairs - kept}}
    assert totals["merge_runs"] == wanted
    assert 0 < kept < read_pairs
    drops = read(both, "drops")
    assert len(drops) == sum(sum(each["dropped"].values()) for each in totals.values())
    lost = {row["key"] for row in drops if row["reason"] == "duplicate_record"}
    assert lost == {row["pair_id"] for row in read(first, "pairs")} & {row["pair_id"] for row in read(second, "pairs")}


def test_the_manifest_says_what_it_was_made_of(first, second, both):
    manifest = manifest_of(both)
    assert manifest["units"]["count"] == 4
    assert manifest["units"]["images"] == 16
    sources = manifest["sources"]
    assert sorted(source["units"]["count"] for source in sources) == [2, 4]
    fingerprint = manifest_of(first)["stages"]["extract_nouns"]["fingerprint"]
    assert manifest["stages"]["extract_nouns"]["fingerprint"] == fingerprint
    merged = manifest["stages"]["read_captions"]["options"]["merged"]
    assert sorted(each["captions"] for each in merged) == sorted(
        source["stages"]["read_captions"]["options"]["captions"] for source in sources
    )


def test_images_lie_in_the_unit_of_their_hash_and_in_order(both):
    for table in WHOLE:
        for unit in range(4):
            images = pq.read_table(both / f"{table}/part-{unit:05d}.parquet")["image_id"].to_pylist()
            assert images == sorted(images)
            assert {image_digest(image) % 4 for image in images} == {unit}


def test_vocabulary_counts_the_union(both):
    nouns = {row["noun"] for row in read(both, "nouns")}
    vocabulary = {row["noun"]: row for row in read(both, "vocabulary")}
    assert vocabulary.keys() == nouns
    images = {(row["noun"], row["image_id"]) for row in read(both, "nouns")}
    assert vocabulary["sky"]["images"] == sum(noun == "sky" for noun, _ in images) == 16
    assert sum(row["pairs"] for row in vocabulary.values()) == len(read(both, "pairs"))


# What is built on a merged run


def test_it_is_read_as_any_run_is(both):
    rows = manifest_of(both)["tables"]["pairs"]["rows"]
    assert [pq.read_metadata(name).num_rows for name in find_pair_files(str(both))] == [
        part["rows"] for part in manifest_of(both)["tables"]["pairs"]["parts"]
    ]
    assert duckdb.sql(f"select count(distinct (image_id, pair_id)) from '{both}/pairs/*.parquet'").fetchall() == [
        (rows,)
    ]


def test_matching_it_again_finds_the_same_pairs_and_leaves_nothing_stale(both, mill, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(both, again)
    assert main(["match", "--device", "cpu", "--runner", "plain", "--output", str(again)]) == 0
    assert ids(again, "pair_id") == ids(both, "pair_id")
    manifest = manifest_of(again)
    assert manifest["sources"] == manifest_of(both)["sources"]
    assert "merge_runs" not in manifest["stages"]
    listed = {part["path"] for table in manifest["tables"].values() for part in table["parts"]}
    assert listed == {name for name in files_of(again) if name.endswith(".parquet")}


def test_its_masks_serve_other_captions(both, mill, first):
    captions = mill.folder / "first.json"
    images = ["--images", str(mill.drawn / "images"), "--nouns", "lexicon", "--device", "cpu", "--runner", "plain"]
    other = ["--masks-from", str(both), "--output", str(mill.folder / "other")]
    assert main(["mine", "--captions", str(captions), *images, *other]) == 0
    assert ids(mill.folder / "other", "pair_id") == ids(first, "pair_id")


def test_a_merged_run_merges_with_its_source(mill, first, both):
    again = mill.merge("with-source", both, first)
    for table in ("masks", "vocabulary"):
        assert read(again, table) == read(both, table)
    # Captions of shared images may be numbered otherwise, since the lowest number of their first run is gone.
    assert ids(again, "pair_id", "image_id") == ids(both, "pair_id", "image_id")
    texts = [sorted((row["image_id"], row["caption"]) for row in read(run, "captions")) for run in (again, both)]
    assert texts[0] == texts[1]


def test_the_same_command_again_is_answered_at_once(both, first, second, capsys):
    before = {path: path.stat().st_mtime_ns for path in both.rglob("*")}
    assert main(["merge", str(second), str(first), "--output", str(both)]) == 0
    assert "is finished: this command made it; nothing was done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in both.rglob("*")} == before


def test_a_report_that_is_missing_is_made_by_the_same_command(both, first, second, mill):
    run = shutil.copytree(both, mill.folder / "without-report")
    (run / "report.html").unlink()
    assert main(["merge", str(first), str(second), "--no-report", "--output", str(run)]) == 0
    assert not (run / "report.html").exists()
    assert main(["merge", str(first), str(second), "--output", str(run)]) == 0
    assert files_of(run) == files_of(both)
    assert (run / "report.html").stat().st_size > 1000


def test_the_union_may_lie_on_any_file_system(both, first, second):
    assert main(["merge", str(first), str(second), "--output", "memory://union"]) == 0
    run = RunFolder("memory://union")
    assert {name: hashlib.sha256(run.read(name)).hexdigest() for name in files_of(both)} == files_of(both)


# Images and scores that disagree


@pytest.fixture(scope="module")
def strangers(mill):
    """Two runs whose 0.png … 9.png are different images, but for 0.png; the second is cut finer."""
    runs = []
    for name, shift, units in (("left", 0, 5), ("right", 100, 2)):
        folder = mill.folder / f"{name}-images"
        folder.mkdir()
        for index in range(10):
            (folder / f"{index}.png").write_bytes(fake_mine.png(index + shift if index else 0))
        rows = [{"image": f"{index}.png", "caption": "a ball in the sky"} for index in range(10)]
        (mill.folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        runs.append(mill.mine(name, mill.folder / f"{name}.jsonl", units, images=folder))
    return runs


def test_one_image_id_for_two_images_becomes_two(mill, strangers):
    merged = mill.merge("strangers", *strangers)
    assert files_of(mill.merge("strangers-back", *strangers[::-1])) == files_of(merged)
    shas = {}
    for run in strangers:
        for row in read(run, "masks"):
            shas.setdefault(row["image_id"], set()).add(row["image_sha256"])
    wanted = {
        (image if len(of_image) == 1 else f"{image}@{sha[:12]}", sha)
        for image, of_image in shas.items()
        for sha in of_image
    }
    assert {(row["image_id"], row["image_sha256"]) for row in read(merged, "masks")} == wanted
    assert len(wanted) == 19
    assert {row["image_id"] for row in read(merged, "captions")} == {image for image, _ in wanted}
    assert ids(merged, "image_id", "image_sha256") == wanted
    assert ids(merged, "pair_id") == ids(strangers[0], "pair_id") | ids(strangers[1], "pair_id")
    count = manifest_of(merged)["units"]["count"]
    for table in WHOLE:
        for unit in range(count):
            images = pq.read_table(merged / f"{table}/part-{unit:05d}.parquet")["image_id"].to_pylist()
            assert {image_digest(image) % count for image in images} <= {unit}


def test_a_run_along_shards_is_cut_by_hash(mill, strangers):
    shard = mill.mine("shard", fake_mine.write_shard(mill.folder / "shard.tar", 7), 2)
    assert manifest_of(shard)["units"]["scheme"] == "shards"
    merged = mill.merge("with-shard", strangers[0], shard)
    manifest = manifest_of(merged)
    assert manifest["units"]["scheme"] == "hash"
    assert manifest["units"]["count"] == 4
    assert manifest["units"]["images"] == 17
    assert ids(merged, "image_id", "pair_id") == ids(strangers[0], "image_id", "pair_id") | ids(
        shard, "image_id", "pair_id"
    )
    assert files_of(mill.merge("with-shard-back", shard, strangers[0])) == files_of(merged)
    assert not list(merged.glob(".spill*"))


def test_of_two_scorers_the_one_that_sorts_first_stays(mill, first, monkeypatch, capsys):
    class Hue(ColourScorer):
        name = "hue"

    @dataclasses.dataclass(frozen=True)
    class HueSpec(fake_mine.ColourScorerSpec):
        def fingerprint(self):
            return {"scorer": "hue"}

    monkeypatch.setattr(fake_mine, "ColourScorerSpec", HueSpec)
    monkeypatch.setattr(match_regions, "open_scorer", lambda spec: Hue())
    other = mill.mine_drawn("hue", range(12), 3)
    merged = mill.merge("scorers", other, first)
    assert {row["scorer"] for row in read(other, "pairs")} == {"hue"}
    assert {row["scorer"] for row in read(merged, "pairs")} == {"colour"}
    drops = [row["detail"] for row in read(merged, "drops") if row["stage"] == "merge_runs"]
    assert len(drops) == len(read(first, "pairs"))
    assert all("by colour on halves; this one was scored by hue" in detail for detail in drops)


# PAIRS alone


@pytest.fixture
def pairs_only(first, second, tmp_path):
    """The PAIRS of both runs as filtered runs have them."""
    return [filtered(run, tmp_path / run.name) for run in (first, second)]


def filtered(run, folder):
    """A run that has PAIRS only: every other of another's."""
    manifest = manifest_of(run)
    parts = [pq.read_table(run / part["path"]).to_pylist()[::2] for part in manifest["tables"]["pairs"]["parts"]]
    write_run(folder, parts)
    Units(**{**manifest["units"], "input_sha256": "0" * 64, "shards": ()}).save(RunFolder(str(folder)))
    return folder


def test_runs_with_pairs_alone_are_joined_by_them(mill, first, pairs_only, tmp_path, capsys):
    merged, back = tmp_path / "merged", tmp_path / "back"
    assert main(["merge", *map(str, pairs_only), "--output", str(merged)]) == 0
    assert main(["merge", *map(str, pairs_only[::-1]), "--output", str(back)]) == 0
    assert files_of(back) == files_of(merged)
    manifest = manifest_of(merged)
    assert set(manifest["tables"]) == {"pairs", "drops", "vocabulary"}
    assert set(manifest["stages"]) == {"merge_runs"}
    assert ids(merged, "pair_id") == ids(pairs_only[0], "pair_id") | ids(pairs_only[1], "pair_id")
    capsys.readouterr()
    captions, out = str(mill.folder / "first.json"), str(tmp_path / "out")
    assert main(["masks", "--captions", captions, "--masks-from", str(merged), "--output", out]) == 2
    assert "there is no finished run with a masks table" in capsys.readouterr().err
    mixed = tmp_path / "mixed"
    assert main(["merge", str(first), str(pairs_only[1]), "--output", str(mixed)]) == 0
    assert f"only PAIRS are joined: {pairs_only[1]} has no captions, masks, nouns" in capsys.readouterr().out
    assert ids(mixed, "pair_id") == ids(first, "pair_id") | ids(pairs_only[1], "pair_id")


def test_vocabularies_add_up_and_a_shared_pair_counts_once():
    def vocabulary(*rows):
        return conform_rows([dict(zip(VOCABULARY.schema.names, row, strict=True)) for row in rows], VOCABULARY)

    first = vocabulary(("dog", 5, 4, 9, 3), ("cat", 2, 2, 2, 2), ("sky", 1, 1, 0, 0))
    second = vocabulary(("cat", 4, 4, 4, 4), ("dog", 1, 1, 1, 1))
    kept = Counter(dog=3, cat=6, day=1)  # one of the four dogs is in both; "day" comes from a run without VOCABULARY
    found = [tuple(row.values()) for row in summed_vocabulary([first, second], kept).to_pylist()]
    assert found == [("cat", 6, 6, 6, 6), ("dog", 6, 5, 9, 3), ("sky", 1, 1, 0, 0), ("day", 0, 0, 1, 1)]


# Merging and filtering


def filter_run(run, folder, *how):
    """The run that `ovseg filter` makes of another."""
    assert main(["filter", str(run), *how, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def third(mill):
    """Images 12 to 15: none of the first run's."""
    return mill.mine_drawn("third", range(12, 16), 2)


@pytest.fixture(scope="module")
def alike(mill):
    """Images 4 to 15 with the captions that the first run has of them."""
    return mill.mine_drawn("alike", range(4, 16), 6)


WHERE = ("--where", "margin > 0.05 and not abstract")


@pytest.mark.parametrize(
    "how", [WHERE, ("--assign", "mutual"), (*WHERE, "--assign", "hungarian")], ids=["where", "mutual", "both"]
)
@pytest.mark.parametrize(("other", "tables"), [("third", ("pairs", "vocabulary")), ("alike", ("pairs",))])
def test_filtering_and_merging_commute(mill, first, other, tables, how, request, tmp_path):
    other = request.getfixturevalue(other)
    late = filter_run(mill.merge(tmp_path / "union", first, other), tmp_path / "late", *how)
    kept = [filter_run(run, tmp_path / f"kept-{number}", *how) for number, run in enumerate((first, other))]
    early = mill.merge(tmp_path / "early", *kept)
    assert 0 < len(read(early, "pairs")) < len(ids(first, "pair_id") | ids(other, "pair_id"))
    for table in tables:
        assert parts_of(early, table) == parts_of(late, table) != {}


def test_a_cap_is_given_last(mill, first, alike, tmp_path):
    cap = ("--cap", "3")
    late = filter_run(mill.merge(tmp_path / "union", first, alike), tmp_path / "late", *cap)
    kept = [filter_run(run, tmp_path / f"kept-{number}", *cap) for number, run in enumerate((first, alike))]
    early = filter_run(mill.merge(tmp_path / "early", *kept), tmp_path / "capped", *cap)
    assert parts_of(early, "pairs") == parts_of(late, "pairs") != {}


# Mistakes


def test_a_users_mistakes_are_sentences(first, second, both, mill, tmp_path, capsys):
    foreign, stopped = tmp_path / "foreign", tmp_path / "stopped"
    for folder in (foreign, stopped):
        shutil.copytree(second, folder)
    (foreign / "run.json").write_text((foreign / "run.json").read_text().replace('"format": 2', '"format": 1'))
    (stopped / "_SUCCESS").unlink()
    out = ["--output", str(tmp_path / "out")]
    cases = {
        "wanted two runs or more to merge, got 1": [first, *out],
        "wanted two runs or more to merge, got 0": out,
        "--output is missing": [first, second],
        "there is no finished run": [first, stopped, *out],
        "run.json is not one of this release": [first, foreign, *out],
        "is one of the runs that are read": [first, second, "--output", first],
        "holds another run": [first, second, "--output", mill.merge("another", both, first)],
        "unrecognized arguments": [first, second, *out, "--assign", "mutual"],
    }
    for sentence, arguments in cases.items():
        assert main(["merge", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_a_sentence_and_the_run_is_not_finished(first, second, tmp_path, capsys):
    shutil.copytree(second, tmp_path / "damaged")
    (tmp_path / "damaged/nouns/part-00000.parquet").write_bytes(b"PAR1 no")
    arguments = ["merge", str(first), str(tmp_path / "damaged"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "nouns/part-00000.parquet: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out/_SUCCESS").exists()
    shutil.copy(second / "nouns/part-00000.parquet", tmp_path / "damaged/nouns/part-00000.parquet")
    assert main(arguments) == 0

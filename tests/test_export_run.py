"""`ovseg export`: what is chosen, dropped, counted and said, whatever the format."""

import json
import os

import fake_mine
import pyarrow.parquet as pq
import pytest
import yaml
from audited_pairs import finished_run
from drawn_pairs import pair_rows, write_run
from run_files import files_of

from pipelines.command_line import main
from pipelines.exports import selected_pairs
from pipelines.exports.card import hub_licence, licence_words, size_category
from pipelines.exports.export_options import FORMATS, ExportOptions
from pipelines.exports.how_made import runs_behind
from schemas import UserError

ROWS = 9


@pytest.fixture
def run(tmp_path):
    """Nine pairs of five images in two parts."""
    rows = pair_rows(tmp_path / "images", ROWS)
    return write_run(tmp_path / "run", [rows[:4], rows[4:]])


def exported(run, output, format_="coco", *more):
    assert main(["export", str(run), "--format", format_, "--output", str(output), *more]) == 0
    return output


def record_of(folder):
    return json.loads((folder / "export.json").read_text())


def drops_of(folder):
    return [row for path in sorted(folder.glob("drops/*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_pair_is_exported_or_dropped(run, tmp_path, format_, capsys):
    out = exported(run, tmp_path / "out", format_, "--where", 'noun in ["ball", "kite"] and cosine > 0.101')
    totals = {"read": 9, "kept": 4, "dropped": {"not_selected": 5}}  # rows 2, 4, 6 and 8
    assert record_of(out)["totals"] == totals
    assert (record_of(out)["images"], record_of(out)["nouns"]) == (4, 2)
    drops = drops_of(out)
    assert [row["stage"] for row in drops] == ["export_pairs"] * 5
    assert {row["detail"] for row in drops} == {'--where noun in ["ball", "kite"] and cosine > 0.101'}
    pairs = [row for part in sorted((run / "pairs").iterdir()) for row in pq.read_table(part).to_pylist()]
    assert {row["key"] for row in drops} == {pairs[index]["pair_id"] for index in (0, 1, 3, 5, 7)}
    assert "9 read" in (said := capsys.readouterr().out)
    assert "not_selected           5" in said


@pytest.mark.parametrize("format_", ["webdataset", "ovseg"])
def test_a_pair_without_pixels_is_dropped_with_its_reason_and_no_folder(run, tmp_path, format_):
    os.unlink(tmp_path / "images/0001.png")
    (tmp_path / "images/0004.png").write_bytes(b"no picture")
    out = exported(run, tmp_path / "out", format_)
    assert record_of(out)["totals"] == {"read": 9, "kept": 6, "dropped": {"image_missing": 2, "image_unreadable": 1}}
    found = {(row["image_id"], row["reason"]): row["detail"] for row in drops_of(out)}
    assert found["0001", "image_missing"].startswith("0001.png: ")
    assert ("0004", "image_unreadable") in found


def test_a_stored_crop_needs_no_image(tmp_path):
    run = write_run(tmp_path / "run", [pair_rows(tmp_path / "images", 2, crops=True)])
    os.unlink(tmp_path / "images/0000.png")
    assert record_of(exported(run, tmp_path / "out", "webdataset"))["totals"]["kept"] == 2


def test_a_changed_image_and_a_bad_mask_are_dropped(tmp_path):
    rows = pair_rows(tmp_path / "images", 4)
    rows[0]["image_sha256"] = rows[1]["image_sha256"] = "0" * 64
    rows[2]["mask"] = {**rows[2]["mask"], "counts": "1"}
    out = exported(write_run(tmp_path / "run", [rows]), tmp_path / "out", "ovseg")
    assert record_of(out)["totals"]["dropped"] == {"bad_annotation": 1, "image_changed": 2}


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_run_gives_the_same_bytes_however_it_is_read(run, tmp_path, format_, monkeypatch):
    first = files_of(exported(run, tmp_path / "first", format_))
    read = selected_pairs.read_rows
    monkeypatch.setattr(selected_pairs, "read_rows", lambda name, columns, where, _: read(name, columns, where, 2))
    assert files_of(exported(run, tmp_path / "second", format_)) == first
    assert len(first) > 2


@pytest.mark.parametrize("format_", FORMATS)
def test_no_file_names_a_folder_of_this_machine(run, tmp_path, format_):
    out = exported(run, tmp_path / "out", format_)
    texts = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert [path for path in texts if str(tmp_path).encode() in path.read_bytes()] == []
    for path in out.glob("data/*.parquet"):
        assert set(pq.read_table(path)["image_uri"].to_pylist()) == {f"{index:04d}.png" for index in range(5)}


def test_uris_are_kept_when_asked_for(run, tmp_path):
    out = exported(run, tmp_path / "out", "datasets", "--uris", "full")
    assert pq.read_table(out / "data")["image_uri"][0].as_py() == str(tmp_path / "images/0000.png")


def test_an_export_from_a_tar_reads_the_members(tmp_path, monkeypatch):
    fake_mine.use_fakes(monkeypatch.setattr)
    shard = fake_mine.write_shard(tmp_path / "shard.tar", 4)
    assert main(fake_mine.arguments(shard, tmp_path / "run", 2)) == 0
    totals = record_of(exported(tmp_path / "run", tmp_path / "out", "webdataset"))["totals"]
    assert totals["kept"] == totals["read"] > 4
    card = (tmp_path / "out/README.md").read_text()
    assert " | propose\\_masks | images | 4 | 4 | 0 | --masks " in card
    assert '"captions": [\n   "shard.tar"\n  ]' in card


def test_the_card_states_sources_licences_and_counts(tmp_path):
    hostile = "<script>|`x`\n# free"
    urls = ["https://a.org/1.jpg", "https://b.org/1.jpg?token=s3cret", None]
    licences = [hostile, "CC-BY 4.0", None]
    columns = {"source_url": lambda index: urls[index % 3], "licence": lambda index: licences[index % 3]}
    rows = pair_rows(tmp_path / "images", ROWS, **columns, noun="ball|[x](y)", safety="nsfw")
    card = (exported(write_run(tmp_path / "run", [rows]), tmp_path / "out", "datasets") / "README.md").read_text()
    assert "| a.org | 3 |\n| b.org | 3 |\n" in card
    assert "| \\(a local file\\) | 3 |" in card or "| (a local file) | 3 |" in card
    assert "| \\<script\\>\\|\\`x\\`\\\\n\\# free | 3 |" in card
    assert "| CC-BY 4.0 | 3 |" in card
    assert "| nsfw | 9 |" in card
    assert "9 pairs of 5 images and 1 nouns" in card
    assert "ball\\|\\[x\\](y) 9" in card
    assert "s3cret" not in card
    assert "<script>" not in card


def test_the_front_matter_is_yaml(run, tmp_path):
    _, front, _ = (exported(run, tmp_path / "out", "datasets") / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["license"] == "unknown"
    assert values["size_categories"] == ["n<1K"]
    assert values["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert values["dataset_info"]["features"][-1] == {"name": "crop_png", "dtype": "image"}
    assert "configs" not in (exported(run, tmp_path / "coco") / "README.md").read_text()


@pytest.mark.parametrize(
    ("licences", "word"),
    [
        ({"": 3}, "unknown"),
        ({}, "unknown"),
        ({"CC BY 2.0": 1}, "cc-by-2.0"),
        ({"http://creativecommons.org/licenses/by-nc-sa/2.0/": 4, "cc-by-nc-sa-2.0": 1}, "cc-by-nc-sa-2.0"),
        ({"MIT": 1}, "mit"),
        ({"mine": 1}, "other"),
        ({"MIT": 1, "": 1}, "other"),
    ],
)
def test_the_hubs_word_for_a_licence(licences, word):
    assert hub_licence(licences) == word


@pytest.mark.parametrize(
    ("rows", "word"), [(999, "n<1K"), (1000, "1K<n<10K"), (440_000, "100K<n<1M"), (10**8, "n>10M")]
)
def test_the_hubs_word_for_a_size(rows, word):
    assert size_category(rows) == word


def test_a_meaningless_run_says_so(tmp_path, capsys):
    run = write_run(tmp_path / "run", [pair_rows(tmp_path / "images", 2, meaningless=True)])
    card = (exported(run, tmp_path / "out", "datasets") / "README.md").read_text()
    assert "**MEANINGLESS**: the scorer of 2 pairs had random weights" in card
    assert '"meaningless"]' in card.split("---\n")[1]
    assert "MEANINGLESS" in capsys.readouterr().out


def test_the_card_names_weights_and_the_runs_behind_the_run(run, tmp_path):
    manifest = json.loads((run / "run.json").read_text())
    weight = {"stage": "match_regions", "name": "/home/ann/clip.pt", "sha256": "ab", "bytes": 3, "licence": "MIT"}
    read = {"counts": "captions", "options": {"captions": ["/home/ann/c.json"]}, "totals": {"read": 5, "kept": 3}}
    read["totals"]["dropped"] = {"no_caption": 2}
    behind = {"run_sha256": "cd" * 32, "stages": {"read_captions": read}, "sources": []}
    (run / "run.json").write_text(json.dumps({**manifest, "weights": [weight], "sources": [behind]}))
    card = (exported(run, tmp_path / "out") / "README.md").read_text()
    assert "| match\\_regions | clip.pt | MIT | ab |" in card
    assert f'"run_sha256": "{"cd" * 32}"' in card
    assert "| cdcdcdcdcdcd | read\\_captions | captions | 5 | 3 | 2 | --captions c.json |" in card
    assert "| cdcdcdcdcdcd | read\\_captions | no\\_caption | 2 | " in card
    assert "/home/ann" not in card


def test_the_card_of_a_merged_run_lists_the_stages_of_all_runs_once(tmp_path):
    rows = [row | {"lemma": row["noun"]} for row in pair_rows(tmp_path / "images", ROWS)]
    first = finished_run(tmp_path / "first", [rows[:6]])
    second = finished_run(tmp_path / "second", [rows[6:]])
    filtered = tmp_path / "filtered"
    assert main(["filter", str(first), "--where", "cosine > 0.1005", "--output", str(filtered), "--no-report"]) == 0
    merged = [str(filtered), str(second), "--output", str(tmp_path / "merged"), "--no-report"]
    assert main(["merge", *merged]) == 0
    card = (exported(tmp_path / "merged", tmp_path / "out", "coco") / "README.md").read_text()
    assert " | filter\\_pairs | pairs | 6 | 5 | 1 | --where 'cosine \\> 0.1005' |" in card
    lines = card[card.index("| run | stage | counts") : card.index("| run | stage | reason")].split("\n")[2:]
    stages = [line.split(" | ")[1:6] for line in lines if line]
    assert stages == [
        ["filter\\_pairs", "pairs", "6", "5", "1"],
        ["merge\\_runs", "pairs", "8", "8", "0"],
        ["export\\_pairs", "pairs", "8", "8", "0"],
    ]


def test_runs_behind_a_run_come_first_and_once():
    bottom = {"run_sha256": "a", "sources": []}
    left, right = {"run_sha256": "b", "sources": [bottom]}, {"run_sha256": "c", "sources": [bottom]}
    top = {"sources": [left, right]}
    assert list(runs_behind("d", top).items()) == [("a", bottom), ("b", left), ("c", right), ("d", top)]


def test_a_licence_that_is_a_number_is_said_to_be_one():
    words = licence_words({"4": 2, "CC0": 1, "": 3})
    assert words == {"4 (a number of the input's own, which does not say what it stands for)": 2, "CC0": 1, "": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--output", "OUT"], "--format is missing; give one of datasets, webdataset, coco, ovseg"),
        (["RUN", "--format", "coco"], "--output is missing"),
        (["--format", "coco", "--output", "OUT"], "RUN is missing"),
        (["nowhere", "--format", "coco", "--output", "OUT"], "nowhere: there is no finished run; mine it first"),
        (["RUN", "--format", "coco", "--output", "s3://bucket/out"], "wanted a local folder"),
        (["RUN", "--format", "coco", "--output", "RUN"], "something is there already, and is not written over"),
        (["RUN", "--format", "coco", "--output", "OUT", "--where", "colour > 1"], "colour"),
        (
            ["RUN", "--format", "coco", "--output", "OUT", "--where", "cosine > 2"],
            "none of the 9 pairs is left (not",
        ),
        (
            ["RUN", "--format", "coco", "--output", "OUT", "--crops"],
            "--crops is an option of --format datasets, not of coco",
        ),
        (["RUN", "--format", "ovseg", "--output", "OUT", "--title", "a"], "wanted a sentence with one {}"),
        (["RUN", "--format", "ovseg", "--output", "OUT", "--side", "-1"], "--side: wanted 0 or more, got -1"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_leaves_nothing(run, tmp_path, arguments, message, capsys):
    places = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    before = sorted(tmp_path.iterdir())
    assert main(["export", *(places.get(each, each) for each in arguments)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["run/export", "run/pairs/a/b", "link/export", "out/../run/export", "by_link/export"])
def test_an_export_inside_its_run_is_refused(run, tmp_path, place, capsys, monkeypatch):
    """By whatever name: relative, by a link to the run, and by a link into it."""
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "by_link").symlink_to(run / "pairs")
    monkeypatch.chdir(tmp_path)
    before = files_of(run)
    for source in ("run", "link"):
        assert main(["export", source, "--format", "coco", "--output", place]) == 2
        assert f"lies inside the run {tmp_path / source}, whose files are all its own" in capsys.readouterr().err
    assert files_of(run) == before


def test_an_export_beside_its_run_may_begin_with_its_name_and_makes_folders(run, tmp_path):
    assert record_of(exported(run, tmp_path / "run-2/new/out"))["totals"]["kept"] == ROWS


def test_the_bar_counts_what_is_read_of_what_there_is(run, tmp_path, capsys):
    exported(run, tmp_path / "out", "coco", "--where", 'noun == "ball"')
    shown = capsys.readouterr().err
    assert "export: 100%" in shown
    assert "9/9" in shown


def test_an_unfinished_run_is_refused(run, tmp_path, capsys):
    (run / "_SUCCESS").unlink()
    assert main(["export", str(run), "--format", "coco", "--output", str(tmp_path / "out")]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_a_damaged_part_leaves_no_half_an_export(run, tmp_path, capsys):
    part = run / "pairs/part-00001.parquet"
    data = bytearray(part.read_bytes())
    data[100:2000] = bytes(1900)
    part.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    assert main(["export", str(run), "--format", "datasets", "--output", str(tmp_path / "out")]) == 2
    assert "part-00001.parquet: cannot be read" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_options_are_stated_by_format():
    assert ExportOptions(format="coco").stated() == {"format": "coco", "where": None, "uris": "public"}
    with pytest.raises(UserError, match="--title is an option of --format ovseg"):
        ExportOptions(format="coco", title="{}")

"""The main job from end to end: every runner, every crash and every detour ends in the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import tiny_clip
from run_files import files_of, made_of, manifest_of, parts_of

from pipelines import mine_pairs
from pipelines.command_line import main
from pipelines.mine_pairs import is_dry_run, sentence_of_worker
from pipelines.write_tables import RunFolder
from schemas import TABLES

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return str(tiny_clip.write_folder(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="session")
def corpus(drawn, clip):
    """The arguments that name input and models; four units of three images."""
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "3"]
    return [*inputs, "--nouns", "lexicon", "--masks", "felzenszwalb", "--clip", clip, "--torch-threads", "1"]


@pytest.fixture(scope="session")
def plain(corpus, tmp_path_factory):
    """The reference run, by plain loops."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert main(["mine", *corpus, "--output", str(run), "--runner", "plain"]) == 0
    return run


def test_the_run_holds_every_table_and_its_sums_add_up(plain):
    manifest = manifest_of(plain)
    assert manifest["units"]["count"] == 4
    assert set(manifest["tables"]) == set(TABLES)
    totals = {stage: facts["totals"] for stage, facts in manifest["stages"].items()}
    assert totals["read_captions"] == {"read": 60, "kept": 60, "dropped": {}}
    assert totals["extract_nouns"]["read"] == 60
    assert totals["propose_masks"] == {"read": 12, "kept": 12, "dropped": {}}
    matched = totals["match_regions"]
    assert matched["read"] == manifest["tables"]["nouns"]["rows"]
    assert matched["kept"] == manifest["tables"]["pairs"]["rows"] > 30
    assert matched["kept"] + sum(matched["dropped"].values()) == matched["read"]
    drops = sum(sum(stage["dropped"].values()) for stage in totals.values())
    assert drops == manifest["tables"]["drops"]["rows"]
    assert (plain / "_SUCCESS").exists()


def test_the_manifest_names_every_part_and_nothing_else(plain):
    listed = {
        part["path"]: part["sha256"] for table in manifest_of(plain)["tables"].values() for part in table["parts"]
    }
    found = {name: sha256 for name, sha256 in files_of(plain).items() if name.endswith(".parquet")}
    assert listed == found


def test_vocabulary_counts_what_the_tables_hold(plain):
    nouns = ds.dataset(plain / "nouns").to_table().to_pandas()
    pairs = ds.dataset(plain / "pairs").to_table(columns=["noun"]).to_pandas()
    vocabulary = ds.dataset(plain / "vocabulary").to_table().to_pandas().set_index("noun")
    assert vocabulary["images"].to_dict() == nouns.groupby("noun")["image_id"].nunique().to_dict()
    assert vocabulary["pairs"].sum() == len(pairs)
    assert vocabulary.loc["kite", "captions"] == len(
        nouns[nouns["noun"] == "kite"].drop_duplicates(["image_id", "caption_index"])
    )


def test_beam_equals_plain_part_by_part(plain, corpus, tmp_path):
    assert main(["mine", *corpus, "--output", str(tmp_path / "run")]) == 0
    assert files_of(tmp_path / "run") == files_of(plain)


def test_beam_may_replay_every_bundle(plain, corpus, tmp_path):
    replay = "--direct_runner_bundle_repeat=1"
    assert main(["mine", *corpus, "--output", str(tmp_path / "run"), "--runner", "FnApiRunner", replay]) == 0
    assert files_of(tmp_path / "run") == files_of(plain)


def test_a_second_command_makes_nothing(plain, corpus, tmp_path):
    shutil.copytree(plain, tmp_path / "run")
    (tmp_path / "run/.submitted.json").unlink()  # so that it looks at every part
    assert main(["mine", *corpus, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    assert set(made_of(tmp_path / "run").values()) == {0}
    assert files_of(tmp_path / "run") == files_of(plain)


def test_a_second_submission_is_answered_before_beam_and_torch_are_imported(plain, corpus):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    code = "import sys; from pipelines.command_line import main; print(main(sys.argv[1:]), *sys.modules)"
    # Whoever runs it, and with whatever of Beam's own, as long as that was understood before.
    command = [sys.executable, "-c", code, "mine", *corpus, "--output", str(plain), "--runner", "FnApiRunner"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "is finished: this command made it; nothing was done" in done.stdout
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert {"torch", "apache_beam", "open_clip", "nltk"} & set(modules) == set()
    assert {path: path.stat().st_mtime_ns for path in plain.rglob("*")} == before


def test_beam_does_not_speak_of_its_own_start_up(drawn, tmp_path):
    inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--nouns", "lexicon"]
    command = [sys.executable, "-m", "pipelines", "nouns", *inputs, "--output", str(tmp_path / "run")]
    done = subprocess.run([*command, "--runner", "FnApiRunner"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_a_dry_run_is_told_from_a_run():
    assert is_dry_run(["--project=p", "--dry_run=True"]) and is_dry_run(["--dry_run"])
    assert not is_dry_run(["--dry_run=False"]) and not is_dry_run([])


def test_a_dry_run_leaves_a_finished_run_and_settles_nothing(plain, corpus, tmp_path, monkeypatch, capsys):
    shutil.copytree(plain, tmp_path / "run")
    hidden = sorted(path.name for path in (tmp_path / "run").glob(".*"))
    with monkeypatch.context() as patch:
        patch.setattr(mine_pairs, "executor", lambda options, beam_arguments: lambda plan: None)
        command = ["mine", *corpus, "--output", str(tmp_path / "run"), "--masks-per-noun", "2"]
        assert main([*command, "--runner", "FnApiRunner", "--dry_run=True"]) == 0
    assert "nothing was submitted" in capsys.readouterr().out
    assert (tmp_path / "run/_SUCCESS").exists()
    assert sorted(path.name for path in (tmp_path / "run").glob(".*")) == hidden
    assert main([*command, "--runner", "plain"]) == 0
    assert made_of(tmp_path / "run")["match_regions"] == 4


def test_only_what_is_missing_or_stale_is_made(plain, corpus, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    (run / "masks/part-00002.parquet").unlink()
    (run / "pairs/part-00001.parquet").unlink()
    assert main(["mine", *corpus, "--output", str(run), "--runner", "plain"]) == 0
    assert made_of(run) == {"read_captions": 0, "extract_nouns": 0, "propose_masks": 1, "match_regions": 1}
    assert files_of(run) == files_of(plain)
    assert main(["mine", *corpus, "--output", str(run), "--runner", "plain", "--masks-per-noun", "2"]) == 0
    assert made_of(run) == {"read_captions": 0, "extract_nouns": 0, "propose_masks": 0, "match_regions": 4}
    assert manifest_of(run)["tables"]["pairs"]["rows"] > manifest_of(plain)["tables"]["pairs"]["rows"]


def test_the_order_of_the_input_does_not_matter(plain, corpus, drawn, tmp_path):
    captions = json.loads((drawn / "captions.json").read_text())
    shuffled = {name: captions[name][::-1] for name in captions}
    (tmp_path / "captions.json").write_text(json.dumps(shuffled))
    arguments = [argument.replace(str(drawn / "captions.json"), str(tmp_path / "captions.json")) for argument in corpus]
    assert main(["mine", *arguments, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    for table in TABLES:
        assert parts_of(tmp_path / "run", table) == parts_of(plain, table)


def test_the_verbs_one_by_one_are_the_composed_run(plain, corpus, drawn, clip, tmp_path):
    run, runner = ["--output", str(tmp_path / "run")], ["--runner", "plain"]
    inputs = corpus[:6]
    assert main(["nouns", *inputs, "--nouns", "lexicon", *run, *runner]) == 0
    assert set(manifest_of(tmp_path / "run")["tables"]) == {"captions", "nouns", "vocabulary", "drops"}
    assert main(["masks", *run, *runner]) == 0
    assert main(["match", "--clip", clip, "--torch-threads", "1", *run, *runner]) == 0
    ours, reference = files_of(tmp_path / "run"), files_of(plain)
    assert {name: ours[name] for name in ours if name.endswith(".parquet")} == {
        name: reference[name] for name in reference if name.endswith(".parquet")
    }
    assert manifest_of(tmp_path / "run")["tables"] == manifest_of(plain)["tables"]


def test_vectors_of_nouns_from_a_cache_change_no_byte(plain, corpus, tmp_path, monkeypatch):
    from ovseg_model import noun_vectors
    from ovseg_model.clip import Clip
    from pipelines import open_models

    monkeypatch.setattr(noun_vectors, "FEWEST_NAMES", 1)
    cached = ["mine", *corpus, "--runner", "plain", "--noun-cache", str(tmp_path / "cache")]
    monkeypatch.setattr(open_models, "_opened", {})
    assert main([*cached, "--output", str(tmp_path / "cold")]) == 0
    monkeypatch.setattr(open_models, "_opened", {})
    monkeypatch.setattr(Clip, "embed_texts", None)
    assert main([*cached, "--output", str(tmp_path / "warm")]) == 0
    assert files_of(tmp_path / "cold") == files_of(tmp_path / "warm") == files_of(plain)


def test_workers_share_vectors_of_nouns_in_the_run_until_it_is_finished(corpus, tmp_path, monkeypatch):
    from ovseg_model import noun_vectors
    from pipelines import open_models

    written, write = [], RunFolder.write

    def noted(run, name, data, durable=True):
        written.append(run.path(name))
        return write(run, name, data, durable)

    monkeypatch.setattr(RunFolder, "write", noted)
    monkeypatch.setattr(noun_vectors, "FEWEST_NAMES", 1)
    monkeypatch.setattr(open_models, "_opened", {})
    assert main(["mine", *corpus, "--runner", "plain", "--output", str(tmp_path / "run")]) == 0
    vectors = [path for path in written if path.endswith(".vectors")]
    assert vectors
    assert all(path.startswith(str(tmp_path / "run" / ".unfinished" / "nouns")) for path in vectors)
    assert not (tmp_path / "run" / ".unfinished").exists()


def test_masks_are_reused_with_other_captions(plain, drawn, clip, tmp_path, capsys):
    rows = [{"image_id": str(image), "image": f"{image:05d}.png", "caption": "a small kite"} for image in (1, 5, 77)]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    inputs = ["--captions", str(tmp_path / "new.jsonl"), "--images", str(drawn / "images"), "--masks-from", str(plain)]
    models = ["--nouns", "lexicon", "--clip", clip, "--runner", "plain"]
    assert main(["mine", *inputs, *models, "--output", str(tmp_path / "run")]) == 0
    manifest = manifest_of(tmp_path / "run")
    assert manifest["units"]["count"] == 4
    assert manifest["stages"]["propose_masks"]["totals"] == {"read": 3, "kept": 2, "dropped": {"no_masks": 1}}
    masks = ds.dataset(tmp_path / "run/masks").to_table().to_pandas()
    stored = ds.dataset(plain / "masks").to_table().to_pandas()
    assert set(masks["image_id"]) == {"1", "5"}
    assert len(masks) == len(stored[stored["image_id"].isin(["1", "5"])])
    capsys.readouterr()
    assert main(["mine", *inputs, *models, "--propose-missing", "--output", str(tmp_path / "run2")]) == 0
    assert manifest_of(tmp_path / "run2")["stages"]["propose_masks"]["totals"]["dropped"] == {"image_missing": 1}
    assert "image_missing" in capsys.readouterr().out


def test_masks_that_exist_already_are_used(corpus, drawn, tmp_path):
    arguments = [*corpus, "--masks", "annotations", "--mask-option", f"source={drawn / 'instances.json'}"]
    assert main(["mine", *arguments, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    assert manifest_of(tmp_path / "run")["tables"]["masks"]["rows"] == 24


@pytest.mark.parametrize(("table", "parts", "runner"), [("masks", 2, "FnApiRunner"), ("pairs", 1, "plain")])
def test_kill_9_and_the_same_command_again_end_in_the_same_bytes(plain, corpus, tmp_path, table, parts, runner):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pipelines", "mine", *corpus, "--output", str(run), "--runner", runner]
    # No source of __pycache__ or cwd may matter: the command runs elsewhere.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(run.glob(f"{table}/part-*"))) >= parts, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survivors = {path: path.stat().st_mtime_ns for path in run.glob("*/part-*.parquet")}
    assert not (run / "_SUCCESS").exists()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert files_of(run) == files_of(plain)
    # A part whose drops were being written when the kill came is the only one that may be made twice.
    rewritten = [path for path, modified in survivors.items() if path.stat().st_mtime_ns != modified]
    assert [path for path in rewritten if path.parent.name in ("captions", "nouns", "masks", "pairs")] == []


def wait_for(condition, process, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)


def test_another_input_in_the_same_folder_is_refused(plain, corpus, drawn, capsys):
    before = files_of(plain)
    changed = [*corpus, "--captions-per-image", "1", "--output", str(plain), "--runner", "plain"]
    assert main(["mine", *changed]) == 2
    assert "holds a run of another input (12 images in 4 units)" in capsys.readouterr().err
    assert files_of(plain) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "--output is missing"),
        (["mine", "--output", "RUN"], "holds no captions yet; name them with --captions"),
        (["mine", "--output", "RUN", "--cpations", "x"], "--cpations is no option of ovseg mine, nor of Beam; did you"),
        (["nouns", "--output", "RUN", "--runner", "plain", "--direct_num_workers=2"], "is no option of ovseg nouns;"),
        (["mine", "--output", "RUN", "--region-batch", "-1"], "--region-batch: wanted 0 or more, got -1"),
        (["mine", "--output", "RUN", "--propose-missing"], "--propose-missing goes with --masks-from"),
        (["mine", "--output", "RUN", "--mask-option", "max_masks"], "--mask-option max_masks: wanted NAME=VALUE"),
        (["mine", "--output", "RUN", "--masks", "sma"], "sma"),
        (["mine", "--output", "RUN", "--masks-from", "NONE"], "there is no finished run with a masks table"),
        (["match", "--output", "RUN", "--clip", "ViT-B-32/random"], "has no finished nouns table; run `ovseg nouns"),
        (["mine", "--output", "RUN", "--runner", "plane"], "--runner plane: did you mean plain?"),
        (["mine", "--output", "RUN", "--precision", "fp8"], "argument --precision: invalid choice: 'fp8'"),
        (["nouns", "--captions", "NONE", "--output", "RUN"], "nothing matches"),
        (["nouns", "--output", "/dev/null/run"], "/dev/null is no folder that can be written to"),
        (["dig"], "there is no such verb; wanted one of mine"),
        (["mien"], "did you mean mine?"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, message, tmp_path, clip, capsys):
    places = {"RUN": str(tmp_path / "run"), "NONE": str(tmp_path / "none")}
    arguments = [places.get(argument, argument) for argument in arguments]
    if arguments[0] == "mine" and "--output" in arguments:
        arguments += ["--nouns", "lexicon", "--clip", clip]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("UserError: no room [while running 'MakePart']", "no room"),
        ("schemas.errors.UserError: no room", "no room"),
        (
            "RuntimeError: Traceback\n  raise UserError(x)\nschemas.errors.UserError: no room [while running 'X']\n",
            "no room",
        ),
        ("RuntimeError: pipelines.units.MissingPartError: part is missing [while running 'X']", "part is missing"),
        ("RuntimeError: OSError: no room [while running 'X']", None),
    ],
)
def test_the_sentence_of_a_worker_is_found_in_what_beam_raises(text, sentence):
    assert sentence_of_worker(text) == sentence


def test_a_lost_captions_part_is_made_again(plain, corpus, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    (run / "captions/part-00002.parquet").unlink()
    assert main(["mine", *corpus, "--output", str(run), "--runner", "plain"]) == 0
    assert files_of(run) == files_of(plain)


def test_an_input_inside_the_run_is_refused_and_kept(tmp_path, capsys):
    path = tmp_path / "captions" / "part-00000.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"image": "a.png", "caption": "a kite"}))
    assert main(["nouns", "--nouns", "lexicon", "--captions", str(path), "--output", str(tmp_path)]) == 2
    assert "lies in --output" in capsys.readouterr().err
    assert path.exists()


def test_nothing_builds_on_a_verb_that_was_stopped(plain, clip, tmp_path, capsys):
    shutil.copytree(plain, tmp_path / "run")
    (tmp_path / "run/_SUCCESS").unlink()
    assert main(["match", "--clip", clip, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 2
    assert "or again if it was stopped" in capsys.readouterr().err


def test_pairs_of_other_nouns_do_not_stay_behind(plain, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    module = tmp_path / "halves.py"
    module.write_text("from fakes import HalvesGenerator\n\n\ndef make():\n    return HalvesGenerator()\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert main(["masks", "--masks", "halves:make", "--output", str(run), "--runner", "plain"]) == 0
    finally:
        sys.path.remove(str(tmp_path))
    assert "masks: made before with other generator" in capsys.readouterr().err
    assert not list(run.glob("pairs/*"))
    assert not (run / "examples.png").exists()
    assert set(manifest_of(run)["tables"]) == {"captions", "nouns", "masks", "vocabulary", "drops"}
    assert {part["path"] for part in manifest_of(run)["tables"]["drops"]["parts"]} == {
        f"drops/{path.name}" for path in run.glob("drops/*.parquet")
    }


def test_a_stage_that_keeps_nothing_is_said(corpus, tmp_path, capsys):
    wrong = [*corpus, "--images", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run"), "--runner", "plain"]
    assert main(["mine", *wrong]) == 1
    assert "propose_masks kept nothing (12 image_missing)" in capsys.readouterr().err
    assert manifest_of(tmp_path / "run")["tables"]["pairs"]["rows"] == 0


def test_match_wants_its_tables_first(plain, corpus, clip, tmp_path, capsys):
    assert (
        main(["nouns", *corpus[:6], "--nouns", "lexicon", "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    )
    assert main(["match", "--clip", clip, "--output", str(tmp_path / "run"), "--runner", "plain"]) == 2
    assert "has no finished masks table; run `ovseg masks --output" in capsys.readouterr().err


def test_random_weights_mark_every_output(corpus, tmp_path, capsys, monkeypatch):
    arguments = [
        "mine",
        *corpus,
        "--clip",
        "ViT-S-32-alt/random",
        "--output",
        str(tmp_path / "run"),
        "--runner",
        "plain",
    ]
    assert main(arguments) == 0
    assert "MEANINGLESS" in capsys.readouterr().out
    assert manifest_of(tmp_path / "run")["meaningless"] is True
    assert set(ds.dataset(tmp_path / "run/pairs").to_table(columns=["meaningless"])["meaningless"].to_pylist()) == {
        True
    }


def test_the_shipped_clip_says_before_and_after_what_it_knows(corpus, tmp_path, capsys):
    assert main(["mine", *corpus, "--clip", "scenes", "--output", str(tmp_path / "run"), "--runner", "plain"]) == 0
    printed = capsys.readouterr()
    for text in (printed.err, printed.out):
        assert "knows the drawn world of `ovseg draw-scenes` only" in text
        assert "photographs give --clip ViT-B-16/openai" in text
    assert manifest_of(tmp_path / "run")["meaningless"] is False
    assert set(ds.dataset(tmp_path / "run/pairs").to_table(columns=["scorer"])["scorer"].to_pylist()) == {"scenes"}

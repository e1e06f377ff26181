"""A corpus in, a finetuned CLIP with its accuracy before and after out, by three commands that stand alone."""

import json
import shutil

import pytest

from pipelines.command_line import main as ovseg
from pipelines.filter_pairs import parse
from pipelines.retrain import RetrainOptions as Options
from pipelines.retrain import main, stages, words
from schemas import UserError

ARGUMENTS = ["retrain", "--captions", "new.json", "--eval-set", "scenes", "--init", "a.pt"]
ENOUGH = ["--captions", "a", "--output", "x", "--eval-set", "none"]


class Verbs:
    """Stands in for `ovseg`: notes what runs, and writes what the page is made of."""

    def __init__(self, root, fails_at=None):
        self.root, self.fails_at, self.ran = root, fails_at, []

    def __call__(self, argv):
        self.ran.append(argv[0])
        if argv[0] == self.fails_at:
            return 1
        folder = self.root / {"mine": "mined", "filter": "selected", "finetune": "adapted"}[argv[0]]
        folder.mkdir(parents=True, exist_ok=True)
        totals = {"read": 1200, "kept": 1000, "dropped": {"no_nouns": 200}}
        stage = {"mine": "extract_nouns", "filter": "filter_pairs"}.get(argv[0])
        if stage:
            manifest = {"stages": {stage: {"counts": "captions", "totals": totals}}}
            (folder / "run.json").write_text(json.dumps(manifest))
        else:
            rows = [{"step": 0, "region_top1": 0.5}, {"step": 5, "region_top1": 0.625}]
            (folder / "result.json").write_text(json.dumps({"accuracy": rows}))
        return 0


def test_each_stage_is_a_command_of_its_own():
    options = Options(
        captions=("a.json", "b.json"),
        masks_from="old run",
        init="round1.safetensors",
        output="out",
        cap=100,
        eval_set="scenes",
        mine="--nouns lexicon",
        filter="--near-duplicate-images 6",
        finetune='--where "x y" --epochs 1',
    )
    mine, select, finetune = (stage.argv for stage in stages(options))
    assert mine == [
        *("mine", "--captions", "a.json", "b.json", "--masks-from", "old run", "--clip", "round1.safetensors"),
        *("--output", "out/mined", "--nouns", "lexicon"),
    ]
    assert select == [
        *("filter", "out/mined", "--where", "not abstract and not generic", "--cap", "100"),
        *("--output", "out/selected", "--near-duplicate-images", "6"),
    ]
    assert finetune == [
        *("finetune", "--pairs", "out/selected", "--clip", "round1.safetensors", "--output", "out/adapted"),
        *("--eval-set", "scenes", "--eval-images", "500", "--where", "x y", "--epochs", "1"),
    ]
    assert stages(options)[0].text().startswith("ovseg mine --captions a.json b.json --masks-from 'old run'")


@pytest.mark.parametrize(("cap", "given"), [(0, []), (3, ["--cap", "3"])])
def test_a_cap_of_0_takes_all_in_both_verbs(cap, given):
    select = stages(Options(captions=("a",), output="out", cap=cap, eval_set="none"))[1].argv
    assert [each for each in select if each in ("--cap", "3")] == given
    assert parse(select).criteria.options.cap == parse([*select, "--cap", str(cap)]).criteria.options.cap == cap


def test_another_clip_may_match_than_the_one_that_is_adapted():
    options = Options(captions=("a",), init="a.pt", clip="b.pt", output="out", eval_set="none")
    mine, _, finetune = (stage.argv for stage in stages(options))
    assert mine[mine.index("--clip") + 1] == "b.pt"
    assert finetune[finetune.index("--clip") + 1] == "a.pt"
    assert "--eval-set" not in finetune


def test_the_page_shows_commands_yields_and_accuracies(tmp_path, capsys):
    verbs = Verbs(tmp_path)
    assert main([*ARGUMENTS, "--output", str(tmp_path)], verbs) == 0
    assert verbs.ran == ["mine", "filter", "finetune"]
    page = (tmp_path / "retrained.md").read_text()
    assert page in capsys.readouterr().out
    assert "| region_top1 | 0.500 | 0.625 | +0.125 |" in page
    assert "| mined | extract_nouns | 1,200 | 1,000 | captions |" in page
    assert f"ovseg filter {tmp_path}/mined --where 'not abstract and not generic'" in page


def test_a_stage_that_fails_stops_the_others(tmp_path):
    verbs = Verbs(tmp_path, fails_at="filter")
    with pytest.raises(UserError, match="stopped at 2 of 3, exit status 1: ovseg filter"):
        main([*ARGUMENTS, "--output", str(tmp_path)], verbs)
    assert verbs.ran == ["mine", "filter"]
    assert not (tmp_path / "retrained.md").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "x"], "--captions is missing"),
        (["--captions", "a"], "--output is missing: wanted a local folder"),
        (["--captions", "a", "--output", "s3://b/c"], "--output s3://b/c: wanted a local folder"),
        (["--captions", "a", "--output", "x"], "--eval-set is missing: .* or none"),
        ([*ENOUGH, "--cap", "-1"], "--cap: wanted 0 or more, got -1"),
        ([*ENOUGH, "--mine", "--noun lexicon"], "--noun is no option of ovseg mine"),
        ([*ENOUGH, "--where", "cosine >"], "is no condition"),
        ([*ENOUGH, "--filter", "--near-duplicate-images 17"], "--near-duplicate-images: wanted 0 to 16 bits, got 17"),
        ([*ENOUGH, "--filter", "--exclude-images nowhere.parquet"], "nowhere.parquet: cannot be read"),
        ([*ENOUGH, "--finetune", "--epoks 1"], "unrecognized arguments: --epoks 1; did you mean --epochs"),
        ([*ENOUGH[:-1], "nowhere.d"], "nowhere.d"),
    ],
)
def test_what_is_missing_is_said_before_any_work(arguments, sentence, tmp_path):
    verbs = Verbs(tmp_path)
    with pytest.raises(UserError, match=sentence):
        main(["retrain", *arguments], verbs)
    assert not verbs.ran


def test_an_open_quote_is_a_sentence():
    with pytest.raises(UserError, match="--mine '--nouns \"x': no closing quotation; wanted options as they are typed"):
        words("mine", '--nouns "x')


def test_captions_to_adapted_clip_and_a_second_round(tmp_path):
    """Everything as a user gives it: masks of an earlier run, then a round with the CLIP of the first."""
    scenes, masks = tmp_path / "scenes", tmp_path / "masks"
    assert ovseg(["draw-scenes", "--output", str(scenes), "--scenes", "8"]) == 0
    data = ["--captions", str(scenes / "captions.json"), "--images", str(scenes / "images")]
    felzenszwalb = ["--masks", "felzenszwalb", "--mask-option", "min_area_fraction=0.01"]
    assert ovseg(["masks", *data, *felzenszwalb, "--runner", "plain", "--no-report", "--output", str(masks)]) == 0

    def retrain(name, *more):
        return ovseg(
            [
                *("retrain", *data, "--masks-from", str(masks), "--output", str(tmp_path / name), *more),
                *("--eval-set", "scenes", "--eval-images", "4", "--assign", "mutual"),
                *("--mine", "--nouns lexicon --runner plain --no-report"),
                *("--finetune", "--mode prompt --epochs 1 --batch 8 --warmup 1 --workers 0"),
            ]
        )

    assert retrain("first", "--init", "scenes") == 0
    page, adapted = (tmp_path / "first/retrained.md").read_text(), tmp_path / "first/adapted/adapted.safetensors"
    assert "| mined | propose_masks | 8 | 8 | images |" in page
    assert "| region_top1 |" in page
    # A stage that is lost is made again by the same command; those before it are found done.
    before = adapted.read_bytes()
    shutil.rmtree(adapted.parent)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*.parquet")}
    assert retrain("first", "--init", "scenes") == 0
    assert adapted.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert (tmp_path / "first/retrained.md").read_text() == page

    assert retrain("second", "--init", "scenes", "--clip", str(adapted)) == 0
    first, second = (json.loads((tmp_path / each / "mined/run.json").read_text()) for each in ("first", "second"))
    assert [each["sha256"] for each in second["weights"]] != [each["sha256"] for each in first["weights"]]
    assert second["tables"]["masks"] == first["tables"]["masks"]


def test_other_choices_in_the_same_folder_say_what_may_stay(tmp_path):
    def refuses(argv):
        if argv[0] == "filter":
            raise UserError(f"--output {tmp_path}/selected holds another run")
        return 0

    with pytest.raises(UserError, match=r"holds another run. What was mined may stay: .*/selected and .*/adapted$"):
        main([*ARGUMENTS, "--output", str(tmp_path)], refuses)

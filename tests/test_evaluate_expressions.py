"""`ovseg evaluate` of expressions: three masks, vectors given by hand, numbers worked out from areas."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import unit_rows
from PIL import Image
from test_referring import IMAGE, REFERENCES, reference, square, write_reasonseg, write_refer

from ovseg_model.datasets.referring import ReferringSample
from ovseg_model.proposals import MaskProposals
from ovseg_model.proposals.soft import HardProposals
from ovseg_model.rank_agreement import CropAgreement
from ovseg_model.rle import encode_masks
from pipelines import evaluate_expressions
from pipelines.command_line import main
from pipelines.evaluate_expressions import Answering, choose, one_prompt
from pipelines.expression_report import Answered, how_answered, how_asked, mask_map, score_answer, sum_of
from pipelines.open_segmenter import ModelOptions, Models

TEXTS = {"left man": (1, 0, 0), "man in the corner": (0, 1, 0), "edge": (0.6, 0.8, 0), "others": (1, 1, 1)}


FINGERPRINT = {"proposals": {"generator": "three"}, "clip": {"name": "axes"}, "templates": ["{}"]}


class ThreeMasks:
    """The square of rows and columns 1 and 2; the first two columns; the sixth."""

    name, batch_size = "three", 1

    def __init__(self):
        self.asked, self.fails = [], False

    def propose(self, images):
        (image,) = images
        self.asked.append(image.image_id)
        if self.fails:
            raise ValueError("no luck")
        masks = np.zeros((3, *image.pixels_HW3.shape[:2]), bool)
        masks[0, 1:3, 1:3] = masks[1, :, :2] = masks[2, :, 5:] = True
        return [MaskProposals(encode_masks(masks))]


class AxisRegions:
    """Vectors of the three masks: one axis each."""

    clip = SimpleNamespace(weights=SimpleNamespace(meaningless=False))

    def embed(self, images):
        return [np.eye(3, dtype=np.float32)[: sum(map(len, chunks))] for _, chunks in images]


class GivenTexts:
    """Vectors of expressions, by hand."""

    def embed(self, texts):
        return unit_rows([TEXTS.get(text, (0, 0, 1)) for text in texts])


@pytest.fixture
def generator(monkeypatch):
    """The three masks and their vectors, as the models that are opened."""
    generator = ThreeMasks()
    models = Models(HardProposals(generator), AxisRegions(), GivenTexts(), FINGERPRINT)
    monkeypatch.setattr(evaluate_expressions, "open_models", lambda options, work_folder: models)
    return generator


def evaluate(benchmark, root, output, *arguments):
    return main(["evaluate", "--benchmark", benchmark, "--root", str(root), "--output", str(output), *arguments])


def result(folder):
    return json.loads((folder / "result.json").read_text())


class OtherAxes(AxisRegions):
    """The first two masks have changed places."""

    def embed(self, images):
        return [vectors[[1, 0, 2]] for vectors in super().embed(images)]


def test_one_pass_says_how_far_it_agrees_with_crops(tmp_path, monkeypatch):
    agreement = CropAgreement(OtherAxes())
    models = Models(HardProposals(ThreeMasks()), AxisRegions(), GivenTexts(), FINGERPRINT, agreement)
    monkeypatch.setattr(evaluate_expressions, "open_models", lambda options, work_folder: models)
    assert evaluate("refcoco:testA", write_refer(tmp_path / "data"), tmp_path / "out") == 0
    # Of ranks 0 1 2 the first two change places: 1 - 6 * 2 / 24; "man in the corner", 1 0 2, becomes 0 1 2: the same.
    assert json.loads((tmp_path / "out/agreement.json").read_text()) == {
        "agreement_images": 1,
        "agreement_nouns": 3,
        "agreement_top1": 0,
        "agreement_spearman_millionths": 1_500_000,
    }
    sentence = "one pass beside crops, 3 expressions of 1 images: same best mask 0%, rank correlation over masks 0.50"
    assert result(tmp_path / "out")["protocol"][-1] == sentence


def test_the_best_proposal_answers(tmp_path, generator, capsys):
    # left man: the square, 4 of 4 px. The corner: two columns against the square, 2 of 10. Edge: against one, 4 of 8.
    root = write_refer(tmp_path / "data")
    assert evaluate("refcoco:testA", root, tmp_path / "out") == 0
    found = result(tmp_path / "out")
    assert found["numbers"] == {
        "all": pytest.approx(
            {
                "samples": 3,
                "ciou": 10 / 22,
                "giou": 1.7 / 3,
                "p_at_05": 2 / 3,
                "p_at_06": 1 / 3,
                "p_at_07": 1 / 3,
                "p_at_08": 1 / 3,
                "p_at_09": 1 / 3,
            }
        )
    }
    assert found["failed"] == 0
    made_by = {name: found["made_by"][name] for name in ("benchmark", "split", "answer", "union_threshold", "limit")}
    assert made_by == {"benchmark": "refcoco", "split": "testA", "answer": "best", "union_threshold": None, "limit": 0}
    assert json.loads((tmp_path / "out/drops.json").read_text()) == []
    assert generator.asked == [IMAGE]  # once for three expressions
    text = capsys.readouterr().out
    assert text.startswith("RefCOCO testA has 5657 expressions, here are 3: the numbers compare with no published ones")
    assert (
        "RefCOCO, split testA\nmasks three, mask threshold 0.4, CLIP axes alone, template '{}'\n"
        "test resolution: the image's own size\n"
        "The expression is one prompt; the answer is the single proposal of highest cosine.\n"
    ) in text
    assert "union of proposals" not in text
    assert [line for line in text.splitlines() if line in found["protocol"]] == found["protocol"]
    assert "\nall                    3   45.45   56.67   66.67\n" in text


@pytest.mark.parametrize(
    ("threshold", "ciou", "giou", "hits"),
    # Edge is likelier than others on both masks, by 1 and by .9: their union has 4 of 10 px, the likelier alone 4 of 8.
    [("0.5", 10 / 24, 1.6 / 3, 1 / 3), ("0.95", 10 / 22, 1.7 / 3, 2 / 3)],
)
def test_all_proposals_above_the_threshold_answer(tmp_path, generator, threshold, ciou, giou, hits):
    root = write_refer(tmp_path / "data")
    assert evaluate("refcoco:testA", root, tmp_path / "out", "--answer", "union", "--union-threshold", threshold) == 0
    found = result(tmp_path / "out")
    numbers = found["numbers"]["all"]
    assert (numbers["ciou"], numbers["giou"], numbers["p_at_05"]) == pytest.approx((ciou, giou, hits))
    assert found["made_by"]["union_threshold"] == float(threshold)


def test_an_expression_is_one_prompt_unless_templates_are_given():
    options = ModelOptions()
    assert one_prompt(options, {"clip"}).templates == "{}"
    assert one_prompt(options, {"templates"}).templates == "vild"
    made_by = {"answer": "union", "union_threshold": 0.25, "chosen": "not tuned"}
    assert how_answered(made_by).endswith('of proposals whose probability against "others" is above 0.25 (not tuned)')
    assert how_asked(["a {}", "the {}"]) == "The expression is put into 2 prompts, whose vectors are averaged"


def test_the_threshold_of_a_union_is_chosen_on_another_split(tmp_path, generator, capsys):
    # Of testA's expressions "edge" has one mask at .95, IoU 4/8, and both below, 4/10.
    root, out = write_refer(tmp_path / "data"), tmp_path / "out"
    tuning = ("--answer", "union", "--tune-on", "testA")
    assert evaluate("refcoco:val", root, out, *tuning) == 0
    stored = json.loads((out / "tuning.json").read_text())
    assert len(stored["tried"]) == 18
    by_threshold = dict(stored["tried"])
    assert by_threshold[0.5] == pytest.approx(1.6 / 3)
    assert by_threshold[0.95] == pytest.approx(1.7 / 3)
    best = max(by_threshold.values())
    assert stored["tried"][0] == [min(each for each, giou in by_threshold.items() if giou == best), best]
    found = result(out)["made_by"]
    assert found["union_threshold"] == stored["tried"][0][0]
    assert found["chosen"] == "the best of 18 on 3 expressions of testA, by gIoU (0.5667 there)"
    assert f"is above {found['union_threshold']:g} (the best of 18 on 3" in capsys.readouterr().out
    asked = list(generator.asked)
    assert evaluate("refcoco:val", root, out, *tuning) == 0  # neither searched nor answered again
    assert generator.asked == asked
    assert evaluate("refcoco:testA", root, tmp_path / "other", *tuning) == 2
    assert "--tune-on testA: is the split that is reported" in capsys.readouterr().err


def test_the_threshold_is_strict_and_margins_may_be_large():
    vectors, texts = np.eye(3, dtype=np.float32), unit_rows([(1, 0, 0), (-1, 0, 0)])
    others = unit_rows([(0, 1, 0)])[0]

    def chosen(answer, threshold):
        return choose(vectors, texts, others, Answering(answer, threshold, 0.4)).tolist()

    # Margins of the first text: 100, -100, 0; of the second: -100, -100, 0.
    assert chosen("union", 0.5) == [[True, False, False], [False, False, False]]
    assert chosen("union", 0.49) == [[True, False, True], [False, False, True]]
    assert chosen("union", 1.0) == [[False] * 3] * 2
    assert chosen("best", 0.5) == [[True, False, False], [False, True, False]]
    assert choose(vectors[:0], texts, others, Answering("best", 0.5, 0.4)).shape == (2, 0)


def test_the_split_of_the_papers_is_the_default(tmp_path, generator):
    assert evaluate("refcoco", write_refer(tmp_path / "data"), tmp_path / "out") == 0
    assert result(tmp_path / "out")["made_by"]["split"] == "val"
    assert result(tmp_path / "out")["numbers"]["all"]["samples"] == 1


def test_answers_that_are_stored_are_not_given_again(tmp_path, generator):
    root, out = write_refer(tmp_path / "data"), tmp_path / "out"
    assert evaluate("refcoco:testA", root, out) == 0
    part = out / "predictions/part-00000.json"
    stored = json.loads(part.read_text())
    stored[0]["mask"] = None
    part.write_text(json.dumps(stored))
    assert evaluate("refcoco:testA", root, out) == 0
    assert generator.asked == [IMAGE]
    assert result(out)["numbers"]["all"]["ciou"] == pytest.approx(6 / 22)


def test_stored_answers_are_scored_again_without_a_model(tmp_path, generator, monkeypatch, capsys):
    root, out = write_refer(tmp_path / "data"), tmp_path / "out"
    assert evaluate("refcoco:testA", root, out) == 0
    assert (out / "worst_and_best.png").read_bytes()[:4] == b"\x89PNG"
    first = (out / "result.json").read_bytes()
    monkeypatch.setattr(evaluate_expressions, "open_models", lambda *_: pytest.fail("a model was opened"))
    for runner in ((), ("--runner", "plain")):
        (out / "result.json").unlink()
        assert main(["score", "--output", str(out), *runner]) == 0
        assert (out / "result.json").read_bytes() == first
    assert "\nall                    3   45.45   56.67   66.67\n" in capsys.readouterr().out
    assert main(["score", "--output", str(out), "--runner", "FnApiRunner"]) == 2
    assert "--runner: expressions are scored in this process" in capsys.readouterr().err
    (out / "predictions/part-00000.json").unlink()
    assert main(["score", "--output", str(out)]) == 2
    assert "there is no answer to" in capsys.readouterr().err
    write_refer(root, references=[*REFERENCES, reference(3, "testA", 71, (9, "one more"))])
    assert main(["score", "--output", str(out)]) == 2
    assert "has other expressions than those that" in capsys.readouterr().err


def test_a_mask_is_a_map_of_one_class():
    mask = encode_masks(np.array([[[True, False]]]))[0]
    assert mask_map(mask, (1, 2)).tolist() == [[0, 65535]]
    assert mask_map(None, (1, 2)).tolist() == [[65535, 65535]]


def test_groups_add_what_is_theirs():
    whole = encode_masks(np.ones((1, 2, 3), bool))[0]
    scored = [
        Answered(ReferringSample("a", "a.jpg", "x", whole, group=group), {}, score_answer(sample, answer))
        for group, answer in (("short", whole), ("long", None))
        for sample in (ReferringSample("a", "a.jpg", "x", whole),)
    ]
    assert [sum_of(scored, group).ciou for group in ("", "short", "long")] == [0.5, 1.0, 0.0]


def test_answers_of_another_question_are_refused(tmp_path, generator, capsys):
    root, out = write_refer(tmp_path / "data"), tmp_path / "out"
    assert evaluate("refcoco:testA", root, out) == 0
    assert evaluate("refcoco:testA", root, out, "--answer", "union") == 2
    assert (
        "differs in answer, how λ or thresholds were chosen, union_threshold; give another folder"
        in capsys.readouterr().err
    )
    write_refer(root, references=[*REFERENCES, reference(3, "testA", 71, (9, "one more"))])
    assert evaluate("refcoco:testA", root, out) == 2
    assert "which differs in the samples that are asked; give another folder" in capsys.readouterr().err


def test_a_limit_takes_the_first_and_says_so(tmp_path, generator, capsys):
    assert evaluate("refcoco:testA", write_refer(tmp_path / "data"), tmp_path / "out", "--limit", "2") == 0
    assert result(tmp_path / "out")["numbers"]["all"]["ciou"] == pytest.approx(6 / 14)
    assert "RefCOCO testA has 5657 expressions, here are 2" in capsys.readouterr().out


def test_proposals_that_fail_leave_expressions_unanswered_and_are_listed(tmp_path, generator, capsys):
    generator.fails = True
    assert evaluate("refcoco:testA", write_refer(tmp_path / "data"), tmp_path / "out") == 1  # of all
    found = result(tmp_path / "out")
    assert (found["failed"], found["numbers"]["all"]["giou"]) == (3, 0.0)
    drops = json.loads((tmp_path / "out/drops.json").read_text())
    assert drops[0] == {"sample": f"{IMAGE}-0-0", "reason": "proposal_failed", "detail": "ValueError: no luck"}
    assert len(drops) == 3
    assert "proposals failed of 3 expressions, which count as unanswered: drops.json" in capsys.readouterr().out


def test_an_image_of_another_size_is_refused(tmp_path, generator, capsys):
    root = write_refer(tmp_path / "data")
    Image.new("RGB", (5, 4)).save(root / f"images/mscoco/images/train2014/{IMAGE}.jpg")
    assert evaluate("refcoco:testA", root, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{IMAGE}.jpg: is (4, 5), the mask of {IMAGE}-0-0 (4, 6) (height, width); give the images that" in error
    assert error.rstrip().count("\n") <= 1  # a bar of progress may stand above


def test_reasonseg_ignores_pixels_and_has_groups(tmp_path, generator, capsys):
    val = tmp_path / "data/val"
    # Short: the square, 4 of 4 px. Long: columns 0 and 2 of 5 rows are meant, column 1 is ignored; columns 0 and 1 are
    # the answer: 5 of 10 px. Long, and nothing is meant: the sixth column is the answer, 0 of 5.
    write_reasonseg(val, "a", text="left man", is_sentence=False, shapes=[square("target", 1, 1, 2, 2)])
    shapes = [square("target", 0, 0, 2, 4), square("ignore", 1, 0, 1, 4)]
    write_reasonseg(val, "b", text="man in the corner", is_sentence=True, shapes=shapes)
    write_reasonseg(val, "c", text="what is not there?", is_sentence=True, shapes=[])
    assert evaluate("reasonseg", tmp_path / "data", tmp_path / "out") == 0
    numbers = result(tmp_path / "out")["numbers"]
    shown = {name: [each[key] for key in ("samples", "ciou", "giou", "p_at_05")] for name, each in numbers.items()}
    assert shown == {
        "all": pytest.approx([3, 9 / 19, 0.5, 2 / 3]),
        "short": pytest.approx([1, 1, 1, 1]),
        "long": pytest.approx([2, 5 / 15, 0.25, 0.5]),
    }
    text = capsys.readouterr().out
    assert text.count("The expression is one prompt") == 1
    assert "\nshort                  1  100.00  100.00  100.00\n" in text


def test_a_group_without_samples_has_no_numbers(tmp_path, generator, capsys):
    write_reasonseg(tmp_path / "val", "a", text="left man", is_sentence=False, shapes=[square("target", 1, 1, 2, 2)])
    assert evaluate("reasonseg", tmp_path, tmp_path / "out") == 0
    assert set(result(tmp_path / "out")["numbers"]["long"].values()) == {0, None}
    assert "\nlong                   0       -       -       -\n" in capsys.readouterr().out


def test_no_answer_is_right_where_nothing_is_meant():
    nothing = encode_masks(np.zeros((1, 2, 3), bool))[0]
    assert score_answer(ReferringSample("a", "a.jpg", "x", nothing), None).giou == 1
    everything = encode_masks(np.ones((1, 2, 3), bool))[0]
    assert score_answer(ReferringSample("a", "a.jpg", "x", everything), None).giou == 0
    assert score_answer(ReferringSample("a", "a.jpg", "x", nothing, everything), everything).giou == 1


def test_the_clip_that_knows_no_photographs_says_so(tmp_path, capsys):
    clip = ("--clip", "scenes", "--device", "cpu")
    assert evaluate("refcoco", write_refer(tmp_path / "data"), tmp_path / "out", *clip) == 0  # black: no proposals
    assert result(tmp_path / "out")["made_by"]["models"]["templates"] == ["{}"]
    assert result(tmp_path / "out")["numbers"]["all"]["giou"] == 0.0
    assert "SCENES: the CLIP that is used ships with the project" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--benchmark", "refcoco:testC", "--root", "."], "RefCOCO has no split 'testC'"),
        (["--benchmark", "refcoco"], "--root is missing: give the folder that holds the files of refcoco"),
        (["--benchmark", "refcoco", "--root", "nowhere"], "--root nowhere: is no folder"),
        (
            ["--benchmark", "refcoco", "--root", ".", "--oracle", "masks"],
            "--oracle: has no part in --benchmark refcoco",
        ),
        (
            ["--benchmark", "refcoco", "--root", ".", "--tune-on", "val"],
            "--tune-on: has no part in --benchmark refcoco",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments, "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1

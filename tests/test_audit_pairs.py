"""`ovseg audit` whole: hand-made pairs of scenes and photographs whose truth is known, and a mined run."""

import json

import numpy as np
import pytest
from audited_pairs import finished_run, pair_row
from run_files import files_of
from tiny_clip import write_folder

from ovseg_model.datasets.coco_instances import read_instances
from ovseg_model.datasets.scene_files import file_name, write_scenes
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import SPLITS, VOID, draw_scene
from ovseg_model.rle import encode_labels, encode_masks
from pipelines.command_line import main
from pipelines.draw_audit import DPI, INCHES
from pipelines.judge_pairs import judge_run
from pipelines.open_run import open_run_with_pairs

SCENES = SPLITS["val"][:6]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, (draw_scene(number, 48) for number in SCENES))
    return folder


def true_pairs(shift=0):
    """A pair for each class of each scene, its mask all pixels of the class; the noun `shift` classes further on."""
    rows = []
    for number in SCENES:
        labels, masks = encode_labels(draw_scene(number, 48).labels_HW)
        for label, mask in zip(labels, masks, strict=True):
            noun = NAMES[(int(label) + shift) % len(NAMES)]
            rows += [pair_row(str(number), noun, mask, cosine=0.2 + label / 1000)] if label != VOID else []
    return rows


def audited(run, output, *arguments):
    assert main(["audit", str(run), *map(str, arguments), "--output", str(output)]) == 0
    return json.loads((output / "audit.json").read_text())


def test_true_masks_with_their_names_are_all_right(scenes, tmp_path, capsys):
    rows = true_pairs()
    numbers = audited(finished_run(tmp_path / "run", [rows]), tmp_path, "--scenes", scenes)
    assert numbers["judged"]["precision"] == numbers["all_nouns"]["precision"] == 1.0
    assert numbers["pairs"] == numbers["outcomes"]["equal"] == len(rows)
    recall = numbers["recall"]
    assert recall["of_named_image_labels"] == 1.0
    assert recall["image_labels"] == len(rows)
    # things of a class that has several are no single mask of it
    assert 0 < recall["of_things"] < 1
    assert numbers["by_size"][0]["pairs"] == sum(row["area_px"] * 100 < 48 * 48 for row in rows)
    assert "nouns that the labels can judge" in capsys.readouterr().out


def test_true_masks_with_other_names_are_all_wrong(scenes, tmp_path):
    """The mask of a class, called by the name of another."""
    numbers = audited(finished_run(tmp_path / "run", [true_pairs(shift=11)]), tmp_path, "--scenes", scenes)
    assert numbers["judged"]["right"] == 0
    assert numbers["judged"]["precision"] == 0.0
    assert numbers["outcomes"]["wrong"] == numbers["pairs"]
    assert numbers["recall"]["image_labels_found"] == numbers["recall"]["things_found"] == 0


def test_parts_in_any_order_give_the_same_numbers_and_picture(scenes, tmp_path):
    rows = true_pairs()
    rows.insert(1, pair_row(str(SCENES[0]), "photo", rows[0]["mask"]))
    by_image = [[row for row in rows if row["image_id"] == str(number)] for number in SCENES]
    one = audited(finished_run(tmp_path / "one", [rows]), tmp_path / "a", "--scenes", scenes)
    many = audited(finished_run(tmp_path / "many", by_image[::-1]), tmp_path / "b", "--scenes", scenes)
    assert one.pop("run_sha256") != many.pop("run_sha256")
    assert one == many
    assert one["outcomes"]["outside"] == 1
    assert files_of(tmp_path / "a")["audit.png"] == files_of(tmp_path / "b")["audit.png"]
    assert files_of(tmp_path / "a")["audit.md"] == files_of(tmp_path / "b")["audit.md"]


def test_a_mined_run_agrees_with_judge_and_counts_nouns_without_pairs(scenes, tmp_path):
    clip, run = write_folder(tmp_path / "clip"), tmp_path / "run"
    arguments = ["--captions", f"{scenes}/captions.json", "--images", f"{scenes}/images", "--nouns", "lexicon"]
    arguments += ["--captions-per-image", "1", "--masks", "annotations", "--mask-option", f"source={scenes}/labels"]
    arguments += ["format=labelmap", "--clip", str(clip), "--runner", "plain", "--output", str(run)]
    assert main(["mine", *arguments]) == 0
    numbers = audited(run, run, "--scenes", scenes)
    judged = list(judge_run(open_run_with_pairs(str(run), "RUN"), scenes))
    named = [each for each in judged if each.meant]
    assert numbers["judged"]["pairs"] == len(named)
    assert numbers["judged"]["right"] == numbers["all_nouns"]["right"] == sum(each.right for each in named)
    assert numbers["all_nouns"]["pairs"] == numbers["pairs"] == len(judged)
    assert numbers["named_by"] == "NOUNS"
    png = (run / "audit.png").read_bytes()
    assert [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)] == [round(DPI * side) for side in INCHES]


def test_label_maps_and_benchmarks_are_truths_too(scenes, tmp_path):
    """Their images go by file name, and what has no label is set aside, where scenes call it clutter."""
    rows = true_pairs()
    clutter = np.zeros((1, 48, 48), bool)
    clutter[0][tuple(np.argwhere(draw_scene(SCENES[0], 48).labels_HW == VOID)[0])] = True
    rows.insert(0, pair_row(rows[0]["image_id"], "kite", encode_masks(clutter)[0]))
    rows = [
        row | {"image_uri": f"/images/{file_name(int(row['image_id']))}", "image_id": "x" + row["image_id"]}
        for row in rows
    ]
    run = finished_run(tmp_path / "run", [rows])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    folder = ["--label-maps", scenes / "labels", "--class-names", tmp_path / "names.txt", "--senses", "none"]
    numbers = audited(run, tmp_path / "maps", *folder)
    assert numbers["outcomes"] == dict.fromkeys(numbers["outcomes"], 0) | {"equal": len(rows) - 1, "unlabelled": 1}
    benchmark = audited(run, tmp_path / "benchmark", "--benchmark", "scenes:val", "--root", scenes, "--senses", "none")
    assert benchmark.pop("truth") == {"kind": "label maps", "source": "scenes:val"}
    assert numbers.pop("truth") == {"kind": "label maps", "source": "labels"}
    assert benchmark == numbers


@pytest.fixture(scope="module")
def photographs(test_data, nltk_data):
    """coco_sample's instances, and a right pair for each category of its first ten annotated images."""
    instances = read_instances(test_data / "coco_sample/instances.json")
    ids = sorted({each.image_id for each in instances.annotations if not each.is_crowd}, key=str)[:10]
    first = {(each.image_id, each.category_id): each for each in instances.annotations[::-1] if not each.is_crowd}
    return instances, [(key, each) for key, each in first.items() if key[0] in ids]


def test_photographs_against_their_annotations(photographs, tmp_path):
    instances, chosen = photographs
    rows = [
        pair_row(str(image), instances.categories[category], instances.mask_of(each))
        for (image, category), each in sorted(chosen, key=lambda item: str(item[0][0]))
    ]
    images = len({row["image_id"] for row in rows})
    blank = np.zeros((1, *rows[0]["mask"]["size"]), bool)
    blank[0, :2, :2] = True
    more = [pair_row(rows[0]["image_id"], "abstraction", rows[0]["mask"]), pair_row("0", "dog", rows[0]["mask"])]
    run = finished_run(tmp_path / "run", [sorted(rows + more, key=lambda row: row["image_id"])])
    numbers = audited(run, tmp_path, "--annotations", instances.path)
    # a thing may lie in front of a larger one that an annotation does not leave out
    assert numbers["judged"]["precision"] > 0.8
    assert numbers["outcomes"]["equal"] >= 0.8 * len(rows)
    assert numbers["outcomes"]["no_truth"] == 1
    assert numbers["outcomes"]["outside"] == 1
    assert numbers["images"] == {"labelled": images, "without truth": 1, "of another size": 0}
    assert numbers["recall"]["image_labels"] == len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wanted one truth to hold the pairs against"),
        (["--scenes", "a", "--annotations", "b"], "--benchmark, --scenes; got 2"),
        (["--label-maps", "a"], "--label-maps and --class-names go together"),
        (["--benchmark", "ade20k-150"], "--benchmark and --root go together"),
        (["--scenes", "a", "--min-cover", "2"], "--min-cover: wanted 0 to 1, got 2.0"),
        (["--scenes", "a"], "a: has no classes.json"),
        (["--label-maps", "a", "--class-names", "b", "--ignore-label", "x"], "wanted whole numbers from 0 to 65535"),
        (["--benchmark", "imagenet", "--root", "."], "benchmark 'imagenet' is not known"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, message, tmp_path, capsys):
    run = finished_run(tmp_path / "run", [true_pairs()[:1]])
    assert main(["audit", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("truth", ["annotations", "maps", "benchmark"])
def test_missing_wordnet_is_said_before_the_truth_is_read_with_the_way_out(
    scenes, tmp_path, truth, monkeypatch, capsys
):
    def find_nothing(place):
        raise LookupError(place)

    monkeypatch.setattr("nltk.data.find", find_nothing)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    arguments = {
        "annotations": ["--annotations", tmp_path / "huge.json"],  # not even there: it is not looked for
        "maps": ["--label-maps", scenes / "labels", "--class-names", tmp_path / "names.txt"],
        "benchmark": ["--benchmark", "scenes:val", "--root", scenes],
    }[truth]
    run = finished_run(tmp_path / "run", [true_pairs()[:1]])
    assert main(["audit", str(run), *map(str, arguments)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "python -m nltk.downloader wordnet" in sentence
    assert sentence.endswith("needs no WordNet: --senses none.")


@pytest.mark.parametrize("place", ["pairs", "pairs/deep", "link"])
def test_an_audit_goes_into_the_run_or_out_of_it_but_not_among_its_tables(scenes, tmp_path, place, monkeypatch, capsys):
    run = finished_run(tmp_path / "run", [true_pairs()])
    (run / "link").symlink_to("pairs")
    before = files_of(run)
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "run", "--scenes", str(scenes), "--output", f"run/{place}"]) == 2
    assert f"lies inside the run {run}" in capsys.readouterr().err
    assert files_of(run) == before


def test_a_run_that_is_none_or_of_other_images_is_refused(scenes, tmp_path, capsys):
    assert main(["audit", "--scenes", str(scenes)]) == 2
    assert "RUN is missing; give the folder of a finished run" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "gone"), "--scenes", str(scenes)]) == 2
    assert "there is no finished run" in capsys.readouterr().err
    path = tmp_path / "instances.json"
    image = {"id": SCENES[0], "file_name": "a.png", "height": 40, "width": 40}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "kite"}]}))
    run = finished_run(tmp_path / "run", [true_pairs()])
    assert main(["audit", str(run), "--annotations", str(path), "--senses", "none"]) == 2
    assert "none of the run's 6 images has labels there, 1 are of another size" in capsys.readouterr().err

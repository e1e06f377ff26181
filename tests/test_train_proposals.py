"""Training of the proposal network: matching and losses by hand, crops by order, and runs as a user starts them."""

import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ovseg_model.checkpoint import CHECKPOINT_FILE
from ovseg_model.datasets.benchmark import IGNORE, LabelledSample
from ovseg_model.datasets.scenes import SPLITS
from ovseg_model.processes import Processes
from ovseg_model.proposals.network_weights import resolve_network
from ovseg_model.proposals.proposal_network import ProposalModel, load_network, preset_config
from ovseg_model.proposals.set_loss import (
    Targets,
    Totals,
    class_loss,
    dice_loss,
    focal_loss,
    local_totals,
    match,
    set_loss,
)
from ovseg_model.proposals.train_proposals import Learner, weight_groups
from ovseg_model.proposals.training_crops import (
    CropDataset,
    CropOptions,
    batch_positions,
    crop_batches,
    crop_of,
    resize_labels,
)
from ovseg_model.proposals.training_maps import MapPlaces, SceneMaps, open_maps
from ovseg_model.proposals.training_options import ProposalTrainingOptions, learning_rate_share, with_preset
from pipelines.command_line import main
from schemas.errors import UserError

REPOSITORY = Path(__file__).parent.parent
ONE = Processes(0, 1, "cpu")
LEFT, RIGHT = [[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2


def logits_of(mask, size=4.0):
    return size * (2 * torch.tensor(mask) - 1)


# Matching, by hand.


def two_queries(first, second, classes=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))):
    """One layer and image: masks of two queries, and their class logits (two classes, "no object")."""
    masks = torch.stack([logits_of(first), logits_of(second)])[None, None]
    return torch.tensor(classes)[None, None], masks


def targets_of(*classes_and_masks, padding=0):
    classes = [each for each, _ in classes_and_masks] + [-1] * padding
    masks = [torch.tensor(mask) for _, mask in classes_and_masks] + [torch.zeros(2, 2)] * padding
    return Targets(torch.tensor([classes]), torch.stack(masks)[None])


def test_masks_decide_where_classes_say_nothing():
    found = match(*two_queries(RIGHT, LEFT), targets_of((0, LEFT), (1, RIGHT)))
    assert (found.query_M.tolist(), found.target_M.tolist()) == ([0, 1], [1, 0])
    assert found.layer_M.tolist() == found.image_M.tolist() == [0, 0]


def test_classes_decide_where_masks_are_alike():
    sure = ((0.0, 5.0, 0.0), (5.0, 0.0, 0.0))
    found = match(*two_queries(LEFT, LEFT, sure), targets_of((0, LEFT), (1, LEFT)))
    assert (found.query_M.tolist(), found.target_M.tolist()) == ([0, 1], [1, 0])


def test_padding_is_matched_to_nothing():
    found = match(*two_queries(RIGHT, LEFT), targets_of((0, LEFT), padding=2))
    assert (found.query_M.tolist(), found.target_M.tolist()) == ([1], [0])


def test_more_targets_than_queries_leave_some_without():
    logits, masks = two_queries(LEFT, RIGHT)
    found = match(logits[:, :, :1], masks[:, :, :1], targets_of((0, RIGHT), (1, LEFT)))
    assert (found.query_M.tolist(), found.target_M.tolist()) == ([0], [1])


def test_every_layer_is_matched_for_itself():
    logits, masks = two_queries(LEFT, RIGHT)
    found = match(logits.expand(2, -1, -1, -1), torch.cat([masks, masks.flip(2)]), targets_of((0, LEFT)))
    assert (found.layer_M.tolist(), found.query_M.tolist()) == ([0, 1], [0, 1])


# Losses, by hand.


def test_unmatched_queries_are_a_tenth_no_object():
    logits, masks = two_queries(LEFT, RIGHT, ((math.log(2), 0.0, 0.0), (0.0, 0.0, math.log(3))))
    targets = targets_of((0, LEFT))
    found = class_loss(logits, targets, match(logits, masks, targets))
    # -ln(2 / 4) of the matched, a tenth of -ln(3 / 5) of the other.
    assert found.item() == pytest.approx(math.log(2) + 0.1 * math.log(5 / 3), rel=1e-6)
    assert local_totals([1], 2) == Totals(1, 1.1)
    assert local_totals([3, 0], 2) == Totals(2, pytest.approx(2.2))


def test_focal_and_dice_by_hand():
    logits, masks = torch.tensor([[math.log(3), -math.log(3)]]), torch.tensor([[1.0, 1.0]])
    # P is 3/4 and 1/4, both pixels belong to the mask: 0.25 (1/4)^2 ln(4/3) and 0.25 (3/4)^2 ln 4, averaged.
    wanted = 0.25 * (math.log(4 / 3) / 16 + 9 * math.log(4) / 16) / 2
    assert focal_loss(logits, masks).item() == pytest.approx(wanted, rel=1e-6)
    # 1 - (2 * 1 + 1) / (1 + 2 + 1)
    assert dice_loss(logits, masks).item() == pytest.approx(0.25, rel=1e-6)
    # A pixel beside the mask: 0.75 (3/4)^2 ln 4.
    beside = focal_loss(torch.tensor([[math.log(3)]]), torch.tensor([[0.0]]))
    assert beside.item() == pytest.approx(0.75 * 9 / 16 * math.log(4), rel=1e-6)


def test_the_loss_weighs_its_parts_and_sums_layers():
    logits, masks = two_queries(LEFT, RIGHT)
    targets = targets_of((0, LEFT))
    parts = class_loss(logits, targets, match(logits, masks, targets)) / 1.1
    flat, wanted = masks[0, 0, :1].flatten(1), torch.tensor(LEFT).flatten()[None]
    parts = parts + 20 * focal_loss(flat, wanted) + dice_loss(flat, wanted)
    assert set_loss(logits, masks, targets, Totals(1, 1.1)).item() == pytest.approx(parts.item(), rel=1e-6)
    twice = set_loss(torch.cat([logits] * 2), torch.cat([masks] * 2), targets, Totals(1, 1.1))
    assert twice.item() == pytest.approx(2 * parts.item(), rel=1e-6)


def test_shares_of_a_batch_add_up_to_the_batch():
    randoms = torch.Generator().manual_seed(0)
    logits, masks = (torch.randn(2, 4, 3, *shape, generator=randoms) for shape in ((6,), (4, 4)))
    classes = torch.tensor([[0, 3, -1], [1, -1, -1], [-1, -1, -1], [4, 2, 0]])
    boxes = (torch.rand(4, 3, 16, 16, generator=randoms) > 0.5) * (classes >= 0)[:, :, None, None]
    targets = Targets(classes, boxes.float())
    totals = local_totals(targets.counts, 3)
    whole = set_loss(logits, masks, targets, totals)
    shares = [slice(0, 1), slice(1, 4)]
    parts = [set_loss(logits[:, at], masks[:, at], Targets(*(each[at] for each in targets)), totals) for at in shares]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_share_without_any_target_still_has_all_gradients():
    logits, masks = (each.requires_grad_() for each in two_queries(LEFT, RIGHT))
    set_loss(logits, masks, targets_of(padding=1), Totals(0, 0.2)).backward()
    assert masks.grad.abs().max() == 0 and logits.grad.abs().max() > 0


# Learning rate and weight decay.


def test_learning_rate_warms_up_and_decays():
    options = ProposalTrainingOptions(steps=100, warmup=10)
    shares = [learning_rate_share(step, options) for step in (0, 5, 10, 50, 99)]
    assert shares == pytest.approx([1e-6, 0.5000005 * 0.95**0.9, 0.9**0.9, 0.5**0.9, 0.01**0.9])


def test_weight_decay_spares_norms_and_embeddings():
    model = ProposalModel(preset_config("tiny", 4), 8, 16)
    groups = weight_groups(model, ProposalTrainingOptions(backbone_rate=0.1))
    plain = {id(each) for group in groups if group["weight_decay"] == 0 for each in group["params"]}
    names = {name for name, each in model.named_parameters() if id(each) in plain}
    assert "no_object_D" in names
    assert "model.transformer_module.queries_embedder.weight" in names
    assert any("relative_position_bias_table" in name for name in names)
    assert any("hidden_states_norms.0.weight" in name for name in names)
    assert not any("proj.weight" in name or "fc1" in name or "class_embedder" in name for name in names)
    slow = {id(each) for group in groups if group["peak"] == pytest.approx(6e-6) for each in group["params"]}
    assert all(
        ("pixel_level_module.encoder." in name) == (id(each) in slow)
        for name, each in model.named_parameters()
        if each.requires_grad
    )
    assert sum(len(group["params"]) for group in groups) == sum(each.requires_grad for each in model.parameters())


def test_presets_have_the_papers_numbers():
    swin, r101 = with_preset({}), with_preset({"preset": "r101", "steps": 7})
    assert (swin.steps, swin.batch, swin.learning_rate, swin.weight_decay, swin.crop_px) == (
        120_000,
        32,
        6e-5,
        0.01,
        640,
    )
    assert (r101.learning_rate, r101.weight_decay, r101.backbone_rate, r101.crop_px) == (2e-4, 1e-4, 0.1, 512)
    assert (r101.steps, r101.warmup, r101.clip_norm) == (7, 1500, 0.01)
    with pytest.raises(UserError, match="--preset: wanted one of swin-b, r101, tiny, got 'huge'"):
        with_preset({"preset": "huge"})


# Crops.


def test_labels_are_taken_under_pixel_centres():
    labels = np.arange(4, dtype=np.uint16).reshape(2, 2)
    assert resize_labels(labels, (4, 4)).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert resize_labels(np.arange(6, dtype=np.uint16)[None], (1, 2)).tolist() == [[1, 4]]


def test_a_crop_is_the_same_piece_of_image_and_labels():
    labels = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint16)
    image = np.repeat(labels.astype(np.uint8)[:, :, None], 3, axis=2)
    options = CropOptions(32, 512, 2.0, 2.0, colour=False)
    crops = [crop_of(image, labels, options, position) for position in range(8)]
    assert all((crop.pixels_SS3[:, :, 1] == crop.labels_SS).all() for crop in crops)
    assert len({crop.labels_SS.tobytes() for crop in crops}) == 8
    # Flipped half the time: columns then fall.
    assert {int(crop.labels_SS[0, 1]) - int(crop.labels_SS[0, 0]) for crop in crops} == {1, -1}


def test_a_small_image_is_padded_without_labels():
    crop = crop_of(np.full((40, 64, 3), 9, np.uint8), np.zeros((40, 64), np.uint16), CropOptions(64, 512, 0.5, 0.5), 0)
    assert crop.size == (32, 51)
    assert (crop.labels_SS == 0).sum() == 32 * 51 and (crop.labels_SS == IGNORE).sum() == 64 * 64 - 32 * 51
    assert (crop.pixels_SS3[32:] == 0).all()


def test_input_is_zero_beyond_the_image_and_targets_are_one_mask_a_class():
    maps = InMemory([np.array([[0, 0, 2, IGNORE]] * 4, np.uint16)])
    dataset = CropDataset(maps, CropOptions(32, 64, 0.5, 0.5, colour=False, flip=False), 1)
    [batch] = crop_batches(dataset, range(1))
    assert batch.sizes_B2.tolist() == [[16, 16]]
    assert batch.classes_BT.tolist() == [[0, 2]]
    masks = batch.targets("cpu").masks_BTHW
    assert masks.sum(dim=(2, 3)).tolist() == [[128, 64]]
    inputs = batch.inputs([0.5] * 3, [0.5] * 3, "cpu")
    assert inputs[0, :, :16, :16].tolist() == pytest.approx(np.full((3, 16, 16), 100 / 255 * 2 - 1), abs=1e-6)
    assert inputs[0, :, 16:].abs().max() == 0 and inputs[0, :, :, 16:].abs().max() == 0


class InMemory:
    """Grey images with label maps of their own."""

    classes = ("sky", "sea", "sand")

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def read(self, number):
        return np.full((*self.labels[number].shape, 3), 100, np.uint8), self.labels[number]

    def fingerprint(self):
        return {"images": len(self.labels)}


def test_batches_do_not_depend_on_processes_or_where_one_begins():
    dataset = CropDataset(SceneMaps(SPLITS["train"][:5]), CropOptions(64, 256), 4)
    whole = list(crop_batches(dataset, range(3)))
    halves = [list(crop_batches(dataset, range(3), rank, 2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        joined = torch.cat([half[step].pixels_B3SS for half in halves])
        assert torch.equal(batch.pixels_B3SS, joined)
    [last] = crop_batches(dataset, range(2, 3))
    assert torch.equal(last.labels_BSS, whole[2].labels_BSS)
    assert [*batch_positions(2, 4, 1, 2)] == [10, 11]


def test_every_image_comes_once_an_epoch():
    dataset = CropDataset(InMemory([np.zeros((1, 1), np.uint16)] * 5), CropOptions(), 2)
    order = [dataset._order[position] for position in range(10)]
    assert sorted(order[:5]) == sorted(order[5:]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:]


def test_images_without_labels_are_passed_over_and_counted():
    nothing, something = np.full((8, 8), IGNORE, np.uint16), np.zeros((8, 8), np.uint16)
    dataset = CropDataset(InMemory([nothing, something, nothing]), CropOptions(32, 64, 1.0, 1.0), 1)
    batches = list(crop_batches(dataset, range(3)))
    assert all(batch.classes_BT.tolist() == [[0]] for batch in batches)
    assert sum(batch.dropped for batch in batches) >= 2
    with pytest.raises(UserError, match="2 images were tried, and none has a labelled pixel"):
        list(crop_batches(CropDataset(InMemory([nothing] * 2), CropOptions(32, 64), 1), range(1)))


# Maps.


@pytest.fixture
def files(tmp_path):
    """Two images of 4 x 3 px with label maps, and the panoptic form of the same."""
    for folder in ("images", "labels", "panoptic"):
        (tmp_path / folder).mkdir()
    labels = {"a": [[0, 1, 255, 7]] * 3, "b": [[1, 1, 1, 0]] * 3}
    annotations = []
    for name, values in labels.items():
        Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "labels" / f"{name}.png")
        ids = np.zeros((3, 4, 3), np.uint8)
        ids[:, :, 0] = np.array(values) + 1
        Image.fromarray(ids).save(tmp_path / "panoptic" / f"{name}.png")
        segments = [{"id": 2, "category_id": 40}, {"id": 1, "category_id": 30}]
        annotations.append({"file_name": f"{name}.png", "segments_info": segments})
    categories = [{"id": 30, "name": "sky"}, {"id": 40, "name": "sea"}]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": annotations, "categories": categories}))
    (tmp_path / "names.txt").write_text("sky\nsea\n")
    return tmp_path


def places(files, **more):
    return MapPlaces(images=f"{files}/images", labels=f"{files}/labels", **more)


def test_folders_and_panoptic_read_the_same_labels(files):
    folders = open_maps(places(files, classes=f"{files}/names.txt"))
    panoptic = open_maps(
        MapPlaces(images=f"{files}/images", labels=f"{files}/panoptic", panoptic_json=f"{files}/panoptic.json")
    )
    for maps in (folders, panoptic):
        assert (len(maps), tuple(maps.classes)) == (2, ("sky", "sea"))
        image, labels = maps.read(0)
        assert image.shape == (3, 4, 3)
        assert labels.dtype == np.uint16 and labels.tolist() == [[0, 1, IGNORE, IGNORE]] * 3
        assert maps.read(1)[1].tolist() == [[1, 1, 1, 0]] * 3


def test_a_benchmark_reads_folders_of_its_own_layout(files):
    import dataclasses

    from ovseg_model.datasets.benchmark import BenchmarkClass, LabelMapBenchmark, OvsegSettings
    from ovseg_model.proposals.training_maps import BenchmarkMaps

    benchmark = LabelMapBenchmark(
        "two",
        "Two",
        (BenchmarkClass(7, "sky, heaven", "sky"), BenchmarkClass(9, "sea", "sea")),
        {"val": 1},
        "val",
        lambda folder, split: [LabelledSample("a", f"{folder}/a", f"{folder}/a.png")],
        lambda sample: np.zeros((2, 2), np.uint16),
        lambda sample: np.zeros((2, 2 if sample.name == "a" else 3, 3), np.uint8),
        OvsegSettings(0.7),
    )
    maps = BenchmarkMaps(benchmark, benchmark.find_samples(files))
    assert (maps.classes, len(maps), maps.fingerprint()["benchmark"]) == (("sky, heaven", "sea"), 1, "two")
    assert maps.read(0)[1].tolist() == [[0, 0], [0, 0]]
    wrong = BenchmarkMaps(benchmark, [dataclasses.replace(maps.samples[0], name="b")])
    with pytest.raises(UserError, match=r"a\.png: the label map is 2 x 2, its image 2 x 3"):
        wrong.read(0)


def test_what_is_given_must_go_together(files):
    with pytest.raises(UserError, match="training data: --classes missing; give --benchmark scenes"):
        open_maps(places(files))
    with pytest.raises(UserError, match="--images, --labels too many"):
        open_maps(places(files, benchmark="ade20k-150", data="somewhere"))
    (files / "labels" / "c.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"c\.png and 0 more have no image of their name"):
        open_maps(places(files, classes=f"{files}/names.txt"))


def test_a_broken_map_is_named(files):
    (files / "labels" / "b.png").write_bytes(b"nothing")
    maps = open_maps(places(files, classes=f"{files}/names.txt"))
    with pytest.raises(UserError, match=r"labels/b\.png: cannot be read as a label map"):
        list(crop_batches(CropDataset(maps, CropOptions(32, 64), 2), range(1)))


def test_class_names_are_one_a_line(files):
    (files / "names.txt").write_text("sky\nsky\n")
    with pytest.raises(UserError, match="one name a line, none empty and none twice"):
        open_maps(places(files, classes=f"{files}/names.txt"))


# Learning.


def two_scenes():
    return CropDataset(SceneMaps(SPLITS["train"][:2]), CropOptions(64, 64, 1.0, 1.0, colour=False, flip=False), 2)


def learner(**changes):
    options = with_preset({"preset": "tiny", "steps": 40, "batch": 2, "warmup": 0, "queries": 6, **changes})
    vectors = np.eye(len(SceneMaps(range(0)).classes), dtype=np.float32)
    return Learner(options, ProposalModel(preset_config("tiny", 6), vectors.shape[1], 32), vectors, ONE)


def test_two_scenes_are_learnt_by_heart():
    student = learner()
    losses = [student.learn(batch) for batch in crop_batches(two_scenes(), range(40))]
    assert losses[-1] < 0.3 * losses[0]


def test_a_loss_that_is_no_number_changes_nothing():
    student = learner()
    [batch] = crop_batches(two_scenes(), range(1))
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    student.class_vectors_KD[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        student.learn(batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.model.state_dict().items())
    assert student.step == 0


# Runs as a user starts them.


@pytest.fixture
def command(tmp_path):
    def arguments(*more, output="out"):
        small = ["--preset", "tiny", "--benchmark", "scenes", "--device", "cpu", "--templates", "photo"]
        small += ["--steps", "6", "--batch", "2", "--warmup", "2", "--log-every", "1", "--save-every", "2"]
        return ["train-proposals", *small, "--output", str(tmp_path / output), *map(str, more)]

    return arguments


def weights_of(folder):
    return load_file(folder / "network" / "model.safetensors")


def losses_of(folder):
    with (folder / "training.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_stopped_and_resumed_equals_one_that_was_not(command, tmp_path, monkeypatch, capsys):
    assert main(command(output="whole")) == 0
    learn = Learner.learn

    def interrupted(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return learn(self, batch)

    monkeypatch.setattr(Learner, "learn", interrupted)
    assert main(command()) == 130
    monkeypatch.undo()
    assert main(command()) == 0
    assert "going on at step 3" in capsys.readouterr().out
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "out")
    assert len(losses_of(tmp_path / "out")) == 6
    assert not (tmp_path / "out" / CHECKPOINT_FILE).exists()
    # It says what it is, and proposes.
    network = load_network(resolve_network(str(tmp_path / "out" / "network")))
    assert (network.facts.clip, network.facts.templates) == ("scenes", ("a photo of a {}.",))
    assert network.facts.classes == SceneMaps(range(0)).classes
    assert main(command()) == 0
    assert "is trained already" in capsys.readouterr().out
    assert main(command("--seed", "1")) == 2
    assert "is the result of another seed" in capsys.readouterr().err


def test_ctrl_c_while_weights_change_saves_nothing(command, tmp_path, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    assert main(command()) == 130
    assert not (tmp_path / "out" / CHECKPOINT_FILE).exists()


def test_a_loss_that_is_no_number_is_said_in_one_sentence(command, monkeypatch, capsys):
    def broken(self, batch):
        raise FloatingPointError("the loss of step 0 is nan")

    monkeypatch.setattr(Learner, "learn", broken)
    assert main(command()) == 2
    assert "the loss of step 0 is nan; the last checkpoint stands" in capsys.readouterr().err


def test_mistakes_are_said_before_work_starts(command, capsys):
    assert main(["train-proposals", "--preset", "tiny"]) == 2
    assert "--output is missing" in capsys.readouterr().err
    assert main(command("--crop-px", "100")) == 2
    assert "--crop-px: wanted a multiple of 32, got 100" in capsys.readouterr().err
    assert main(command("--init", "./nowhere")) == 2
    assert "there is no folder './nowhere'" in capsys.readouterr().err


def test_two_processes_give_the_losses_of_one(command, tmp_path, monkeypatch):
    """This process is the first of the two: one import of everything less."""
    assert main(command("--batch", "4", output="one")) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    arguments = command("--batch", "4", output="two")
    second = {**os.environ, **group, "RANK": "1", "LOCAL_RANK": "1"}
    with subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], cwd=REPOSITORY, env=second) as process:
        for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        assert main(arguments) == 0
        assert process.wait(timeout=60) == 0
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)

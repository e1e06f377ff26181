"""Everything-mode equals segment-anything's SamAutomaticMaskGenerator on tiny SAMs; batches, boxes, weights."""

import json
import logging
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from skimage.measure import label
from tiny_sam import CHANNELS, SIDE_PX, drawn_image, tiny_sam, write_tiny_sam

from ovseg_model import device_clock
from ovseg_model.halving import halved_batches
from ovseg_model.proposals import sam, sam_everything, sam_postprocess, sam_weights
from ovseg_model.proposals.generator import (
    ImageInput,
    MaskProposals,
    ProposalError,
    open_generator,
    propose_in_batches,
    resolve_generator,
)
from ovseg_model.proposals.sam import SamOptions, SegmentAnything
from ovseg_model.proposals.sam_agreement import agreement, prompt_agreement
from ovseg_model.proposals.sam_everything import Batches, SamModel, everything, masks_in_boxes
from ovseg_model.rle import areas_px, encode_masks, iou_matrix
from schemas.errors import UserError

IMAGES = {
    "landscape": drawn_image(90, 120),
    "portrait, grey": drawn_image(160, 64, 1, grey=True),
    "larger than it is read": drawn_image(200, 333, 2),
    "tiny": drawn_image(7, 11, 3),
}
OPTIONS = {
    "points_per_side": 8,
    "points_per_batch": 12,
    "pred_iou_thresh": 0.6,
    "stability_score_thresh": 0.6,
    "stability_score_offset": 0.1,
    "box_nms_thresh": 0.97,
    "crop_nms_thresh": 0.97,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_sam(tmp_path_factory.mktemp("sam") / "tiny.pth")


def named(name):
    return ImageInput(name, f"images/{name}.png", IMAGES[name])


def resolved(checkpoint, work_folder="", **options):
    return resolve_generator("sam", {"checkpoint": str(checkpoint), **OPTIONS, **options}, "cpu", str(work_folder))


def opened(checkpoint, work_folder="", **options):
    return open_generator(resolved(checkpoint, work_folder, **options))


def theirs(name, **options):
    """Records of segment-anything, but for masks without a pixel, which a run leaves out."""
    generator = SamAutomaticMaskGenerator(tiny_sam(), output_mode="coco_rle", **{**OPTIONS, **options})
    return [record for record in generator.generate(IMAGES[name]) if record["area"]]


def assert_equal(ours, theirs):
    """Masks to an IoU of 0.9999, or one pixel on the border of a small one; scores to 1e-4, or that pixel's part."""
    areas = np.array([other["area"] for other in theirs])
    ious = [iou_matrix([mask], [other["segmentation"]])[0, 0] for mask, other in zip(ours.masks, theirs, strict=True)]
    assert (np.array(ious) >= np.minimum(0.9999, 1 - 1.001 / areas)).all()
    predicted = np.clip([other["predicted_iou"] for other in theirs], 0, 1)
    np.testing.assert_allclose(ours.predicted_iou, predicted, atol=1e-4)
    stability = np.array([other["stability_score"] for other in theirs])
    assert (np.abs(np.array(ours.stability) - stability) <= 1e-4 + 1.001 / areas).all()


# The masks of segment-anything.


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("layers", [0, 1])
def test_masks_are_those_of_segment_anything_in_its_order(checkpoint, name, layers):
    expected = theirs(name, crop_n_layers=layers)
    assert len(expected) > 5
    assert_equal(opened(checkpoint, crop_n_layers=layers).propose([named(name)])[0], expected)


def test_without_thresholds_every_mask_is_kept(checkpoint):
    loose = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    expected = theirs("landscape", **loose)
    assert len(expected) > 100
    [found] = propose_in_batches(opened(checkpoint, **loose), [named("landscape")])
    assert_equal(found, expected)


def test_finer_layers_may_have_fewer_points_and_other_overlaps(checkpoint):
    crops = {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.1}
    assert_equal(opened(checkpoint, **crops).propose([named("landscape")])[0], theirs("landscape", **crops))


@pytest.mark.parametrize("layers", [0, 1])
def test_small_regions_go_as_in_segment_anything(checkpoint, monkeypatch, layers):
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(connectedComponentsWithStats=components))
    plain = opened(checkpoint, crop_n_layers=layers).propose([named("landscape")])[0]
    for least in (10, 400):
        options = {"min_mask_region_area": least, "crop_n_layers": layers}
        found = opened(checkpoint, **options).propose([named("landscape")])[0]
        assert_equal(found, theirs("landscape", **options))
        assert sorted(areas_px(found.masks)) != sorted(areas_px(plain.masks))


def components(mask_HW, connectivity):
    """What segment-anything asks OpenCV, by scikit-image."""
    assert connectivity == 8
    labels_HW, count = label(mask_HW, connectivity=2, return_num=True)
    areas = np.bincount(labels_HW.ravel(), minlength=count + 1)
    return count + 1, labels_HW, areas[:, None], None


def test_nothing_passes(checkpoint):
    [found] = opened(checkpoint, pred_iou_thresh=5.0).propose([named("landscape")])
    assert found == ProposalError("no_masks", "no mask passes SAM's thresholds")


def test_predicted_iou_is_cut_to_a_share(checkpoint):
    sam = tiny_sam()
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.data += 1
    torch.save(sam.state_dict(), checkpoint.parent / "high.pth")
    [found] = opened(checkpoint.parent / "high.pth").propose([named("landscape")])
    assert set(found.predicted_iou) == {1.0}


# Batches and memory.


@pytest.mark.parametrize("layers", [0, 1])
def test_an_image_has_the_masks_it_has_alone(checkpoint, layers):
    generator = opened(checkpoint, image_batch=3, crop_n_layers=layers, points_per_side=4)
    together = generator.propose([named(name) for name in IMAGES])
    for name, found in zip(IMAGES, together, strict=True):
        alone = generator.propose([named(name)])[0]
        assert found.masks == alone.masks
        np.testing.assert_allclose(found.predicted_iou, alone.predicted_iou, atol=1e-6)


def test_the_batch_decides_no_mask(checkpoint):
    one, other = (
        opened(checkpoint, image_batch=images, points_per_batch=points).propose([named("landscape")])[0]
        for images, points in ((1, 1), (2, 64))
    )
    assert one.masks == other.masks


@pytest.mark.parametrize(
    ("device", "asked", "images"), [("cpu", 0, 1), ("cpu", 3, 3), ("cuda:1", 0, 4), ("cuda:1", 1, 1)]
)
def test_a_gpu_takes_four_images_unless_told(device, asked, images):
    model = types.SimpleNamespace(device=device)
    assert SegmentAnything(model, SamOptions("none", image_batch=asked)).batch_size == images


def test_forwards_are_halved_where_memory_runs_out(checkpoint, monkeypatch, caplog):
    generator = opened(checkpoint, image_batch=4, points_per_batch=6)
    expected = generator.propose([named("landscape")])
    asked = []

    def embed(self, crops, rows):
        asked.append(rows)
        if rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole_embed(self, crops, rows)

    whole_embed = SamModel.embed
    monkeypatch.setattr(SamModel, "embed", embed)
    before = halved_batches()
    with caplog.at_level(logging.WARNING):
        [found] = generator.propose([named("landscape")])
    assert asked == [4, 2, 1]
    assert halved_batches() - before == 1
    assert found.masks == expected[0].masks
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "out of memory: SAM's forwards of 6 points and 4 images are halved",
        "out of memory: SAM's forwards of 3 points and 2 images are halved",
    ]


def test_one_point_of_one_image_is_the_least(checkpoint, monkeypatch):
    def embed(self, crops, rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SamModel, "embed", embed)
    generator = opened(checkpoint, points_per_batch=2)
    with pytest.raises(torch.OutOfMemoryError):
        generator.propose([named("landscape")])
    assert Batches(3, 64).halved() == (1, 32)
    assert Batches(1, 1).halved() is None


def test_a_bad_image_is_dropped_alone(checkpoint):
    thin = ImageInput("thin", "thin.png", np.zeros((1, 5000, 3), np.uint8))
    found = propose_in_batches(opened(checkpoint, image_batch=2), [named("landscape"), thin])
    assert isinstance(found[0], MaskProposals)
    assert found[1].reason == "proposal_failed"


def is_clocked():
    return getattr(device_clock._now, "is_counting", False)


@pytest.mark.parametrize("with_boxes", [False, True])
def test_the_devices_clock_runs_for_forwards_and_masks_but_not_for_pillow_and_run_lengths(monkeypatch, with_boxes):
    seen = {}

    def watch(place, name):
        whole = getattr(place, name)

        def watched(*arguments, **options):
            seen.setdefault(name, set()).add(is_clocked())
            return whole(*arguments, **options)

        monkeypatch.setattr(place, name, watched)

    model = SamModel(tiny_sam())
    for place, name in ((model, "_encoder"), (model, "_decode"), (sam_postprocess, "enlarge"), (model.reader, "read")):
        watch(place, name)
    watch(sam_postprocess, "encode_masks")
    if with_boxes:
        assert masks_in_boxes(model, [IMAGES["landscape"]], [BOXES])[0].masks
    else:
        assert everything(model, [IMAGES["landscape"]], SamOptions("none", **OPTIONS))[0].masks
    assert seen == {"_encoder": {True}, "_decode": {True}, "enlarge": {True}, "read": {False}, "encode_masks": {False}}


# Boxes.

BOXES = np.array([[10, 20, 60, 80], [0, 0, 119, 89], [100.5, 3, 110, 40]], np.float32)


def undecided_sam():
    """A SAM whose best mask is not the same for each of BOXES."""
    sam = tiny_sam()
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGES["landscape"])
    boxes = torch.from_numpy(predictor.transform.apply_boxes(BOXES, (90, 120))).float()
    _, ious, _ = predictor.predict_torch(None, None, boxes)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.data[1:] -= ious.median(dim=0).values
    return sam


@pytest.mark.parametrize("choose", [True, False])
def test_masks_in_boxes_are_the_predictors(choose):
    [found] = masks_in_boxes(
        SamModel(undecided_sam()), [IMAGES["landscape"]], [BOXES], 0.1, choose=choose, batches=Batches(1, 2)
    )
    predictor = SamPredictor(undecided_sam())
    predictor.set_image(IMAGES["landscape"])
    boxes = torch.from_numpy(predictor.transform.apply_boxes(BOXES, (90, 120))).float()
    masks, ious, _ = predictor.predict_torch(None, None, boxes, multimask_output=choose, return_logits=True)
    best = ious.argmax(dim=1)
    assert (len(set(best.tolist())) > 1) == choose
    rows = torch.arange(len(BOXES))
    assert found.masks == encode_masks((masks[rows, best] > 0).numpy())
    np.testing.assert_allclose(found.predicted_iou, ious[rows, best], atol=1e-4)
    inner, outer = ((masks[rows, best] > edge).sum((1, 2)) for edge in (0.1, -0.1))
    np.testing.assert_allclose(found.stability, inner / outer, atol=1e-4)


def test_no_box_is_no_mask():
    assert masks_in_boxes(SamModel(tiny_sam()), [IMAGES["tiny"]], [np.zeros((0, 4))]) == [([], [], [])]


def write_boxes(path, document):
    path.write_text(json.dumps(document))
    return str(path)


def test_boxes_of_coco_results_go_by_image_id(checkpoint, tmp_path):
    results = [
        {"image_id": "landscape", "category_id": 1, "bbox": [10, 20, 50, 60], "score": 0.9},
        {"image_id": "tiny", "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.2},
        {"image_id": "landscape", "category_id": 2, "bbox": [0, 0, 119, 89], "score": 0.6},
    ]
    options = {"boxes": write_boxes(tmp_path / "results.json", results), "box_score_thresh": 0.5}
    generator = opened(checkpoint, tmp_path, **options)
    found = generator.propose([named("tiny"), named("landscape"), named("portrait, grey")])
    model = SamModel(tiny_sam())
    [expected] = masks_in_boxes(model, [IMAGES["landscape"]], [BOXES[:2]], stability_offset=0.1)
    assert found[1].masks == expected.masks
    assert [error.reason for error in (found[0], found[2])] == ["no_annotation", "no_annotation"]


def test_boxes_of_instances_go_by_file_stem(checkpoint, tmp_path):
    document = {
        "images": [{"id": 7, "file_name": "train/landscape.jpg"}, {"id": 8, "file_name": "tiny.jpg"}],
        "annotations": [{"image_id": 7, "bbox": [10, 20, 50, 60]}],
    }
    generator = opened(checkpoint, tmp_path, boxes=write_boxes(tmp_path / "instances.json", document))
    found = generator.propose([named("landscape"), named("tiny"), named("portrait, grey")])
    assert len(found[0].masks) == 1
    assert [error.reason for error in found[1:]] == ["no_masks", "no_annotation"]


@pytest.mark.parametrize(
    "document", [[{"image_id": 1}], {"images": []}, 7, [{"image_id": 1, "bbox": [0, 0, -1, 5], "score": 1.0}]]
)
def test_a_file_without_boxes_is_one_sentence(checkpoint, tmp_path, document):
    with pytest.raises(UserError, match=r"option boxes: .*wanted COCO results"):
        resolved(checkpoint, tmp_path, boxes=write_boxes(tmp_path / "boxes.json", document))


# Precision and compilation.


def test_half_precision_agrees_nearly(checkpoint):
    full, half = (opened(checkpoint, precision=precision) for precision in ("fp32", "bf16"))
    images = [named("landscape"), named("portrait, grey")]
    found = agreement(full.propose(images), half.propose(images))
    assert found.masks > 10
    assert found.matched >= 0.7 * found.masks
    assert found.mean_iou > 0.9
    assert found.equal_pixels > 0.98


def test_agreement_by_value():
    masks = np.zeros((3, 4, 5), bool)
    masks[0, :2], masks[1, :, :1], masks[2, :2, :4] = True, True, True
    one = MaskProposals(encode_masks(masks[:2]), [0.5, 0.5], [1.0, 1.0])
    other = MaskProposals(encode_masks(masks[2:]), [0.5], [1.0])
    found = agreement([one, ProposalError("no_masks", "")], [other, ProposalError("no_masks", "")])
    # Of two masks one has a counterpart: 8 of its 10 pixels, 2 of 20 pixels differ.
    assert (found.masks, found.others, found.matched) == (2, 1, 1)
    assert found.mean_iou == pytest.approx(0.8)
    assert found.equal_pixels == pytest.approx(0.9)


def test_prompts_agree_with_themselves_and_nearly_in_half_precision():
    full, half = SamModel(tiny_sam()), SamModel(tiny_sam(), precision="bf16")
    itself = prompt_agreement(full, full, IMAGES["landscape"], points_per_side=4)
    assert itself == (1.0, 1.0, 0.0)
    found = prompt_agreement(full, half, IMAGES["landscape"], points_per_side=4)
    assert 0.95 < found.equal_pixels < 1
    assert 0.8 < found.mean_iou < 1
    assert 0 < found.iou_difference < 0.05


def test_a_half_precision_sam_that_is_not_to_be_compared_measures_nothing(checkpoint):
    assert not hasattr(opened(checkpoint, precision="bf16", compare_precision=False), "measure")
    ones, others = (resolved(checkpoint, precision="bf16", compare_precision=each) for each in (True, False))
    assert ones.fingerprint() == others.fingerprint()


def test_a_half_precision_sam_measures_itself_unless_that_fails(checkpoint, monkeypatch, caplog):
    assert not hasattr(opened(checkpoint), "measure")
    half, full = opened(checkpoint, precision="bf16"), SamModel(tiny_sam())
    expected = prompt_agreement(full, half._model, IMAGES["landscape"], points_per_side=4)
    found = half.measure(IMAGES["landscape"])
    assert found["mask_precision_images"] == 1
    assert found["mask_precision_iou_millionths"] == round(1e6 * expected.mean_iou)
    before = half.propose([named("landscape")])

    def fail(error):
        def load(weights):
            raise error

        monkeypatch.setattr(sam, "load_sam", load)

    fail(torch.OutOfMemoryError("CUDA out of memory"))
    assert half.measure(IMAGES["landscape"]) == {}
    assert "bf16 is not compared with fp32: OutOfMemoryError: CUDA out of memory" in caplog.messages
    assert half.propose([named("landscape")]) == before
    fail(RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal"):
        half.measure(IMAGES["landscape"])


def test_compiled_parts_are_those_that_run(checkpoint, monkeypatch):
    compiled = []

    def compile_(part):
        compiled.append(part)
        return part

    expected = opened(checkpoint).propose([named("tiny")])
    monkeypatch.setattr(sam_everything.torch, "compile", compile_)
    assert opened(checkpoint, compile=True).propose([named("tiny")]) == expected
    assert len(compiled) == 2


# Weights.


def test_the_model_is_read_off_the_checkpoint(checkpoint, tmp_path):
    weights = sam_weights.resolve_sam(str(checkpoint))
    assert (weights.model_type, weights.sha256[:4]) == ("vit", sam_weights.file_sha256(str(checkpoint))[:4])
    sam, expected = sam_weights.load_sam(weights), tiny_sam()
    pixels = torch.rand(1, 3, SIDE_PX, SIDE_PX)
    torch.testing.assert_close(sam.image_encoder(pixels), expected.image_encoder(pixels))
    assert sam.image_encoder.blocks[0].window_size == 3
    assert sam.image_encoder.blocks[1].window_size == 0
    torch.save({"model": expected.state_dict()}, tmp_path / "trained.pth")
    assert sam_weights.load_sam(sam_weights.resolve_sam(str(tmp_path / "trained.pth"))).device.type == "cpu"


@pytest.mark.parametrize("width, depth, name", [(768, 12, "vit_b"), (1024, 24, "vit_l"), (1280, 32, "vit_h")])
def test_published_sizes_are_recognised(width, depth, name):
    with torch.device("meta"):
        sam = {"vit_b": build_b, "vit_l": build_l, "vit_h": build_h}[name]()
    tensors = sam.state_dict()
    assert sam_weights.type_of(tensors) == name
    with torch.device("meta"):
        vit = sam_weights.vit_for(tensors)
    assert {key: value.shape for key, value in vit.state_dict().items()} == {
        key: value.shape for key, value in sam.image_encoder.state_dict().items()
    }
    for block, other in zip(vit.blocks, sam.image_encoder.blocks, strict=True):
        assert (block.window_size, block.attn.num_heads) == (other.window_size, other.attn.num_heads)


def build_b():
    from segment_anything import build_sam_vit_b

    return build_sam_vit_b()


def build_l():
    from segment_anything import build_sam_vit_l

    return build_sam_vit_l()


def build_h():
    from segment_anything import build_sam_vit_h

    return build_sam_vit_h()


class Patches(torch.nn.Module):
    """An encoder of another kind: the mean colour of each token's pixels, by one convolution."""

    img_size = SIDE_PX

    def __init__(self):
        super().__init__()
        self.only = torch.nn.Conv2d(3, CHANNELS, 16, 16)

    def forward(self, pixels):
        return self.only(pixels)


def test_an_encoder_of_another_kind_comes_by_a_factory(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_encoder", types.SimpleNamespace(make=Patches, number=lambda: 7))
    sam = tiny_sam()
    torch.manual_seed(0)
    sam.image_encoder = Patches()
    torch.save(sam.state_dict(), tmp_path / "mobile.pth")
    generator = opened(tmp_path / "mobile.pth", image_encoder="my_encoder:make", pred_iou_thresh=0.3)
    expected = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **{**OPTIONS, "pred_iou_thresh": 0.3})
    assert_equal(generator.propose([named("landscape")])[0], expected.generate(IMAGES["landscape"]))
    spec = resolved(tmp_path / "mobile.pth", image_encoder="my_encoder:make")
    assert spec.fingerprint()["model"] == "my_encoder:make"
    with pytest.raises(UserError, match=r"its encoder is no ViT of segment-anything; .*image_encoder=package"):
        resolved(tmp_path / "mobile.pth")
    with pytest.raises(UserError, match="'my_encoder:nothing' gave AttributeError"):
        resolved(tmp_path / "mobile.pth", image_encoder="my_encoder:nothing")
    with pytest.raises(UserError, match="has no img_size"):
        resolved(tmp_path / "mobile.pth", image_encoder="my_encoder:number")


class CachingPatches(Patches):
    """Keeps a bias as a plain attribute while it is in eval mode, as LeViT's attention does."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.full((1, CHANNELS, 1, 1), 0.3))

    def train(self, mode=True):
        super().train(mode)
        if mode and hasattr(self, "ab"):
            del self.ab
        else:
            self.ab = 2 * self.bias
        return self

    def forward(self, pixels):
        return torch.cat([super().forward(pixels), self.ab.expand(len(pixels), -1, 1, SIDE_PX // 16)], dim=2)[:, :, 1:]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_what_an_encoder_keeps_of_its_weights_is_cast_with_them(precision, dtype):
    sam = tiny_sam()
    sam.image_encoder = CachingPatches().eval()
    assert sam.image_encoder.ab.dtype == torch.float32
    model = SamModel(sam, precision=precision)
    assert model._encoder(torch.zeros(1, 3, SIDE_PX, SIDE_PX)).dtype == dtype
    assert masks_in_boxes(model, [IMAGES["landscape"]], [BOXES])[0].masks


def test_an_encoder_that_does_not_fit_is_one_sentence(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_encoder", types.SimpleNamespace(make=Patches))
    with pytest.raises(UserError, match=r"does not fit the encoder of my_encoder:make: Missing key.*only"):
        resolved(checkpoint, image_encoder="my_encoder:make")


def test_a_missing_checkpoint_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"download sam_vit_l_0b3195.pth \(ViT-L\) .*--mask-option checkpoint=PATH"):
        resolved("vit_l")
    with pytest.raises(UserError, match="option checkpoint is missing"):
        resolve_generator("sam", {}, "cpu", "")


def test_a_published_file_is_found_by_its_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_sam(tmp_path / "sam_vit_b_01ec64.pth")
    assert resolved("vit_b").fingerprint()["model"] == "vit"


def test_another_type_than_asked_is_refused(checkpoint):
    with pytest.raises(UserError, match="holds a vit, and option model_type wants vit_h"):
        resolved(checkpoint, model_type="vit_h")


def test_other_files_are_refused(tmp_path, checkpoint):
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(UserError, match="is damaged, or holds Python objects"):
        resolved(tmp_path / "text.pth")
    torch.save({"visual.proj": torch.zeros(2)}, tmp_path / "clip.pth")
    with pytest.raises(UserError, match=r"is no checkpoint of SAM: it has no mask_decoder\.mask_tokens\.weight"):
        resolved(tmp_path / "clip.pth")
    tensors = torch.load(checkpoint, weights_only=True)
    del tensors["mask_decoder.iou_token.weight"]
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"does not fit segment-anything's model: Missing key.*iou_token"):
        resolved(tmp_path / "less.pth")


def test_layers_without_points_are_refused(checkpoint):
    with pytest.raises(UserError, match="the last of 2 crop layers has no point a side left"):
        resolved(checkpoint, crop_n_layers=2, crop_n_points_downscale_factor=4)


def test_the_fingerprint_is_free_of_paths_and_follows_weights_and_options(checkpoint, tmp_path):
    moved = shutil.copy(checkpoint, tmp_path / "moved.pth")
    first, again = resolved(checkpoint).fingerprint(), resolved(moved).fingerprint()
    assert first == again
    assert first["device"] == "cpu"
    assert first != resolved(checkpoint, box_nms_thresh=0.5).fingerprint()
    assert first != resolved(write_tiny_sam(tmp_path / "other.pth", seed=1)).fingerprint()
    assert str(tmp_path) not in json.dumps(again)

"""Mask-adapted CLIP: prompts and alpha against a slow reference, what trains, and every format of weights."""

import base64
import copy
import gzip
import itertools
import json
import math

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch
from safetensors.torch import load_file, save_file

from ovseg_model.adapted_weights import (
    adapt_clip,
    adapted_tokenizer,
    export_open_clip,
    exported_architecture,
    import_ovseg,
    load_adapted,
    read_description,
    save_adapted,
)
from ovseg_model.clip import resolve_clip
from ovseg_model.mask_adapted_clip import (
    MaskAdaptedClip,
    kept_patches,
    overwrite,
    resize_prompts,
    set_trainable,
)
from schemas.errors import UserError

DEEP = copy.deepcopy(tiny_clip.CONFIG)
DEEP["vision_cfg"]["layers"] = 4
TOWERS = {
    "GELU": DEEP,
    "QuickGELU": {**DEEP, "quick_gelu": True},
    "CustomTextCLIP": {**DEEP, "custom_text": True},
    "mean of patches": {**DEEP, "vision_cfg": {**DEEP["vision_cfg"], "pool_type": "avg", "no_ln_pre": True}},
    "pooled first": {**DEEP, "vision_cfg": {**DEEP["vision_cfg"], "final_ln_after_pool": True}},
    "tokens too": {**DEEP, "vision_cfg": {**DEEP["vision_cfg"], "output_tokens": True}},
    "attentional pooling": {
        **DEEP,
        "vision_cfg": {**DEEP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2},
    },
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks() -> torch.Tensor:
    """Of 16 patches each: one pixel in patch 5; patches 10 and 15 whole; all but patch 0."""
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 15, 8] = True
    masks[1, 16:24, 16:24] = masks[1, 24:, 24:] = True
    masks[2] = True
    masks[2, :8, :8] = False
    return masks


KEPT = [{5}, {10, 15}, set(range(1, 16))]


def prompted(depth=3, model_cfg=DEEP, **options) -> MaskAdaptedClip:
    model = MaskAdaptedClip(tiny_clip.build(model_cfg), depth, **options)
    if depth:
        torch.nn.init.normal_(model.prompts, std=1.0, generator=torch.Generator().manual_seed(2))
    return model


def slow_features(model: MaskAdaptedClip, images, kept) -> torch.Tensor:
    """Every region, block and patch by itself, from the words of the paper; pooled at the class token."""
    visual = model.visual
    rows = []
    for image, kept_places in zip(images, kept, strict=True):
        tokens = [visual.class_embedding]
        for place in range(16):
            top, left = 8 * (place // 4), 8 * (place % 4)
            pixels = image[:, top : top + 8, left : left + 8]
            token = (visual.conv1.weight * pixels).sum(dim=(1, 2, 3))
            tokens.append(token if place in kept_places else model.prompts[0, place])
        hidden = visual.ln_pre(torch.stack(tokens) + visual.positional_embedding)[None]
        for number, block in enumerate(visual.transformer.resblocks):
            hidden = block(hidden.transpose(0, 1)).transpose(0, 1)
            for place in set(range(16)) - kept_places:
                if 1 <= number + 1 < model.depth:
                    hidden[0, 1 + place] = model.prompts[number + 1, place]
        rows.append(visual.ln_post(hidden[0, 0]) @ visual.proj)
    return torch.stack(rows)


@torch.no_grad()
def test_reading_the_sequence_first_changes_results_by_rounding_alone(images):
    clip = tiny_clip.build(DEEP)
    wanted = clip.visual(images)
    MaskAdaptedClip(clip)
    assert not clip.visual.transformer.batch_first
    assert torch.allclose(clip.visual(images), wanted, rtol=0, atol=1e-5)


# Prompts.


def test_a_patch_is_kept_for_one_pixel(masks):
    kept = kept_patches(masks, 8)
    assert kept.dtype == torch.bool and kept.shape == (3, 16)
    assert [set(row.nonzero().flatten().tolist()) for row in kept] == KEPT


def test_kept_patches_are_the_paper_mean_rounded_up():
    masks = torch.rand(5, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.98
    means = torch.nn.functional.avg_pool2d(masks[:, None].float(), 8)
    assert torch.equal(kept_patches(masks, 8).float(), means.ceil().flatten(1))


def test_overwriting_by_hand():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, math.nan]]])
    blank = torch.tensor([[False, True]])
    prompts = torch.tensor([[10.0, 11.0], [12.0, 13.0]])
    assert overwrite(tokens, blank, prompts).tolist() == [[[1, 2], [12, 13]]]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("tower", ["GELU", "QuickGELU", "CustomTextCLIP"])
@torch.no_grad()
def test_prompts_equal_the_slow_reference_at_every_depth(tower, depth, images, masks):
    model = prompted(depth, TOWERS[tower])
    wanted = slow_features(model, images, KEPT)
    assert torch.allclose(model.encode_regions(images, masks), wanted, atol=1e-5)
    assert torch.equal(model(images, masks), model.encode_regions(images, masks))


@torch.no_grad()
def test_every_depth_and_every_blank_place_counts(images, masks):
    model = prompted(3)
    before = model.encode_regions(images, masks)
    for depth in range(3):
        for place in (0, 5):
            saved = model.prompts[depth, place].clone()
            model.prompts[depth, place] += 1
            changed = (model.encode_regions(images, masks) != before).any(dim=1).tolist()
            assert changed == [place not in kept for kept in KEPT]
            model.prompts[depth, place] = saved


@torch.no_grad()
def test_the_class_token_is_never_replaced(images, masks):
    seen = []
    model = prompted(3)
    for block in model.visual.transformer.resblocks:
        block.register_forward_hook(
            lambda block, *rows: seen.append([each.transpose(0, 1) for each in (rows[0][0], rows[1])])
        )
    model.encode_regions(images, masks)
    for (_, output), (following, _) in itertools.pairwise(seen):
        assert torch.equal(output[:, 0], following[:, 0])
    replaced = [(a[1] != b[0]).any(dim=-1) for a, b in itertools.pairwise(seen)]
    blank = torch.nn.functional.pad(~kept_patches(masks, 8), (1, 0))
    assert [torch.equal(places, blank) for places in replaced] == [True, True, False]
    assert not replaced[2].any()


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_without_blank_patches_it_is_open_clips_own(tower, images):
    model = prompted(3, TOWERS[tower])
    own = model.visual(images)
    own = own[0] if isinstance(own, tuple) else own
    almost_blank = torch.zeros(3, 32, 32, dtype=torch.bool)
    almost_blank[:, 7::8, ::8] = True
    for masks in (None, torch.ones_like(almost_blank), almost_blank):
        assert torch.equal(model.encode_regions(images, masks), own)
    assert not torch.equal(model.encode_regions(images, torch.zeros_like(almost_blank)), own)


@torch.no_grad()
def test_depth_zero_is_open_clips_own_whatever_the_masks(images, masks):
    model = MaskAdaptedClip(tiny_clip.build())
    assert model.prompts is None and model.depth == 0
    assert torch.equal(model.encode_regions(images, masks), model.visual(images))


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(images, masks):
    """One region, no region, one blank region: OVSeg's own code fails on the first."""
    model = prompted()
    together = model.encode_regions(images, masks)
    for index in range(3):
        alone = model.encode_regions(images[index : index + 1], masks[index : index + 1])
        assert alone.shape == (1, 16)
        assert torch.allclose(alone[0], together[index], atol=1e-6)
    assert model.encode_regions(images[:0], masks[:0]).shape == (0, 16)
    blank = torch.zeros_like(masks)
    assert torch.allclose(model.encode_regions(images, blank), slow_features(model, images, [set()] * 3), atol=1e-5)
    assert torch.equal(model.encode_regions(images[:1], blank[:1]), model.encode_regions(images[1:2], blank[:1]))


@pytest.mark.parametrize(
    ("architecture", "shape", "dimensions"),
    [
        ("ViT-B-32-quickgelu", (3, 49, 768), 512),
        ("ViT-B-16", (3, 196, 768), 512),
        ("ViT-L-14-quickgelu", (3, 256, 1024), 768),
    ],
)
def test_shapes_of_the_papers_models(architecture, shape, dimensions):
    with torch.device("meta"):
        model = MaskAdaptedClip(open_clip.CLIP(**open_clip.get_model_config(architecture)), depth=3)
        features = model.encode_regions(torch.empty(2, 3, 224, 224), torch.empty(2, 224, 224, dtype=torch.bool))
    assert model.prompts.shape == shape
    assert features.shape == (2, dimensions)


def test_fresh_prompts_are_seeded_and_of_the_papers_spread():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    wide = copy.deepcopy(tiny_clip.CONFIG)
    wide["vision_cfg"].update(width=256, image_size=64)
    first, second = (MaskAdaptedClip(tiny_clip.build(wide), 2, seed=7).prompts for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, MaskAdaptedClip(tiny_clip.build(wide), 2, seed=8).prompts)
    assert first.std().item() == pytest.approx(0.02, rel=0.02)
    assert first.mean().item() == pytest.approx(0, abs=5e-4)


def test_other_shapes_and_dtypes_are_refused(images, masks):
    model = prompted()
    with pytest.raises(ValueError, match=r"images: wanted \(B, 3, 32, 32\), got \(3, 3, 16, 32\); resize_input takes"):
        model.encode_regions(images[:, :, :16], masks)
    with pytest.raises(ValueError, match=r"masks: wanted bool \(3, 32, 32\), got torch.bool \(2, 32, 32\)"):
        model.encode_regions(images, masks[:2])
    with pytest.raises(ValueError, match=r"masks: wanted bool \(3, 32, 32\), got torch.float32"):
        model.encode_regions(images, masks.float())


def test_what_cannot_be_prompted_is_one_sentence():
    resnet = copy.deepcopy(tiny_clip.CONFIG)
    resnet["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    clip = tiny_clip.build(resnet)
    with pytest.raises(UserError, match=r"^CLIP CLIP: wanted open_clip's own VisionTransformer .* for mask prompts"):
        MaskAdaptedClip(clip, 1)
    with pytest.raises(UserError, match="for an alpha channel, got ModifiedResNet; take a ViT such as ViT-B-16"):
        MaskAdaptedClip(clip, alpha=True)
    assert MaskAdaptedClip(clip).encode_regions(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(UserError, match="for another input size, got ModifiedResNet"):
        MaskAdaptedClip(clip).resize_input(64)
    with pytest.raises(UserError, match="wanted 1 to 2, the blocks of its image tower, got 3"):
        MaskAdaptedClip(tiny_clip.build(), 3)
    with pytest.raises(UserError, match=r"wanted 0 \(no prompts\) or more, got -1"):
        MaskAdaptedClip(tiny_clip.build(), -1)
    with pytest.raises(UserError, match="wanted one of them, got depth 1 and alpha; leave one away"):
        MaskAdaptedClip(tiny_clip.build(), 1, alpha=True)
    dropping = copy.deepcopy(tiny_clip.CONFIG)
    dropping["vision_cfg"]["patch_dropout"] = 0.5
    with pytest.raises(UserError, match="it drops patches in training, so prompts would not meet their places"):
        MaskAdaptedClip(tiny_clip.build(dropping), 1)


# Other input sizes.


def test_prompts_are_resized_depth_by_depth():
    prompts = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    resized = resize_prompts(prompts, (4, 4), (8, 8))
    assert resized.shape == (2, 64, 3)
    for depth in range(2):
        for channel in range(3):
            plane = prompts[depth, :, channel].reshape(1, 1, 4, 4)
            wanted = torch.nn.functional.interpolate(plane, (8, 8), mode="bicubic", antialias=True)
            assert torch.allclose(resized[depth, :, channel].reshape(8, 8), wanted[0, 0], atol=1e-6)
    assert torch.allclose(resize_prompts(prompts, (4, 4), (4, 4)), prompts, atol=1e-6)
    assert torch.allclose(resize_prompts(torch.ones(1, 6, 1), (2, 3), (5, 7)), torch.ones(1, 35, 1), atol=1e-6)


@torch.no_grad()
def test_positions_are_resized_as_open_clip_does(images, tmp_path):
    model = prompted(2)
    large = copy.deepcopy(DEEP)
    large["vision_cfg"]["image_size"] = 64
    wanted = tiny_clip.build(large)
    torch.save(model.clip.state_dict(), tmp_path / "small.pt")
    open_clip.load_checkpoint(wanted, str(tmp_path / "small.pt"))
    prompts = model.prompts.clone()
    model.resize_input(64)
    assert (model.image_size_px, model.grid, model.patch_px) == (64, (8, 8), 8)
    assert torch.equal(model.prompts, resize_prompts(prompts, (4, 4), (8, 8)))
    large_images = torch.nn.functional.interpolate(images, (64, 64))
    assert torch.allclose(model.encode_regions(large_images), wanted.visual(large_images), atol=1e-6)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    assert model.encode_regions(large_images, masks).shape == (3, 16)
    with pytest.raises(UserError, match="wanted a multiple of its patch, 8 px, got 60"):
        model.resize_input(60)


# Alpha.


@torch.no_grad()
def test_alpha_starts_as_clip(images, masks):
    model = MaskAdaptedClip(tiny_clip.build(), alpha=True)
    own = model.visual(images)
    assert model.alpha_conv.weight.shape == (32, 1, 8, 8) and model.alpha_conv.bias is None
    for given in (None, masks, torch.zeros_like(masks)):
        assert torch.equal(model.encode_regions(images, given), own)


@torch.no_grad()
def test_alpha_adds_the_scaled_masks_convolution(images, masks):
    model = MaskAdaptedClip(tiny_clip.build(), alpha=True)
    torch.nn.init.normal_(model.alpha_conv.weight, generator=torch.Generator().manual_seed(0))
    seen = []
    model.visual.ln_pre.register_forward_hook(lambda norm, inputs, output: seen.append(inputs[0]))
    model.encode_regions(images, masks)
    model.visual(images)
    added = seen[0] - seen[1]
    assert (added[:, 0] == 0).all()
    for row in range(3):
        for place in range(16):
            top, left = 8 * (place // 4), 8 * (place % 4)
            alpha = (masks[row, top : top + 8, left : left + 8].float() - 0.5) / 0.26
            wanted = (model.alpha_conv.weight[:, 0] * alpha).sum(dim=(1, 2))
            assert torch.allclose(added[row, 1 + place], wanted, atol=1e-4)


@torch.no_grad()
def test_alpha_without_masks_has_all_in_the_foreground(images, masks):
    model = MaskAdaptedClip(tiny_clip.build(), alpha=True)
    torch.nn.init.normal_(model.alpha_conv.weight, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.encode_regions(images), model.encode_regions(images, torch.ones_like(masks)))
    assert not torch.allclose(model.encode_regions(images), model.encode_regions(images, masks))


# Training.


def names_that_train(model, mode, **options):
    return set(set_trainable(model, mode, **{"train_logit_scale": False, **options}))


def test_modes_train_what_they_say():
    model = prompted()
    tower = {f"clip.visual.{name}" for name, _ in model.visual.named_parameters()}
    assert names_that_train(model, "full") == tower
    assert names_that_train(model, "prompt") == {"prompts"}
    assert names_that_train(model, "joint") == tower | {"prompts"}
    for mode in ("full", "prompt", "joint"):
        without = names_that_train(model, mode)
        assert names_that_train(model, mode, train_logit_scale=True) == without | {"clip.logit_scale"}
    alpha = MaskAdaptedClip(tiny_clip.build(DEEP), alpha=True)
    assert names_that_train(alpha, "alpha") == tower | {"alpha_conv.weight"}
    assert names_that_train(alpha, "full") == tower


def test_modes_that_a_model_has_no_parts_for():
    bare = MaskAdaptedClip(tiny_clip.build())
    for mode in ("prompt", "joint"):
        with pytest.raises(UserError, match=f"mode {mode}: it trains mask prompts, and CLIP has none; give a depth"):
            set_trainable(bare, mode, False)
    with pytest.raises(UserError, match="mode alpha: it trains an alpha channel, and CLIP has none; open it with"):
        set_trainable(bare, "alpha", False)
    with pytest.raises(UserError, match="mode: wanted one of full, prompt, joint, alpha, got 'all'"):
        set_trainable(bare, "all", False)


def test_positions_that_are_a_formula_do_not_train(tmp_path):
    fixed = copy.deepcopy(tiny_clip.CONFIG)
    fixed["vision_cfg"]["pos_embed_type"] = "sin_cos_2d"
    model = adapt_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path / "fixed", fixed))))
    assert "clip.visual.positional_embedding" not in names_that_train(model, "full")
    assert "clip.visual.conv1.weight" in names_that_train(model, "full")


def test_gradients_reach_the_prompts_alone(images, masks):
    model = prompted()
    set_trainable(model, "prompt", False)
    model.encode_regions(images, masks).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is not None] == ["prompts"]
    reached = (model.prompts.grad != 0).any(dim=-1)
    blank_somewhere = (~kept_patches(masks, 8)).any(dim=0)
    assert torch.equal(reached, blank_somewhere.expand(3, 16))


def gradients(model, images, masks):
    model.zero_grad()
    model.encode_regions(images, masks).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("options", [{"depth": 3}, {"depth": 0}, {"depth": 0, "alpha": True}])
def test_checkpointing_gives_the_same_gradients_and_takes_effect(options, images, masks):
    model = prompted(**options)
    set_trainable(model, "joint" if options["depth"] else "alpha" if "alpha" in options else "full", False)
    wanted = gradients(model, images, masks)
    runs = []
    model.visual.transformer.resblocks[1].register_forward_pre_hook(lambda *args: runs.append(1))
    model.set_grad_checkpointing()
    ours = gradients(model, images, masks)
    assert len(runs) == 2
    assert ours.keys() == wanted.keys() and len(ours) > 10
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [{"depth": 3}, {"depth": 0, "alpha": True}])
def test_it_compiles_whole(options, images, masks):
    model = prompted(**options).requires_grad_(False)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images, masks), model(images, masks), atol=1e-6)


@torch.no_grad()
def test_lower_precision(images, masks):
    model = prompted()
    wanted = model.encode_regions(images, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.encode_regions(images, masks)
    assert low.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(low.float(), wanted).min() > 0.999
    half = model.to(torch.bfloat16)
    assert half.encode_regions(images.bfloat16(), masks).dtype == torch.bfloat16


# Our files.


@pytest.fixture
def base(tmp_path):
    return resolve_clip(str(tiny_clip.write_folder(tmp_path / "my-clip")))


def same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("options", [{"depth": 2, "seed": 4}, {"alpha": True}, {}])
def test_a_file_brings_everything_back(options, base, images, masks, tmp_path):
    model = adapt_clip(base, **options)
    path = str(tmp_path / "out" / "adapted.safetensors")
    save_adapted(model, path, notes={"steps": 7, "world": "scenes"})
    loaded = load_adapted(path)
    same_weights(loaded.state_dict(), model.state_dict())
    assert (loaded.depth, loaded.alpha_conv is None) == (model.depth, "alpha" not in options)
    assert loaded.origin == model.origin
    assert (loaded.origin.name, loaded.origin.sha256) == ("my-clip", base.sha256)
    assert loaded.mean == tiny_clip.MEAN and loaded.std == tiny_clip.STD
    with torch.no_grad():
        assert torch.equal(loaded(images, masks), model(images, masks))
    assert read_description(path)["notes"] == {"steps": 7, "world": "scenes"}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["adapted.safetensors"]


def test_a_file_says_nothing_of_the_place_and_has_the_same_bytes_every_time(base, tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file in files:
        save_adapted(adapt_clip(base, 1), str(file), {"b": 1, "a": 2})
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(tmp_path) not in json.dumps(read_description(str(files[0])))


def test_a_resized_model_comes_back_at_its_size(base, tmp_path):
    model = adapt_clip(base, 2)
    model.resize_input(64)
    save_adapted(model, str(tmp_path / "large.safetensors"))
    loaded = load_adapted(str(tmp_path / "large.safetensors"))
    same_weights(loaded.state_dict(), model.state_dict())
    assert (loaded.image_size_px, loaded.grid) == (64, (8, 8))


def test_a_tokenizer_of_its_own_travels_in_the_file(tmp_path):
    folder = tiny_clip.write_folder(tmp_path / "own", tiny_clip.config(context_length=8, vocab_size=515))
    merges = gzip.compress(b"#version: ours\nc a", mtime=0)
    (folder / "bpe_merges.txt.gz").write_bytes(merges)
    model = adapt_clip(resolve_clip(str(folder)))
    path = str(tmp_path / "adapted.safetensors")
    save_adapted(model, path)
    loaded = load_adapted(path)
    assert base64.b64decode(loaded.origin.bpe_merges) == merges
    ours = open_clip.SimpleTokenizer(str(folder / "bpe_merges.txt.gz"), context_length=8)
    assert torch.equal(adapted_tokenizer(loaded.origin)(["ca b"]), ours(["ca b"]))


def test_the_usual_tokenizer_is_open_clips(base):
    tokens = adapted_tokenizer(adapt_clip(base).origin)(["a cat"])
    assert torch.equal(tokens, open_clip.SimpleTokenizer()(["a cat"]))


def test_a_named_architecture_stays_named_and_random_weights_stay_marked(tmp_path):
    tiny_clip.register(tmp_path, "tiny-named")
    model = adapt_clip(resolve_clip("tiny-named/random"), 1)
    assert (model.origin.architecture, model.origin.meaningless) == ("tiny-named", True)
    assert adapted_tokenizer(model.origin)(["a cat"]).shape == (1, 77)
    save_adapted(model, str(tmp_path / "a.safetensors"))
    assert load_adapted(str(tmp_path / "a.safetensors")).origin == model.origin


def test_files_that_are_not_ours(base, tmp_path):
    path = str(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"there is no file .*a\.safetensors; give one that training or import wrote"):
        load_adapted(path)
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"^adapted CLIP .*: wanted safetensors, .*; the file is damaged"):
        load_adapted(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(UserError, match="wanted metadata mask_adapted_clip, found format; it is another model's file"):
        load_adapted(path)
    model = adapt_clip(base, 1)
    with pytest.raises(UserError, match=r"wanted a file that ends in \.safetensors, got out\.pt"):
        save_adapted(model, "out.pt")
    save_adapted(model, path)
    description = read_description(path)
    save_file(load_file(path), path, {"mask_adapted_clip": json.dumps({**description, "format_version": 2})})
    with pytest.raises(UserError, match="wanted format version 1, got 2; open it with the version of this tool"):
        load_adapted(path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "prompts"}
    save_file(weights, path, {"mask_adapted_clip": json.dumps(description)})
    with pytest.raises(UserError, match=r"its weights do not fit its description: Missing key\(s\) .*\"prompts\""):
        load_adapted(path)
    with pytest.raises(ValueError, match="wanted a model with an origin, as adapt_clip makes it"):
        save_adapted(MaskAdaptedClip(tiny_clip.build()), path)


def test_a_write_that_fails_leaves_what_was_there(base, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    model = adapt_clip(base)

    def fail(tensors, part, metadata):
        (tmp_path / "seen").write_text(part)
        raise OSError("disk full")

    monkeypatch.setattr("ovseg_model.adapted_weights.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_adapted(model, str(path))
    assert path.read_bytes() == b"before"
    assert (tmp_path / "seen").read_text().startswith(f"{tmp_path}/.a.safetensors.")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "my-clip", "seen"]


# For open_clip.


@torch.no_grad()
def test_a_finetuned_model_loads_in_plain_open_clip(base, images, tmp_path):
    tiny_clip.register(tmp_path, "tiny-exported")
    model = adapt_clip(base)
    model.visual.proj += 1
    export_open_clip(model, str(tmp_path / "out.safetensors"))
    plain = open_clip.create_model("tiny-exported", pretrained=str(tmp_path / "out.safetensors"))
    same_weights(plain.state_dict(), model.clip.state_dict())
    assert torch.equal(plain.encode_image(images), model.encode_regions(images))


@torch.no_grad()
def test_a_folder_describes_its_model_to_open_clip_and_to_us(base, images, tmp_path):
    model = adapt_clip(base)
    model.resize_input(64)
    model.visual.proj += 1
    folder = str(tmp_path / "exported")
    export_open_clip(model, folder)
    plain = open_clip.create_model(f"local-dir:{folder}")
    same_weights(plain.state_dict(), model.clip.state_dict())
    assert plain.visual.image_size in (64, (64, 64))
    assert open_clip.get_model_preprocess_cfg(plain)["mean"] == list(tiny_clip.MEAN)
    again = adapt_clip(resolve_clip(folder))
    large = torch.nn.functional.interpolate(images, (64, 64))
    assert torch.equal(again.encode_regions(large), model.encode_regions(large))


def test_an_export_never_loses_prompts_unasked(base, tmp_path):
    path = str(tmp_path / "out.safetensors")
    with pytest.raises(UserError, match=r"open_clip has no place for its prompts of depth 2, and they would be lost;"):
        export_open_clip(adapt_clip(base, 2), path)
    with pytest.raises(UserError, match="open_clip has no place for its alpha convolution, and"):
        export_open_clip(adapt_clip(base, alpha=True), path)
    assert not (tmp_path / "out.safetensors").exists()
    model = adapt_clip(base, 2)
    export_open_clip(model, path, drop_prompts=True)
    same_weights(load_file(path), model.clip.state_dict())


def test_the_architecture_to_open_an_export_with(base, tmp_path):
    tiny_clip.register(tmp_path, "tiny-quick", tiny_clip.config(quick_gelu=True))
    assert exported_architecture(adapt_clip(resolve_clip("tiny-quick/random")).origin) == "tiny-quick"
    assert exported_architecture(adapt_clip(base).origin) is None
    tiny_clip.register(tmp_path, "tiny-plain")
    origin = adapt_clip(resolve_clip("tiny-plain/random")).origin
    assert exported_architecture(origin) == "tiny-plain"
    origin.model_cfg["quick_gelu"] = True
    assert exported_architecture(origin) == "tiny-plain-quickgelu"


# From OVSeg.


@pytest.fixture
def tiny(tmp_path):
    return tiny_clip.register(tmp_path, "tiny-ovseg")


QUICK = tiny_clip.config(quick_gelu=True)
PROMPTS = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(9))


def ovseg_weights(prompts=PROMPTS, prefix=""):
    weights = tiny_clip.build(QUICK, seed=5).state_dict()
    if prompts is not None:
        weights["visual.mask_embedding"] = prompts
    return {prefix + name: weight for name, weight in weights.items()}


def finetuned_clip(prompts=PROMPTS, prefix="module."):
    """As OVSeg's CLIP trainer saves."""
    weights = ovseg_weights(prompts, prefix)
    return {"epoch": 5, "name": "tiny", "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}


def full_model(prompts=PROMPTS):
    """As a full OVSeg model: CLIP's weights, in half precision, beside others."""
    weights = {name: weight.half() for name, weight in ovseg_weights(prompts, "clip_adapter.clip_model.").items()}
    others = {"backbone.stem.weight": torch.zeros(2), "clip_adapter.text_templates": torch.zeros(1)}
    return {"model": {**weights, **others}, "iteration": 3}


@pytest.mark.parametrize("content", [finetuned_clip(), finetuned_clip(prefix="")])
def test_ovsegs_finetuned_clip(content, tiny, images, masks, tmp_path):
    path = str(tmp_path / "epoch_5.pt")
    torch.save(content, path)
    model = import_ovseg(path, tiny)
    assert torch.equal(model.prompts, PROMPTS)
    same_weights(model.clip.state_dict(), ovseg_weights(None))
    wanted = MaskAdaptedClip(tiny_clip.build(QUICK, seed=5), 2)
    wanted.prompts.data.copy_(PROMPTS)
    with torch.no_grad():
        assert torch.allclose(model(images, masks), wanted(images, masks), atol=1e-6)
    assert (model.origin.name, model.origin.architecture) == ("tiny-ovseg/epoch_5.pt", "tiny-ovseg")
    assert np.allclose(model.mean, open_clip.OPENAI_DATASET_MEAN)


def test_ovsegs_full_model(tiny, tmp_path):
    path = str(tmp_path / "ovseg.pth")
    torch.save(full_model(), path)
    model = import_ovseg(path, tiny)
    assert model.prompts.dtype == torch.float32
    assert torch.equal(model.prompts, PROMPTS.half().float())
    wanted = {name: weight.half().float() for name, weight in ovseg_weights(None).items()}
    same_weights(model.clip.state_dict(), wanted)
    save_adapted(model, str(tmp_path / "ours.safetensors"))
    same_weights(load_adapted(str(tmp_path / "ours.safetensors")).state_dict(), model.state_dict())


@pytest.mark.parametrize("content", [finetuned_clip(None), full_model(None)])
def test_prompts_that_are_missing_are_said(content, tiny, tmp_path):
    path = str(tmp_path / "a.pt")
    torch.save(content, path)
    with pytest.raises(UserError, match=r"wanted prompts, visual\.mask_embedding, found none: it is a CLIP before"):
        import_ovseg(path, tiny)
    assert import_ovseg(path, tiny, expect_prompts=False).prompts is None


def test_prompts_that_are_not_expected_are_not_dropped(tiny, tmp_path):
    path = str(tmp_path / "a.pt")
    torch.save(finetuned_clip(), path)
    with pytest.raises(UserError, match=r"wanted no prompts, found visual\.mask_embedding \(2, 16, 32\); it was tuned"):
        import_ovseg(path, tiny, expect_prompts=False)


def test_one_prompt_for_all_places_is_spread(tiny, tmp_path):
    path = str(tmp_path / "a.pt")
    torch.save(finetuned_clip(PROMPTS[:, :1]), path)
    assert torch.equal(import_ovseg(path, tiny).prompts, PROMPTS[:, :1].expand(2, 16, 32))


def test_checkpoints_that_are_not_ovsegs(tiny, tmp_path):
    path = str(tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"there is no file .*a\.pt; give one that exists"):
        import_ovseg(path, tiny)
    with pytest.raises(UserError, match="architecture: wanted one of open_clip's, got 'ViT-Q'"):
        import_ovseg(path, "ViT-Q")

    def refused(content, message):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            import_ovseg(path, tiny)

    refused(ovseg_weights(), r"wanted `state_dict`, or `model` with weights under clip_adapter\.clip_model\., found")
    refused({"model": {"backbone.a": torch.zeros(1)}}, "found model; other checkpoints are opened as --clip")
    refused([1], "wanted a dictionary, got list")
    refused(finetuned_clip(PROMPTS[:, :9]), r"wanted prompts \(2, 16, 32\) for tiny-ovseg/a\.pt, got \(2, 9, 32\)")
    refused(finetuned_clip(PROMPTS[:1].repeat(3, 1, 1)), "wanted 1 to 2, the blocks of its image tower, got 3")
    lacking = finetuned_clip()
    del lacking["state_dict"]["module.ln_final.bias"]
    refused(lacking, r'does not fit tiny-ovseg: Missing key\(s\) .*"ln_final\.bias"; give the architecture')
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.pt: is damaged, or holds Python objects beside tensors and is not opened"):
        import_ovseg(path, tiny)

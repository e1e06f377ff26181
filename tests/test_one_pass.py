"""Masks in one forward, against masked attention written out over all tokens, and against CLIP itself."""

import numpy as np
import pytest
import tiny_clip
import torch

from ovseg_model.adapted_weights import adapt_clip, save_adapted
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.one_pass import OnePassEncoder, OnePassOptions, encode_masks, patches_read, tower_of_size
from ovseg_model.regions import RegionOptions, square_patch_shares, whole_image_batch
from schemas import UserError

REGIONS = RegionOptions()
DEEP = {**tiny_clip.CONFIG, "vision_cfg": {**tiny_clip.CONFIG["vision_cfg"], "layers": 4}}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path_factory.mktemp("tiny"), DEEP))))


def scene(height=40, width=56, seed=0):
    """Noise, and masks of it: a box, its rest, a pixel, everything."""
    randoms = np.random.default_rng(seed)
    masks = np.zeros((4, height, width), bool)
    masks[0, 5 : height // 2, 10 : width // 2 + 5] = True
    masks[1] = ~masks[0]
    masks[2, 20, width - 3] = masks[3] = True
    return randoms.integers(0, 256, (height, width, 3), dtype=np.uint8), masks


def written_out(tower, images, kept_NP, layers):
    """One image: N + 1 class tokens and P patches, all attending to all but for a mask of (N + 1 + P)²."""
    hidden = tower._embeds(images)
    count, patches = kept_NP.shape
    for number, block in enumerate(tower.transformer.resblocks):
        if number == len(tower.transformer.resblocks) - layers:
            hidden = torch.cat([hidden[:, :1].expand(-1, count, -1), hidden], dim=1)
        forbidden = torch.zeros(hidden.shape[1], hidden.shape[1])
        if hidden.shape[1] > patches + 1:
            forbidden[:, :count] = -torch.inf  # nobody reads a mask's token but itself
            forbidden[:count, count] = -torch.inf
            forbidden[:count, count + 1 :][~kept_NP] = -torch.inf
            forbidden[range(count), range(count)] = 0
        hidden = block(hidden, attn_mask=forbidden)
    return tower.ln_post(hidden[:, :count])[0] @ tower.proj


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_it_is_masked_attention_over_all_tokens(layers, quick_gelu):
    config = {**DEEP, "quick_gelu": quick_gelu}
    tower = tiny_clip.build(config).visual
    randoms = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=randoms)
    kept = [torch.rand(count, 16, generator=randoms) < 0.4 for count in (5, 3)]
    found = encode_masks(tower, images, kept, layers, masks_at_once=2)
    for number, (features, kept_NP) in enumerate(zip(found, kept, strict=True)):
        wanted = written_out(tower, images[number : number + 1], kept_NP, layers)
        assert torch.allclose(features, wanted, atol=1e-5)
        assert wanted.std() > 0.1


def test_with_all_blocks_and_all_patches_it_is_clip(clip):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    everything = torch.ones(1, 16, dtype=torch.bool)
    found = torch.cat(encode_masks(clip.model.visual, images, [everything, everything], layers=4))
    assert torch.allclose(found, clip.model.encode_image(images), atol=1e-5)


def encoder(clip, **options):
    return OnePassEncoder(clip, OnePassOptions(**options), REGIONS)


def test_it_is_clip_of_the_padded_image_for_a_mask_of_everything(clip):
    image, _ = scene(40, 40)
    (found,) = encoder(clip, layers=4).embed([(image, [np.ones((1, 40, 40), bool)])])
    square = whole_image_batch(image, np.ones((1, 40, 40), bool), 32, clip.mean, clip.std, REGIONS)[0]
    assert np.allclose(found, clip.embed_images(square), atol=1e-6)


def test_a_mask_does_not_depend_on_other_masks_nor_images(clip):
    (image, masks), (other, more) = scene(), scene(30, 20, seed=1)
    one_pass = encoder(clip, layers=2)
    together = one_pass.embed([(image, [masks[:3], masks[3:]]), (other, [more])])
    (alone,) = one_pass.embed([(image, [masks])])
    assert np.array_equal(together[0], alone)
    order = [2, 0, 3, 1]
    (shuffled,) = one_pass.embed([(image, [masks[order]])])
    assert np.allclose(shuffled, alone[order], atol=1e-6)
    (single,) = one_pass.embed([(image, [masks[1:2]])])
    assert np.allclose(single, alone[1:2], atol=1e-6)
    assert (alone[0] @ alone[1]) < 0.999


def test_forwards_of_several_images_give_the_same(clip, monkeypatch):
    images = [(image, [masks]) for image, masks in (scene(), scene(30, 20, seed=1), scene(25, 50, seed=2))]
    one_pass = encoder(clip)
    apart = one_pass.embed(images)
    monkeypatch.setattr(OnePassEncoder, "_images_per_forward", lambda self, rows: 2)
    for together, alone in zip(one_pass.embed(images), apart, strict=True):
        assert np.allclose(together, alone, atol=1e-6)


def test_images_without_masks_have_no_vectors(clip):
    image, masks = scene()
    nothing, empty, some = encoder(clip).embed([(image, []), (image, [masks[:0]]), (image, [masks])])
    assert nothing.shape == empty.shape == (0, 16)
    assert some.shape == (4, 16)
    assert encoder(clip).embed([]) == []


def test_patches_of_a_padded_frame_by_hand():
    # 4 x 8 pixels in a square of 8, two rows of padding above and below; patches of 2 pixels.
    masks = np.zeros((2, 4, 8), bool)
    masks[0, :, :3] = True
    masks[1, 0, 7] = True
    shares = square_patch_shares(masks, 4)
    wanted = np.zeros((2, 4, 4))
    wanted[0, 1:3] = [1, 0.5, 0, 0]
    wanted[1, 1, 3] = 0.25
    assert np.allclose(shares, wanted, atol=1e-6)
    tall = square_patch_shares(np.ascontiguousarray(masks.transpose(0, 2, 1)), 4)
    assert np.allclose(tall, wanted.transpose(0, 2, 1), atol=1e-6)
    # Patches of 7 / 3 pixels: the third pixel is a third the first patch's.
    third = np.zeros((2, 7, 7), bool)
    third[0] = third[1, :, 2] = True
    shares = square_patch_shares(third, 3)
    assert np.allclose(shares[0], 1, atol=1e-6)
    assert np.allclose(shares[1], [[1 / 7, 2 / 7, 0]] * 3, atol=1e-6)
    # Less than a pixel a patch.
    assert np.allclose(square_patch_shares(np.ones((1, 2, 3), bool), 6)[0], np.arange(6)[:, None] < 4, atol=1e-6)


def test_a_mask_reads_the_patches_that_it_covers_or_its_best_one():
    shares = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.4, 0.4], [0.0, 0.6, 0.95]])
    assert patches_read(shares, 0.9).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert patches_read(shares, 0.5).tolist() == [[True, True, False], [False, True, False], [False, True, True]]
    assert patches_read(shares, 0.0).tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    assert patches_read(shares[:0], 0.5).shape == (0, 3)
    with pytest.raises(ValueError, match="mask 1: wanted at least one pixel, got none"):
        patches_read(torch.tensor([[0.1, 0.0], [0.0, 0.0]]), 0.5)


def test_a_larger_input_has_interpolated_positions_and_the_same_weights(clip):
    visual = clip.model.visual
    before = visual.positional_embedding.clone()
    larger = tower_of_size(visual, 64)
    assert larger.grid_size == (8, 8)
    assert larger.positional_embedding.shape == (65, 32)
    assert torch.equal(larger.positional_embedding[0], before[0])
    assert larger.transformer is visual.transformer
    assert torch.equal(visual.positional_embedding, before)
    assert visual.grid_size == (4, 4)
    assert tower_of_size(visual, 32) is visual
    image, masks = scene()
    small, large = (encoder(clip, size_px=size).embed([(image, [masks])])[0] for size in (0, 64))
    assert small.shape == large.shape
    assert not np.allclose(small, large, atol=1e-3)


def test_prompts_are_left_out_and_alpha_is_refused(clip, tmp_path):
    base = clip.weights
    save_adapted(adapt_clip(base, depth=1), str(tmp_path / "prompts.safetensors"))
    prompted = load_clip(resolve_clip(str(tmp_path / "prompts.safetensors")))
    image, masks = scene()
    wanted = encoder(clip).embed([(image, [masks])])[0]
    assert np.allclose(encoder(prompted).embed([(image, [masks])])[0], wanted, atol=1e-6)
    save_adapted(adapt_clip(base, alpha=True), str(tmp_path / "alpha.safetensors"))
    with pytest.raises(UserError, match="its alpha channel reads one mask a forward"):
        encoder(load_clip(resolve_clip(str(tmp_path / "alpha.safetensors"))))


@pytest.mark.parametrize("adapted", [False, True])
def test_lower_precision_stays_near(clip, adapted, tmp_path):
    if adapted:  # its weights stay float32, and its forwards are cast
        save_adapted(adapt_clip(clip.weights, depth=1), str(tmp_path / "adapted.safetensors"))
    weights = resolve_clip(str(tmp_path / "adapted.safetensors")) if adapted else clip.weights
    low = load_clip(weights, precision="bf16")
    image, masks = scene()
    near, exact = (encoder(each, layers=2).embed([(image, [masks])])[0] for each in (low, clip))
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    assert (near * exact).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 5}, "--one-pass-layers: wanted 1 to 4, the blocks of .*, got 5"),
        ({"layers": 0}, "--one-pass-layers: wanted 1 or more, got 0"),
        ({"size_px": 36}, "--one-pass-size: wanted a multiple of .* patch, 8 px, got 36"),
        ({"size_px": -8}, "--one-pass-size: wanted a side in pixels, or 0 for the model's own, got -8"),
        ({"patch_share": 1.1}, "patch_share: wanted 0 to 1, got 1.1"),
    ],
)
def test_what_is_refused(clip, options, message):
    with pytest.raises(UserError, match=message):
        encoder(clip, **options)


def test_other_towers_are_refused(tmp_path):
    config = {**DEEP, "vision_cfg": {**DEEP["vision_cfg"], "pool_type": "avg"}}
    pooled = load_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path / "avg", config))))
    with pytest.raises(UserError, match="one pass wants open_clip's own VisionTransformer, pooled at its class token"):
        encoder(pooled)


def test_masks_of_another_frame_are_refused(clip):
    image, masks = scene()
    with pytest.raises(ValueError, match=r"masks: wanted \(H, W\) \(40, 56\) as the image, got \(39, 56\)"):
        encoder(clip).embed([(image, [masks[:, 1:]])])


def test_a_tower_with_its_axes_swapped_gives_the_same():
    first = tiny_clip.build(DEEP).visual
    second = tiny_clip.build({**DEEP}).visual
    second.transformer.batch_first = False
    for block in second.transformer.resblocks:
        block.attn.batch_first = False
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    kept = [torch.rand(3, 16, generator=torch.Generator().manual_seed(3)) < 0.5] * 2
    for found, wanted in zip(encode_masks(second, images, kept, 2), encode_masks(first, images, kept, 2), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_inputs_made_ahead_give_the_same_bytes(clip):
    images = [(image, [masks]) for image, masks in (scene(), scene(30, 20, seed=1), scene(25, 50, seed=2))]
    behind, ahead = (
        OnePassEncoder(clip, OnePassOptions(), REGIONS, ahead=each).embed(images) for each in (False, True)
    )
    assert [each.tobytes() for each in behind] == [each.tobytes() for each in ahead]


def test_a_thread_that_reads_ahead_leaves_the_device_to_the_forwards(clip, monkeypatch):
    monkeypatch.setattr(clip, "device", "meta")  # holds shapes alone: a choice of patches by it would fail
    images = [(image, [masks]) for image, masks in (scene(), scene(30, 20, seed=1))]
    ((squares, kept),) = OnePassEncoder(clip, OnePassOptions(), REGIONS)._inputs(images)
    assert {each.device.type for each in (*squares, *kept)} == {"cpu"}
    assert [len(kept_NP) for kept_NP in kept] == [4, 4]

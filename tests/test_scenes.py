"""Scenes are the same for the same number, and what they say of themselves is what they show."""

import numpy as np
import pytest

from ovseg_model.datasets import scenes
from ovseg_model.datasets.scene_nouns import CAPTIONS_ONLY, COLOURS, LABELLED, NAMES, NOUNS, STUFF, THINGS
from ovseg_model.datasets.scene_textures import TEXTURES, VARIANTS, tile_of
from ovseg_model.datasets.scene_things import SHAPES
from ovseg_model.datasets.scenes import SPLITS, VOID, draw_scene, numbers, seen_in, world_sha256
from schemas.errors import UserError

VAL = SPLITS["val"][:40]


@pytest.fixture(scope="module")
def drawn():
    return [draw_scene(number) for number in VAL]


def test_the_world_is_the_frozen_one():
    assert world_sha256() == scenes.WORLD_SHA256


def test_nouns_are_enough_of_both_kinds_and_fit_a_label_map():
    assert len(NAMES) == len(set(NAMES)) >= 40
    assert len(STUFF) >= 15
    assert len(THINGS) >= 25
    assert len(NAMES) < VOID


def test_some_nouns_of_both_kinds_are_named_by_captions_only():
    assert set(LABELLED) | set(CAPTIONS_ONLY) == set(NAMES)
    assert not set(LABELLED) & set(CAPTIONS_ONLY)
    for kind in (STUFF, THINGS):
        assert set(kind) & set(LABELLED)
        assert len(set(kind) & set(CAPTIONS_ONLY)) >= 5


def test_every_stuff_has_a_texture_and_every_thing_a_shape():
    assert set(STUFF) <= set(TEXTURES)
    assert set(THINGS) == set(SHAPES)


def test_splits_share_no_number():
    assert not set(SPLITS["train"][-5:]) & set(SPLITS["val"][:5])
    assert SPLITS["train"].stop <= SPLITS["val"].start
    assert SPLITS["val"].stop <= SPLITS["test"].start


def test_numbers_beyond_a_split_are_refused():
    assert list(numbers("val", 2, 3)) == [10_000_003, 10_000_004]
    with pytest.raises(UserError, match="val has 1,000,000 numbers, 1,000,001 were asked for"):
        numbers("val", 2, 999_999)


def test_a_number_is_a_scene(drawn):
    again = draw_scene(VAL[3])
    assert (again.image_HW3 == drawn[3].image_HW3).all()
    assert (again.labels_HW == drawn[3].labels_HW).all()
    assert again.captions == drawn[3].captions
    assert (draw_scene(VAL[4]).image_HW3 != drawn[3].image_HW3).any()


def test_shapes_and_types(drawn):
    scene = drawn[0]
    assert (scene.image_HW3.shape, scene.image_HW3.dtype) == ((64, 64, 3), np.uint8)
    assert (scene.labels_HW.shape, scene.labels_HW.dtype) == ((64, 64), np.uint8)
    assert len(scene.captions) == 5


def test_regions_are_what_the_maps_show(drawn):
    for scene in drawn:
        assert {0, *(region.instance for region in scene.regions)} >= set(np.unique(scene.instances_HW).tolist())
        for region in scene.regions:
            mask_HW = scene.instances_HW == region.instance
            assert mask_HW.sum() == region.area_px > 0
            assert (scene.labels_HW[mask_HW] == NAMES.index(region.noun)).all()
        assert (scene.labels_HW[scene.instances_HW == 0] == VOID).all()


def test_there_is_clutter_occlusion_and_every_kind_of_scene(drawn):
    assert any((scene.instances_HW == 0).any() for scene in drawn)
    things = [sum(region.noun in THINGS for region in scene.regions) for scene in drawn]
    stuffs = [sum(region.noun in STUFF for region in scene.regions) for scene in drawn]
    assert set(things) == {0, 1, 2, 3}
    assert set(stuffs) >= {1, 2}


def test_later_things_lie_over_earlier_ones():
    # The same thing at the same place, then another over it: what is left of the first is what the second leaves.
    canvas = scenes._Canvas(128, "painted", scenes.random.Random(0))
    paints = scenes._Paints("red", COLOURS["red"], COLOURS["blue"])
    for instance, side in ((1, 0.8), (2, 0.4)):
        scenes._paint_thing(canvas, "ball", (0.5, 0.5), side, paints, instance, scenes.random.Random(1))
    instances = np.asarray(canvas.instances)
    assert instances[64, 64] == 2
    assert instances[64, 64 - 38] == 1
    assert 2.5 < (instances > 0).sum() / (instances == 2).sum() < 5.5


def test_a_style_changes_pixels_and_nothing_else(drawn):
    for number, painted in zip(VAL[:10], drawn, strict=False):
        ink = draw_scene(number, style="ink")
        assert (ink.labels_HW == painted.labels_HW).all()
        assert ink.captions == painted.captions
        assert np.abs(ink.image_HW3.astype(int) - painted.image_HW3).mean() > 10


def test_a_scene_is_the_same_at_every_size(drawn):
    for number, small in zip(VAL[:10], drawn, strict=False):
        large = draw_scene(number, 192)
        assert large.image_HW3.shape == (192, 192, 3)
        agreement = (large.labels_HW[1::3, 1::3] == small.labels_HW).mean()
        assert agreement > 0.95


def test_sizes_of_things_differ_by_view():
    shares = {}
    for view in ("close", "several"):
        views = [draw_scene(number, views={view: 1.0}) for number in VAL]
        largest = [max(r.area_px for r in scene.regions if r.noun in THINGS) / 64**2 for scene in views]
        shares[view] = np.median(largest)
    assert shares["close"] > 2 * shares["several"]


def test_colour_tells_no_class(drawn):
    # Every class is seen in colours that are not its own, and every colour on several classes.
    pairs = {(region.noun, region.colour) for number in range(1500) for region in draw_scene(number, 32).regions}
    for noun in NOUNS:
        assert {colour for name, colour in pairs if name == noun.name} - set(noun.colours)
    for colour in COLOURS:
        assert len({name for name, painted in pairs if painted == colour}) >= 5


def test_textures_differ_in_structure_whatever_their_colour():
    # Contrast at four scales, normalised: two textures that agree in it would be told apart by colour alone.
    def profile(name):
        tile = tile_of(name, 0, 128).astype(float)
        tile = (tile - tile.mean()) / (tile.std() + 1e-9)
        steps = [np.abs(np.diff(tile[::k, ::k], axis=axis)).mean() for k in (1, 3, 7) for axis in (0, 1)]
        return np.array([*steps, (tile**3).mean()])

    profiles = {name: profile(name) for name in STUFF}
    distances = [np.abs(profiles[a] - profiles[b]).max() for a in STUFF for b in STUFF if a < b]
    assert min(distances) > 0.1


def test_silhouettes_of_things_differ():
    from PIL import Image, ImageDraw

    def silhouette(name):
        mask = Image.new("1", (64, 64))
        for part in SHAPES[name]:
            ImageDraw.Draw(mask).polygon(((part.points_N2 + 1) * 32).ravel().tolist(), 1)
        return np.asarray(mask)

    masks = {name: silhouette(name) for name in THINGS}
    overlaps = {
        (a, b): (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() for a in THINGS for b in THINGS if a < b
    }
    alike = {pair for pair, iou in overlaps.items() if iou > 0.85}
    # Round things differ inside: hands and ticks, segments.
    assert alike <= {("ball", "clock")}


def test_tiles_are_seeded_by_name_and_variant():
    assert (tile_of("grass", 1, 64) == tile_of.__wrapped__("grass", 1, 64)).all()
    assert len({tile_of("grass", variant, 64).tobytes() for variant in range(VARIANTS)}) == VARIANTS


def test_what_captions_may_mention(drawn):
    for scene in drawn:
        for seen in seen_in(scene.regions, 64**2):
            same = [region for region in scene.regions if region.noun == seen.noun]
            assert 1 <= seen.count <= len(same)
            assert seen.area_fraction == max(region.area_px for region in same) / 64**2
            assert seen.colour in COLOURS


def test_a_class_too_small_to_be_seen_is_not_mentioned():
    regions = (scenes.Region("grass", "green", 1, 9990), scenes.Region("kite", "red", 2, 10))
    assert [seen.noun for seen in seen_in(regions, 10_000)] == ["grass"]
    assert [seen.noun for seen in seen_in(regions[1:], 10_000)] == ["kite"]

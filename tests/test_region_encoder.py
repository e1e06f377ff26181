"""Masked regions through any CLIP, and a mask-adapted CLIP under --clip like any other."""

import contextlib
import dataclasses
import threading

import numpy as np
import pytest
import tiny_clip
import torch
from drawn_pairs import image_of, mask_of

from ovseg_model import integer_regions, region_encoder
from ovseg_model.adapted_weights import adapt_clip, save_adapted
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.region_encoder import RegionEncoder
from ovseg_model.regions import RegionOptions, region_batch, region_masks, whole_image_batch
from schemas import UserError

OPTIONS = RegionOptions()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return resolve_clip(str(tiny_clip.write_folder(tmp_path_factory.mktemp("tiny"))))


def adapted(base, folder, **options):
    model = adapt_clip(base, **options)
    if model.alpha_conv is not None:
        torch.nn.init.normal_(model.alpha_conv.weight, generator=torch.Generator().manual_seed(0))
    path = str(folder / "adapted.safetensors")
    save_adapted(model, path)
    return model, path


def images():
    return [(image_of(number), np.stack([mask_of(number), ~mask_of(number)])) for number in (1, 2)]


def unit(features):
    return torch.nn.functional.normalize(features.detach(), dim=-1).numpy()


def test_a_plain_clip_reads_regions_alone(base):
    clip = load_clip(base)
    assert not clip.takes_masks
    found = RegionEncoder(clip, OPTIONS).embed([(image, [masks]) for image, masks in images()])
    for vectors, (image, masks) in zip(found, images(), strict=True):
        wanted = clip.embed_images(region_batch(image, masks, 32, clip.mean, clip.std, OPTIONS))
        assert np.array_equal(vectors, wanted)


def test_prompts_read_the_masks_too_however_they_are_cut_into_chunks(base, tmp_path):
    model, path = adapted(base, tmp_path, depth=2)
    clip = load_clip(resolve_clip(path))
    assert clip.takes_masks
    encoder = RegionEncoder(clip, OPTIONS)
    together = encoder.embed([(image, [masks]) for image, masks in images()])
    apart = encoder.embed([(image, [masks[:1], masks[:0], masks[1:]]) for image, masks in images()])
    for vectors, again, (image, masks) in zip(together, apart, images(), strict=True):
        pixels = region_batch(image, masks, 32, clip.mean, clip.std, OPTIONS)
        wanted = unit(model(pixels, region_masks(masks, 32, OPTIONS)))
        assert np.allclose(vectors, wanted, atol=1e-6)
        assert np.array_equal(vectors, again)
        assert not np.allclose(vectors, unit(model(pixels)), atol=1e-3)


def test_an_alpha_channel_sees_the_whole_image(base, tmp_path):
    model, path = adapted(base, tmp_path, alpha=True)
    clip = load_clip(resolve_clip(path))
    (image, masks), _ = images()
    vectors = RegionEncoder(clip, OPTIONS).embed([(image, [masks])])[0]
    wanted = unit(model(*whole_image_batch(image, masks, 32, clip.mean, clip.std, OPTIONS)))
    assert np.allclose(vectors, wanted, atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_no_mask_is_no_vector(base):
    image, masks = images()[0]
    clip = load_clip(base)
    none, some = RegionEncoder(clip, OPTIONS).embed([(image, []), (image, [masks[:1]])])
    assert none.shape == (0, 16)
    assert some.shape == (1, 16)
    assert RegionEncoder(clip, OPTIONS).embed([(image, [masks[:0]])])[0].shape == (0, 16)


def test_texts_and_identity_of_an_adapted_clip(base, tmp_path):
    _, path = adapted(base, tmp_path, depth=1)
    weights = resolve_clip(path)
    clip = load_clip(weights)
    assert np.array_equal(clip.embed_texts(["a cat"]), load_clip(base).embed_texts(["a cat"]))
    assert weights.name == "adapted/adapted.safetensors"
    assert clip.fingerprint()["sha256"] == weights.sha256
    assert str(tmp_path) not in str(clip.fingerprint())


def test_lower_precision_stays_near(base, tmp_path):
    _, path = adapted(base, tmp_path, depth=1)
    images_ = [(image, [masks]) for image, masks in images()]
    exact, near = (
        RegionEncoder(load_clip(resolve_clip(path), precision=precision), OPTIONS).embed(images_)[0]
        for precision in ("fp32", "bf16")
    )
    assert not np.array_equal(exact, near)
    assert (exact * near).sum(axis=1).min() > 0.99


def test_what_is_refused(base, tmp_path):
    _, path = adapted(base, tmp_path, depth=1)
    with pytest.raises(UserError, match=r"says its architecture itself; leave ViT-B-16 away"):
        resolve_clip(path, "ViT-B-16")
    with pytest.raises(UserError, match="has prompts already; give the CLIP that it was trained from"):
        adapt_clip(resolve_clip(path), depth=1)
    weights = dataclasses.replace(resolve_clip(path), size_bytes=1)
    with pytest.raises(UserError, match="had 1 bytes when the run began"):
        load_clip(weights)


def test_a_finetuned_clip_gets_prompts_afterwards(base, tmp_path):
    model, path = adapted(base, tmp_path)
    further = adapt_clip(resolve_clip(path), depth=2)
    assert further.depth == 2
    assert all(torch.equal(a, b) for a, b in zip(model.clip.parameters(), further.clip.parameters(), strict=True))


@pytest.mark.parametrize("way", ["float", "exact", "near"])
def test_regions_cut_ahead_are_the_same_bytes(base, tmp_path, way):
    _, path = adapted(base, tmp_path, depth=1)
    clip = load_clip(resolve_clip(path), image_batch=3)
    (image, masks), (other, more) = images()
    several = [(image, [masks[:1], masks[1:], masks]), (other, []), (other, [more] * 3)]
    behind, ahead = (RegionEncoder(clip, OPTIONS, way, ahead=each).embed(several) for each in (False, True))
    for vectors, again, (_, chunks) in zip(behind, ahead, several, strict=True):
        assert len(vectors) == sum(map(len, chunks))
        assert vectors.tobytes() == again.tobytes()
    cut = RegionEncoder(clip, OPTIONS, way)._inputs
    every = torch.cat([cut(image, masks)[0] for image, chunks in several for masks in chunks])
    masks = torch.cat([region_masks(masks, 32, OPTIONS) for _, chunks in several for masks in chunks])
    assert np.concatenate(ahead).tobytes() == clip.embed_images(every, masks).tobytes()


def test_masks_sent_ahead_to_the_device_give_the_same_bytes(base):
    several = [(image, [masks] * 3) for image, masks in images()]
    clip = load_clip(base)
    behind, ahead = (
        RegionEncoder(clip, OPTIONS, "near", ahead=each)._embed_on_device(several) for each in (False, True)
    )
    assert [each.tobytes() for each in behind] == [each.tobytes() for each in ahead]


def test_the_pixels_of_an_image_are_sent_once_for_all_its_chunks(base, monkeypatch):
    send, pieces = integer_regions.send_cut_masks, []
    monkeypatch.setattr(
        integer_regions, "send_cut_masks", lambda cut, *rest: pieces.append(len(cut)) or send(cut, *rest)
    )
    (image, masks), (other, more) = images()
    encoder = RegionEncoder(load_clip(base), OPTIONS, "near")
    found = encoder._embed_on_device([(image, [masks] * 3), (other, []), (other, [more, more[:0], more])])
    assert pieces == [3, 2]
    assert [each.tobytes() for each in np.split(found[0], 3)] == [found[0][:2].tobytes()] * 3


def test_vectors_of_all_images_leave_the_device_at_once(base, monkeypatch):
    on_host, copies = region_encoder.on_host, []
    monkeypatch.setattr(region_encoder, "on_host", lambda vectors: copies.append(len(vectors)) or on_host(vectors))
    several = [(image, [masks] * 5) for image, masks in images()]
    for way in ("float", "near"):
        RegionEncoder(load_clip(base, image_batch=2), OPTIONS, way).embed(several)
    assert copies == [20, 20]


def test_cutting_on_the_device_is_its_work_too(base, monkeypatch):
    at_work = []

    @contextlib.contextmanager
    def noted(device):
        at_work.append((device, threading.current_thread()))
        yield

    monkeypatch.setattr(region_encoder, "device_at_work", noted)
    several = [(image, [masks] * 5) for image, masks in images()]
    RegionEncoder(load_clip(base), OPTIONS, ahead=True).embed(several)
    assert at_work == []
    RegionEncoder(load_clip(base), OPTIONS, "near", ahead=True)._embed_on_device(several)
    assert at_work == [("cpu", threading.current_thread())]


def test_rows_that_do_not_fill_a_forward_wait_for_the_next_group(base, tmp_path, monkeypatch):
    _, path = adapted(base, tmp_path, depth=1)
    clip, forwards = load_clip(resolve_clip(path), image_batch=4), []
    encode = clip._encode_images
    monkeypatch.setattr(clip, "_encode_images", lambda *rows: forwards.append(len(rows[0])) or encode(*rows))
    monkeypatch.setattr(region_encoder, "GROUPED_FORWARDS", 1)
    (image, masks), (other, more) = images()
    several = [(image, [masks, masks, masks]), (other, [more[:1], more])]  # groups of 4 and 5 masks
    near = RegionEncoder(clip, OPTIONS, "near", ahead=True)
    on_device = near._embed_on_device(several)
    assert [len(vectors) for vectors in on_device] == [6, 3]
    assert forwards == [4, 4, 4]
    for vectors, others in zip(on_device, near.embed(several), strict=True):
        assert np.allclose(vectors, others, atol=1e-3)


def test_a_bad_mask_is_said_from_the_other_thread_too(base):
    image, masks = images()[0]
    with pytest.raises(ValueError, match="wanted"):
        RegionEncoder(load_clip(base), OPTIONS, ahead=True).embed([(image, [masks, masks[:, :5]])])

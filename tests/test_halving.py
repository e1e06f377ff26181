"""Forwards are halved where memory runs out, counted, and kept from nobody else's promise."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import tiny_clip
import torch
from tiny_networks import Rigged

from ovseg_model.class_embeddings import ClassEmbeddings
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.halving import Fitting, fitting_rows, halved_batches, is_device_error, is_out_of_memory
from ovseg_model.one_pass import OnePassEncoder, OnePassOptions
from ovseg_model.proposals.network_input import InputSize
from ovseg_model.proposals.query_network import PlainClassifier, QueryNetwork
from ovseg_model.region_encoder import RegionEncoder
from ovseg_model.regions import RegionOptions


def too_many(most, tried):
    """Work that holds at most so many rows, and notes what it was asked."""

    def work(rows):
        tried.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return rows

    return work


def halved_by(function):
    """What a function gives, and the batches that were halved meanwhile."""
    before = halved_batches()
    return function(), halved_batches() - before


def test_what_fits_is_made_as_asked():
    tried = []
    assert halved_by(lambda: fitting_rows(8, "rows").run(too_many(8, tried))) == (8, 0)
    assert tried == [8]


def test_rows_are_halved_until_they_fit_and_stay_so(caplog):
    fitting, tried = fitting_rows(20, "rows"), []
    with caplog.at_level(logging.WARNING):
        assert halved_by(lambda: fitting.run(too_many(6, tried))) == (5, 1)
    assert halved_by(lambda: fitting.run(too_many(6, tried))) == (5, 1)
    assert tried == [20, 10, 5, 5]
    wanted = [f"out of memory: rows of {rows} are halved; smaller batches save the second try" for rows in (20, 10)]
    assert caplog.messages == wanted


def test_where_one_row_does_not_fit_the_error_stands():
    tried = []
    with pytest.raises(torch.OutOfMemoryError):
        fitting_rows(3, "rows").run(too_many(0, tried))
    assert tried == [3, 1]


def test_a_slower_thread_does_not_raise_what_another_has_lowered():
    fitting, tried = fitting_rows(8, "rows"), []

    def slow(rows):
        if not tried:
            fitting.run(too_many(1, tried))  # another thread's, while this forward is at work
        return too_many(4, tried)(rows)

    assert fitting.run(slow) == 1
    assert tried == [8, 4, 2, 1, 8, 1]


def test_another_error_is_not_tried_again():
    tried = []

    def work(size):
        tried.append(size)
        raise ValueError("a bad mask")

    with pytest.raises(ValueError, match="a bad mask"):
        Fitting(4, lambda size: size // 2 or None, "sizes").run(work)
    assert tried == [4]


def test_each_thread_counts_its_own():
    counts = []
    fitting_rows(2, "rows").run(too_many(1, []))
    thread = threading.Thread(target=lambda: counts.append(halved_batches()))
    thread.start()
    thread.join()
    assert counts == [0]


CUBLAS = "CUDA error: CUBLAS_STATUS_{} when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("problem", "is_memory", "is_device"),
    [
        (MemoryError(), True, False),
        (torch.OutOfMemoryError("no room"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError(CUBLAS.format("ALLOC_FAILED")), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True, False),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory", 2), True, False),
        (torch.AcceleratorError("unspecified launch failure", 719), False, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError(CUBLAS.format("EXECUTION_FAILED")), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("shape mismatch"), False, False),
        (ValueError("mask 3"), False, False),
    ],
)
def test_memory_that_ran_out_and_a_device_that_failed_are_told_apart(problem, is_memory, is_device):
    assert (is_out_of_memory(problem), is_device_error(problem)) == (is_memory, is_device)


# The models.


@pytest.fixture
def clip(tmp_path):
    return load_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path))), image_batch=8, text_batch=8)


def narrow(monkeypatch, method, most):
    """Makes a method of Clip hold at most so many rows; returns the rows of every try."""
    whole, tried = getattr(Clip, method), []

    def narrowed(self, rows, *others):
        too_many(most, tried)(len(rows))
        return whole(self, rows, *others)

    monkeypatch.setattr(Clip, method, narrowed)
    return tried


def masked_image():
    masks = np.zeros((11, 40, 56), bool)
    for number, mask in enumerate(masks):
        mask[number : number + 20, 2 * number :] = True
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8), masks


def test_regions_are_embedded_in_forwards_that_fit(clip, monkeypatch):
    pixels, masks = masked_image()
    embed = RegionEncoder(clip, RegionOptions()).embed
    wanted = embed([(pixels, [masks])])[0]
    tried = narrow(monkeypatch, "_encode_images", 4)
    (found,), halved = halved_by(lambda: embed([(pixels, (part for part in (masks[:5], masks[5:])))]))
    assert tried == [8, 4, 4, 4]
    assert halved == 3
    assert np.allclose(found, wanted, atol=1e-6)


def test_nouns_of_halved_forwards_are_kept_for_nobody(clip, monkeypatch):
    names = [f"noun {number}" for number in range(6)]
    wanted = ClassEmbeddings(clip, ("{}",)).embed(names)
    tried, store = narrow(monkeypatch, "_encode_texts", 4), {}
    keeps = type("Store", (), {"find": lambda self, asked: {}, "add": lambda self, vectors: store.update(vectors)})()
    assert np.allclose(ClassEmbeddings(clip, ("{}",), keeps).embed(names), wanted, atol=1e-6)
    assert tried[:3] == [8, 4, 4]
    assert store == {}


def test_regions_cut_on_the_device_are_cut_in_smaller_groups(clip, monkeypatch):
    from ovseg_model import integer_regions

    pixels, masks = masked_image()
    images = [(pixels, [masks[:4], masks[4:8], masks[8:]])]
    near = RegionEncoder(clip, RegionOptions(), "near")
    wanted = near._embed_on_device(images)[0]
    whole, tried = integer_regions.device_regions, []

    def narrowed(sent, *others):
        too_many(4, tried)(sum(len(each.boxes_N4) for each in sent))
        return whole(sent, *others)

    monkeypatch.setattr(integer_regions, "device_regions", narrowed)
    (found,), halved = halved_by(lambda: near._embed_on_device(images))
    assert tried == [11, 11, 11, 8, 4, 4, 3]  # 64 rows were asked for, then 32, 16, 8 and 4
    assert halved == 1
    assert np.array_equal(found, wanted)


def test_one_pass_takes_fewer_masks_at_once(clip, monkeypatch):
    from ovseg_model import one_pass

    pixels, masks = masked_image()
    encoder = OnePassEncoder(clip, OnePassOptions(), RegionOptions())
    wanted = encoder.embed([(pixels, [masks])])[0]
    whole, tried = one_pass.encode_masks, []

    def narrowed(tower, images, kept, layers, masks_at_once):
        too_many(16, tried)(masks_at_once)
        return whole(tower, images, kept, layers, masks_at_once)

    monkeypatch.setattr(one_pass, "encode_masks", narrowed)
    (found,), halved = halved_by(lambda: encoder.embed([(pixels, iter([masks]))]))
    assert tried == [64, 32, 16]
    assert halved == 1
    assert np.allclose(found, wanted, atol=1e-6)


def test_a_proposal_network_reads_fewer_images_at_once(monkeypatch):
    network = QueryNetwork(
        "rigged", Rigged(4), PlainClassifier(), ((0.0,) * 3, (1 / 255,) * 3), InputSize(32, 256), batch=4
    )
    images = [np.full((32, 64, 3), 50 * number, np.uint8) for number in range(5)]
    wanted = network.queries(images)
    whole, tried = network._forward, []

    def narrowed(few, sizes):
        too_many(2, tried)(len(few))
        return whole(few, sizes)

    monkeypatch.setattr(network, "_forward", narrowed)
    found, halved = halved_by(lambda: network.queries(images))
    assert tried == [4, 2, 2, 1]
    assert halved == 2
    for queries, others in zip(found, wanted, strict=True):
        assert torch.equal(queries.mask_logits_Nhw, others.mask_logits_Nhw)

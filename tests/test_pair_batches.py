"""PAIRS to batches: the same rows, in the same order, whoever reads them."""

import hashlib
import io
import pickle
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn_pairs import HEIGHT, WIDTH, image_of, mask_of, pair_rows, write_pairs
from PIL import Image

from ovseg_model.pair_batches import BatchCounts, BatchOptions, LoaderState, open_pairs, pair_batches
from ovseg_model.pair_batches import batches_per_epoch as batches_in
from ovseg_model.pair_order import EpochOrder, batch_count, batch_positions, substitute_position
from ovseg_model.pair_reader import RowReader
from ovseg_model.regions import RegionOptions, covering_mask, region_batch
from schemas import UserError

SMALL = {"size_px": 8, "window_rows": 12, "batch_size": 8}
ROWS = 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def rows(folder):
    hard = {"hard_negatives": lambda index: ["fox", "owl"] if index == 1 else None}
    return pair_rows(folder / "images", ROWS, **hard)


@pytest.fixture(scope="module")
def selection(folder, rows):
    write_pairs(folder / "pairs/a.parquet", rows[:20], rows_per_group=6)
    write_pairs(folder / "pairs/b.parquet", rows[20:], rows_per_group=5)
    return open_pairs(str(folder / "pairs"))


@pytest.fixture(scope="module")
def crops(folder):
    """The same pairs with stored crops, and no image where image_uri says."""
    rows = pair_rows(folder / "images", ROWS, crops=True, image_uri="/nowhere.png")
    return open_pairs(str(write_pairs(folder / "crops.parquet", rows, rows_per_group=7)))


def same(a, b):
    texts = ("nouns", "captions", "hard_negatives", "pair_ids", "epoch", "index", "counts")
    tensors = ("regions_B3SS", "masks_BSS", "whole_B")
    return all(getattr(a, name) == getattr(b, name) for name in texts) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in tensors
    )


def all_same(a, b):
    a, b = list(a), list(b)
    return len(a) == len(b) and all(map(same, a, b))


def ids(batches):
    return [id_ for batch in batches for id_ in batch.pair_ids]


# The order of an epoch.


def test_an_epoch_has_every_row_once_and_mixes_within_windows():
    sizes = [3, 5, 2, 7, 4, 1, 6]
    order = EpochOrder(sizes, seed=0, epoch=0, window_rows=8)
    groups_N, rows_N = order.places(np.arange(28))
    assert sorted(zip(groups_N.tolist(), rows_N.tolist(), strict=True)) == [
        (g, r) for g in range(7) for r in range(sizes[g])
    ]
    windows_N = order.windows(np.arange(28))
    # A row group lies in one window, and each window but the last has the rows that were asked for.
    assert len(set(zip(groups_N.tolist(), windows_N.tolist(), strict=True))) == 7
    assert all(count >= 8 for count in np.bincount(windows_N)[:-1])
    assert (np.diff(windows_N) >= 0).all()
    assert not np.array_equal(groups_N, np.sort(groups_N))
    assert len(order) == 28


def test_any_place_is_found_without_walking_to_it():
    walked = EpochOrder([5] * 40, 3, 1, 20)
    groups_N, rows_N = walked.places(np.arange(200))
    for position in (199, 0, 77, 120):
        fresh = EpochOrder([5] * 40, 3, 1, 20)
        group_1, row_1 = fresh.places(np.array([position]))
        assert (group_1[0], row_1[0]) == (groups_N[position], rows_N[position])


def test_seed_and_epoch_change_the_order_and_nothing_else_does():
    orders = [EpochOrder([5] * 40, *key, 20).places(np.arange(200)) for key in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(rows_N.tolist()) for _, rows_N in orders}) == 3
    # Fixed for ever: a run may be resumed by a later release.
    groups_N, rows_N = EpochOrder([2, 3, 1], 7, 0, 4).places(np.arange(6))
    assert list(zip(groups_N.tolist(), rows_N.tolist(), strict=True)) == [
        (1, 2),
        (2, 0),
        (1, 0),
        (1, 1),
        (0, 1),
        (0, 0),
    ]


def test_ranks_share_each_batch_and_need_few_row_groups():
    order = EpochOrder([10] * 32, 0, 0, 160)
    for index in range(10):
        whole_N = batch_positions(order, 32, index)
        parts = [batch_positions(order, 32, index, rank, 4) for rank in range(4)]
        assert np.concatenate(parts).tolist() == whole_N.tolist()
        assert sorted(whole_N.tolist()) == list(range(32 * index, 32 * index + 32))
        groups = [set(order.places(part)[0].tolist()) for part in parts]
        assert max(map(len, groups)) <= 7 < len(set().union(*groups))
    assert [len(batch_positions(order, 33, 9, rank, 3)) for rank in range(3)] == [7, 8, 8]
    assert (batch_count(10, 4, True), batch_count(10, 4, False), batch_count(3, 4, True)) == (2, 3, 0)


def test_substitutes_come_from_the_next_batches_round_the_epoch():
    assert [substitute_position(2, attempt, 4, 12) for attempt in (1, 2, 3, 4)] == [6, 10, 3, 7]
    assert [substitute_position(2, attempt, 3, 3) for attempt in (1, 2)] == [0, 1]
    assert [substitute_position(9, attempt, 4, 10) for attempt in (1, 2)] == [3, 7]


# Batches.


def test_an_epoch_has_every_row_once_with_its_own_noun(selection, rows):
    batches = list(pair_batches(selection, BatchOptions(**SMALL, drop_last=False)))
    assert Counter(ids(batches)) == Counter(row["pair_id"] for row in rows)
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 8, 5]
    by_id = {row["pair_id"]: row for row in rows}
    for batch in batches:
        assert batch.nouns == [by_id[id_]["noun"] for id_ in batch.pair_ids]
        assert batch.hard_negatives == [by_id[id_]["hard_negatives"] or [] for id_ in batch.pair_ids]
        assert batch.captions == [None] * len(batch)
        assert batch.counts == BatchCounts(len(batch), len(batch))
        assert batch.regions_B3SS.shape == (len(batch), 3, 8, 8)
        assert (batch.regions_B3SS.dtype, batch.masks_BSS.dtype) == (torch.uint8, torch.bool)
    assert ["fox", "owl"] in [names for batch in batches for names in batch.hard_negatives]


def test_the_last_rows_can_be_left_out(selection):
    options = BatchOptions(**SMALL)
    batches = list(pair_batches(selection, options))
    assert [len(batch) for batch in batches] == [8] * 5
    assert batches_in(selection, options) == 5
    assert len(set(ids(batches))) == 40


def test_ranks_see_what_one_process_sees(selection):
    options = BatchOptions(**SMALL, drop_last=False)
    whole = list(pair_batches(selection, options))
    for ranks in (2, 4):
        parts = [list(pair_batches(selection, options, rank, ranks)) for rank in range(ranks)]
        for batch, *shares in zip(whole, *parts, strict=True):
            assert ids(shares) == batch.pair_ids
            assert torch.equal(torch.cat([share.regions_B3SS for share in shares]), batch.regions_B3SS)
            assert torch.equal(torch.cat([share.masks_BSS for share in shares]), batch.masks_BSS)
            assert sum((share.counts for share in shares), BatchCounts()) == batch.counts


def test_more_ranks_than_last_rows_still_have_as_many_batches(selection):
    options = BatchOptions(**SMALL | {"batch_size": 22}, drop_last=False)
    parts = [list(pair_batches(selection, options, rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in part] for part in parts] == [[11, 11, 0], [11, 11, 1]]
    assert parts[0][2].regions_B3SS.shape == (0, 3, 8, 8)


def test_workers_give_what_one_process_gives(selection):
    options = BatchOptions(**SMALL, drop_last=False)
    whole = list(pair_batches(selection, options, epochs=2))
    assert [(batch.epoch, batch.index) for batch in whole] == [(e, i) for e in range(2) for i in range(6)]
    assert all_same(pair_batches(selection, options, workers=2, epochs=2, start_method="fork"), whole)
    assert all_same(pair_batches(selection, options, workers=1), whole[:6])
    assert ids(whole[:6]) != ids(whole[6:])
    assert set(ids(whole[:6])) == set(ids(whole[6:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_as_the_uninterrupted_one(selection, workers):
    options = BatchOptions(**SMALL, whole_share=0.3)
    whole = list(pair_batches(selection, options, epochs=2))
    for cut in (0, 1, 3, 4) if workers == 0 else (2, 4):
        state = whole[cut].next_state
        rest = pair_batches(selection, options, 0, 1, workers, state, epochs=2, start_method="fork")
        assert all_same(rest, whole[cut + 1 :])
    assert list(pair_batches(selection, options, start=LoaderState(0, 5))) == []
    assert all_same(pair_batches(selection, options, start=LoaderState(1)), whole[5:])


def test_resuming_reads_and_decodes_nothing_that_was_consumed(selection, monkeypatch):
    from ovseg_model import pair_reader

    opened, read = [], pair_reader.read_images
    monkeypatch.setattr(pair_reader, "read_images", lambda uris, fetch: opened.extend(uris) or read(uris, fetch))
    options = BatchOptions(**SMALL, drop_last=False)
    last = list(pair_batches(selection, options, start=LoaderState(0, 5)))
    assert len(last) == 1
    assert 3 <= len(opened) <= 5


def test_torchs_random_numbers_are_left_alone(selection):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    list(pair_batches(selection, BatchOptions(**SMALL)))
    assert torch.equal(torch.rand(2), wanted)


def test_a_filter_and_a_cap_reach_the_batches(folder, selection, rows):
    chosen = open_pairs(str(folder / "pairs"), where="noun in ['ball', 'box'] and cosine > 0.105", cap=8)
    batches = list(pair_batches(chosen, BatchOptions(**SMALL)))
    assert Counter(noun for batch in batches for noun in batch.nouns) == {"ball": 8, "box": 8}
    late = {row["pair_id"] for row in rows[5:]}
    assert set(ids(batches)) <= late


# Items.


def wanted_regions(rows, size_px, options=None):
    regions = {}
    for index, row in enumerate(rows):
        image_HW3, masks_1HW = image_of(index // 2), mask_of(index)[None]
        stats = BatchOptions()
        region = region_batch(image_HW3, masks_1HW, size_px, stats.mean, stats.std, options or RegionOptions())
        regions[row["pair_id"]] = region[0]
    return regions


@pytest.mark.parametrize("source", ["selection", "crops"])
def test_an_unaugmented_item_is_the_miners_region_exactly(source, rows, request):
    chosen = request.getfixturevalue(source)
    wanted = wanted_regions(rows, 8)
    options = BatchOptions(**SMALL, augmentation=None, drop_last=False, pixels="float32")
    bytes_ = BatchOptions(**SMALL, augmentation=None, drop_last=False)
    count = 0
    for batch, rounded in zip(pair_batches(chosen, options), pair_batches(chosen, bytes_), strict=True):
        for region_3SS, id_ in zip(batch.regions_B3SS, batch.pair_ids, strict=True):
            assert torch.equal(region_3SS, wanted[id_])
            count += 1
        std_311 = torch.tensor(options.std).reshape(3, 1, 1)
        error = (rounded.normalised(options.mean, options.std) - batch.regions_B3SS) * std_311 * 255
        assert float(error.abs().max()) <= 0.5001
        assert torch.equal(batch.normalised(options.mean, options.std), batch.regions_B3SS)
    assert count == ROWS


def test_masks_are_the_covering_ones_in_the_regions_frame(selection, rows):
    boxes = {row["pair_id"]: (index, row["box_xywh_px"]) for index, row in enumerate(rows)}
    for batch in pair_batches(selection, BatchOptions(**SMALL, augmentation=None)):
        for mask_SS, id_ in zip(batch.masks_BSS, batch.pair_ids, strict=True):
            index, (x, y, w, h) = boxes[id_]
            assert torch.equal(mask_SS, covering_mask(mask_of(index)[y : y + h, x : x + w], 8))


def items_of(batches):
    """Region and mask of every row, by pair_id."""
    rows = [zip(batch.pair_ids, batch.regions_B3SS, batch.masks_BSS, strict=True) for batch in batches]
    return {id_: (region_3SS, mask_SS) for batch in rows for id_, region_3SS, mask_SS in batch}


def test_augmented_crops_and_images_give_the_same_items(selection, crops):
    options = BatchOptions(**SMALL, drop_last=False)
    items = [items_of(pair_batches(chosen, options)) for chosen in (selection, crops)]
    # Another row-group layout is another order; what is drawn for a row is its own.
    assert items[0].keys() == items[1].keys()
    for id_, (region_3SS, mask_SS) in items[0].items():
        assert torch.equal(region_3SS, items[1][id_][0])
        assert torch.equal(mask_SS, items[1][id_][1])


def test_a_wider_box_needs_the_image(selection, crops, rows):
    wider = RegionOptions(expand_ratio=1.5)
    options = BatchOptions(**SMALL, augmentation=None, pixels="float32", region=wider)
    wanted = wanted_regions(rows, 8, wider)
    for batch in pair_batches(selection, options):
        assert all(map(torch.equal, batch.regions_B3SS, [wanted[id_] for id_ in batch.pair_ids]))
    with pytest.raises(UserError, match="image_missing"):
        list(pair_batches(crops, options))


def test_augmentation_changes_with_the_epoch(selection):
    options = BatchOptions(**SMALL | {"batch_size": 45})
    first, second = pair_batches(selection, options, epochs=2)
    where = [second.pair_ids.index(id_) for id_ in first.pair_ids]
    assert not torch.equal(first.regions_B3SS, second.regions_B3SS[where])


def test_whole_images_against_forgetting(selection, rows):
    options = BatchOptions(**SMALL | {"batch_size": 45}, whole_share=0.4, augmentation=None, pixels="float32")
    (batch,) = pair_batches(selection, options)
    whole = batch.whole_B.tolist()
    assert 9 <= sum(whole) <= 27
    by_id = {row["pair_id"]: (index, row) for index, row in enumerate(rows)}
    for at, id_ in enumerate(batch.pair_ids):
        index, row = by_id[id_]
        assert batch.captions[at] == (row["caption"] if whole[at] else None)
        if whole[at]:
            assert batch.masks_BSS[at].all()
            ones_1HW = np.ones((1, HEIGHT, WIDTH), bool)
            all_of_it = region_batch(image_of(index // 2), ones_1HW, 8, options.mean, options.std, RegionOptions())
            assert torch.equal(batch.regions_B3SS[at], all_of_it[0])
    (nouns,) = pair_batches(selection, BatchOptions(**SMALL | {"batch_size": 45}, whole_share=1, whole_text="noun"))
    assert nouns.whole_B.all()
    assert nouns.captions == [None] * 45
    (none,) = pair_batches(selection, BatchOptions(**SMALL | {"batch_size": 45}))
    assert not none.whole_B.any()


def test_the_image_view_shows_all_of_the_image_beside_its_mask(selection, crops, rows):
    options = BatchOptions(**SMALL | {"batch_size": 45, "size_px": WIDTH}, view="image", whole_share=0.2)
    (batch,) = pair_batches(selection, options)
    at_of = {row["pair_id"]: index for index, row in enumerate(rows)}
    top = (WIDTH - HEIGHT) // 2
    assert 1 <= int(batch.whole_B.sum()) <= 20
    for region_3SS, mask_SS, id_, whole in zip(
        batch.regions_B3SS, batch.masks_BSS, batch.pair_ids, batch.whole_B, strict=True
    ):
        inside = slice(top, top + HEIGHT)
        assert np.array_equal(region_3SS[:, inside].permute(1, 2, 0).numpy(), image_of(at_of[id_] // 2))
        assert region_3SS[:, 0, 0].tolist() == [123, 117, 104]  # 255 x CLIP's mean
        wanted = np.pad(mask_of(at_of[id_]), ((top, top), (0, 0))) if not whole else np.ones((WIDTH, WIDTH), bool)
        assert np.array_equal(mask_SS.numpy(), wanted)


# What cannot be read.


@pytest.fixture
def damaged(tmp_path):
    """32 rows of 16 images: one image is missing, one has changed, one is no image."""
    rows = pair_rows(tmp_path / "images", 32)
    images = tmp_path / "images"
    (images / "0003.png").unlink()
    Image.fromarray(image_of(99)).save(images / "0005.png")
    (images / "0007.png").write_bytes(b"no image")
    for row in rows[14:16]:
        row["image_sha256"] = hashlib.sha256(b"no image").hexdigest()
    return open_pairs(str(write_pairs(tmp_path / "pairs.parquet", rows, rows_per_group=4))), rows


def test_rows_without_pixels_are_counted_and_stood_in_for(damaged):
    selection, rows = damaged
    lost = {row["pair_id"] for index, row in enumerate(rows) if index // 2 in (3, 5, 7)}
    options = BatchOptions(**SMALL)
    batches = list(pair_batches(selection, options))
    assert [len(batch) for batch in batches] == [8] * 4
    counts = sum((batch.counts for batch in batches), BatchCounts())
    assert counts.kept == 32
    assert counts.substitutes == 6
    assert counts.read == counts.kept + sum(counts.dropped.values())
    assert set(counts.dropped) == {"image_changed", "image_missing", "image_unreadable"}
    assert min(counts.dropped.values()) >= 2
    assert set(ids(batches)) == {row["pair_id"] for row in rows} - lost
    assert counts.text().startswith(f"rows: {counts.read} read, 32 kept; dropped: image_changed ")
    assert "(6 rows stood in for them)" in counts.text()
    assert "now it is" in counts.text() or "no such file" in counts.text().lower()
    # Standing in depends on neither ranks nor workers.
    parts = [list(pair_batches(selection, options, rank, 2)) for rank in range(2)]
    for batch, *shares in zip(batches, *parts, strict=True):
        assert ids(shares) == batch.pair_ids
    assert all_same(pair_batches(selection, options, workers=2, start_method="fork"), batches)


def test_a_missing_image_can_stop_the_run(damaged):
    with pytest.raises(UserError, match=r"pair [0-9a-f]{32} \(\w+\) has no pixels: image_"):
        list(pair_batches(damaged[0], BatchOptions(**SMALL, missing="fail")))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_to_read_is_one_sentence(tmp_path, workers):
    rows = pair_rows(tmp_path / "images", 8, image_uri="/nowhere.png")
    selection = open_pairs(str(write_pairs(tmp_path / "pairs.parquet", rows)))
    with pytest.raises(UserError) as refusal:
        list(pair_batches(selection, BatchOptions(**SMALL), workers=workers, start_method="fork" if workers else None))
    assert "nor have the 16 tried in its place (image_missing: /nowhere.png" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_masks_and_crops_that_do_not_fit_are_counted(tmp_path):
    rows = pair_rows(tmp_path / "images", 16, crops=True)
    rows[3]["mask"] = {"size": [HEIGHT, WIDTH], "counts": "1"}
    rows[6]["crop_png"] = b"no crop"
    sink = io.BytesIO()
    Image.new("RGB", (3, 3)).save(sink, "png")
    rows[9]["crop_png"] = sink.getvalue()
    selection = open_pairs(str(write_pairs(tmp_path / "pairs.parquet", rows)))
    counts = sum((batch.counts for batch in pair_batches(selection, BatchOptions(**SMALL))), BatchCounts())
    assert {"bad_mask", "image_unreadable", "image_changed"} == set(counts.dropped)


def test_crops_can_be_left_aside(tmp_path):
    rows = pair_rows(tmp_path / "images", 8, crops=True)
    for row in rows:
        row["crop_png"] = b"no crop"
    selection = open_pairs(str(write_pairs(tmp_path / "pairs.parquet", rows)))
    (batch,) = pair_batches(selection, BatchOptions(**SMALL, stored_crops=False))
    assert batch.counts.dropped == {}


# Refusals, and how things are read.


def test_what_makes_no_batch_is_refused_at_once(selection):
    options = BatchOptions(**SMALL)
    for refused, sentence in (
        (lambda: pair_batches(selection, BatchOptions(batch_size=46)), "only 45 rows"),
        (lambda: pair_batches(selection, options, 0, 3), "wanted a multiple of the 3 ranks"),
        (lambda: pair_batches(selection, options, 2, 2), "rank: wanted one from 0 to 1"),
        (lambda: pair_batches(selection, options, start=LoaderState(0, 6)), "an epoch has 5 batches"),
        (lambda: BatchOptions(batch_size=0), "batch_size: wanted 1 or more"),
        (lambda: BatchOptions(view="crop"), "view: wanted one of region, image"),
        (lambda: BatchOptions(whole_share=1.5), "whole_share: wanted a share"),
        (lambda: BatchOptions(seed=-1), "seed: wanted 0 or more"),
    ):
        with pytest.raises(UserError, match=sentence):
            refused()


def test_an_images_rows_in_a_batch_decode_it_once(selection, monkeypatch):
    from ovseg_model import pair_reader

    opened, read = [], pair_reader.read_images
    monkeypatch.setattr(pair_reader, "read_images", lambda uris, fetch: opened.extend(uris) or read(uris, fetch))
    list(pair_batches(selection, BatchOptions(**SMALL | {"batch_size": 45})))
    assert len(opened) == len(set(opened)) == 23


def test_a_row_group_is_read_once_an_epoch_and_only_chosen_rows_are_kept(folder, selection, monkeypatch):
    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, i, **k: read.append((i, tuple(k["columns"]))) or real(self, i, **k),
    )
    list(pair_batches(selection, BatchOptions(**SMALL, drop_last=False)))
    assert len(read) == len(selection.groups)
    assert "caption" not in read[0][1]
    assert "cosine" not in read[0][1]
    chosen = open_pairs(str(folder / "pairs"), where="noun == 'kite'")
    reader = RowReader(chosen, ("noun",))
    order = EpochOrder([len(group.rows_N) for group in chosen.groups], 0, 0, 100)
    assert {row["noun"] for row in reader.read(order, np.arange(len(chosen)))} == {"kite"}
    assert sum(table.num_rows for table in reader._groups.values()) == len(chosen) == 11


def test_pairs_and_images_in_a_bucket(folder, rows):
    files = {f"bucket/{Path(row['image_uri']).name}": Path(row["image_uri"]).read_bytes() for row in rows[:16]}
    files["bucket/pairs.parquet"] = write_pairs(
        folder / "copy.parquet",
        [row | {"image_uri": f"memory://bucket/{Path(row['image_uri']).name}"} for row in rows[:16]],
    ).read_bytes()
    memory = fsspec.filesystem("memory")
    for name, data in files.items():
        memory.pipe_file(f"/{name}", data)
    try:
        batches = list(pair_batches(open_pairs("memory://bucket/pairs.parquet"), BatchOptions(**SMALL)))
        assert sorted(ids(batches)) == sorted(row["pair_id"] for row in rows[:16])
        assert sum((batch.counts for batch in batches), BatchCounts()) == BatchCounts(16, 16)
    finally:
        memory.rm("/bucket", recursive=True)


def test_batches_move_and_travel(selection):
    batch = next(iter(pair_batches(selection, BatchOptions(**SMALL))))
    assert same(batch.to("cpu"), batch)
    assert same(pickle.loads(pickle.dumps(batch)), batch)
    assert batch.next_state == (0, 1)


def test_the_loader_loads_torch_only_when_it_runs():
    import subprocess
    import sys

    code = "import sys, ovseg_model.pair_batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

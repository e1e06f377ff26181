"""The maskformer generator: masks of a rigged network by value, real tiny networks from disk, and what goes wrong."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from tiny_networks import QUERIES, Rigged, write_mask2former, write_maskformer, write_ovseg

from ovseg_model import device_clock
from ovseg_model.halving import halved_batches
from ovseg_model.proposals import maskformer, network_weights
from ovseg_model.proposals.generator import ImageInput, ProposalError, open_generator, resolve_generator
from ovseg_model.proposals.maskformer import Maskformer, MaskformerOptions, best_in_order
from ovseg_model.proposals.network_input import InputSize, groups_of_one_size, padded, resized
from ovseg_model.proposals.network_weights import pixel_statistics, resolve_network
from ovseg_model.proposals.query_network import PlainClassifier, QueryNetwork, open_network
from ovseg_model.rle import areas_px, boxes_xywh_px
from schemas.errors import UserError

AS_IT_IS = ((0.0,) * 3, (1 / 255,) * 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    writers = {"maskformer": write_maskformer, "mask2former": write_mask2former, "ovseg": write_ovseg}
    return {name: write(root / name) for name, write in writers.items()}


def rigged(queries=4, short_side_px=32, batch=2, **options):
    network = QueryNetwork(
        "rigged", Rigged(queries), PlainClassifier(), AS_IT_IS, InputSize(short_side_px, 256), batch=batch
    )
    return Maskformer(network, MaskformerOptions("none", **options)), network._module


def image(pixels_HW):
    return ImageInput("a", "a.png", np.repeat(np.asarray(pixels_HW, np.uint8)[:, :, None], 3, axis=2))


def thirds(width=96):
    """Brightness 50, 100, 150 from left to right, 32 pixels high."""
    return image(np.repeat(np.repeat([[50, 100, 150]], width // 3, axis=1), 32, axis=0))


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return ImageInput(str(seed), f"{seed}.png", pixels)


# Masks by value.


def test_masks_are_where_the_network_says_and_in_its_order():
    generator, _ = rigged()
    [found] = generator.propose([thirds()])
    # Logits change sign half-way between grid points 4 px apart: the borders are exact; nothing is as bright as 200.
    assert boxes_xywh_px(found.masks).tolist() == [[0, 0, 32, 32], [32, 0, 32, 32], [64, 0, 32, 32]]
    assert areas_px(found.masks).tolist() == [1024, 1024, 1024]


def test_objectness_is_what_is_left_of_no_object():
    generator, _ = rigged()
    [found] = generator.propose([thirds()])
    # softmax of (0, 0, -n): 2 / (2 + e^-n)
    assert found.predicted_iou == pytest.approx([2 / (2 + np.exp(-n)) for n in range(3)], rel=1e-6)


def test_quality_is_the_mean_probability_inside():
    generator, _ = rigged(queries=1, score="quality")
    [found] = generator.propose([image(np.full((32, 32), 50))])
    assert found.predicted_iou == pytest.approx([1 / (1 + np.exp(-4))], rel=1e-6)


def test_a_higher_threshold_gives_smaller_masks():
    areas = []
    for threshold in (0.5, 0.95):
        generator, _ = rigged(queries=1, mask_threshold=threshold)
        areas.append(areas_px(generator.propose([thirds()])[0].masks)[0])
    # Between two grid points the logit falls 4 -> -4 over 4 px; at pixel centres 3, 1, -1, -3. 0.95 is a logit of 2.94.
    assert areas == [32 * 32, 31 * 32]


def test_masks_are_in_the_frame_of_the_image():
    generator, module = rigged()
    [found] = generator.propose([image(thirds().pixels_HW3[:, :, 0].repeat(2, axis=0).repeat(2, axis=1))])
    assert module.batches == [(1, 3, 32, 96)]
    assert found.masks[0]["size"] == [64, 192]
    assert boxes_xywh_px(found.masks)[:, [0, 2]].tolist() == [[0, 64], [64, 64], [128, 64]]


def test_an_image_without_any_mask_says_so():
    generator, _ = rigged()
    [found] = generator.propose([image(np.full((32, 40), 7))])
    assert found == ProposalError("no_masks", "no query has a mask that is large enough")


def test_small_masks_are_left_out_and_the_best_kept_in_order():
    pixels = np.full((32, 96), 50)
    pixels[:, :8], pixels[:, 40:60] = 150, 100
    generator, _ = rigged(min_area_fraction=0.1)
    assert len(generator.propose([image(pixels)])[0].masks) == 2
    generator, _ = rigged(max_masks=2)
    [found] = generator.propose([thirds()])
    # Objectness grows with the number of a query.
    assert boxes_xywh_px(found.masks)[:, 0].tolist() == [32, 64]


def test_best_in_order_takes_the_earlier_of_equals():
    assert best_in_order(torch.tensor([0.5, 0.9, 0.5, 0.5]), 2).tolist() == [0, 1]


def test_images_of_one_padded_size_share_a_forward():
    generator, module = rigged(batch=2)
    images = [image(np.full(size, 50)) for size in ((32, 40), (40, 32), (32, 64), (32, 60))]
    found = generator.propose(images)
    assert module.batches == [(2, 3, 32, 64), (1, 3, 32, 64), (1, 3, 64, 32)]
    assert [areas_px(each.masks).tolist() for each in found] == [[1280], [1280], [2048], [1920]]


@pytest.mark.parametrize("score", ["objectness", "quality"])
@pytest.mark.parametrize("name", ["maskformer", "ovseg"])
def test_masks_are_enlarged_a_few_at_a_time_to_the_same_bytes(folders, monkeypatch, name, score):
    options = {"weights": str(folders[name]), "short_side_px": 32, "score": score}
    spec = resolve_generator("maskformer", options, "cpu", "")
    images, enlarged, found = [noise(40, 60, 1), noise(70, 50, 2)], [], []
    whole = maskformer.image_logits

    def counted(queries, size):
        enlarged[-1].append(len(queries.mask_logits_Nhw))
        return whole(queries, size)

    monkeypatch.setattr(maskformer, "image_logits", counted)
    for pixels in (1 << 22, 3 * 64 * 64, 1):
        monkeypatch.setitem(maskformer.PIXELS_AT_ONCE, "cpu", pixels)
        enlarged.append([])
        found.append(open_generator(spec).propose(images))
    assert found[0] == found[1] == found[2]
    assert max(enlarged[0]) > max(enlarged[1]) > max(enlarged[2]) == 1
    assert sum(enlarged[0]) == sum(enlarged[1]) == sum(enlarged[2])


def test_the_devices_clock_runs_for_the_network_and_masks_but_not_for_run_lengths(monkeypatch):
    generator, module = rigged()
    seen = []
    for place, name in ((module, "forward"), (maskformer, "image_logits"), (maskformer, "encode_masks")):
        whole = getattr(place, name)

        def watched(*arguments, whole=whole, name=name):
            seen.append((name, getattr(device_clock._now, "is_counting", False)))
            return whole(*arguments)

        monkeypatch.setattr(place, name, watched)
    generator.propose([thirds()])
    assert seen == [("forward", True), ("image_logits", True), ("encode_masks", False)]


def test_fewer_masks_are_enlarged_where_memory_runs_out(monkeypatch):
    generator, _ = rigged()
    expected, tried = generator.propose([thirds()]), []
    whole = maskformer.image_logits

    def narrow(queries, size):
        tried.append(len(queries.mask_logits_Nhw))
        if tried[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(queries, size)

    monkeypatch.setattr(maskformer, "image_logits", narrow)
    monkeypatch.setattr(maskformer, "LEAST_PIXELS", 1)
    before = halved_batches()
    generator._fitting._size = 3 * 32 * 96
    assert generator.propose([thirds()]) == expected
    assert tried == [3, 1, 1, 1]
    assert halved_batches() - before == 1


def test_sizes():
    assert resized((480, 640), InputSize()) == (640, 853)
    assert resized((100, 1000), InputSize()) == (256, 2560)
    assert padded((640, 853)) == (640, 864)
    assert padded((32, 33)) == (32, 64)
    assert groups_of_one_size([(30, 30), (64, 33), (32, 32), (31, 20)], 2) == [[0, 2], [3], [1]]


# Networks from disk.


@pytest.mark.parametrize("name", ["maskformer", "mask2former", "ovseg"])
def test_a_batch_gives_what_single_images_give(folders, name):
    spec = resolve_generator("maskformer", {"weights": str(folders[name]), "short_side_px": 32}, "cpu", "")
    generator = open_generator(spec)
    images = [noise(40, 60, 1), noise(60, 40, 2), noise(64, 100, 3), noise(40, 61, 4)]
    together = generator.propose(images)
    for one, each in zip(images, together, strict=True):
        assert each.masks == generator.propose([one])[0].masks
        assert 0 < len(each.masks) <= QUERIES
        assert all(0 <= score <= 1 for score in each.predicted_iou)
        assert each.masks[0]["size"] == list(one.pixels_HW3.shape[:2])


def test_a_maskformer_gives_the_masks_of_transformers(folders):
    network = open_network(resolve_network(str(folders["maskformer"])), size=InputSize(32, 64))
    pixels = noise(32, 64).pixels_HW3
    [queries] = network.queries([pixels])
    whole = network._module.model
    with torch.no_grad():
        found = whole(((torch.tensor(pixels).permute(2, 0, 1)[None] / 255) - 0.5) / 0.25)
    torch.testing.assert_close(queries.mask_logits_Nhw, found.masks_queries_logits[0])
    torch.testing.assert_close(queries.heads_NX, found.class_queries_logits[0])


def test_statistics_of_the_input_are_the_checkpoints(folders):
    assert pixel_statistics(str(folders["maskformer"])) == ((0.5,) * 3, (0.25,) * 3)
    assert pixel_statistics(str(folders["mask2former"]))[0] == (0.485, 0.456, 0.406)


def test_the_fingerprint_is_free_of_paths_and_follows_weights_and_options(folders, tmp_path):
    moved = shutil.copytree(folders["maskformer"], tmp_path / "moved")
    options = {"weights": str(folders["maskformer"]), "short_side_px": 32}
    first = resolve_generator("maskformer", options, "cpu", "").fingerprint()
    again = resolve_generator("maskformer", {**options, "weights": str(moved)}, "cpu", "").fingerprint()
    other = resolve_generator("maskformer", {**options, "mask_threshold": 0.4}, "cpu", "").fingerprint()
    assert first == again != other
    assert str(tmp_path) not in json.dumps(again)


def test_objectness_is_fused_where_it_is_asked_for_and_leaves_older_hashes(folders):
    options = {"weights": str(folders["maskformer"]), "short_side_px": 32}
    plain, with_it = (
        resolve_generator("maskformer", options | more, "cpu", "") for more in ({}, {"use_objectness": "true"})
    )
    assert "use_objectness" not in plain.fingerprint()["options"]
    assert with_it.fingerprint()["options"]["use_objectness"] is True
    vectors = np.eye(4, dtype=np.float32)
    (found,), (weighed,) = (open_generator(each).propose_soft([noise(40, 60)], vectors) for each in (plain, with_it))
    assert found.class_probability_NK is None
    assert weighed.class_probability_NK.shape == (QUERIES, 4)
    assert (weighed.class_probability_NK == weighed.class_probability_NK[:, :1]).all()
    assert open_generator(with_it).gives_probabilities
    with pytest.raises(UserError, match="use_objectness is for plain checkpoints"):
        resolve_generator("maskformer", {"weights": str(folders["ovseg"]), "use_objectness": True}, "cpu", "")


def test_half_precision_moves_few_pixels(folders):
    options = {"weights": str(folders["maskformer"]), "short_side_px": 32}
    full, half = (
        open_generator(resolve_generator("maskformer", {**options, "precision": precision}, "cpu", ""))
        for precision in ("fp32", "bf16")
    )
    one, other = (areas_px(each.propose([noise(64, 64)])[0].masks) for each in (full, half))
    assert one.tolist() != [0] * len(one)
    assert np.abs(one.astype(float) - other).max() < 0.1 * 64 * 64


# What goes wrong.


def test_without_transformers_the_install_line_is_said(monkeypatch, folders):
    monkeypatch.setattr(network_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ovseg-mining\[maskformer\]'"):
        resolve_network(str(folders["maskformer"]))


def test_a_name_that_is_neither_folder_nor_id():
    with pytest.raises(UserError, match=r"there is no folder '\./nothing'"):
        resolve_network("./nothing")


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"wanted config.json and one of .* found config.json"):
        resolve_network(str(tmp_path))


def test_another_kind_of_model(folders, tmp_path):
    folder = shutil.copytree(folders["maskformer"], tmp_path / "other")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"wanted a model of type maskformer, mask2former, .* got 'bert'"):
        resolve_network(str(folder))


def test_weights_of_another_size_do_not_fit(folders, tmp_path):
    folder = shutil.copytree(folders["maskformer"], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["decoder_config"]["num_queries"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"proposal network .*other"):
        resolve_generator("maskformer", {"weights": str(folder)}, "cpu", "")


def test_damaged_weights_are_said(folders, tmp_path):
    folder = shutil.copytree(folders["maskformer"], tmp_path / "other")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be opened"):
        resolve_generator("maskformer", {"weights": str(folder)}, "cpu", "")


def test_pickled_code_is_not_run(folders, tmp_path):
    folder = shutil.copytree(folders["maskformer"], tmp_path / "other")
    (folder / "model.safetensors").unlink()
    torch.save({"model": Rigged(1)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be opened"):
        resolve_generator("maskformer", {"weights": str(folder)}, "cpu", "")


# Fetching, without a network.


@pytest.fixture
def hub(monkeypatch, folders, tmp_path):
    """A hub of one repository, and what was asked of it."""
    import huggingface_hub

    asked = []

    def download(repository, file, cache_dir=None):
        asked.append(file)
        if file == "preprocessor_config.json":
            raise EntryNotFoundError("not there")
        place = tmp_path / "snapshot"
        place.mkdir(exist_ok=True)
        shutil.copy(folders["mask2former"] / file, place)
        return str(place / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(network_weights, "first_published", lambda *_: ("model.safetensors", 3 * 2**20))
    return asked


def test_what_is_fetched_is_said_first_and_kept(hub, tmp_path, capsys):
    weights = resolve_network("someone/some-network", cache_dir=str(tmp_path / "cache"))
    said = f"fetching someone/some-network, 3 MiB, model.safetensors, to {tmp_path}/cache\n"
    assert capsys.readouterr().out == said
    assert hub == ["preprocessor_config.json", "config.json", "model.safetensors"]
    assert weights.model_type == "mask2former"


def test_out_of_reach_names_files_and_command(monkeypatch, tmp_path):
    def unreachable(*_):
        raise OSError("no network\nmore")

    monkeypatch.setattr(network_weights, "first_published", unreachable)
    with pytest.raises(UserError) as caught:
        resolve_network("someone/some-network", cache_dir=str(tmp_path))
    text = str(caught.value)
    assert f"which are not in {tmp_path} and could not be fetched (no network)" in text
    assert "hf download someone/some-network config.json preprocessor_config.json model.safetensors" in text


def test_a_cached_repository_is_taken_without_asking(monkeypatch, folders):
    import huggingface_hub

    def cached(repository, file, cache_dir):
        path = folders["mask2former"] / file
        return str(path) if path.exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    weights = resolve_network("someone/some-network", say=lambda line: pytest.fail(line))
    assert weights.folder == str(folders["mask2former"])


def test_choosing_the_generator_imports_neither_torch_nor_transformers():
    import subprocess

    code = (
        "import sys, ovseg_model.proposals.maskformer; print(int(bool({'torch', 'transformers'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"

"""CLIP: names to files, files to models, and vectors equal to open_clip's own, whatever stands beside them."""

import contextlib
import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import tiny_clip
import torch

from ovseg_model import clip as clip_module
from ovseg_model.clip import ClipWeights, cuttable, encode_class_token, load_clip, resolve_clip, resolve_device
from schemas.errors import UserError

TEXTS = [
    "cat",
    "a photo of a dog.",
    "There is a medium-sized refrigerator with eleven magnets in the scene, and a small bird upon it",
    "",
    " ".join(["word"] * 200),  # longer than the context: the tokenizer keeps the end token
]
SILENT = {"say": lambda line: pytest.fail(f"said: {line}")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_clip.write_folder(tmp_path_factory.mktemp("tiny") / "my-clip")


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip(resolve_clip(str(folder)), image_batch=4, text_batch=4)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory) -> str:
    return tiny_clip.register(tmp_path_factory.mktemp("architectures"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(11, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def opened(tmp_path, model_cfg, **options):
    return load_clip(resolve_clip(str(tiny_clip.write_folder(tmp_path / "model", model_cfg))), **options)


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


# Checkpoints of the user's.


def test_a_folder_says_all_about_its_model(folder):
    weights = resolve_clip(str(folder), **SILENT)
    file = folder / "open_clip_model.safetensors"
    assert weights == ClipWeights(
        name="my-clip",
        architecture=f"local-dir:{folder}",
        tag="checkpoint",
        path=str(file),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size_bytes=file.stat().st_size,
        meaningless=False,
        config_sha256=hashlib.sha256((folder / "open_clip_config.json").read_bytes()).hexdigest(),
    )
    assert pickle.loads(pickle.dumps(weights)) == weights


def test_a_model_says_what_it_wants(clip):
    assert (clip.image_size_px, clip.embed_dim) == (32, 16)
    assert clip.mean == tiny_clip.MEAN and clip.std == tiny_clip.STD
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert not clip.model.training
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_every_format_gives_the_same_model(folder, clip, architecture, images, tmp_path):
    plain = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    trained = tiny_clip.write_training_checkpoint(tmp_path / "epoch_5.pth")
    beside = folder / "open_clip_model.safetensors"
    wanted = clip.embed_images(images)
    for path, given in ((plain, architecture), (trained, architecture), (beside, None), (folder, architecture)):
        weights = resolve_clip(str(path), given, **SILENT)
        assert np.array_equal(load_clip(weights, image_batch=4).embed_images(images), wanted)


def test_a_checkpoints_name_does_not_say_where_it_lies(architecture, tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    weights = resolve_clip(str(path), architecture)
    assert weights.name == "tiny-clip/tiny.pt"
    assert str(tmp_path) not in json.dumps(weights.fingerprint())
    assert weights.config_sha256 is None


def test_relative_paths_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert resolve_clip("my-clip").path == str(folder / "open_clip_model.safetensors")


def test_fingerprints_tell_configs_and_numbers_apart(folder, clip, tmp_path):
    other = tiny_clip.write_folder(tmp_path / "my-clip", tiny_clip.config(quick_gelu=True))
    ours, theirs = resolve_clip(str(folder)), resolve_clip(str(other))
    assert (ours.sha256, ours.name) == (theirs.sha256, theirs.name)
    assert ours.fingerprint() != theirs.fingerprint()
    numbers = {"precision": "fp32", "image_batch": 4, "text_batch": 4, "cuts_texts": True, "device": "cpu"}
    assert clip.fingerprint() == {**ours.fingerprint(), **numbers}


def test_quick_gelu_of_a_config_is_used(clip, images, tmp_path):
    quick = opened(tmp_path, tiny_clip.config(quick_gelu=True), image_batch=4)
    own = tiny_clip.build(tiny_clip.config(quick_gelu=True)).encode_image(images)
    assert np.allclose(quick.embed_images(images), unit(own), atol=1e-5)
    assert not np.allclose(quick.embed_images(images), clip.embed_images(images), atol=1e-4)


def break_config(folder, change):
    config = json.loads((folder / "open_clip_config.json").read_text())
    change(config)
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def test_a_folder_without_weights(tmp_path):
    tiny_clip.write_config(tmp_path)
    with pytest.raises(UserError, match=r"wanted open_clip_model\.safetensors or open_clip_pytorch_model\.bin in the"):
        resolve_clip(str(tmp_path))


def test_a_config_that_is_no_model(tmp_path):
    folder = tiny_clip.write_folder(tmp_path / "a")
    break_config(folder, lambda config: config["model_cfg"].pop("text_cfg"))
    with pytest.raises(UserError, match=r"open_clip_config\.json: model_cfg lacks text_cfg; save it again"):
        resolve_clip(str(folder))
    break_config(folder, lambda config: config.pop("model_cfg"))
    with pytest.raises(UserError, match=r"open_clip_config\.json: wanted JSON with a model_cfg"):
        resolve_clip(str(folder))
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match=r"open_clip_config\.json: wanted JSON with a model_cfg"):
        resolve_clip(str(folder))


def test_a_file_that_does_not_say_its_architecture(tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    with pytest.raises(UserError, match=r"tiny\.pt: its architecture is not known; give it by --clip-architecture"):
        resolve_clip(str(path))


def test_an_architecture_that_open_clip_does_not_know(tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    with pytest.raises(UserError, match=r"got 'ViT-B-17'; closest: .*ViT-B-16.*; all are listed by: python -c"):
        resolve_clip(str(path), "ViT-B-17")


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "weights.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights\.zip: wanted a checkpoint that ends in one of \.safetensors, \.pt"):
        resolve_clip(str(tmp_path / "weights.zip"))


def test_weights_of_another_size_stop_before_work_starts(architecture, tmp_path):
    wide = tiny_clip.config()
    wide["embed_dim"] = 24
    path = tiny_clip.write_state_dict(tmp_path / "wide.pt", wide)
    with pytest.raises(UserError, match=r"wide\.pt does not fit tiny-clip: size mismatch for .*; give the"):
        resolve_clip(str(path), architecture)


def test_a_missing_key_is_named(architecture, tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "part.pt")
    weights = torch.load(path)
    del weights["ln_final.bias"]
    torch.save(weights, path)
    with pytest.raises(UserError, match=r'part\.pt does not fit tiny-clip: Missing key\(s\) .*"ln_final\.bias"; give'):
        resolve_clip(str(path), architecture)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_damaged_file_is_one_sentence(content, suffix, architecture, tmp_path):
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^CLIP .*damaged\.{suffix}[^\n]*$"):
        resolve_clip(str(path), architecture)


class Payload:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_never_run(architecture, tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"a": Payload(tmp_path / "ran")}}, path)
    with pytest.raises(UserError, match=r"evil\.pt: holds Python objects beside tensors, or is damaged"):
        resolve_clip(str(path), architecture)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused(architecture, tmp_path):
    path = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(UserError, match=r"openai\.pt is a TorchScript archive, a program .* use ARCHITECTURE/openai"):
        resolve_clip(str(path), architecture)


def test_workers_read_only_the_file_that_was_resolved(architecture, tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    weights = resolve_clip(str(path), architecture)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"tiny\.pt had \d+ bytes when the run began, now \d+; start again"):
        load_clip(weights)
    path.unlink()
    with pytest.raises(UserError, match=r"tiny\.pt is not there; every machine that scores needs it"):
        load_clip(weights)


# Names that open_clip knows.


def test_random_weights_are_seeded_and_marked(architecture, images):
    weights = resolve_clip("tiny-clip/random", **SILENT)
    assert (weights.name, weights.path, weights.size_bytes) == ("tiny-clip/random", None, 0)
    assert weights.meaningless
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = load_clip(weights)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert np.array_equal(load_clip(weights).embed_images(images), first.embed_images(images))
    assert weights.sha256 != resolve_clip("ViT-B-32/random").sha256


def test_random_weights_are_not_warned_about(architecture, caplog):
    load_clip(resolve_clip("tiny-clip/random"))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16/openia", r"ViT-B-16 has no weights 'openia'; closest: openai; it has openai, .*random; all models"),
        ("vit-b-16/openai", r"got 'vit-b-16/openai'; closest: .*ViT-B-16/openai.*; all are listed by: python -c"),
        (
            "ViT-B-16",
            r"wanted ARCHITECTURE/TAG of open_clip, .* or a checkpoint's path, got 'ViT-B-16'; closest: ViT-B-16",
        ),
        ("", r"got ''; all are listed by"),
        ("./missing", r"there is no file or folder \./missing; give a checkpoint that exists"),
        ("missing.safetensors", r"there is no file or folder missing\.safetensors"),
    ],
)
def test_unknown_names_say_what_is_near(name, message):
    with pytest.raises(UserError, match=message):
        resolve_clip(name)


def test_an_architecture_beside_a_tag_is_refused():
    with pytest.raises(UserError, match="its architecture is ViT-B-32, but ViT-L-14 was given as well"):
        resolve_clip("ViT-B-32/random", "ViT-L-14")


@pytest.fixture
def tag(architecture, monkeypatch) -> str:
    """Makes open_clip know weights of the tiny architecture, trained with QuickGELU, in a hub repository."""
    published = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    ours = {**published, "hf_hub": "someone/tiny-clip/", "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"my_tag": ours})
    return f"{architecture}/My-Tag"


def cache(folder: Path, source: Path) -> Path:
    """Puts a file into a Hugging Face cache as a fetch leaves it."""
    repository = folder / "models--someone--tiny-clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    return Path(shutil.copy(source, snapshot / "open_clip_model.safetensors"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", refuse)


def test_cached_weights_need_no_network_and_no_words(tag, folder, no_network, tmp_path):
    file = cache(tmp_path, folder / "open_clip_model.safetensors")
    weights = resolve_clip(tag, cache_dir=str(tmp_path), **SILENT)
    assert (weights.name, weights.tag, weights.path) == ("tiny-clip/my_tag", "my_tag", str(file))
    assert not weights.meaningless


def test_a_tag_brings_its_quick_gelu_and_its_mean(tag, folder, no_network, images, tmp_path, recwarn):
    cache(tmp_path, folder / "open_clip_model.safetensors")
    clip = load_clip(resolve_clip(tag, cache_dir=str(tmp_path)))
    assert clip.mean == (0.1, 0.2, 0.3)
    own = tiny_clip.build(tiny_clip.config(quick_gelu=True)).encode_image(images)
    assert np.allclose(clip.embed_images(images), unit(own), atol=1e-5)
    assert len(recwarn) == 0


def test_a_checkpoint_is_fed_as_its_architectures_tags_are(tag, architecture, tmp_path):
    path = tiny_clip.write_state_dict(tmp_path / "tiny.pt")
    assert load_clip(resolve_clip(str(path), architecture)).mean == (0.1, 0.2, 0.3)


def test_a_fetch_says_what_how_large_and_where_to(tag, folder, tmp_path, monkeypatch):
    sizes = {"open_clip_model.safetensors": 3 * 2**20}
    asked, said = [], []

    def metadata(url):
        asked.append(url.rpartition("/")[2])
        return type("Metadata", (), {"size": sizes[asked[-1]]})

    def download(repo_id, filename, revision, cache_dir):
        assert said, "fetched before it was said"
        return str(cache(Path(cache_dir), folder / filename))

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
    weights = resolve_clip(tag, cache_dir=str(tmp_path), say=said.append)
    wanted = "fetching tiny-clip/my_tag, 3 MiB, open_clip_model.safetensors of someone/tiny-clip, to "
    assert said == [wanted + str(tmp_path)]
    assert weights.path.startswith(str(tmp_path))


def test_plain_weights_are_taken_where_no_safe_ones_are_published(monkeypatch):
    def metadata(url):
        if url.endswith(".safetensors"):
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return type("Metadata", (), {"size": 7})

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert clip_module.first_published("someone/tiny-clip", files) == ("open_clip_pytorch_model.bin", 7)


def test_offline_names_the_file_and_the_command(no_network, tmp_path):
    with pytest.raises(UserError) as raised:
        resolve_clip("ViT-B-16/openai", cache_dir=str(tmp_path))
    sentence = str(raised.value)
    assert "wanted open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai, which is not in" in sentence
    assert "could not be fetched (no network)" in sentence
    command = "open_clip.download_pretrained(open_clip.get_pretrained_cfg('ViT-B-16', 'openai'))"
    assert f'python -c "import open_clip; print({command})"' in sentence
    # The same file under plain ViT-B-16 would run with the wrong activation.
    assert sentence.endswith("with architecture ViT-B-16-quickgelu")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(clip_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the transformers package; install it with: pip install transformers"):
        resolve_clip("ViT-B-16-SigLIP/random")


# Devices and numbers.


@pytest.fixture
def gpus(monkeypatch):
    def set_count(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_count


@pytest.mark.parametrize(
    ("count", "name", "wanted"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda", "cuda"), (2, "cuda:1", "cuda:1")],
)
def test_devices(gpus, count, name, wanted):
    gpus(count)
    assert resolve_device(name) == wanted


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_gpu_that_is_not_there_is_an_error(gpus, count, name):
    gpus(count)
    with pytest.raises(UserError, match=f"device {name}: torch sees {count} GPUs here; use --device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "mps", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA", "cuda1"])
def test_unknown_devices(gpus, name):
    gpus(2)
    with pytest.raises(UserError, match=f"device: wanted auto, cpu, cuda or cuda:NUMBER, got '{name}'"):
        resolve_device(name)


def test_load_does_not_fall_back_to_the_cpu(gpus, clip):
    gpus(0)
    with pytest.raises(UserError, match="device cuda: torch sees 0 GPUs here"):
        load_clip(clip.weights, device="cuda")


def test_an_unknown_precision(clip):
    with pytest.raises(UserError, match="precision: wanted one of fp32, bf16, fp16, got 'int8'"):
        load_clip(clip.weights, precision="int8")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_lower_precision_casts_weights_once_and_stays_near(clip, images, precision, dtype):
    low = load_clip(clip.weights, precision=precision, image_batch=4, text_batch=4)
    assert low.model.visual.conv1.weight.dtype == dtype
    pairs = [(low.embed_images(images), clip.embed_images(images)), (low.embed_texts(TEXTS), clip.embed_texts(TEXTS))]
    for ours, wanted in pairs:
        assert ours.dtype == np.float32
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert (ours * wanted).sum(axis=1).min() > 0.999
        assert not np.array_equal(ours, wanted)


def test_other_input_shapes_are_refused(clip):
    with pytest.raises(ValueError, match=r"images: wanted \(B, 3, 32, 32\), got \(2, 3, 16, 32\)"):
        clip.embed_images(torch.zeros(2, 3, 16, 32))


def test_a_model_whose_input_is_no_square(tmp_path):
    wide = tiny_clip.config()
    wide["vision_cfg"]["image_size"] = [32, 48]
    with pytest.raises(UserError, match="wanted a model with a square input, this one takes 32 x 48"):
        opened(tmp_path, wide)


# Vectors.


def test_images_equal_open_clips_own(clip, images):
    vectors = clip.embed_images(images)
    assert vectors.dtype == np.float32 and vectors.shape == (11, 16)
    assert np.allclose(vectors, unit(tiny_clip.build().encode_image(images)), atol=1e-5)


def with_image_tower(**vision_cfg: object) -> dict:
    changed = tiny_clip.config()
    changed["vision_cfg"].update(vision_cfg)
    return changed


TOKEN_TOWERS = {
    "CLIP": tiny_clip.config(),
    "CustomTextCLIP": tiny_clip.config(custom_text=True),
    "QuickGELU": tiny_clip.config(quick_gelu=True),
    "LayerNorm after pooling": with_image_tower(final_ln_after_pool=True),
    "layer scale": with_image_tower(ls_init_value=0.3),
    "one block": with_image_tower(layers=1),
}
WHOLE_TOWERS = {
    "mean of patches": with_image_tower(pool_type="avg"),
    "attentional pool": with_image_tower(attentional_pool=True),
    "blocks of its own": with_image_tower(block_type="custom"),
}


@pytest.mark.parametrize("tower", [*TOKEN_TOWERS, *WHOLE_TOWERS])
def test_patches_skip_the_last_block_only_where_no_one_reads_them(tower, images, tmp_path):
    model_cfg = {**TOKEN_TOWERS, **WHOLE_TOWERS}[tower]
    clip = opened(tmp_path, model_cfg, image_batch=4)
    assert clip.skips_patches == (tower in TOKEN_TOWERS)
    assert np.allclose(clip.embed_images(images), unit(tiny_clip.build(model_cfg).encode_image(images)), atol=1e-6)


def test_axes_of_older_transformers_are_kept(images):
    model = tiny_clip.build()
    transformer = model.visual.transformer
    transformer.batch_first = False
    for block in transformer.resblocks:
        block.attn.batch_first = False
    assert torch.allclose(encode_class_token(model.visual, images), model.encode_image(images), atol=1e-6)


def test_an_image_does_not_depend_on_its_neighbours(clip, images):
    together = clip.embed_images(images)
    assert np.array_equal(np.concatenate([clip.embed_images(images[i : i + 1]) for i in range(11)]), together)
    assert np.array_equal(np.concatenate([clip.embed_images(images[:5]), clip.embed_images(images[5:])]), together)


def test_full_forwards_are_not_copied_before_they_are_sent(images):
    assert clip_module._padded(images[:4], 4).data_ptr() == images.data_ptr()
    padded = clip_module._padded(images[:3], 4)
    assert torch.equal(padded, images[[0, 1, 2, 2]])
    one_expanded = images[:1].expand(4, -1, -1, -1)
    assert clip_module._padded(one_expanded, 4).is_contiguous()


class OfGpu:
    """Rows that note how they are sent."""

    device = torch.device("cpu")

    def __init__(self, done=()):
        self.done = done

    def contiguous(self):
        return OfGpu((*self.done, "whole"))

    def pin_memory(self):
        return OfGpu((*self.done, "pinned"))

    def to(self, device, non_blocking=False):
        return (*self.done, device, non_blocking)


def test_rows_go_to_a_gpu_from_locked_memory_and_nobody_waits():
    assert clip_module.sent_to("cuda:1", OfGpu()) == ("whole", "pinned", "cuda:1", True)
    assert clip_module.sent_to("cpu", OfGpu()) == ("cpu", False)


def test_vectors_leave_the_device_once_a_call_and_each_forward_is_its_work(clip, images, monkeypatch):
    at_work, copies = [], []

    @contextlib.contextmanager
    def noted(device):
        at_work.append(device)
        yield

    on_host = clip_module.on_host
    monkeypatch.setattr(clip_module, "device_at_work", noted)
    monkeypatch.setattr(clip_module, "on_host", lambda vectors: copies.append(len(vectors)) or on_host(vectors))
    clip.embed_images(images)
    assert (at_work, copies) == (["cpu"] * 3, [11])
    clip.embed_texts(TEXTS + ["cat"] * 4)
    assert (at_work, copies) == (["cpu"] * 8, [11, 9])


def test_nothing_gives_nothing(clip, images):
    assert clip.embed_images(images[:0]).shape == (0, 16)
    assert clip.embed_texts([]).shape == (0, 16)


TOWERS = {
    "CLIP": tiny_clip.config(),
    "CustomTextCLIP": tiny_clip.config(custom_text=True),
    "pooled at its own end token": tiny_clip.config(custom_text=True, pool_type="eos", eos_id=49407),
    "with a biased projection": tiny_clip.config(custom_text=True, proj_bias=True),
    "short context": tiny_clip.config(context_length=20),
}
FULL_TOWERS = {
    "looks both ways": tiny_clip.config(custom_text=True, no_causal_mask=True),
    "pooled at the last token": tiny_clip.config(custom_text=True, pool_type="last"),
    "pooled at the first token": tiny_clip.config(custom_text=True, pool_type="first"),
    "appends a class token": tiny_clip.config(custom_text=True, embed_cls=True),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_cut_texts_equal_open_clips_full_context(tower, tmp_path):
    clip = opened(tmp_path, TOWERS[tower], text_batch=4)
    assert clip.cuts_texts
    tokens = open_clip.SimpleTokenizer(context_length=TOWERS[tower]["text_cfg"]["context_length"])(TEXTS)
    wanted = unit(tiny_clip.build(TOWERS[tower]).encode_text(tokens))
    assert np.allclose(clip.embed_texts(TEXTS), wanted, atol=1e-5)


@pytest.mark.parametrize("tower", FULL_TOWERS)
def test_other_towers_are_not_cut(tower, tmp_path):
    clip = opened(tmp_path, FULL_TOWERS[tower], text_batch=4)
    assert not clip.cuts_texts
    wanted = unit(tiny_clip.build(FULL_TOWERS[tower]).encode_text(open_clip.SimpleTokenizer()(TEXTS)))
    assert np.allclose(clip.embed_texts(TEXTS), wanted, atol=1e-5)


def test_cutting_a_tower_that_looks_both_ways_would_be_wrong():
    model = tiny_clip.build(FULL_TOWERS["looks both ways"])
    tokens = open_clip.SimpleTokenizer()(["cat"])
    model.text.attn_mask = torch.zeros(77, 77)
    cut = clip_module.encode_cut_texts(model.text, tokens[:, :8])
    assert not np.allclose(unit(cut), unit(model.encode_text(tokens)), atol=1e-3)


def test_towers_of_open_clips_models():
    with torch.device("meta"):
        assert cuttable(open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")))
    assert not cuttable(torch.nn.Linear(1, 1))


def test_texts_are_cut_to_their_own_length(clip, monkeypatch):
    seen = []
    monkeypatch.setattr(
        clip_module, "encode_cut_texts", lambda tower, tokens: seen.append(tuple(tokens.shape)) or torch.ones(4, 16)
    )
    clip.embed_texts(TEXTS + ["cat"] * 4)
    # Five texts of at most 4 tokens make two batches; the others read what they need, the last the context of 77.
    assert seen == [(4, 4), (4, 4), (4, 8), (4, 24), (4, 77)]


def test_a_text_does_not_depend_on_its_neighbours(clip):
    texts = TEXTS + [f"{'very ' * i}old tree" for i in range(12)]
    together = clip.embed_texts(texts)
    shuffled = random.Random(0).sample(range(len(texts)), len(texts))
    assert np.array_equal(clip.embed_texts([texts[i] for i in shuffled]), together[shuffled])
    assert np.array_equal(np.concatenate([clip.embed_texts([text]) for text in texts]), together)
    assert np.unique(together, axis=0).shape == together.shape


def test_no_gradients_are_kept(clip, images):
    with torch.enable_grad():
        assert isinstance(clip.embed_images(images.requires_grad_()), np.ndarray)

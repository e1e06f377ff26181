"""Nouns are embedded once and read back afterwards, as long as nothing that decides them has changed."""

import threading

import numpy as np
import pytest

from ovseg_model import noun_vectors as module
from ovseg_model.class_embeddings import TEMPLATES, ClassEmbeddings
from ovseg_model.noun_vectors import KeptVectors, LocalFolder, noun_vectors
from pipelines.write_tables import RunFolder

PHOTO = TEMPLATES["photo"]


class CountsCalls:
    embed_dim = 4
    device = "cpu"

    def __init__(self, weights="a", image_batch=32):
        self.weights, self.image_batch, self.texts = weights, image_batch, []

    def fingerprint(self):
        return {"weights": self.weights, "image_batch": self.image_batch}

    def embed_texts(self, texts):
        self.texts += texts
        rows = [[len(text), text.count("a") + 1, text.count("e"), 1] for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, 4)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def every_name_counts(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_NAMES", 1)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def embeddings(folder, clip):
    return ClassEmbeddings(clip, PHOTO, KeptVectors(folder, clip, PHOTO))


# --- Training: all nouns of a corpus ------------------------------------------------------------------------------


def test_a_second_asking_reads_the_file(tmp_path):
    clip = CountsCalls()
    first = noun_vectors(clip, ["kite", "cup"], "photo", tmp_path)
    asked = len(clip.texts)
    again = noun_vectors(clip, ["kite", "cup"], "photo", tmp_path)
    assert len(clip.texts) == asked > 0
    assert (again == first).all()
    assert first.shape == (2, 4)
    assert first.dtype == np.float32


def test_other_nouns_are_embedded_and_known_ones_read(tmp_path):
    noun_vectors(CountsCalls(), ["kite", "cup"], "photo", tmp_path)
    clip = CountsCalls()
    vectors = noun_vectors(clip, ["cup", "apple", "kite"], "photo", tmp_path)
    assert clip.texts == ["a photo of a apple."]
    assert (vectors == noun_vectors(CountsCalls(), ["cup", "apple", "kite"], "photo", None)).all()


@pytest.mark.parametrize(("weights", "templates"), [("b", "photo"), ("a", "vild")])
def test_other_weights_or_templates_are_embedded_anew(tmp_path, weights, templates):
    noun_vectors(CountsCalls(), ["kite", "cup"], "photo", tmp_path)
    clip = CountsCalls(weights)
    noun_vectors(clip, ["kite", "cup"], templates, tmp_path)
    assert clip.texts
    assert len(files_below(tmp_path)) == 2


def test_nothing_is_kept_without_a_folder_and_no_nouns_are_no_vectors():
    assert noun_vectors(CountsCalls(), [], "photo", None).shape == (0, 4)


# --- Mining: workers that read and write at the same time ----------------------------------------------------------


def test_what_one_worker_embeds_another_reads(tmp_path, every_name_counts):
    folder, first, second = RunFolder(str(tmp_path / "run")), CountsCalls(), CountsCalls()
    one, other = embeddings(folder, first), embeddings(folder, second)
    made = one.embed(["kite", "cup"])
    read = other.embed(["cup", "kite", "apple"])
    assert second.texts == ["a photo of a apple."]
    assert np.array_equal(read[:2], made[::-1])
    one.embed(["apple"])
    assert len(first.texts) == 2


def test_a_memory_url_serves_as_well(every_name_counts):
    folder, clip = RunFolder("memory://nouns-of-a-test"), CountsCalls()
    made = embeddings(folder, clip).embed(["kite"])
    assert np.array_equal(embeddings(folder, clip).embed(["kite"]), made)
    assert len(clip.texts) == 1


def test_bytes_are_the_same_with_and_without(tmp_path, every_name_counts):
    folder, names = LocalFolder(tmp_path), ["kite", "cup", "é", "a\0b", "two words"]
    embeddings(folder, CountsCalls()).embed(names[:3])
    kept, plain = embeddings(folder, CountsCalls()), ClassEmbeddings(CountsCalls(), PHOTO)
    assert kept.embed(names).tobytes() == plain.embed(names).tobytes()


def test_few_names_wait_for_more(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_NAMES", 3)
    known = embeddings(LocalFolder(tmp_path), CountsCalls())
    known.embed(["a", "b"])
    assert files_below(tmp_path) == []
    known.embed(["b", "c"])
    assert len(files_below(tmp_path)) == 1
    assert set(KeptVectors(LocalFolder(tmp_path), CountsCalls(), PHOTO).find("abcd")) == set("abc")


DAMAGES = [lambda data: data[:-5], lambda data: b"", lambda data: data[:40] + b"?" + data[41:]]


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut short", "empty", "one byte changed"])
def test_a_damaged_file_is_made_again(tmp_path, every_name_counts, damage):
    made = embeddings(LocalFolder(tmp_path), CountsCalls()).embed(["kite"])
    (path,) = files_below(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    clip = CountsCalls()
    assert np.array_equal(embeddings(LocalFolder(tmp_path), clip).embed(["kite"]), made)
    assert clip.texts == ["a photo of a kite."]
    assert len(KeptVectors(LocalFolder(tmp_path), clip, PHOTO).find(["kite"])) == 1


def test_a_file_of_another_model_moved_here_holds_nothing(tmp_path, every_name_counts):
    embeddings(LocalFolder(tmp_path), CountsCalls("a")).embed(["kite"])
    embeddings(LocalFolder(tmp_path), CountsCalls("b")).embed(["cup"])
    ours, others = files_below(tmp_path)
    (ours.parent / others.name).write_bytes(others.read_bytes())
    found = [KeptVectors(LocalFolder(tmp_path), CountsCalls(name), PHOTO).find(["kite", "cup"]) for name in "ab"]
    assert sorted(map(list, found)) == [["cup"], ["kite"]]


def test_a_folder_that_is_removed_meanwhile_is_no_error(tmp_path, every_name_counts):
    clip = CountsCalls()
    known = KeptVectors(LocalFolder(tmp_path / "kept"), clip, PHOTO)
    ClassEmbeddings(clip, PHOTO, known).embed(["kite"])
    assert known.find(["kite"])
    for path in files_below(tmp_path):
        path.unlink()
    assert known.find(["kite"]) == {}


def test_batches_of_images_are_no_matter(tmp_path, every_name_counts):
    embeddings(LocalFolder(tmp_path), CountsCalls()).embed(["kite"])
    clip = CountsCalls(image_batch=1)
    embeddings(LocalFolder(tmp_path), clip).embed(["kite"])
    assert clip.texts == []


@pytest.mark.parametrize("what", ["_PACKAGES", "threads"])
def test_other_versions_or_threads_are_another_place(tmp_path, every_name_counts, monkeypatch, what):
    import torch

    embeddings(LocalFolder(tmp_path), CountsCalls()).embed(["kite"])
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    else:
        monkeypatch.setattr(module, "_PACKAGES", ("numpy",))
    assert KeptVectors(LocalFolder(tmp_path), CountsCalls(), PHOTO).find(["kite"]) == {}


def test_workers_that_write_at_once_leave_whole_files(tmp_path, every_name_counts):
    names = [f"name {number}" for number in range(60)]

    def work(seed):
        known = embeddings(LocalFolder(tmp_path), CountsCalls())
        for start in np.random.default_rng(seed).permutation(50):
            known.embed(names[start : start + 10])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = KeptVectors(LocalFolder(tmp_path), CountsCalls(), PHOTO).find(names)
    wanted = ClassEmbeddings(CountsCalls(), PHOTO).embed(names)
    assert np.array_equal(np.stack([found[name] for name in names[:59]]), wanted[:59])


def test_a_real_models_vectors_do_not_depend_on_their_company():
    from ovseg_model.clip import load_clip, resolve_clip

    clip = load_clip(resolve_clip("scenes"))
    words = ["ball", "cup", "traffic light", "very small brown dog"] * 6
    names = [f"{word} {number}" for number, word in enumerate(words)]
    together = ClassEmbeddings(clip, PHOTO).embed(names)
    backwards = ClassEmbeddings(clip, PHOTO).embed(names[::-1])
    alone = [ClassEmbeddings(clip, PHOTO).embed([name])[0] for name in names[:4]]
    assert backwards[::-1].tobytes() == together.tobytes()
    assert np.stack(alone).tobytes() == together[:4].tobytes()

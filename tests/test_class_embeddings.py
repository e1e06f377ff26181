"""Names to unit vectors: the templates letter by letter, averages by hand, one embedding a name."""

import threading
import zlib

import numpy as np
import pytest

from ovseg_model import class_embeddings
from ovseg_model.class_embeddings import TEMPLATES, ClassEmbeddings, average_unit_vectors, prompt_templates
from schemas.errors import UserError


class FakeTexts:
    """Embeds a text by a seed made of its letters, and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def embed_texts(self, texts):
        self.calls.append(list(texts))
        rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=5) for text in texts]
        return np.array(rows, np.float32).reshape(-1, 5)


def test_vild_templates_letter_by_letter():
    assert prompt_templates("vild") == (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    )


def test_photo_and_a_sentence_of_ones_own():
    assert prompt_templates("photo") == ("a photo of a {}.",)
    assert prompt_templates("an X-ray of the {}") == ("an X-ray of the {}",)


def test_unknown_templates_name_the_known_ones():
    with pytest.raises(UserError, match=r"wanted vild, photo, or a sentence of your own with \{\} .* got 'imagenet'"):
        prompt_templates("imagenet")


def test_average_by_hand():
    vectors = np.array([[[3.0, 0.0], [0.0, 0.5]], [[0.0, -2.0], [0.0, -7.0]]])
    half = np.sqrt(0.5)
    averaged = average_unit_vectors(vectors)
    assert averaged.dtype == np.float32
    assert np.allclose(averaged, [[half, half], [0, -1]], atol=1e-7)


def test_vectors_that_cancel_out_have_no_direction():
    with pytest.raises(ValueError, match="a zero vector has no direction"):
        average_unit_vectors(np.array([[[1.0, 0.0], [-1.0, 0.0]]]))


def test_a_name_goes_into_every_template():
    texts = FakeTexts()
    ClassEmbeddings(texts, ("a {}.", "{} by {}")).embed(["cat", "{brace}"])
    assert texts.calls == [["a cat.", "cat by cat", "a {brace}.", "{brace} by {brace}"]]


def test_embeddings_are_the_averages_of_their_prompts():
    embeddings = ClassEmbeddings(FakeTexts(), TEMPLATES["vild"]).embed(["cat", "dog"])
    prompts = [template.replace("{}", "dog") for template in TEMPLATES["vild"]]
    assert np.array_equal(embeddings[1], average_unit_vectors(FakeTexts().embed_texts(prompts)[None])[0])
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_each_distinct_name_is_embedded_once_and_order_is_kept():
    texts = FakeTexts()
    embeddings = ClassEmbeddings(texts, TEMPLATES["photo"])
    first = embeddings.embed(["cat", "dog", "cat"])
    second = embeddings.embed(["bird", "dog"])
    assert texts.calls == [["a photo of a cat.", "a photo of a dog."], ["a photo of a bird."]]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[1], second[1])


def test_a_vector_does_not_depend_on_the_other_names(monkeypatch):
    names = [f"name {i}" for i in range(7)]
    together = ClassEmbeddings(FakeTexts(), TEMPLATES["vild"]).embed(names)
    monkeypatch.setattr(class_embeddings, "NAMES_PER_CALL", 2)
    texts = FakeTexts()
    assert np.array_equal(ClassEmbeddings(texts, TEMPLATES["vild"]).embed(names), together)
    assert [len(call) for call in texts.calls] == [28, 28, 28, 14]
    backwards = ClassEmbeddings(FakeTexts(), TEMPLATES["vild"]).embed(names[::-1])
    assert np.array_equal(backwards[::-1], together)


def test_no_names():
    assert ClassEmbeddings(FakeTexts(), TEMPLATES["photo"]).embed([]).shape == (0, 5)


def test_returned_vectors_are_the_callers_to_change():
    embeddings = ClassEmbeddings(FakeTexts(), TEMPLATES["photo"])
    before = embeddings.embed(["cat"]).copy()
    embeddings.embed(["cat"])[:] = 0
    assert np.array_equal(embeddings.embed(["cat"]), before)


def test_threads_share_one_embedding_of_a_name():
    texts = FakeTexts()
    embeddings = ClassEmbeddings(texts, TEMPLATES["photo"])
    start = threading.Barrier(4)
    threads = [threading.Thread(target=lambda: (start.wait(), embeddings.embed(["cat", "dog"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts.calls == [["a photo of a cat.", "a photo of a dog."]]


def test_memory_of_names_is_bounded(monkeypatch):
    monkeypatch.setattr(class_embeddings, "MOST_REMEMBERED", 2)
    texts = FakeTexts()
    embeddings = ClassEmbeddings(texts, ("{}",))
    first = embeddings.embed(["cat", "dog", "kite"])
    assert np.array_equal(embeddings.embed(["kite"]), first[2:])
    assert texts.calls == [["cat", "dog", "kite"], ["kite"]]
    embeddings.embed(["kite"])
    assert len(texts.calls) == 2

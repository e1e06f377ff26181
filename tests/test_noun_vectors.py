"""Nouns are embedded once and read back afterwards, as long as nothing that decides them has changed."""

import numpy as np
import pytest

from ovseg_model.noun_vectors import noun_vectors


class CountsCalls:
    embed_dim = 4

    def __init__(self, weights="a"):
        self.weights, self.calls = weights, 0

    def fingerprint(self):
        return {"weights": self.weights}

    def embed_texts(self, texts):
        self.calls += 1
        rows = [[len(text), text.count("a") + 1, text.count("e"), 1] for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, 4)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_second_asking_reads_the_file(tmp_path):
    clip = CountsCalls()
    first = noun_vectors(clip, ["kite", "cup"], "photo", tmp_path)
    calls = clip.calls
    again = noun_vectors(clip, ["kite", "cup"], "photo", tmp_path)
    assert clip.calls == calls > 0
    assert (again == first).all()
    assert first.shape == (2, 4)
    assert first.dtype == np.float32


@pytest.mark.parametrize(
    ("weights", "nouns", "templates"),
    [("b", ["kite", "cup"], "photo"), ("a", ["cup", "kite"], "photo"), ("a", ["kite", "cup"], "vild")],
)
def test_other_weights_nouns_or_templates_are_embedded_anew(tmp_path, weights, nouns, templates):
    noun_vectors(CountsCalls(), ["kite", "cup"], "photo", tmp_path)
    clip = CountsCalls(weights)
    noun_vectors(clip, nouns, templates, tmp_path)
    assert clip.calls
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_cut_short_is_made_again(tmp_path):
    first = noun_vectors(CountsCalls(), ["kite"], "photo", tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    assert (noun_vectors(CountsCalls(), ["kite"], "photo", tmp_path) == first).all()


def test_nothing_is_kept_without_a_folder_and_no_nouns_are_no_vectors():
    assert noun_vectors(CountsCalls(), [], "photo", None).shape == (0, 4)

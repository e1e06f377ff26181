"""The benchmarks of nouns at a tiny size: both ways agree, and a page comes out."""

import pytest

from benchmarks import noun_embeddings, nouns


def test_nouns(nltk_data, test_data, tmp_path, capsys, monkeypatch):
    read = {"COCO val2017": nouns.read_captions(test_data)["COCO val2017"][:40]}
    monkeypatch.setattr(nouns, "read_captions", lambda data: read)
    monkeypatch.setattr(nouns, "BAR", 0.0)
    page = tmp_path / "page.md"
    nouns.main(["--data", str(test_data), "--captions", "20", "--repeats", "1", "--output", str(page)])
    said = capsys.readouterr().out
    assert "all 40 captions have equal tokens and tags" in said
    assert said.strip() in page.read_text(encoding="utf-8")


def test_nouns_that_differ_end_the_run(nltk_data, monkeypatch):
    tagger = nouns.CaptionTagger()
    monkeypatch.setattr(tagger.tables, "tag", lambda sentences: [["NN"] * len(words) for words in sentences])
    with pytest.raises(SystemExit, match="benchmark failed: mine: of 'a dog' NLTK makes"):
        list(nouns.check_equal(tagger, {"mine": ["a dog"]}))


def test_a_ratio_below_the_bar_ends_the_run_and_writes_nothing(nltk_data, test_data, tmp_path, monkeypatch):
    monkeypatch.setattr(nouns, "measure", lambda *arguments: ("body", 2.0))
    with pytest.raises(SystemExit, match=r"benchmark failed: wanted 10x NLTK or more, got 2\.0x"):
        nouns.main(["--data", str(test_data), "--output", str(tmp_path / "page.md")])
    assert list(tmp_path.iterdir()) == []


def test_noun_embeddings(nltk_data, test_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(noun_embeddings, "BAR", 0.0)
    monkeypatch.setattr(noun_embeddings.torch, "set_num_threads", lambda threads: None)
    page, tiny = tmp_path / "page.md", ["--clip", "scenes", "--captions", "6", "--timed", "4", "--repeats", "2"]
    noun_embeddings.main(["--data", str(test_data), *tiny, "--output", str(page)])
    said = capsys.readouterr().out
    assert "distinct nouns differ by" in said
    assert said.strip() in page.read_text(encoding="utf-8")


def test_vectors_that_differ_end_the_run():
    import numpy as np

    nouns, alone = (
        noun_embeddings.Nouns(["kite", "dog"], []),
        [(["dog"], np.array([[0.0, 1.0]])), ([], np.zeros((0, 2)))],
    )
    ours_ND = np.array([[1.0, 0.0], [0.0, 1.0 - 1e-5]])
    assert "1 distinct nouns differ by 1.0e-05 at most" in noun_embeddings.check_equal(nouns, ours_ND, alone)
    with pytest.raises(SystemExit, match="benchmark failed: vectors differ by"):
        noun_embeddings.check_equal(nouns, ours_ND[::-1], alone)

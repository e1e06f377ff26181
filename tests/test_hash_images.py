"""Hash lists: which images a set has."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovseg_model.image_hash import bits_apart, hash_values
from pipelines.command_line import main
from pipelines.hash_images import list_images
from schemas import UserError, conform
from schemas.image_hashes import IMAGE_HASHES


def draw(path, seed, size_px=192):
    """Sixty-four random colours that run into each other, which look like no other seed's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colours).resize((size_px, size_px), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them deeper, a text and a broken image."""
    for seed, name in enumerate(("b.png", "a.png", "deep/c.PNG")):
        draw(tmp_path / "set" / name, seed)
    (tmp_path / "set/a.txt").write_text("no image")
    (tmp_path / "set/broken.jpg").write_bytes(b"no image either")
    return tmp_path / "set"


def test_a_list_names_every_image_with_its_hashes(folder, tmp_path, capsys):
    output = tmp_path / "made/set.hashes.parquet"
    assert main(["hash", str(folder), "--name", "mine-val", "--output", str(output)]) == 0
    rows = conform(pq.read_table(output), IMAGE_HASHES).to_pylist()
    assert [(row["set_name"], row["file_name"]) for row in rows] == [
        ("mine-val", "a.png"),
        ("mine-val", "b.png"),
        ("mine-val", "deep/c.PNG"),
    ]
    assert rows[0]["image_sha256"] == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    assert len({row["image_phash"] for row in rows}) == 3
    said = capsys.readouterr().out
    assert "3 images of mine-val" in said
    assert "1 not in the list, image_unreadable; the first is broken.jpg" in said


def test_lists_are_the_same_bytes_in_any_order_of_folders_and_by_globs(folder, tmp_path):
    draw(tmp_path / "other/d.png", 5)
    asked = {
        "forth": [str(folder), str(tmp_path / "other")],
        "back": [str(tmp_path / "other"), str(folder)],
        "glob": [str(tmp_path / "*/*.*"), str(folder / "deep")],
    }
    for name, folders in asked.items():
        assert main(["hash", *folders, "--name", "x", "--output", str(tmp_path / f"{name}.parquet")]) == 0
    made = {(tmp_path / f"{name}.parquet").read_bytes() for name in asked}
    assert len(made) == 1
    assert pq.read_table(tmp_path / "back.parquet")["file_name"].to_pylist() == [
        "other/d.png",
        "set/a.png",
        "set/b.png",
        "set/deep/c.PNG",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no folder of images is named"),
        (["."], "--name is missing"),
        ([".", "--name", "x"], "wanted a file that ends in .parquet, got nothing"),
        ([".", "--name", "x", "--output", "list.csv"], "wanted a file that ends in .parquet, got list.csv"),
        (["nowhere", "--name", "x", "--output", "a.parquet"], "nowhere: wanted a folder or a glob of images"),
        (["set/a.txt", "--name", "x", "--output", "a.parquet"], "set/a.txt: wanted a folder or a glob of images"),
        (["set/broken.jpg", "--name", "x", "--output", "a.parquet"], "no image could be read"),
    ],
)
def test_mistakes_are_sentences(folder, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(folder.parent)
    assert main(["hash", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (folder.parent / "a.parquet").exists()


def test_a_folder_without_images_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="wanted a folder or a glob of images"):
        list_images([str(tmp_path)])


def test_hidden_files_are_left_out(folder):
    draw(folder / ".cache/x.png", 9)
    assert [uri.rsplit("/", 1)[1] for uri in list_images([str(folder)])] == ["a.png", "b.png", "broken.jpg", "c.PNG"]


def test_bits_apart_are_counted():
    values = hash_values(["0000000000000000", "ffffffffffffffff", "800000000000000f"])
    assert bits_apart(values, hash_values(["8000000000000001"])[0]).tolist() == [2, 62, 3]

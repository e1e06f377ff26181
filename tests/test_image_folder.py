"""Folders of images by class: names, order, and what is refused."""

import json

import pytest

from ovseg_model.datasets.image_folder import ClassImage, open_image_folder
from schemas.errors import UserError


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_classes_are_folders_and_images_their_files_in_order(tmp_path):
    write_images(tmp_path, "tabby_cat/b.JPEG", "tabby_cat/a.jpg", "Dog/deep/c.png", "Dog/notes.txt", ".hidden/x.jpg")
    write_images(tmp_path, "Dog/.x.jpg", "loose.jpg")
    found = open_image_folder(tmp_path)
    assert found.classes == ("Dog", "tabby cat")
    assert found.images == (
        ClassImage("Dog/deep/c.png", str(tmp_path / "Dog/deep/c.png"), 0),
        ClassImage("tabby_cat/a.jpg", str(tmp_path / "tabby_cat/a.jpg"), 1),
        ClassImage("tabby_cat/b.JPEG", str(tmp_path / "tabby_cat/b.JPEG"), 1),
    )


def test_names_come_from_json_or_text(tmp_path):
    write_images(tmp_path, "n02/a.jpg", "n01/a.jpg")
    (tmp_path / "classes.txt").write_text("n01 great white shark\n\nn02\ttench, Tinca tinca\n")
    assert open_image_folder(tmp_path).classes == ("great white shark", "tench, Tinca tinca")
    # JSON goes before text; a class without a folder is none here.
    (tmp_path / "classes.json").write_text(json.dumps({"n02": " tench ", "n01": "shark", "n03": "hen"}))
    assert open_image_folder(tmp_path).classes == ("shark", "tench")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"n01": "crane"}, "has names for 1 classes, and none for its folder n02; add it to classes.json"),
        ({"n01": "crane", "n02": "crane"}, "n01 and n02 of .* are both called 'crane'"),
        ({"n01": "crane", "n02": 3}, 'wanted {"FOLDER": "NAME"'),
        (["crane"], 'wanted {"FOLDER": "NAME"'),
    ],
)
def test_names_that_tell_nothing_apart_are_refused(tmp_path, names, message):
    write_images(tmp_path, "n01/a.jpg", "n02/a.jpg")
    (tmp_path / "classes.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match=message):
        open_image_folder(tmp_path)


def test_files_that_are_no_names_are_refused(tmp_path):
    write_images(tmp_path, "n01/a.jpg")
    (tmp_path / "classes.txt").write_text("n01\n")
    with pytest.raises(UserError, match=r"classes\.txt: wanted a folder and a name in each line, got 'n01'"):
        open_image_folder(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"n01 \xff")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        open_image_folder(tmp_path)
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        open_image_folder(tmp_path)


def test_folders_without_what_is_wanted_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        open_image_folder(tmp_path / "none")
    with pytest.raises(UserError, match="holds no folder; wanted one of images for each class"):
        open_image_folder(write_images(tmp_path, "loose.jpg"))
    with pytest.raises(UserError, match=r"cat has no image; wanted files that end in \.jpg"):
        open_image_folder(write_images(tmp_path, "cat/a.txt"))

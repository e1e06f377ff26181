"""Images in folders named after their classes: what forgetting is measured on.

ROOT/CLASS/NAME.jpg, deeper folders too. A class is called as its folder is, underscores read as spaces, unless
ROOT/classes.json ({"n01440764": "tench", ...}) or ROOT/classes.txt (a line each: folder, white space, name) says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovseg_model.datasets.dataset_files import IMAGE_ENDINGS, read_json
from schemas.errors import UserError

NAMES_JSON, NAMES_TEXT = "classes.json", "classes.txt"


@dataclass(frozen=True)
class ClassImage:
    """One image; small and picklable."""

    name: str
    """Path below the root, with slashes: unique."""

    image: str
    """Path."""

    label: int
    """Position in the set's `classes`."""


@dataclass(frozen=True)
class ImageFolder:
    """Classes in the order of their folders' names, and their images in the order of theirs."""

    root: Path
    classes: tuple[str, ...]
    """Names as prompts take them."""

    images: tuple[ClassImage, ...]


def open_image_folder(root: Path) -> ImageFolder:
    """Returns the images of a folder; files of other endings and names with a dot in front are not looked at.

    Raises UserError for a folder without classes, a class without images or without a name where names are given, and
    for two classes of one name.
    """
    folders = _class_folders(root)
    names = read_class_names(root)
    classes = tuple(_class_name(folder, names) for folder in folders)
    _check_distinct(folders, classes)
    images = (image for label, folder in enumerate(folders) for image in _images(root, folder, label))
    return ImageFolder(root, classes, tuple(images))


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"image folder: {root} is no folder; wanted one with a folder of images for each class")
    folders = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not folders:
        raise UserError(f"image folder: {root} holds no folder; wanted one of images for each class")
    return folders


def read_class_names(root: Path) -> Mapping[str, str]:
    """Returns names by folder, of classes.json or else classes.txt; empty where neither is. Raises UserError."""
    if (root / NAMES_JSON).is_file():
        return _names_of_json(root / NAMES_JSON)
    if (root / NAMES_TEXT).is_file():
        return _names_of_text(root / NAMES_TEXT)
    return {}


def _names_of_json(path: Path) -> Mapping[str, str]:
    names = read_json(path)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(f'{path}: wanted {{"FOLDER": "NAME", ...}}, each name a text that is not empty')
    return {folder: name.strip() for folder, name in names.items()}


def _names_of_text(path: Path) -> Mapping[str, str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    parts = [line.split(maxsplit=1) for line in lines if line]
    for part in parts:
        if len(part) < 2:
            raise UserError(f"{path}: wanted a folder and a name in each line, got {part[0]!r}")
    return dict(parts)


def _class_name(folder: Path, names: Mapping[str, str]) -> str:
    if not names:
        return folder.name.replace("_", " ").strip()
    if folder.name not in names:
        raise UserError(
            f"image folder: {folder.parent} has names for {len(names)} classes, and none for its folder "
            f"{folder.name}; add it to {NAMES_JSON} or {NAMES_TEXT}, or move the folder away"
        )
    return names[folder.name]


def _check_distinct(folders: list[Path], classes: tuple[str, ...]) -> None:
    first: dict[str, str] = {}
    for folder, name in zip(folders, classes, strict=True):
        if name in first:
            raise UserError(
                f"image folder: {first[name]} and {folder.name} of {folder.parent} are both called {name!r}, so no "
                f"prompt tells them apart; name them in {NAMES_JSON}"
            )
        first[name] = folder.name


def _images(root: Path, folder: Path, label: int) -> list[ClassImage]:
    below = sorted(path.relative_to(root) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    seen = [path for path in below if not path.name.startswith(".")]
    if not seen:
        raise UserError(f"image folder: {folder} has no image; wanted files that end in {', '.join(IMAGE_ENDINGS)}")
    return [ClassImage(path.as_posix(), str(root / path), label) for path in seen]

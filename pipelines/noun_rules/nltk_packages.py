"""NLTK's data packages: found, never downloaded, and hashed for the run's record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from schemas.errors import UserError

# package -> its place among NLTK's data (the closing slash makes NLTK look into zip files too), and the
# files whose content decides a noun or its flags
_FILES = {
    "averaged_perceptron_tagger_eng": (
        "taggers/averaged_perceptron_tagger_eng/",
        tuple(f"averaged_perceptron_tagger_eng.{part}.json" for part in ("weights", "tagdict", "classes")),
    ),
    "punkt_tab": (
        "tokenizers/punkt_tab/english/",
        ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"),
    ),
    "wordnet": ("corpora/wordnet/", ("cntlist.rev", "data.noun", "index.noun", "lexnames", "noun.exc")),
}

PACKAGES = tuple(_FILES)
"""The packages the NLTK rules read: tagger, sentence splitter, WordNet."""


def require_packages(packages: Sequence[str] = PACKAGES) -> None:
    """Check that packages are there, each in a folder or a zip file on NLTK's data path.

    Raises UserError naming all packages that are missing and the command that gets them.
    """
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        names = " ".join(missing)
        raise UserError(
            f"NLTK data: wanted {names} in one of NLTK's data folders, found none of it; run "
            f"`python -m nltk.downloader {names}`, or set NLTK_DATA to the folder that holds it."
        )


def package_sha256(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The sha256 of each data file that is read of some packages, keyed `package/file`; equal for folder and zip."""
    return {
        f"{package}/{file}": hashlib.sha256(_read(place, file)).hexdigest()
        for package, (place, files) in _FILES.items()
        if package in packages
        for file in files
    }


def package_places(packages: Sequence[str] = PACKAGES) -> list[str]:
    """The files that the rules read of some packages, or the zip files that hold them, each once."""
    pointers = [pointer for package in packages for pointer in _find(*_FILES[package])]
    return sorted({str(each.zipfile.filename if hasattr(each, "zipfile") else each.path) for each in pointers})


def _is_there(package: str) -> bool:
    place, files = _FILES[package]
    try:
        _find(place, files)
    except (LookupError, OSError):
        return False
    return True


def _find(place: str, files: Sequence[str]) -> list:
    import nltk.data

    folder = nltk.data.find(place)
    return [folder.join(file) for file in files]


def _read(place: str, file: str) -> bytes:
    (pointer,) = _find(place, [file])
    with pointer.open() as stream:
        return stream.read()

"""Fixtures: the folder of real data, NLTK's data, and small drawn corpora."""

import os
from pathlib import Path

import pytest

from schemas.examples import draw_examples


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data that OVSEG_TEST_DATA names; OVSEG_REQUIRE_DATA=1 makes its absence a failure."""
    named = os.environ.get("OVSEG_TEST_DATA")
    if named and Path(named).is_dir():
        return Path(named).resolve()
    reason = f"OVSEG_TEST_DATA names no folder of real data ({named or 'not set'})"
    if os.environ.get("OVSEG_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def nltk_data(test_data: Path) -> Path:
    """NLTK's data, found by nltk itself from now on."""
    import nltk

    folder = test_data / "nltk_data"
    nltk.data.path.insert(0, str(folder))
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn images of 96 px with 60 captions and their instances, in COCO's layout."""
    return draw_examples(tmp_path_factory.mktemp("drawn"), images=12, size_px=96)

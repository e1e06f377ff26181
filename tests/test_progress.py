"""Progress: what passes is unchanged, and what is shown is what is there."""

import pytest

from pipelines import progress
from pipelines.progress import PartsProgress, count_images, images_done, show_progress
from pipelines.write_tables import open_run_folder


@pytest.fixture(autouse=True)
def nothing_done(monkeypatch):
    monkeypatch.setattr(progress, "_images_done", progress.Counter())


def test_items_pass_unchanged():
    assert list(show_progress(range(5), "read", "row")) == [0, 1, 2, 3, 4]
    assert list(show_progress(iter([[1, 2], [3]]), "predict", "images", 3, len)) == [[1, 2], [3]]
    assert list(count_images("abc", "masks")) == ["a", "b", "c"]
    assert (images_done("masks"), images_done("pairs")) == ("3 images", "")


def test_a_total_is_counted_in_the_units_of_its_items(capsys):
    list(show_progress(iter([[1, 2], [3], [4]]), "predict", "images", 5, len))
    shown = capsys.readouterr().err
    assert "predict:  80%" in shown
    assert "4/5" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_parts_that_appear_are_shown(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    run = open_run_folder(str(tmp_path))
    run.write("masks/part-00000.parquet", b"")
    with PartsProgress(run, 4, {"masks": "propose_masks", "pairs": "match_regions"}):
        run.write("masks/part-00001.parquet", b"")
        run.write("masks/.part-00002.parquet.tmp", b"")
        list(count_images(range(7), "masks"))
    shown = capsys.readouterr().err
    assert "propose_masks:  50%" in shown
    assert "2/4" in shown
    assert "7 images" in shown
    assert "3/4" not in shown


def test_a_log_is_silent_while_nothing_moves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    run = open_run_folder(str(tmp_path))
    with PartsProgress(run, 4, {"masks": "propose_masks"}):
        pass
    assert capsys.readouterr().err == ""

"""A checkpoint is whole or the one before, and goes on only where it belongs."""

import pytest
import torch

from ovseg_model.checkpoint import CHECKPOINT_FILE, changed_names, read_checkpoint, write_checkpoint
from schemas.errors import UserError

MADE_BY = {"batch": 8, "clip": {"sha256": "a"}}


def test_there_and_back(tmp_path):
    state = {"model": {"weight": torch.arange(3.0)}, "progress": {"step": 5}, "list": [1, 2.5, "text", None]}
    write_checkpoint(tmp_path / "new", MADE_BY, state)
    found = read_checkpoint(tmp_path / "new", MADE_BY)
    assert torch.equal(found["model"]["weight"], torch.arange(3.0))
    assert found["progress"] == {"step": 5}
    assert found["list"] == [1, 2.5, "text", None]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [CHECKPOINT_FILE]


def test_none_is_none(tmp_path):
    assert read_checkpoint(tmp_path, MADE_BY) is None


def test_a_failed_write_leaves_the_one_before(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, MADE_BY, {"step": 1})

    def fail(value, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, MADE_BY, {"step": 2})
    monkeypatch.undo()
    assert read_checkpoint(tmp_path, MADE_BY) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_other_options_are_named(tmp_path):
    write_checkpoint(tmp_path, MADE_BY, {})
    with pytest.raises(UserError, match=r"was made with another batch, clip; give the same options to go on"):
        read_checkpoint(tmp_path, {"batch": 9, "clip": {"sha256": "b"}})


def test_a_damaged_file_is_one_sentence(tmp_path):
    write_checkpoint(tmp_path, MADE_BY, {"tensor": torch.ones(1000)})
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is damaged and cannot be read; remove it to begin again"):
        read_checkpoint(tmp_path, MADE_BY)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state": Evil()}, tmp_path / CHECKPOINT_FILE)
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(tmp_path, MADE_BY)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_names_that_only_one_has_differ():
    assert changed_names({"a": 1, "b": None}, {"a": 1, "c": 2}) == ["b", "c"]

"""The runner of benchmarks: what they note becomes a table and a plot, and what fails is said."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import results, speed

ROWS = [
    results.Result("nouns", "NLTK", 26.2, 10, 40, ""),
    results.Result("run", "parts", 1.1, 1.3, None, "one reading"),
]


def test_rows_are_noted_where_the_environment_says(tmp_path, monkeypatch):
    results.note("lost", "nowhere", 2.0)
    monkeypatch.setenv(results.PLACE, str(tmp_path / "rows"))
    for row in ROWS:
        results.note(*row)
    assert results.read_results(str(tmp_path / "rows")) == ROWS
    assert [row.holds for row in ROWS] == [True, False]


def test_the_page_has_table_and_plot(tmp_path):
    speed.write(tmp_path / "speed.md", ROWS, ["one_pass failed"])
    text = (tmp_path / "speed.md").read_text()
    assert "| nouns | NLTK | 26.20 | 10 | 40 |  |" in text
    assert "| run | parts | 1.10 | 1.3 |  | one reading |" in text
    assert text.rstrip().endswith("one_pass failed")
    assert "(images/speed.png)" in text
    with Image.open(tmp_path / "images/speed.png") as picture:
        assert picture.size[0] == 1080


def test_a_benchmark_that_fails_or_lacks_data_is_named(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=int("benchmarks.one_pass" in command), stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit, match="nouns was left out") as stop:
        speed.main(["--output", str(tmp_path / "speed.md")])
    assert "one_pass failed, exit status 1" in str(stop.value)
    assert len(commands) == 4
    assert not (tmp_path / "speed.md").exists()


def test_rows_keep_the_order_of_the_page_whichever_is_done_first(tmp_path, monkeypatch):
    longest = max(speed.BENCHMARKS, key=lambda each: each.minutes)
    started = []

    def run(command, env, **options):
        started.append(command[2].removeprefix("benchmarks."))
        with open(env[results.PLACE], "a") as file:
            file.write(json.dumps(ROWS[0]._replace(what=started[-1])) + "\n")
        return SimpleNamespace(returncode=0, stdout="done\n")

    monkeypatch.setattr(subprocess, "run", run)
    found, problems = speed.run_all(tmp_path, tmp_path, full=False, at_once=1)
    assert [each.what for each in found] == [each.module for each in speed.BENCHMARKS]
    assert (started[0], problems) == (longest.module, [])

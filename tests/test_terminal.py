"""What a terminal is shown moves no cursor and is of bounded length."""

import pytest

from pipelines.command_line import main
from pipelines.progress import show_progress
from pipelines.terminal import escaped, open_bar, print_error, shortened
from schemas import UserError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a kite – 一只猫 🪁", "a kite – 一只猫 🪁"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("two\r\nlines\ttab\0", r"two\r\nlines\ttab\x00"),
        ("turned \u202e round\u2028", r"turned \u202e round\u2028"),
        ("half \ud83d and no UTF-8 \udce9", r"half \ud83d and no UTF-8 \udce9"),
        ('it\'s "quoted" \\', 'it\'s "quoted" \\'),
    ],
)
def test_escaped(text, wanted):
    assert escaped(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("kite", "kite"), ("kites", "kit…"), ("", "")])
def test_shortened(text, wanted):
    assert shortened(text, 4) == wanted


class FakeBar:
    closed = 0

    def close(self):
        self.closed += 1


def test_an_error_stands_below_the_bars_that_are_open(capsys):
    bar, ended = FakeBar(), FakeBar()
    with open_bar(ended):
        pass
    with open_bar(bar):
        print_error("one\nsentence")
        assert (bar.closed, ended.closed) == (1, 1)
    assert capsys.readouterr().err == "one\\nsentence\n"


def test_what_fails_between_two_items_of_a_bar_is_said_on_a_line_of_its_own(monkeypatch, capsys):
    def fail(argv):
        for _ in show_progress([1, 2], "audit", "parts"):
            raise UserError("the second part is damaged")

    monkeypatch.setattr("pipelines.command_line.verb_main", lambda name: fail)
    assert main(["audit"]) == 2
    *_, bar, sentence = capsys.readouterr().err.split("\n")[:-1]
    assert bar.lstrip("\r").startswith("audit:   0%")
    assert sentence == "ovseg audit: the second part is damaged"

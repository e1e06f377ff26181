"""What a terminal is shown moves no cursor and is of bounded length."""

import pytest

from pipelines.terminal import escaped, shortened


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

"""Tables of Markdown: what strangers wrote stays in its cell."""

from pipelines.markdown import cell, markdown_table


def test_a_cell_is_one_line_and_ends():
    assert cell("a\nb") == "a\\\\nb"
    assert len(cell("x" * 1000)) == 120


def test_a_cell_is_neither_markdown_nor_html():
    assert cell("<b>|`x`* [y](z)") == "\\<b\\>\\|\\`x\\`\\* \\[y\\](z)"


def test_a_table_has_its_numbers_to_the_right():
    rows = [("a|b", "1", "2.0"), ("c", "30", "-")]
    assert markdown_table(("noun", "pairs", "share"), rows, numbers_from=1).split("\n") == [
        "| noun | pairs | share |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1 | 2.0 |",
        "| c | 30 | - |",
    ]
    assert markdown_table(("a", "b"), []) == "| a | b |\n| --- | --- |"

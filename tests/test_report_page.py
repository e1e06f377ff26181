"""Pieces of the page by hand: what is escaped, marked, cut, counted and said."""

import pyarrow as pa
import pytest

from pipelines.report_facts import MarkedCaption, Region, ReportFacts, Sample
from pipelines.report_page import (
    drops_section,
    left_out_words,
    marked,
    marked_pair,
    noun_bars,
    nouns_section,
    option_text,
    report_page,
    sample_words,
    sources_section,
    table,
    text,
    tile,
    timing_section,
)

MANIFEST = {
    "format": 2,
    "units": {"images": 3},
    "stages": {},
    "tables": {"pairs": {"rows": 5, "parts": []}, "vocabulary": {"rows": 2, "parts": []}},
    "weights": [],
    "sources": [],
    "versions": {},
    "meaningless": False,
}


def facts(**changes):
    empty = dict.fromkeys(("pairs", "masks", "vocabulary"))
    given = {"manifest": MANIFEST, "timings": {}, "regions": {}, "left_out": {}, "captions": [], "drops": {}}
    return ReportFacts(**{"name": "RUN", **empty, **given, **changes})


def noun(start, end, **flags):
    return {"start_char": start, "end_char": end, "abstract": False, "generic": False, **flags}


def test_text_is_no_markup_and_turns_no_line():
    assert text('<b> & "x" \u202e\n\'') == "&lt;b&gt; &amp; &quot;x&quot; \\u202e\\n&#x27;"


def test_nouns_are_marked_where_they_stand_and_flags_are_shown():
    caption = MarkedCaption("1", "a <red> kite at noon", [noun(2, 7), noun(8, 12), noun(16, 20, abstract=True)])
    wanted = 'a <mark>&lt;red&gt;</mark> <mark>kite</mark> at <mark class="flagged">noon</mark>'
    assert marked(caption) == wanted


def test_of_nouns_that_overlap_the_first_is_marked_and_long_captions_end():
    assert marked(MarkedCaption("1", "red kite", [noun(0, 8), noun(4, 8)])) == "<mark>red kite</mark>"
    assert len(marked(MarkedCaption("1", "x" * 10_000, [noun(9_000, 9_001)]))) == 400


def test_a_pairs_caption_is_shown_around_its_noun():
    row = {"caption": "x" * 500 + " kite " + "y" * 500, "start_char": 501, "end_char": 505}
    assert marked_pair(row) == f"…{'x' * 89} <mark>kite</mark> {'y' * 89}…"
    assert marked_pair({"caption": "a kite", "start_char": 2, "end_char": 6}) == "a <mark>kite</mark>"


def test_a_tile_names_noun_cosine_image_and_licence():
    row = {"noun": '"<kite>', "cosine": 0.25, "caption": "a kite", "start_char": 2, "end_char": 6}
    drawn = tile(Region({**row, "image_id": "17", "licence": "CC BY", "source_url": None}, b"jpeg"))
    assert 'src="data:image/jpeg;base64,anBlZw=="' in drawn
    assert 'alt="&quot;&lt;kite&gt;"' in drawn
    assert "<b>&quot;&lt;kite&gt;</b> 0.250<br>a <mark>kite</mark>" in drawn
    assert "17 · CC BY" in drawn


def test_numbers_stand_right_and_long_texts_may_break():
    assert table(("a", "b", "c"), [("x", 1234, "y" * 30)]) == (
        '<div class="scroll"><table><tr><th>a</th><th class="n">b</th><th>c</th></tr>'
        f'<tr><td>x</td><td class="n">1,234</td><td class="w">{"y" * 30}</td></tr></table></div>'
    )


def test_a_sample_is_said_and_a_whole_is_not():
    rows = pa.table({"cosine": [0.1, 0.2]})
    assert sample_words(Sample(rows, ("a",), 2, 1), "pairs") == ""
    wanted = "Of a sample: 2 of 4,000 pairs, those of 1 of 7 parts."
    assert sample_words(Sample(rows, ("a",), 4_000, 7), "pairs") == wanted


def test_regions_without_a_picture_are_counted():
    assert left_out_words({}) == ""
    assert left_out_words({"gone": 2, "changed": 1}) == "Left out, since they cannot be drawn: 2 (gone); 1 (changed)."


VOCABULARY = pa.table(
    {"noun": ["kite", "<b>"], "captions": [40, 10], "images": [9, 9], "pairs": [20, 9], "pairs_kept": [20, 5]}
)


def test_a_nouns_bars_are_as_long_as_its_counts():
    first, second = noun_bars(VOCABULARY, ("captions", "pairs_kept"))
    assert 'width:100.0%"></i><i style="width:50.0%"' in first
    assert 'width:25.0%"></i><i style="width:12.5%"' in second
    assert "<span>10 / 5</span>" in second
    assert "<b>" not in second


def test_a_run_without_pairs_counts_captions_alone():
    shown = nouns_section(facts(vocabulary=VOCABULARY, manifest={**MANIFEST, "tables": {}}))
    assert "<span>40</span>" in shown
    assert "pairs" not in shown


def test_drops_stand_by_stage_and_count_with_their_meaning():
    totals = {"read": 9, "kept": 2, "dropped": {"no_masks": 3, "proposal_failed": 4}}
    stages = {"propose_masks": {"totals": totals}}
    example = {("propose_masks", "no_masks"): [{"key": "<17>", "detail": "none"}]}
    shown = drops_section(facts(manifest={**MANIFEST, "stages": stages}, drops=example))
    assert shown.index("<b>4</b> proposal_failed") < shown.index("<b>3</b> no_masks (propose_masks): no mask: ")
    assert "<td>&lt;17&gt;</td><td>none</td>" in shown
    assert "Nothing." in drops_section(facts())


def test_times_of_a_derived_run_may_be_few():
    shown = timing_section({"stages": {"filter_pairs": {"seconds_in_made_parts": 1.26}}, "host": {"cpus": 2}})
    assert '<td>filter_pairs</td><td class="n">0</td><td class="n">0</td><td class="n">1.3</td>' in shown
    assert "cpus 2" in shown


@pytest.mark.parametrize(("value", "wanted"), [("a b", "a b"), (None, "null"), (True, "true"), (("a", 1), '["a", 1]')])
def test_options_are_shown_as_they_are(value, wanted):
    assert option_text(value) == wanted


def test_sources_are_named_with_their_rows():
    sources = [{"run_sha256": "ab" * 32, "tables": {"pairs": {"rows": 1200, "version": 2}}}]
    assert "1,200 pairs" in sources_section({**MANIFEST, "sources": sources})
    assert sources_section(MANIFEST) == ""


def test_weights_say_their_licence_or_that_none_is_stated():
    own = {"stage": "match_regions", "name": "own", "sha256": "ab", "bytes": 7}
    weights = [{**own, "licence": "MIT"}, own]
    page = report_page(facts(manifest={**MANIFEST, "weights": weights}))
    assert "<td>MIT</td>" in page
    assert "<td>not stated</td>" in page


@pytest.mark.parametrize(("changes", "words"), [({"meaningless": True}, "MEANINGLESS"), ({}, "")])
def test_a_run_of_random_weights_says_so_first(changes, words):
    page = report_page(facts(manifest={**MANIFEST, **changes}))
    assert ('<p class="warn">MEANINGLESS' in page) == bool(words)


def test_the_same_facts_are_the_same_page_and_a_name_is_escaped():
    page = report_page(facts(name="<run>"))
    assert page == report_page(facts(name="<run>"))
    assert "<title>&lt;run&gt;: report of the run</title>" in page
    assert "<b>3</b>images" in page
    assert "<b>2</b>distinct nouns" in page

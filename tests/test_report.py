"""A run's report: written at its end, made again, hostile to nobody, and seen in a browser."""

import base64
import io
import json
import os
import re
import shutil

import fake_mine
import numpy as np
import pytest
from PIL import Image
from run_files import files_of

from pipelines import report
from pipelines.command_line import main

HOSTILE = '<script>alert(1)</script> a ball <img src="http://evil.example/x.png" onerror=alert(2)> \u202e & a kite'
CAPTIONS = ("a red ball in the sky", HOSTILE, "a ball on the grass", "the sky above a dog", "grass and a small kite")


def corpus(folder, images=6):
    """Two-coloured images with their captions, of which one row has none."""
    folder.mkdir()
    lines = [json.dumps({"image": "none.png", "caption": ""})]
    for index in range(images):
        (folder / f"{index:03d}.png").write_bytes(fake_mine.png(index))
        lines += [json.dumps({"image": f"{index:03d}.png", "caption": CAPTIONS[(index + k) % 5]}) for k in range(2)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def mine(folder, run, *more):
    given = ["mine", "--captions", str(folder / "captions.jsonl"), "--images", str(folder), "--images-per-unit", "2"]
    return [*given, *fake_mine.MODELS, "--output", str(run), *more]


@pytest.fixture(scope="module", autouse=True)
def _fakes():
    with pytest.MonkeyPatch.context() as patch:
        fake_mine.use_fakes(patch.setattr)
        yield


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert main(mine(corpus(folder / "images"), folder / "run")) == 0
    return folder


@pytest.fixture
def run(mined, tmp_path):
    shutil.copytree(mined / "run", tmp_path / "run")
    return tmp_path / "run"


def page_of(run):
    return (run / "report.html").read_text()


def test_a_run_ends_with_its_report_and_ovseg_report_makes_it_again(run, capsys):
    made = page_of(run)
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert page_of(run) == made
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"


def test_a_report_changes_nothing_else(run, mined):
    assert main(["report", str(run)]) == 0
    assert files_of(run) == files_of(mined / "run")


def test_the_page_may_stand_elsewhere(run, tmp_path):
    assert main(["report", str(run), "--output", str(tmp_path / "pages/a.html")]) == 0
    assert (tmp_path / "pages/a.html").read_text() == page_of(run)


@pytest.mark.parametrize("place", ["run.json", "page.html", "pairs/report.html", "link/report.html"])
def test_a_page_that_would_write_over_the_run_is_refused(run, tmp_path, place, capsys):
    (tmp_path / "run/link").symlink_to("pairs")
    before = files_of(run)
    assert main(["report", str(run), "--output", str(run / place)]) == 2
    assert f"lies inside the run {run}, whose files are all its own" in capsys.readouterr().err
    assert files_of(run) == before


def test_the_place_of_the_runs_own_page_may_be_named(run, mined):
    (run / "report.html").unlink()
    assert main(["report", str(run), "--output", str(run / "report.html")]) == 0
    assert files_of(run) == files_of(mined / "run")


def test_captions_are_text_and_never_markup(run):
    page = page_of(run)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search('<script|<img src=[^d"]|<img src="(?!data:)', page)
    assert "\u202e" not in page
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;' in page


def test_every_region_has_a_picture_with_the_tint(run):
    sources = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page_of(run))
    assert len(sources) == 32
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source)))
        assert picture.size == (240, 120)
        # The mask is half of the image: the tint takes green away there, and paleness adds some elsewhere.
        assert (np.asarray(picture)[..., 1] < 90).mean() == pytest.approx(0.5, abs=0.02)


def test_the_numbers_are_those_of_the_manifest(run):
    manifest, page = json.loads((run / "run.json").read_text()), page_of(run)
    for stage, facts in manifest["stages"].items():
        assert f"{stage}: {facts['totals']['kept']} " in page
    assert f"<b>{manifest['tables']['pairs']['rows']}</b>pairs" in page
    assert "<b>1</b> empty_caption (read_captions): the caption is empty or white space" in page
    assert "images/captions.jsonl:1</td>" in page


def test_a_run_without_pairs_has_a_report_too(mined, tmp_path):
    run, images = tmp_path / "run", mined / "images"
    given = ["--captions", str(images / "captions.jsonl"), "--images", str(images), "--output", str(run)]
    assert main(["nouns", *given, "--nouns", "lexicon", "--runner", "plain"]) == 0
    assert "Regions" not in page_of(run)
    assert "<mark>ball</mark>" in page_of(run)
    assert main(["masks", "--masks", "fake_mine:make", "--runner", "plain", "--output", str(run)]) == 0
    assert "Mask area" in page_of(run)
    assert "Cosine" not in page_of(run)


def test_no_report_leaves_it_out_and_an_older_one_does_not_stay(run, mined):
    changed = mine(mined / "images", run, "--no-report", "--masks-per-noun", "2")
    assert main(changed) == 0
    assert not (run / "report.html").exists()


def test_a_finished_run_whose_report_is_missing_gets_it_by_the_same_command(mined, run):
    (run / "report.html").unlink()
    assert main(mine(mined / "images", run)) == 0
    assert (run / "report.html").exists()


def test_a_report_that_cannot_be_made_does_not_lose_the_run(mined, tmp_path, capsys, monkeypatch):
    def broken(run, fetch):
        raise RuntimeError("no page")

    monkeypatch.setattr(report, "make_report", broken)
    assert main(mine(mined / "images", tmp_path / "run")) == 0
    said = (
        f"report.html was not made (RuntimeError: no page); the run is whole, and ovseg report {tmp_path / 'run'} makes"
    )
    assert said in capsys.readouterr().err
    assert files_of(tmp_path / "run") == files_of(mined / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUN is missing"),
        (["nowhere"], "RUN nowhere: there is no finished run; mine it first"),
        (["RUN", "--output", "pages/"], "--output pages/: names a folder; give a file, such as pages/report.html"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, message, run, capsys):
    assert main(["report", *(str(run) if each == "RUN" else each for each in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_another_release_and_a_damaged_part_are_one_sentence(run, capsys):
    (run / "pairs/part-00000.parquet").write_bytes(b"PAR1 no")
    assert main(["report", str(run)]) == 2
    assert "pairs/part-00000.parquet: cannot be read" in capsys.readouterr().err
    (run / "run.json").write_text('{"format": 1}')
    assert main(["report", str(run)]) == 2
    assert "run.json is not one of this release" in capsys.readouterr().err


# What a reader sees: Chromium shows the page.


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; OVSEG_REQUIRE_CHROMIUM=1 makes its absence a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no Chromium on this machine shows the report"
        if os.environ.get("OVSEG_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()


@pytest.fixture
def shown(browser, mined, request):
    """The page at a width and in a colour scheme, with what it said and asked for meanwhile."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    noise = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or noise.append(asked.url))
    page.goto((mined / "run/report.html").as_uri())
    yield page, noise
    page.close()


def seen(element):
    """What an element looks like: RGB int (H, W, 3)."""
    element.scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


PHONE, DESK, NIGHT = (375, "light"), (1200, "light"), (1200, "dark")


@pytest.mark.parametrize("shown", [PHONE, DESK, NIGHT], indirect=True, ids=["phone", "desk", "night"])
def test_the_pictures_are_there(shown):
    page, noise = shown
    images, plots = page.query_selector_all("img"), page.query_selector_all("svg")
    assert len(images) == 32
    assert len(plots) == 5
    for image in images:
        assert image.evaluate("each => each.complete && each.naturalWidth * each.naturalHeight > 0")
        assert min(image.bounding_box()[side] for side in ("width", "height")) > 50
    for image in images[::8]:
        red, green, _ = seen(image).transpose(2, 0, 1)
        assert (red > green + 60).mean() > 0.1, "no tint"
        assert (abs(red - green) < 60).mean() > 0.1, "nothing but tint"
    for plot in plots:
        assert plot.bounding_box()["width"] > 200
        assert len(np.unique(seen(plot).reshape(-1, 3), axis=0)) > 10
    assert noise == []


@pytest.mark.parametrize("shown", [PHONE, DESK], indirect=True, ids=["phone", "desk"])
def test_nothing_is_wider_than_the_screen(shown):
    page, _ = shown
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = "([...document.querySelectorAll('img, svg, p, li, h1, h2, h3, summary, figcaption')]"
    assert page.evaluate(f"{outside}.filter(each => each.getBoundingClientRect().right > {width}).length)") == 0


@pytest.mark.parametrize(("shown", "is_dark"), [(DESK, False), (NIGHT, True)], indirect=["shown"], ids=["day", "night"])
def test_paper_and_ink_follow_the_readers_choice(shown, is_dark):
    page, _ = shown
    pixels = seen(page.query_selector("h2"))
    assert (np.median(pixels) < 80) == is_dark
    assert np.ptp(pixels) > 150, "ink and paper are alike"

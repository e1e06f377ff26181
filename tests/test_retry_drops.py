"""What failed for a reason that can pass is tried again, alone, and the run is as if it had never failed."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fake_mine
import pytest
from fakes import ColourScorer
from run_files import files_of, made_of, manifest_of

from pipelines import checkpoints, mine_pairs, retry_drops
from pipelines.mine_pairs import main
from schemas import UserError
from schemas.drops import PASSING

IMAGES = 12


class Site:
    """A server of images; `status` is what it answers for some, by name, and `asked` how often each was asked for."""

    def __init__(self):
        self.status, self.asked = {}, Counter()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.strip("/")
                site.asked[name] += 1
                status = site.status.get(name, 200)
                self.send_response(status)
                self.end_headers()
                if status == 200:
                    self.wfile.write(fake_mine.png(int(name.split(".")[0])))

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(monkeypatch):
    fake_mine.use_fakes(monkeypatch.setattr)
    monkeypatch.setattr(retry_drops, "BACKOFF_S", 0.0)
    monkeypatch.setattr(mine_pairs, "draw_pairs", lambda examples, fetch: b"")  # it reads images too
    site = Site()
    yield site
    site.close()


@pytest.fixture
def mine(site, tmp_path):
    """Mines the site's images, about three a unit, into a folder; returns the exit status."""
    rows = [f'{{"image": "{index}.png", "caption": "a red ball in the sky"}}' for index in range(IMAGES)]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    inputs = ["--captions", str(tmp_path / "captions.jsonl"), "--images", site.url, "--images-per-unit", "3"]
    fetch = ["--allow-local-hosts", "--retries", "0", "--no-report"]  # which reads images too
    return lambda run, *more: main(["mine", *inputs, *fetch, *fake_mine.MODELS, "--output", str(run), *more])


def unit_of(run, image):
    """The unit that an image lies in."""
    import pyarrow.parquet as pq

    names = sorted(Path(run).glob("captions/part-*.parquet"))
    return next(unit for unit, name in enumerate(names) if image in pq.read_table(name)["image_id"].to_pylist())


def test_the_closed_set_of_reasons_that_can_pass():
    assert PASSING == ("fetch_timeout", "fetch_failed", "worker_killed")


def test_a_retry_ends_in_the_bytes_of_a_run_that_never_failed(site, mine, tmp_path):
    site.status = {"2.png": 404}
    assert mine(tmp_path / "wanted") == 0
    site.status = {"2.png": 404, "5.png": 503, "7.png": 503}
    assert mine(tmp_path / "run") == 0
    masks = manifest_of(tmp_path / "run")["stages"]["propose_masks"]["totals"]
    assert masks == {"read": 12, "kept": 9, "dropped": {"fetch_failed": 2, "fetch_refused": 1}}
    site.status, site.asked = {"2.png": 404}, Counter()
    assert mine(tmp_path / "run", "--retry", "drops") == 0
    assert site.asked == {"5.png": 2, "7.png": 2}  # once for masks, once for pairs; nothing else, and not the 404
    assert files_of(tmp_path / "run") == files_of(tmp_path / "wanted")
    assert not list((tmp_path / "run").glob(".retry"))
    units = {unit_of(tmp_path / "run", image) for image in ("5.png", "7.png")}
    assert made_of(tmp_path / "run") == {
        "read_captions": 0,
        "extract_nouns": 0,
        "propose_masks": len(units),
        "match_regions": len(units),
    }
    assert mine(tmp_path / "run", "--retry", "drops") == 0
    assert set(made_of(tmp_path / "run").values()) == {0}


def test_what_fails_again_is_tried_in_rounds_and_stays_dropped(site, mine, tmp_path):
    site.status = {"5.png": 503}
    assert mine(tmp_path / "run") == 0
    before, site.asked = files_of(tmp_path / "run"), Counter()
    assert mine(tmp_path / "run", "--retry", "drops") == 0
    assert site.asked == {"5.png": 1 + retry_drops.ROUNDS}
    assert files_of(tmp_path / "run") == before
    assert set(made_of(tmp_path / "run").values()) == {0}


def test_a_checkpoint_does_not_settle_what_can_pass(site, mine, tmp_path, monkeypatch):
    site.status = {"5.png": 503}
    assert mine(tmp_path / "run") == 0
    before, site.asked = files_of(tmp_path / "run"), Counter()
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.0)
    assert mine(tmp_path / "run", "--retry", "drops") == 0
    assert site.asked == {"5.png": 1 + retry_drops.ROUNDS}
    assert files_of(tmp_path / "run") == before


def test_a_retry_with_other_options_is_refused(site, mine, tmp_path, capsys):
    site.status = {"5.png": 503}
    assert mine(tmp_path / "run") == 0
    assert "1 fetch_failed; --retry drops tries them again" in capsys.readouterr().out
    before = files_of(tmp_path / "run")
    with pytest.raises(
        UserError, match="--retry drops: pairs: made before with other masks_per_noun; give the options"
    ):
        mine(tmp_path / "run", "--retry", "drops", "--masks-per-noun", "2")
    assert files_of(tmp_path / "run") == before


def test_waits_double():
    policy = retry_drops.Retry(total=4, backoff_factor=1.0)
    waits = []
    for _ in range(4):
        policy = policy.increment()
        waits.append(policy.get_backoff_time())
    assert waits == [0, 2, 4, 8]


def test_an_image_that_matching_could_not_read_is_matched_alone(site, mine, tmp_path, monkeypatch):
    assert mine(tmp_path / "wanted") == 0
    asked_twice = Counter()

    def fail_the_second_time(name):
        asked_twice[name] += 1
        return 503 if name == "5.png" and asked_twice[name] == 2 else 200

    monkeypatch.setattr(site, "status", type("Status", (), {"get": lambda self, name, _: fail_the_second_time(name)})())
    assert mine(tmp_path / "run") == 0
    dropped = manifest_of(tmp_path / "run")["stages"]["match_regions"]["totals"]["dropped"]
    assert dropped["fetch_failed"] == 2  # its nouns
    groups = []
    monkeypatch.setattr(ColourScorer, "embed_regions", seen(groups, ColourScorer.embed_regions))
    assert mine(tmp_path / "run", "--retry", "drops") == 0
    assert groups == [1]
    assert made_of(tmp_path / "run")["propose_masks"] == 0
    assert files_of(tmp_path / "run") == files_of(tmp_path / "wanted")


def seen(groups, embed_regions):
    def embed(self, images):
        groups.append(len(images))
        return embed_regions(self, images)

    return embed


def test_a_retry_that_was_stopped_between_masks_and_pairs_goes_on_by_itself(site, mine, tmp_path, monkeypatch):
    assert mine(tmp_path / "wanted") == 0
    site.status = {"5.png": 503}
    assert mine(tmp_path / "run") == 0
    site.status = {}
    with monkeypatch.context() as patch:
        patch.setattr(ColourScorer, "embed_regions", stopped)
        with pytest.raises(KeyboardInterrupt):
            mine(tmp_path / "run", "--retry", "drops")
    assert not (tmp_path / "run/_SUCCESS").exists()
    assert mine(tmp_path / "run") == 0
    assert files_of(tmp_path / "run") == files_of(tmp_path / "wanted")


def stopped(self, images):
    raise KeyboardInterrupt


def test_masks_alone_say_that_pairs_go(site, mine, tmp_path, capsys):
    site.status = {"5.png": 503}
    assert mine(tmp_path / "run") == 0
    site.status = {}
    models = ["--masks", "fake_mine:make", "--device", "cpu", "--runner", "plain"]
    fetch = ["--allow-local-hosts", "--retries", "0", "--no-report"]  # which reads images too
    assert main(["masks", "--retry", "drops", *models, *fetch, "--output", str(tmp_path / "run")]) == 0
    assert "pairs: removed, since their masks change" in capsys.readouterr().err
    assert manifest_of(tmp_path / "run")["stages"]["propose_masks"]["totals"]["kept"] == 12
    assert not list((tmp_path / "run/pairs").glob("*.parquet"))

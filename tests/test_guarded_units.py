"""A unit that killed its worker: image by image, the same bytes, and the image that kills is dropped alone."""

import subprocess
import time

import fake_mine
import pyarrow.dataset as ds
import pytest
from fakes import HalvesGenerator
from run_files import files_of, made_of, manifest_of
from test_attempts import write_marker

from ovseg_model.halving import fitting_rows
from pipelines import checkpoints
from pipelines.guarded_units import HALVED, WHOLE, attempts_at, forget_attempts, process_guarded, work_of_image
from pipelines.mine_pairs import main, parse_ours
from pipelines.plan import plan_run
from pipelines.units import make_part
from pipelines.write_tables import open_run_folder


@pytest.fixture
def fakes(monkeypatch):
    fake_mine.use_fakes(monkeypatch.setattr)
    return monkeypatch


@pytest.fixture
def shard(tmp_path):
    return fake_mine.write_shard(tmp_path / "a.tar", 6)


@pytest.fixture
def reference(fakes, shard, tmp_path):
    """A run of two units of three images that nothing disturbed."""
    assert main(fake_mine.arguments(shard, tmp_path / "reference", 3)) == 0
    return tmp_path / "reference"


def planned(shard, run):
    return plan_run(("nouns", "masks", "pairs"), parse_ours(fake_mine.arguments(shard, run, 3))[1])


def test_a_unit_that_killed_its_worker_gives_the_same_bytes_image_by_image(reference, shard, tmp_path, fakes):
    run = tmp_path / "run"
    plan = planned(shard, run)
    for step in (plan.nouns, plan.masks, plan.pairs):
        for unit in (0, 1):
            write_marker(attempts_at(step, unit), WHOLE)
    batches = []
    fakes.setattr(HalvesGenerator, "propose", lambda self, images: recorded(batches, images, self))
    assert main(fake_mine.arguments(shard, run, 3)) == 0
    assert batches == [[f"a/{index:03d}"] for index in range(6)]
    assert files_of(run) == files_of(reference)
    assert not (run / ".unfinished").exists()


def test_a_run_says_which_batches_were_halved(reference, shard, tmp_path, fakes, capsys):
    fitting, propose = fitting_rows(2, "images"), HalvesGenerator.propose

    def narrow(self, images):
        def work(rows):
            if rows > 1:
                raise MemoryError("no room")
            return propose(self, images)

        return fitting.run(work)

    fakes.setattr(HalvesGenerator, "propose", narrow)
    run = tmp_path / "run"
    assert main(fake_mine.arguments(shard, run, 3)) == 0
    stages = manifest_of(run)["stages"]
    assert stages["propose_masks"]["totals"]["measured"] == {HALVED: 4}
    assert "measured" not in stages["match_regions"]["totals"]
    assert "OUT OF MEMORY: propose_masks made 4 batches smaller than asked" in capsys.readouterr().out
    rows, others = (ds.dataset(folder / "masks").to_table() for folder in (run, reference))
    assert rows.equals(others)


def recorded(batches, images, generator):
    batches.append([image.image_id for image in images])
    return [generator.halves(image.pixels_HW3) for image in images]


@pytest.mark.parametrize(("table", "records"), [("nouns", 1), ("masks", 1), ("pairs", 3)])
def test_an_image_that_killed_twice_alone_is_dropped_in_any_step(shard, tmp_path, fakes, table, records):
    plan = planned(shard, tmp_path / "run")
    step = getattr(plan, table)
    if table == "pairs":
        make_part(plan.nouns, 0)
        make_part(plan.masks, 0)
    tries = attempts_at(step, 0)
    parts = {name: source.read_part(part) for name, (source, part) in step.inputs(0).items()}
    whole = process_guarded(step, 0, parts)
    for work in (WHOLE, work_of_image("a/001"), work_of_image("a/001")):
        write_marker(tries, work)
    output = process_guarded(step, 0, parts)
    killed = [row for row in output.drops if row["reason"] == "worker_killed"]
    assert {row["image_id"] for row in killed} == {"a/001"}
    assert set(output.rows["image_id"].to_pylist()) == {"a/000", "a/002"}
    assert output.read == whole.read
    assert output.kept + len(output.drops) == output.read
    forget_attempts(step, 0)
    assert process_guarded(step, 0, parts).rows.equals(whole.rows)


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_the_image_that_kills_is_found_and_dropped_in_three_deaths(reference, shard, tmp_path, how):
    run = tmp_path / "run"
    command = fake_mine.command(*fake_mine.arguments(shard, run, 3))
    codes = []
    while not codes or (codes[-1] and len(codes) < 5):
        done = subprocess.run(command, env=fake_mine.environment(f"a/004 {how}"), capture_output=True, text=True)
        codes.append(done.returncode)
    assert codes == [{"kill": -9, "exit": 3}[how]] * 3 + [0], done.stderr
    totals = manifest_of(run)["stages"]["propose_masks"]["totals"]
    assert totals == {"read": 6, "kept": 5, "dropped": {"worker_killed": 1}}
    masks, wanted = (ds.dataset(each / "masks").to_table() for each in (run, reference))
    assert masks.equals(wanted.filter(ds.field("image_id") != "a/004"))
    untouched = {name: sha256 for name, sha256 in files_of(reference).items() if "part-00000" in name}
    assert {name: files_of(run)[name] for name in untouched if "vocabulary" not in name} == {
        name: sha256 for name, sha256 in untouched.items() if "vocabulary" not in name
    }
    assert not (run / ".unfinished").exists()


def test_running_out_of_memory_is_a_death_too(reference, shard, tmp_path, fakes):
    run = tmp_path / "run"
    fakes.setenv("OVSEG_TEST_KILL", "a/001 memory")
    for _ in range(3):
        with pytest.raises(MemoryError):
            main(fake_mine.arguments(shard, run, 3))
    assert main(fake_mine.arguments(shard, run, 3)) == 0
    assert manifest_of(run)["stages"]["propose_masks"]["totals"]["dropped"] == {"worker_killed": 1}
    fakes.delenv("OVSEG_TEST_KILL")
    assert main(fake_mine.arguments(shard, run, 3, "--retry", "drops")) == 0
    assert files_of(run) == files_of(reference)


def test_ctrl_c_is_no_death(reference, shard, tmp_path, fakes):
    run = tmp_path / "run"
    fakes.setenv("OVSEG_TEST_KILL", "a/001 interrupt")
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            main(fake_mine.arguments(shard, run, 3))
    fakes.delenv("OVSEG_TEST_KILL")
    assert main(fake_mine.arguments(shard, run, 3)) == 0
    assert files_of(run) == files_of(reference)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_checkpoint_inside_a_unit_saves_what_was_done(tmp_path, fakes, place):
    fakes.setattr(checkpoints, "INTERVAL_S", 0.0)
    shard = fake_mine.write_shard(tmp_path / "a.tar", 6)
    assert main(fake_mine.arguments(shard, tmp_path / "reference", 6)) == 0
    run = open_run_folder(str(tmp_path / "run") if place == "local" else f"memory://checkpoint-{time.time_ns()}")
    fakes.setenv("OVSEG_TEST_KILL", "a/005 interrupt")
    with pytest.raises(KeyboardInterrupt):
        main(fake_mine.arguments(shard, run.url, 6))
    batches = []
    fakes.setattr(HalvesGenerator, "propose", lambda self, images: recorded(batches, images, self))
    fakes.delenv("OVSEG_TEST_KILL")
    assert main(fake_mine.arguments(shard, run.url, 6)) == 0
    assert batches == [["a/004", "a/005"]]
    promised = {name: (tmp_path / "reference" / name).read_bytes() for name in files_of(tmp_path / "reference")}
    assert {name: run.read(name) for name in promised} == promised
    assert not run.has(".unfinished")


def test_what_was_saved_before_a_death_is_not_made_again(shard, tmp_path, fakes):
    fakes.setattr(checkpoints, "INTERVAL_S", 0.0)
    run = tmp_path / "run"
    fakes.setenv("OVSEG_TEST_KILL", "a/002 memory")
    with pytest.raises(MemoryError):
        main(fake_mine.arguments(shard, run, 3))
    batches = []
    fakes.setattr(HalvesGenerator, "propose", lambda self, images: recorded(batches, images, self))
    fakes.delenv("OVSEG_TEST_KILL")
    assert main(fake_mine.arguments(shard, run, 3)) == 0
    assert batches == [["a/002"], ["a/003", "a/004"], ["a/005"]]
    assert made_of(run)["propose_masks"] == 2

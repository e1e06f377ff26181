"""The log survives a restart without double rows."""

from ovseg_model.training_log import CSV_FILE, TrainingLog

COLUMNS = ("step", "loss", "stage", "top1")


def test_rows_have_any_of_the_columns(tmp_path):
    log = TrainingLog(tmp_path, 0, COLUMNS)
    log.add(1, {"loss": 0.5, "stage": "full"})
    log.add(1, {"top1": 1 / 3})
    assert (tmp_path / CSV_FILE).read_text() == "step,loss,stage,top1\n1,0.5,full,\n1,,,0.333333\n"
    assert log.measured(("top1",)) == [{"step": 1, "top1": 0.333333}]
    log.close()


def test_what_a_crash_lost_is_forgotten(tmp_path):
    log = TrainingLog(tmp_path, 0, COLUMNS)
    for step in (1, 2, 3):
        log.add(step, {"loss": float(step)})
    log.close()
    again = TrainingLog(tmp_path, 2, COLUMNS)
    again.add(3, {"loss": 9.0})
    again.close()
    assert (tmp_path / CSV_FILE).read_text().splitlines()[1:] == ["1,1,,", "2,2,,", "3,9,,"]


def test_tensorboard_has_the_same_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, 0, COLUMNS)
    log.add(5, {"loss": 0.25, "stage": "full"})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 0.25)]


def test_the_csv_alone_is_written_where_tensorboard_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    TrainingLog(tmp_path, 0, COLUMNS).add(1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == [CSV_FILE]

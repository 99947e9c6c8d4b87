"""What is logged, when, and what a disk without space costs."""

import contextlib
import json
import logging
import sqlite3
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

import runs
from runs import fingerprint
from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.errors import MissingPackageError
from worldmodel.log_writers import ID_FILE, LoggedRun, read_or_make_id
from worldmodel.log_writers.tensorboard import hide_thread_errors, open_board
from worldmodel.system import optional_packages
from worldmodel.training import logger as logger_module
from worldmodel.training.logger import JsonLines, Logger


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Writer:
    """A log writer that keeps what it is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, resumed_at):
        self.calls.append(("start", resumed_at))
        return self

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


def test_lines_and_scalars_are_written_once_it_is_open(tmp_path):
    logger = Logger(tmp_path, {"x": (writer := Writer())})
    logger.write_metrics(1, {"x": 1.0})
    assert logger.state_dict() is None and list(tmp_path.iterdir()) == []
    logger.open(0)
    logger.write_metrics(5, {"x": 2.0})
    logger.write_scores(6, {"score": 3.0})
    assert read(tmp_path / "metrics.jsonl") == [{"frames": 5, "x": 2.0}]
    assert read(tmp_path / "scores.jsonl") == [{"frames": 6, "score": 3.0}]
    logger.close()
    assert writer.calls == [
        ("start", None),
        ("add_scalars", 5, {"x": 2.0}),
        ("add_scalars", 6, {"score": 3.0}),
        ("close",),
    ]


def test_a_resumed_run_tells_its_writers_where(tmp_path):
    logger = Logger(tmp_path, {"x": (writer := Writer())})
    logger.load_state_dict({"metrics": 0, "scores": 0, "minutes": 7.5})
    logger.open(40)
    assert writer.calls == [("start", 40)]


def test_writers_get_the_fields_keys_beside_ours_and_the_files_do_not(tmp_path):
    logger = Logger(tmp_path, {"x": (writer := Writer())})
    logger.open(0)
    logger.write_metrics(5, {"episode/score": 2.0, "episode/length": 9})
    assert read(tmp_path / "metrics.jsonl") == [
        {"frames": 5, "episode/score": 2.0, "episode/length": 9}
    ]
    assert writer.calls[-1][2] == {
        "episode/score": 2.0,
        "episode/length": 9,
        "charts/episodic_return": 2.0,
        "charts/episodic_length": 9,
    }


class Broken(Writer):
    """One that cannot start, or loses its network at a call."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def __call__(self, resumed_at):
        if self.at == "start":
            raise ConnectionError("no network\nat all")
        return super().__call__(resumed_at)

    def __getattr__(self, name):
        if name == self.at:
            raise RuntimeError("lost it")
        return super().__getattr__(name)


@pytest.mark.parametrize("at", ["start", "add_scalars", "add_picture", "close"])
def test_a_writer_that_fails_costs_one_warning_and_its_own_output(tmp_path, caplog, at):
    logger = Logger(tmp_path, {"bad": Broken(at), "good": (good := Writer())})
    logger.open(0)
    for frames in (5, 6):
        logger.write_metrics(frames, {"x": 2.0})
        logger.add_picture(frames, "agent", None)
    logger.close()
    assert [name for name, *_ in good.calls] == [
        "start",
        *["add_scalars", "add_picture"] * 2,
        "close",
    ]
    assert len(read(tmp_path / "metrics.jsonl")) == 2
    [record] = caplog.records
    assert "bad cannot log (" in record.message and "\n" not in record.message


@pytest.mark.parametrize("name", registry.LOG_WRITERS)
def test_a_missing_package_is_refused_by_name_before_anything_begins(name, tmp_path, monkeypatch):
    config = loading.parse(["debug", "--log.to", name])
    monkeypatch.setattr(optional_packages, "find_spec", lambda package: None)
    wanted = f"log.to: {name} needs the package .*{sys.executable} -m pip install {name}, or"
    with pytest.raises(MissingPackageError, match=wanted):
        build.check_log_packages(config)


def test_an_id_is_kept_and_a_forged_one_replaced(tmp_path):
    made = read_or_make_id(tmp_path)
    assert read_or_make_id(tmp_path) == made and len(made) == 8
    for forged in ("[]", '{"id": "../../x"}', '{"id": 7}', "{"):
        (tmp_path / ID_FILE).write_text(forged)
        assert read_or_make_id(tmp_path) not in (made, "../../x")


@pytest.mark.parametrize(
    ("words", "to"),
    [
        ([], ["tensorboard"]),
        (["--log.to", "tensorboard, wandb,wandb"], ["tensorboard", "wandb"]),
        (["--log.to", "[trackio]"], ["trackio"]),
        (["--log.to", "none"], []),
        (["--log.to", "[]"], []),
        (["--log.tensorboard", "false"], []),
        (["--log.tensorboard", "true", "--log.to", "wandb"], ["wandb"]),
        (["debug", "--log.tensorboard", "true"], ["tensorboard"]),
    ],
)
def test_writers_are_named_in_one_key_and_by_the_old_one(words, to):
    assert loading.parse(words).log.to == to


@pytest.mark.parametrize("text", ["wanbd", "tensorboard,none", "7", "", "{a: 1}", "[[wandb]]"])
def test_what_names_no_writer_is_refused_in_one_line(text):
    with pytest.raises(loading.ConfigError) as error:
        loading.parse(["--log.to", text])
    [problem] = error.value.problems
    assert problem.startswith("log.to: ")


def test_minutes_are_those_of_earlier_commands_and_of_this_one(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(logger_module.time, "monotonic", lambda: clock[0])
    logger = Logger(tmp_path, {})
    logger.load_state_dict({"metrics": 0, "scores": 0, "minutes": 7.5})
    logger.open(0)
    clock[0] += 90
    assert logger.minutes == 9.0 and logger.state_dict()["minutes"] == 9.0


def test_processor_minutes_add_up_over_commands_and_stay_unknown_after_an_old_checkpoint(
    tmp_path, monkeypatch
):
    clock = [50.0]
    monkeypatch.setattr(logger_module.time, "process_time", lambda: clock[0])
    logger = Logger(tmp_path, {})
    old = {"metrics": 0, "scores": 0, "minutes": 7.5}
    logger.load_state_dict({**old, "processor_minutes": 2.0})
    logger.open(0)
    clock[0] += 30
    assert logger.measure_times()["time/processor_minutes"] == 2.5
    assert logger.state_dict()["processor_minutes"] == 2.5
    logger.load_state_dict(old)
    logger.open(0)
    assert "time/processor_minutes" not in logger.measure_times()
    assert "processor_minutes" not in logger.state_dict()


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back_and_said_once(
    tmp_path, monkeypatch, caplog
):
    lines, write_all = JsonLines(tmp_path / "x.jsonl"), logger_module.write_all
    lines.write({"frames": 1})

    def fill_disk(fd, data):
        write_all(fd, data[:4])
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(logger_module, "write_all", fill_disk)
        for frames in (2, 3):
            lines.write({"frames": frames})
            assert read(lines.path) == [{"frames": 1}] and lines.failed
        monkeypatch.setattr(logger_module, "write_all", write_all)
        lines.write({"frames": 4})
    assert read(lines.path) == [{"frames": 1}, {"frames": 4}] and not lines.failed
    assert len(caplog.records) == 1 and "No space left on device" in caplog.text


def test_only_the_boards_own_thread_may_fail_without_a_traceback(monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    hide_thread_errors()

    class _AsyncWriterThread(threading.Thread):
        """As TensorBoard calls its own."""

    for thread, error, hidden in (
        (_AsyncWriterThread(), OSError("full"), True),
        (_AsyncWriterThread(), ValueError("wrong"), False),
        (threading.Thread(), OSError("full"), False),
    ):
        shown.clear()
        threading.excepthook(threading.ExceptHookArgs((type(error), error, None, thread)))
        assert bool(shown) == (not hidden)


HERE = [name for name in ("wandb", "trackio") if find_spec(name)]


@pytest.mark.skipif(not HERE, reason="neither wandb nor trackio is installed")
def test_a_resumed_run_continues_in_trackio_and_wandb(tmp_path):
    """Offline, in a process of its own: trackio reads where it stores when it is imported."""
    env = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline"}
    env["WANDB_DIR"] = str(tmp_path)
    words = ("--log.to", ",".join(HERE), "--log.project", "here")
    runs.train(tmp_path, *words, "--run.frames", "60", env=env)
    first = read_or_make_id(runs.seed_dir(tmp_path))
    _, complained = runs.train(tmp_path, *words, "--run.frames", "120", env=env)
    runs.train(tmp_path / "plain", "--run.frames", "120")
    plain = fingerprint(runs.seed_dir(tmp_path / "plain"))
    assert fingerprint(runs.seed_dir(tmp_path)) == plain
    assert read_or_make_id(runs.seed_dir(tmp_path)) == first and "cannot log" not in complained
    if "wandb" in HERE:
        assert len(list(tmp_path.glob(f"wandb/offline-run-*-{first}"))) == 2
    if "trackio" in HERE:
        with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "here.db")) as stored:
            rows = stored.execute("select run_name, step, metrics from metrics").fetchall()
            [(config,)] = stored.execute("select config from configs").fetchall()
        assert {name for name, _, _ in rows} == {f"counter/debug/seed0-{first}"}
        steps = [step for _, step, metrics in rows if "updates" in json.loads(metrics)]
        assert sorted(set(steps)) == [20, 40, 60, 80, 100, 120]
        assert json.loads(config)["model.deter"] > 0
        keys = {key for _, _, metrics in rows for key in json.loads(metrics)}
        assert {"episode/score", "charts/episodic_return", "eval/score", "agent"} <= keys


def test_tensorboard_writes_into_the_run_wherever_the_process_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = open_board(LoggedRun(Path("run"), "", "", {}), None)
    monkeypatch.chdir("/")  # its thread opens the file later
    board.add_scalar("score", 1.0, 1)
    board.close()
    (file,) = (tmp_path / "run").glob("events.*")
    assert file.stat().st_size > 100

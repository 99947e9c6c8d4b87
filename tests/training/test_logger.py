"""What is logged, when, and what a disk without space costs."""

import json
import logging
import threading

import pytest

from worldmodel.training import logger as logger_module
from worldmodel.training.logger import JsonLines, Logger


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Board:
    """TensorBoard's writer, as far as it is called."""

    def __init__(self):
        self.calls = []

    def add_scalar(self, *args):
        self.calls.append(args)

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def board(monkeypatch):
    board = Board()
    monkeypatch.setattr(logger_module, "_open_tensorboard", lambda run_dir, purge_frame: board)
    return board


def test_lines_and_scalars_are_written_once_it_is_open(tmp_path, board):
    logger = Logger(tmp_path, tensorboard=True)
    logger.write_metrics(1, {"x": 1.0})
    assert logger.state_dict() is None and list(tmp_path.iterdir()) == []
    logger.open(0)
    logger.write_metrics(5, {"x": 2.0})
    logger.write_scores(6, {"score": 3.0})
    assert read(tmp_path / "metrics.jsonl") == [{"frames": 5, "x": 2.0}]
    assert read(tmp_path / "scores.jsonl") == [{"frames": 6, "score": 3.0}]
    logger.close()
    assert board.calls == [("x", 2.0, 5), ("score", 3.0, 6), "closed"]


def test_without_tensorboard_there_is_no_board(tmp_path, board):
    logger = Logger(tmp_path, tensorboard=False)
    logger.open(0)
    logger.write_metrics(5, {"x": 2.0})
    assert logger.board is None and board.calls == []


def test_minutes_are_those_of_earlier_commands_and_of_this_one(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(logger_module.time, "monotonic", lambda: clock[0])
    logger = Logger(tmp_path, tensorboard=False)
    logger.load_state_dict({"metrics": 0, "scores": 0, "minutes": 7.5})
    logger.open(0)
    clock[0] += 90
    assert logger.minutes == 9.0 and logger.state_dict()["minutes"] == 9.0


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


def test_only_the_boards_own_thread_may_fail_without_a_traceback(tmp_path, monkeypatch):
    from torch.utils import tensorboard

    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    monkeypatch.setattr(tensorboard, "SummaryWriter", lambda path, purge_step: (path, purge_step))
    assert logger_module._open_tensorboard(tmp_path, 7) == (str(tmp_path), 8)
    assert logger_module._open_tensorboard(tmp_path, None) == (str(tmp_path), None)

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

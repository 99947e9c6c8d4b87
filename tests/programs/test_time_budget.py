"""A training of a given time: its frames follow from the measured speed, and stay on resume."""

import pytest
import torch

from runs import fingerprint, seed_dir
from worldmodel import envs
from worldmodel.command_line.train import main
from worldmodel.config import loading
from worldmodel.config.ranges import read_seconds
from worldmodel.distributed import ALONE
from worldmodel.errors import UsageError
from worldmodel.programs import time_budget, training
from worldmodel.programs.time_budget import MARGIN, Speed, choose_frames, count_work
from worldmodel.training.trainer import Trainer

POLICY_ALONE = ("--train.policy_updates_per_step", "2")


def parse(*words):
    return loading.parse(["debug", *words])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1.5h", 5400),
        ("30", None),
        ("m", None),
        ("1d", None),
        (3, None),
    ],
)
def test_a_time_is_a_number_and_a_unit(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["30", "0m", "-3m", "soon", "1h30m"])
def test_other_times_are_refused_in_one_line(text):
    with pytest.raises(loading.ConfigError, match=r"train.budget: expected a time such as 30m"):
        parse("--train.budget", text)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--env.repeat", "2"),
        ("--env.num", "3"),
        ("--train.schedule", "rounds", "--train.round", "50"),
        ("--behavior.name", "dyna", "--train.updates_per_step", "0", *POLICY_ALONE),
        ("--log.eval", "0"),
    ],
)
@pytest.mark.parametrize("seconds", ["40s", "30m"])
def test_as_many_frames_are_chosen_as_the_time_is_enough_for(words, seconds):
    config = parse("--train.budget", seconds, *words)
    speed = Speed(step=0.01, update=0.2, policy_update=0.05)
    frames, work = choose_frames(config, speed, 100)
    budget = MARGIN * read_seconds(seconds)
    assert work == count_work(config, frames, 100)
    assert work.estimate_seconds(speed) <= budget
    assert count_work(config, frames + 1, 100).estimate_seconds(speed) > budget


def test_work_is_counted_as_the_trainer_does_it():
    config = parse(
        "--run.frames", "120"
    )  # 90 steps after the prefill, evaluated twice and at last
    work = count_work(config, 120, 20)
    assert work.updates == 2 + 9
    assert work.steps == 120 + 3 * 20
    rounds = parse("--train.schedule", "rounds", "--train.round", "40", "--train.refit", "7")
    assert count_work(rounds, 120, 20).updates == 2 + 2 * 7


def test_a_time_too_short_for_the_prefill_says_what_is_needed():
    with pytest.raises(
        UsageError, match=r"train.budget: 1s is too short .* take 0:0\d; give more"
    ):
        choose_frames(parse("--train.budget", "1s"), Speed(step=0.05, update=0.5), 20)


def test_a_budget_is_the_run_of_its_frames_and_keeps_them(tmp_path, monkeypatch, capsys):
    def train(root, *args):
        assert main(["debug", "--run.root", str(tmp_path / root), *args]) == 0
        return capsys.readouterr().out

    train("frames", "--run.frames", "90")
    expected = fingerprint(seed_dir(tmp_path / "frames"))
    monkeypatch.setattr(time_budget, "MEASURED_S", 0.02)
    monkeypatch.setattr(time_budget, "choose_frames", lambda c, *_: (90, count_work(c, 90, 20)))
    said = train("time", "--train.budget", "5m")
    assert "budget 5m: run.frames 90, 8 updates" in said
    assert fingerprint(seed_dir(tmp_path / "time")) == expected

    monkeypatch.setattr(time_budget, "choose_frames", None)  # another choice would fail
    assert "is trained to 90 frames" in train("time", "--train.budget", "5m")


def test_a_dry_run_measures_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_budget, "MEASURED_S", 0.02)
    root = str(tmp_path / "runs")
    assert main(["debug", "--run.root", root, "--train.budget", "60s", "--dry-run"]) == 0
    assert "budget 60s: run.frames " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_updates_are_measured_as_long_as_schedules_make_them(monkeypatch):
    frames = []
    monkeypatch.setattr(time_budget, "measure_seconds", lambda work: work() or 1.0)
    monkeypatch.setattr(Trainer, "learn", lambda self: frames.append(self.frames))
    with training.open_environments(parse(), ALONE, envs) as (vector, _):
        time_budget.measure_speed(parse(), vector, torch.device("cpu"), None)
    assert frames == [time_budget.LONGEST]

"""Every file of examples/, shortened to seconds."""

import runpy
import sys
from pathlib import Path

import pytest

import worldmodel

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Run an example as a program; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    keys = {"env.time_limit": 20, "behavior.name": "random"}
    return worldmodel.train(
        "debug", task="pendulum", frames=60, run={"root": root}, overrides=keys
    )


def test_own_environment(call, tmp_path):
    said = call("own_environment", "--frames", 120, "--root", tmp_path)
    assert "__main__:Spot" in said and "of 25" in said


def test_own_objective(call, tmp_path, monkeypatch):
    from worldmodel import registry

    monkeypatch.setitem(registry.OBJECTIVES, "brightness", "")  # undone afterwards
    said = call("own_objective", "--preset", "debug", "--frames", 60, "--root", tmp_path)
    assert "train/loss/brightness" in said and "train/bright/predicted" in said


def test_goal_pictures(call, pendulum, tmp_path):
    said = call("goal_pictures", pendulum.path, "--steps", 4)
    assert "mean pixel distance from goal.png" in said and (tmp_path / "goal.png").exists()


def test_ppo_in_a_dream(call, pendulum):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is missing")
    short = ("--minutes", 0.02, "--envs", 4, "--horizon", 8, "--episodes", 1)
    said = call("ppo_in_a_dream", pendulum.path, *short)
    assert "x random" in said


def test_every_example_is_run():
    named = Path(__file__).read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'call("{path.stem}"' in named, path.name

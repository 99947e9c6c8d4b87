"""`worldmodel.train`: the training of train.py in this process."""

import os
import signal
import sys
import threading

import gymnasium
import numpy as np
import pytest
import torch

import worldmodel
from runs import fingerprint, seed_dir, train
from worldmodel.config.yaml_io import ConfigError
from worldmodel.errors import RunError, UsageError
from worldmodel.training.trainer import Trainer


class Blink(gymnasium.Env):
    """An environment of a test's own."""

    observation_space = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action):
        self.steps += 1
        picture = np.full((32, 32, 3), 255 * int(action), np.uint8)
        return picture, float(action), False, self.steps == 9, {}


def call(root, **keys):
    return worldmodel.train("debug", run={"root": root}, **keys)


def test_it_trains_as_the_program_does_and_twice(tmp_path):
    """Bit for bit; what it sets in the process is as it was."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run = call(tmp_path / "one", frames=60, seed=np.int64(4))
    again = call(tmp_path / "two", overrides={"run.frames": 60, "run.seed": 4})
    assert torch.equal(torch.rand(1), expected)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    train(tmp_path / "three", "--seed", "4", "--frames", "60")
    prints = [fingerprint(seed_dir(tmp_path / n, seed=4)) for n in ("one", "two", "three")]
    assert prints[0] == prints[1] == prints[2]
    assert run.frames == again.frames == 60 and run.path == seed_dir(tmp_path / "one", seed=4)
    assert call(tmp_path / "one", frames=60, seed=4).frames == 60  # it is trained already
    assert call(tmp_path / "one", frames=80, seed=4).frames == 80  # and goes on


def test_mistakes_are_exceptions(tmp_path):
    with pytest.raises(ConfigError, match="did you mean train.prefill"):
        call(tmp_path, train={"prefil": 30})
    with pytest.raises(ConfigError, match="unknown preset 'debugg'"):
        worldmodel.train("debugg")
    with pytest.raises(UsageError, match="has no name"):
        call(tmp_path, env=lambda: Blink())
    call(tmp_path, frames=40)
    with pytest.raises(RunError, match="made with another configuration"):
        call(tmp_path, frames=40, model={"deter": 16})
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_an_environment_of_the_caller(tmp_path):
    run = call(tmp_path, env=Blink, frames=40)
    assert run.config.env.task == f"{__name__}:Blink" and run.action_space.groups == (2,)
    actions, _ = run.predict(np.zeros((3, 32, 32, 3), np.uint8))
    assert actions.shape == (3,)


def test_an_environment_of_a_script_or_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "Blink", Blink, raising=False)
    monkeypatch.setattr(Blink, "__module__", "__main__")
    assert call(tmp_path, env=Blink, frames=40).config.env.task == "__main__:Blink"


def test_ctrl_c_saves_and_a_second_one_ends_at_once(tmp_path, monkeypatch, capfd):
    collect, count = Trainer.collect, iter(range(1000))

    def collect_and_press(trainer):
        collect(trainer)
        if next(count) in presses:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "collect", collect_and_press)
    presses = {45}
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, frames=60)
    frames = worldmodel.load(seed_dir(tmp_path)).frames
    said = capfd.readouterr().out
    assert f"stopped by SIGINT at {frames} frames, all is saved" in said and frames < 60
    presses = set()
    assert call(tmp_path, frames=60).frames == 60

    def press_twice(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "collect", press_twice)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, frames=70)
    assert "ended at once by a second signal" in capfd.readouterr().err


def test_it_trains_in_another_thread(tmp_path):
    frames = []
    thread = threading.Thread(target=lambda: frames.append(call(tmp_path, frames=40).frames))
    thread.start()
    thread.join()
    assert frames == [40]


def test_minutes_end_a_call(tmp_path):
    run = worldmodel.train("debug", run={"root": tmp_path, "max_minutes": 1e-6})
    assert run.frames < run.config.run.frames

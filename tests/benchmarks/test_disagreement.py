"""Tests of benchmarks/disagreement.py: correlations of known members, the command, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import disagreement
from runs import seed_dir, train
from worldmodel.evaluation.quality import evaluated_agent, held_out_episodes
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.saved_run import Run

LENGTH, EPISODES = 3, 4


class Halved:
    """A model that imagines half of what each action moves; so errors grow by half an action.

    Of four members the first two differ by what an action lacks to 1, the others by a hundred
    times the action: together they quarrel where the error is, and the first two where it is not.
    """

    def __init__(self):
        self.model, self.dynamics = self, self

    def observe(self, columns):
        return {"x": torch.from_numpy(columns["x"])[:, None]}, None

    def imagine(self, state, actions):
        return {"x": state["x"].unsqueeze(1) + 0.5 * actions.cumsum(1)}

    def mean_latent(self, state):
        return state["x"]

    features = mean_latent

    def predict_members(self, feat, action):
        # Each step's action goes with the state that it was taken in.
        torch.testing.assert_close(feat[:, 1:], feat[:, :-1] + 0.5 * action[:, :-1])
        gaps = [1 - action, action - 1, 100 * action, -100 * action]
        return torch.stack([feat + gap for gap in gaps])


def make_episode(seed):
    action = np.random.default_rng(seed).uniform(0, 1, (20, 1)).astype(np.float32)
    last = np.zeros(20, bool)
    columns = {"x": action[:, 0].cumsum(), "prev_action": action, "reward": action[:, 0]}
    return RecordedEpisode({**columns, "is_terminal": last})


def test_members_that_quarrel_where_the_model_errs_have_a_rank_correlation_of_1(
    monkeypatch, capsys
):
    run = SimpleNamespace(
        agent=Halved(), observation_space=None, action_space=None, frames=7,
        config=SimpleNamespace(ensemble=SimpleNamespace(size=4)),
    )  # fmt: skip
    episodes = [make_episode(seed) for seed in range(EPISODES)]
    monkeypatch.setattr(Run, "open", lambda path: run)
    monkeypatch.setattr(evaluated_agent, "EvaluatedAgent", lambda agent, seed: agent)
    monkeypatch.setattr(
        held_out_episodes, "load_other_episodes", lambda *args: episodes[: args[3]]
    )
    keys = ("--members", "2,4", "--length", str(LENGTH), "--episodes", str(EPISODES))
    assert disagreement.main(["RUN", "DATA", *keys]) == 0
    two, four = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert two["rank_correlation"] == [-1.0] * LENGTH and two["mean"] == -1
    assert four["rank_correlation"] == [1.0] * LENGTH and four["mean"] == 1
    assert (two["members"], four["members"], four["frames"]) == (2, 4, 7)
    assert two["rollouts"] == four["rollouts"] == EPISODES * 8


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("disagreement")
    train(root, "--ensemble.size", "3", "--log.eval", "0", "--behavior.name", "random")
    return seed_dir(root)


def test_a_run_with_heads_has_a_line_for_each_number_of_members(run_dir, capsys):
    keys = ("--members", "2,3", "--length", "4", "--episodes", "3")
    assert disagreement.main([str(run_dir), str(run_dir), *keys]) == 0
    out = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in out if line[0] == "{"]
    assert [line["members"] for line in lines] == [2, 3]
    for line in lines:
        found = line["rank_correlation"]
        assert len(found) == 4 and np.isfinite(found).all() and np.abs(found).max() <= 1
        assert line["mean"] == pytest.approx(np.mean(found), abs=1e-3) and line["rollouts"] > 3
    assert lines[0]["rank_correlation"] != lines[1]["rank_correlation"]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (("--members", "2,5"), "--members: 5 is not from 2 to the 3 of"),
        (("--members", "1"), "--members: 1 is not from 2 to the 3 of"),
        (("--members", "2", "--length", "999"), "no episode has 1005 rows (--length)"),
    ],
)
def test_what_it_cannot_measure_is_refused_in_a_line(run_dir, capsys, keys, wanted):
    assert disagreement.main([str(run_dir), str(run_dir), *keys]) == 2
    assert wanted in capsys.readouterr().err

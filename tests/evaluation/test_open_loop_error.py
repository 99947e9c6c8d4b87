"""The baselines copy and mean, and calibration by horizon."""

import math

import numpy as np
import pytest
import torch

from tiny_world import Perfect, quality_of
from worldmodel import registry
from worldmodel.evaluation.quality.open_loop_error import add_centre_kl, choose_starts
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.model.latents.categorical import Categorical
from worldmodel.model.latents.deterministic import Deterministic
from worldmodel.model.latents.gaussian import Gaussian

KINDS = {
    "categorical": (
        Categorical(2, 2, 0.0, 0.1),
        {"logits": torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]).log()},
        {"logits": torch.tensor([[0.7, 0.3], [0.5, 0.5]]).log()},
        [
            0.9 * math.log(9 / 7) + 0.1 * math.log(1 / 3),
            0.5 * math.log(5 / 7) + 0.5 * math.log(5 / 3),
        ],
    ),
    "gaussian": (
        Gaussian(1, 0, 0.0, 0.1),
        {"mean": torch.tensor([[0.0], [2.0]]), "std": torch.tensor([[1.0], [1.0]])},
        {"mean": torch.tensor([1.0]), "std": torch.tensor([math.sqrt(2)])},
        [math.log(2) / 2] * 2,
    ),
    "deterministic": (
        Deterministic(2, 0, 0.0, 0.1),
        {"mean": torch.tensor([[0.0, 1.0], [2.0, 5.0]])},
        {"mean": torch.tensor([1.0, 3.0])},
        [2.5, 2.5],
    ),
}


@pytest.mark.parametrize("kind", registry.LATENTS)
def test_the_centre_of_posteriors_is_the_best_constant_prior(kind):
    latent, posts, centre, wanted = KINDS[kind]
    found = latent.centre(posts)
    for key, value in centre.items():
        torch.testing.assert_close(found[key], value)
    torch.testing.assert_close(latent.kl(posts, found), torch.tensor(wanted))
    torch.manual_seed(0)
    for _ in range(20):
        other = {k: v * (1 + 0.2 * torch.rand_like(v)) for k, v in found.items()}
        if kind == "categorical":
            other = {"logits": other["logits"].log_softmax(-1)}
        assert latent.kl(posts, other).mean() >= latent.kl(posts, found).mean()


def test_kl_from_the_centre_belongs_to_the_reached_row():
    cells = [np.arange(n, dtype=np.float32)[:, None] + np.zeros(2, np.float32) for n in (8, 6)]
    episodes = [
        RecordedEpisode({"reward": np.zeros(len(c)), "is_terminal": np.zeros(len(c), bool)})
        for c in cells
    ]
    posteriors = [{"vector": torch.from_numpy(c)} for c in cells]
    tables = []
    for episode in episodes:
        steps = choose_starts(episode, 2, 3)[:, None] + 1 + np.arange(3)
        tables.append({"reward": np.where(steps < len(episode), 0.0, np.nan), "at": steps})
    add_centre_kl(Perfect(), episodes, posteriors, tables, 2)
    mean = (28 + 15) / 14
    for table in tables:
        wanted = np.where(np.isnan(table["reward"]), np.nan, 2 * (table["at"] - mean) ** 2)
        np.testing.assert_allclose(table["kl_mean"], wanted, rtol=1e-5)


class Unsure(Perfect):
    """At one horizon it predicts 0.8 for continuing episodes, and is right about ends."""

    def imagine(self, state, actions):
        found = super().imagine(state, actions)
        ahead = torch.arange(1, actions.shape[1] + 1).expand(actions.shape[:2])
        return found | {"doubt": 0.2 * (ahead == 3)}

    def cont(self, state):
        return (super().cont(state) - state["doubt"]).clamp(min=0)


def test_miscalibration_shows_at_its_horizon_only():
    ends = quality_of(Unsure(), real=False).results["continuation"]
    share = 1 - ends["brier"]["copy"]  # that went on: where one began, the episode had not ended
    assert 0 < share[2] < 1
    wanted = np.zeros(8)
    wanted[2] = 0.2 * share[2]
    np.testing.assert_allclose(ends["calibration_error_by_horizon"], wanted, atol=1e-7)
    assert ends["brier"]["model"][2] == pytest.approx(0.04 * share[2])
    assert 0 < ends["calibration_error"] < wanted[2]

"""Policies in imagination and in the simulator, on models of which every return is known."""

import numpy as np
import pytest
import torch
from worldmodel.envs.parallel.vector import SerialEnv

import worldmodel
from runs import seed_dir, train
from tiny_world import (
    FOLLOW,
    POLICIES,
    SPACE,
    Contrary,
    Frozen,
    Grid,
    Perfect,
    Rosy,
    quality_of,
    to_column,
)
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.held_out_episodes import collect_episodes, load_replay_episodes
from worldmodel.evaluation.quality.policy_returns import measure_policy_returns, rank_policies
from worldmodel.evaluation.quality.run_policies import make_policies
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.quality.trial_starts import TrialCounts, choose_trial_starts
from worldmodel.rollout.collector import Rollout, make_episode_seeds


def run_policies(model, policies, count=6, seed=0):
    """The returns of policies from steps of one episode, and the cells (S,2) they start from."""
    stay = np.zeros((1, 2), np.float32)
    with SerialEnv(Grid, 1) as envs:
        rollout = Rollout(envs, SPACE, make_episode_seeds(1))
        episodes = collect_episodes(rollout, lambda rows: stay, 3, lambda done: None)
        simulator = Simulator(envs, rollout.to_env)
        posteriors = [model.observe(e.columns)[0] for e in episodes]
        starts = choose_trial_starts(
            episodes, posteriors, TrialCounts(count, 4, 4, FOLLOW), 2, seed
        )
        found = measure_policy_returns(model, simulator, starts, policies, FOLLOW, seed)
    return found, torch.cat([start.state["vector"] for start in starts]).numpy()


def test_a_perfect_model_ranks_policies_and_predicts_their_returns():
    found = quality_of(Perfect()).results["policies"]
    assert found["rank"] == pytest.approx(1) and found["steps"] == FOLLOW and found["starts"] == 5
    assert found["gap"] == found["gap_low"] == found["gap_high"] == 0
    assert list(found["by_policy"]) == list(POLICIES)
    for x in found["by_policy"].values():
        assert (
            x["gap"] == x["gap_low"] == x["gap_high"] == 0 and x["imagined_low"] == x["real_low"]
        )
        assert x["real_low"] <= x["real"] <= x["real_high"] and x["imagined"] == x["real"]
    assert found["by_policy"]["right"]["real"] > found["by_policy"]["left"]["real"]


def test_rewards_of_the_opposite_sign_reverse_the_ranking():
    found = rank_policies(run_policies(Contrary(), POLICIES)[0], FOLLOW)
    assert found["rank"] == pytest.approx(-1)
    for x in found["by_policy"].values():
        assert x["imagined"] == -x["real"]


def test_returns_of_policies_by_hand():
    """A policy that moves to a column and stays there must react to its state."""
    found, cells = run_policies(Perfect(), {"to column 6": to_column(6)})
    assert len(set(cells[:, 0])) > 1
    for real, (x, y) in zip(found.real, cells, strict=True):
        columns = [max(6, x - k) if x > 6 else min(6, x + k) for k in range(1, FOLLOW + 1)]
        assert real == [sum((column - y) / 8 for column in columns)]


def test_the_gap_is_the_inflation_of_rewards_along_a_policys_path():
    policies = {name: POLICIES[name] for name in ("left", "right", "up")}
    found, cells = run_policies(Rosy(wall=10), policies)
    gaps = np.array(found.imagined) - np.array(found.real)
    reached = {"right": lambda x, k: min(x + k, 11), "up": lambda x, k: x}
    for name, column in reached.items():
        wanted = [sum(0.5 for k in range(1, FOLLOW + 1) if column(x, k) >= 10) for x, _ in cells]
        assert gaps[:, list(policies).index(name)].tolist() == wanted
    total = rank_policies(found, FOLLOW)
    assert total["by_policy"]["right"]["gap"] > total["by_policy"]["up"]["gap"]
    assert total["gap"] == pytest.approx(gaps.mean()) and total["gap"] > 0


def test_a_policy_reacts_to_imagined_states_in_imagination():
    """In a frozen model, the return repeats the reward of the start."""
    found, cells = run_policies(Frozen(), {"to column 6": to_column(6)})
    np.testing.assert_allclose(np.ravel(found.imagined), FOLLOW * (cells[:, 0] - cells[:, 1]) / 8)
    assert np.ravel(found.real).tolist() != np.ravel(found.imagined).tolist()


def test_random_draws_are_equal_in_both_worlds_and_depend_on_the_seed():
    policies = {"half right": POLICIES["half right"]}
    (one, _), (other, _) = (
        run_policies(Perfect(), policies),
        run_policies(Perfect(), policies, seed=1),
    )
    assert one.imagined == one.real and one.real != other.real
    assert one.real != run_policies(Perfect(), {"right": POLICIES["right"]})[0].real


def test_one_start_has_no_interval():
    found = rank_policies(run_policies(Perfect(), POLICIES, count=1)[0], FOLLOW)
    assert (
        np.isnan(found["gap_low"])
        and np.isnan(found["by_policy"]["left"]["real_high"])
        and found["gap"] == 0
    )


@pytest.mark.parametrize(
    "args", [("--behavior.name", "actor_critic", "--imag.starts", "8"), ("--env.task", "catcher")]
)
def test_the_policies_of_a_run(tmp_path, args):
    """At least five policies act on imagined and on observed states."""
    train(tmp_path, *args, "--run.frames", "40")
    run = worldmodel.load(next(tmp_path.glob("*/*/seed0")))
    policies = make_policies(run, 0)
    guide = "actor" if run.policy is not None else "planner"
    assert {
        "planner",
        guide,
        f"{guide}, 1/3 random",
        f"{guide}, 2/3 random",
        "random",
    } < policies.keys()
    assert len(policies) >= 6 and any(name.startswith("always ") for name in policies)
    model = EvaluatedAgent(run.agent, 0)
    [episode] = load_replay_episodes(run.path, 1)
    state = {k: v[3:4] for k, v in model.observe(episode.columns)[0].items()}
    row = {k: v[4] for k, v in episode.columns.items()}
    for begin in policies.values():
        act = begin(1)
        for seen in (state, model.observe_step(state, row)):
            action = act({k: v.expand(3, *v.shape[1:]) for k, v in seen.items()})
            assert action.shape == (3, run.action_space.size) and action.abs().max() <= 1


def test_row_by_row_observation_equals_whole_sequences(tmp_path):
    """With a deterministic latent."""
    train(
        tmp_path,
        "--model.latent",
        "deterministic",
        "--run.precision",
        "fp32",
        "--run.frames",
        "40",
    )
    run = worldmodel.load(seed_dir(tmp_path))
    [episode] = load_replay_episodes(run.path, 1)
    model = EvaluatedAgent(run.agent, 0)
    whole, _ = model.observe(episode.columns)
    state = {k: v[2:3] for k, v in whole.items()}
    for t in range(3, 8):
        state = model.observe_step(state, {k: v[t] for k, v in episode.columns.items()})
        for key in state:
            torch.testing.assert_close(state[key], whole[key][t : t + 1], atol=1e-4, rtol=0)

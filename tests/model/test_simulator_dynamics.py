"""The true simulator in place of a model says what the environment does."""

import re

import numpy as np
import pytest
import torch

import worldmodel
from runs import seed_dir, train
from worldmodel import build, envs
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.model.dynamics.simulator import Settings, SimulatorDynamics
from worldmodel.rollout.collector import convert_spaces
from worldmodel.spaces import count_states, map_state

B = 2
TRUE = ("debug", "--model.dynamics", "simulator", "--env.obs", "state")


def make(task, *words):
    """Environment, model and agent of a configuration, as a training makes them."""
    c = loading.parse([*TRUE, "--env.task", task, *words])
    env = envs.make_factory(c.env, c.distract, simulator=True)()
    obs, space = convert_spaces(env)
    model = build.make_model(c, obs, space, simulator=envs.make_simulator(c.env))
    return env, model, build.make_agent(c, model, space, torch.device("cpu"))


def record(env, actions, seed):
    """Rows of an episode by actions (T,A), until it ends: vectors, rewards, ends."""
    seen = [env.reset(seed=seed)[0]["simulator"]]
    rewards, ends = [], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        seen.append(obs["simulator"])
        rewards.append(reward)
        ends.append(terminated)
        if terminated:
            break
    return np.stack(seen), np.array(rewards), np.array(ends)


def start_from(model, *rows):
    embed = torch.from_numpy(np.stack(rows))
    dynamics = model.dynamics
    nothing = torch.zeros(len(rows), 1), torch.ones(len(rows)), None
    return dynamics.observe_step(dynamics.initial(len(rows)), embed, *nothing)


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("task", ["cartpole", "cartpole_swingup", "pointmass"])
def test_a_rollout_is_the_episode(task, repeat):
    env, model, agent = make(task, "--env.repeat", str(repeat))
    generator = np.random.default_rng(1)
    plans = generator.uniform(-1, 1, (B, 25, agent.space.size)).astype(np.float32)
    plans[1] = 1.0  # which fails at cartpole early
    real = [record(env, plan, seed) for seed, plan in enumerate(plans)]
    state = start_from(model, *(seen[0] for seen, _, _ in real))
    after = model.dynamics.imagine(state, torch.from_numpy(plans))
    reward, cont = model.predict_for_planning(model.dynamics.features(after))
    for i, (seen, rewards, ends) in enumerate(real):
        steps = len(rewards)
        np.testing.assert_allclose(after["simulator"][i, :steps], seen[1:], atol=2e-4)
        np.testing.assert_allclose(reward[i, :steps], rewards, atol=1e-4)
        np.testing.assert_array_equal(cont[i, :steps], ~ends)
        # What has ended earns no more, and stays.
        assert not reward[i, steps:].any() and not cont[i, steps:].any()
        rest = after["simulator"][i, steps - 1 :]
        assert (rest == rest[0]).all() or steps == 25
    assert (task == "cartpole") == bool(real[1][2].any())


def test_a_plan_is_worth_what_it_earns():
    env, model, _ = make("cartpole")
    c = loading.parse([*TRUE, "--env.task", "cartpole", "--planner.discount", "0.9"])
    seen, rewards, ends = record(env, np.ones((20, 1), np.float32), seed=3)
    assert ends[-1] and 5 < len(rewards) < 15
    score = build.make_plan_score(c, None, None)(model, start_from(model, seen[0]), None)
    discounts = 0.9 ** np.arange(20)
    found = score(torch.ones(1, 1, 20, 1))
    np.testing.assert_allclose(found, discounts[: len(rewards)].sum(), rtol=1e-6)
    centred = torch.zeros(1, 1, 20, 1)
    np.testing.assert_allclose(score(centred), discounts.sum(), rtol=1e-6)


def test_choices_reach_the_simulator_as_the_environment_takes_them():
    env, model, agent = make("catcher")
    picks = [0, 0, 2, 1, 2, 2, 2]
    seen, _, _ = record(env, picks, seed=0)
    plan = agent.space.encode_actions(np.array(picks)).unsqueeze(0)
    after = model.dynamics.imagine(start_from(model, seen[0]), plan)
    np.testing.assert_array_equal(after["simulator"][0, :, 0], seen[1:, 0])  # the column


def test_noise_follows_from_the_generator_of_a_rollout():
    _, model, _ = make("noisy_room")
    state = start_from(model, *np.float32([[-0.5, -0.5], [-0.5, 0.5]]))
    actions = torch.zeros(2, 3, 2)

    def roll(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.dynamics.imagine(state, actions, generator)["simulator"]

    assert torch.equal(roll(0), roll(0)) and not torch.equal(roll(0)[0], roll(1)[0])
    assert torch.equal(roll(0)[1], roll(1)[1]), "away from the carpet nothing is random"


class SeedRecorder:
    """A simulator in which nothing moves."""

    angles = ()

    def __init__(self):
        self.seeds = []

    def step(self, rows, actions, seed):
        self.seeds.append(seed)
        return rows, np.zeros(len(rows)), np.zeros(len(rows), bool)


def test_no_two_steps_of_a_rollout_are_seeded_alike():
    simulator = SeedRecorder()
    dynamics = SimulatorDynamics(
        Settings(), None, actions=1, embed=2, simulator=simulator, decode_actions=np.asarray
    )
    state = dynamics.observe_step({}, torch.ones(3, 2), None, None, None)
    dynamics.imagine(state, torch.zeros(3, 200, 1), torch.Generator().manual_seed(0))
    assert len(simulator.seeds) == len({*simulator.seeds}) == 200


def test_a_sequence_equals_its_steps_and_the_prior_is_what_was_seen():
    env, model, agent = make("pendulum")
    plans = np.random.default_rng(0).uniform(-1, 1, (B, 6, 1)).astype(np.float32)
    rows = np.stack([record(env, plan, seed)[0] for seed, plan in enumerate(plans)])
    before = np.concatenate([np.zeros((B, 1, 1), np.float32), plans], 1)
    first = torch.zeros(B, 7, dtype=torch.bool)
    first[:, 0] = True
    batch = {
        "vector": torch.zeros(B, 7, 3),
        "simulator": torch.from_numpy(rows),
        "prev_action": torch.from_numpy(before),
        "is_first": first,
    }
    embed, post, prior = model.observe(batch)
    assert model.dynamics.kl(post, prior).shape == (B, 7)
    assert model.dynamics.kl(post, prior).max() < 1e-9
    wrong = {**batch, "prev_action": -batch["prev_action"]}
    assert model.dynamics.kl(*model.observe(wrong)[1:])[:, 1:].min() > 1e-7
    state = model.dynamics.initial(B)
    for t in range(7):
        step = embed[:, t], batch["prev_action"][:, t], first[:, t], None
        state = model.dynamics.observe_step(state, *step)
        here = map_state(post, lambda v, t=t: v[:, t])
        torch.testing.assert_close(*(model.dynamics.features(s) for s in (state, here)))
    assert count_states(state) == B


def test_planning_in_the_truth_balances_a_pole():
    words = "--planner.horizon 12 --planner.candidates 60 --planner.iterations 2"
    env, _, agent = make("cartpole", *words.split())
    obs, carry = env.reset(seed=0)[0], agent.init(1)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):  # random actions last for 27
        seen = {k: torch.from_numpy(v).unsqueeze(0) for k, v in obs.items()}
        seen["is_first"] = torch.tensor([step == 0])
        action, carry = agent.act(seen, carry, "eval", generator)
        obs, _, terminated, _, _ = env.step(action[0].numpy())
        assert not terminated


def test_a_run_trains_nothing_and_opens_with_its_simulator(tmp_path):
    words = (*TRUE[1:], "--env.task", "pendulum", "--env.time_limit", "15", "--run.frames", "40")
    said = "".join(train(tmp_path, *words))
    assert "nothing to train" in said and "0 updates" in said
    run = seed_dir(tmp_path, "pendulum")
    with pytest.raises(UsageError, match="plans in the true simulator of pendulum"):
        worldmodel.load(run)
    opened = worldmodel.load(
        run, make_simulator=lambda config, path: envs.make_simulator(config.env)
    )
    state = np.float32([0.0, 0.0])  # upright
    action, _ = opened.act({"vector": np.zeros(3), "simulator": state})
    assert action.shape == (1,)


@pytest.mark.parametrize(
    "words, key",
    [
        (["--behavior.name", "actor_critic"], "behavior.name"),
        (["--planner.score", "reward+value"], "planner.score"),
        (["--planner.score", "goal_distance"], "planner.score"),
        (["--planner.proposals", "3"], "planner.proposals"),
    ],
)
def test_keys_that_need_something_learnt_are_refused(words, key):
    with pytest.raises(loading.ConfigError, match=re.escape(f"{key}: model.dynamics simulator")):
        loading.parse([*TRUE, *words])


def test_what_is_seen_has_earned_nothing_yet():
    dynamics = SimulatorDynamics(Settings(), None, actions=1, embed=2)
    feat = dynamics.features(dynamics.observe_step({}, torch.ones(3, 2), None, None, None))
    assert torch.equal(dynamics.restore(feat), torch.ones(3, 2))
    assert dynamics.read_reward(feat).tolist() == [0, 0, 0]
    assert dynamics.read_continuation(feat).tolist() == [1, 1, 1]

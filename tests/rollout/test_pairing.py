"""What leads to what: from the environment through collector, replay and batch to the model, each
row holds an observation, the action that led to it and the reward on arrival.
"""

from functools import partial

import numpy as np
import pytest
import torch
from worldmodel.envs.errors import EnvFailure, EnvSettingsError
from worldmodel.envs.parallel.vector import SerialEnv, VectorEnv

from test_model import KINDS, TINY, name_kind, without_noise
from worldmodel import build, envs, registry
from worldmodel.config import loading
from worldmodel.replay.buffer import Replay
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.replay.start_states import StoredStart
from worldmodel.rollout.collector import Rollout, convert_spaces, make_episode_seeds
from worldmodel.rollout.player import Player
from worldmodel.spaces import ActionSpace, select_prefix

SEEDS = make_episode_seeds(7)
STORED, STEPS = StoredStart(10), 12


def collect(vector, policy, steps, extra=None):
    """The rows of every environment as the replay returns them: one sequence each, {key: (T,...)};
    and the actions (T,N,A) as the policy chose them. `extra` is the spec of more columns.
    """
    observation, space = convert_spaces(vector)
    rollout, count = Rollout(vector, space, SEEDS), vector.num_envs
    replays = [
        Replay(
            build.make_replay_spec(observation, space) | (extra or {}),
            capacity_bytes=10**6,
            store="ram",
            directory=None,
            num_streams=1,
            seed=0,
            sampler=Uniform(None),
            chunk_rows=4,
        )
        for _ in range(count)
    ]
    chosen = []
    for _ in range(steps):
        rows = rollout.step(policy)
        for replay, row in zip(replays, rows, strict=True):
            replay.add(0, row)
        chosen.append(rollout.actions.copy())
    streams = [{k: v[0] for k, v in replay.sample(1, steps).items()} for replay in replays]
    return streams, np.array(chosen)


def act_randomly(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda rows: space.random(len(rows), generator).numpy()


def check_ticks(rows, env, length=5):
    """No step is lost, doubled or reordered, and no episode's row is another's."""
    position = np.arange(len(rows["reward"])) % (length + 1)
    episode = np.arange(len(rows["reward"])) // (length + 1)
    tags = np.array([SEEDS(env, int(k)) % 1000 for k in episode])
    np.testing.assert_array_equal(rows["vector"][:, 0], position)
    np.testing.assert_array_equal(rows["vector"][:, 1], tags)
    np.testing.assert_array_equal(rows["vector"][:, 2], rows["prev_action"][:, 0])
    np.testing.assert_array_equal(rows["reward"], position)
    np.testing.assert_array_equal(rows["is_first"], position == 0)
    np.testing.assert_array_equal(rows["is_last"], position == length)
    np.testing.assert_array_equal(rows["is_terminal"], (position == length) & (tags % 2 == 0))
    assert not rows["prev_action"][position == 0].any()


@pytest.mark.parametrize(
    "kind, task",
    [
        (SerialEnv, "ticking:Ticker"),
        (SerialEnv, "ticking:next_step"),
        (SerialEnv, "ticking:courteous"),
        (VectorEnv, "ticking:next_step"),
    ],
)
def test_every_step_is_one_row_whether_or_not_the_environment_resets_itself(kind, task):
    """Gymnasium's autoreset modes disabled and next-step; the collector resets before any step
    after an end, so that a deferred reset never comes.
    """
    space = ActionSpace(1)
    with kind(partial(envs.make, task, obs="state"), 2) as vector:
        streams, chosen = collect(vector, act_randomly(space), 20)
    for env, rows in enumerate(streams):
        check_ticks(rows, env)
        inside = ~rows["is_first"][1:]
        np.testing.assert_array_equal(rows["prev_action"][1:][inside], chosen[:-1, env][inside])
    assert {bool(t) for rows in streams for t in rows["is_terminal"][rows["is_last"]]} == {
        True,
        False,
    }


def test_an_environment_that_resets_in_the_last_step_is_refused():
    """Its last observation would be the next episode's first."""
    make = partial(envs.make, "ticking:same_step", obs="state")
    with (
        SerialEnv(make, 1, restart_budget=0) as vector,
        pytest.raises(EnvFailure, match="resets itself in the step that ends an episode"),
    ):
        collect(vector, act_randomly(ActionSpace(1)), 20)


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_vector_of_environments_is_refused_in_every_mode(mode):
    with pytest.raises(EnvSettingsError, match="SyncVectorEnv, which is not a gymnasium.Env"):
        envs.make(f"ticking:vector_{mode}", obs="state")


@pytest.mark.parametrize("name", envs.NAMES)
def test_rows_of_every_task_are_what_their_actions_lead_to(name):
    """An environment of one's own, reset and stepped as the rows say, observes the same."""
    make = partial(envs.make, name, size=(8, 8), obs="both", repeat=2, time_limit=9)
    with SerialEnv(make, 1) as vector:
        _, space = convert_spaces(vector)
        (rows,), _ = collect(vector, act_randomly(space), 18)
        to_env = Rollout(vector, space, SEEDS).to_env
    assert rows["is_first"].sum() > 2
    env, episode = make(), 0
    for t in range(len(rows["reward"])):
        if rows["is_first"][t]:
            obs, _ = env.reset(seed=SEEDS(0, episode))
            reward, ended, episode = 0.0, False, episode + 1
        else:
            assert not ended, "a step after an end"
            obs, reward, terminated, truncated, _ = env.step(to_env(rows["prev_action"][t]))
            ended = terminated or truncated
            assert rows["is_terminal"][t] == terminated
        for key, value in obs.items():
            np.testing.assert_array_equal(rows[key][t], value)
        assert rows["reward"][t] == np.float32(reward) and rows["is_last"][t] == ended


def follow(kind, behavior, monkeypatch):
    """The model, features (N,T,F) of the states that the acting agent had, and the batch of the
    rows that it collected, each with the state before it.
    """
    make = partial(envs.make, "counter", size=(8, 8), obs="state", time_limit=4)
    settings = [f"behavior.name={behavior}", "planner.candidates=12", "planner.elites=3"]
    settings += ["ensemble.size=3", "critic.replay=0"]
    c = loading.parse([*TINY, *kind, *settings, "planner.horizon=2", "env.obs=state"])
    seen = []
    with SerialEnv(make, 2) as vector, torch.no_grad():
        observation, space = convert_spaces(vector)
        torch.manual_seed(0)
        model = build.make_model(c, observation, space).eval()
        policy = build.make_policy(c, model, space)
        without_noise(model, monkeypatch)
        agent = build.make_agent(c, model, space, torch.device("cpu"), policy)
        player = Player(agent, 2, "train", torch.Generator().manual_seed(1))

        def act(rows):
            STORED.add_state(rows, select_prefix(player.carry, "state/"), 0)
            actions = player(rows)
            seen.append(model.dynamics.features(select_prefix(player.carry, "state/")))
            return actions

        columns = STORED.spec(model.dynamics.initial(1))
        streams, _ = collect(vector, act, STEPS, columns)
    batch = {k: torch.from_numpy(np.stack([s[k] for s in streams])) for k in streams[0]}
    return model, torch.stack(seen, 1), batch


@torch.no_grad()
def observe_features(model, batch):
    return model.dynamics.features(model.infer_states(batch))


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_the_model_sees_in_replayed_rows_what_the_agent_saw(kind, monkeypatch):
    """Also in sequences that begin inside an episode, from the state stored with their first row,
    up to its half precision.
    """
    model, seen, batch = follow(kind, "random", monkeypatch)
    np.testing.assert_allclose(seen, observe_features(model, batch), 1e-4, 1e-5)
    for first in (1, 4, 5):  # inside an episode, at its last row, and at the next one's start
        tail, _ = STORED.prepare(model, {k: v[:, first:] for k, v in batch.items()}, 1)
        np.testing.assert_allclose(seen[:, first:], observe_features(model, tail), 0, 5e-3)


# Random actions have been followed above; guided wants continuous actions, and a vector that is
# stored alone.
@pytest.mark.parametrize("behavior", sorted({*registry.BEHAVIORS} - {"random", "guided"}))
def test_the_model_sees_what_the_agent_saw_whoever_acts(behavior, monkeypatch):
    model, seen, batch = follow(KINDS[0], behavior, monkeypatch)
    np.testing.assert_allclose(seen, observe_features(model, batch), 1e-4, 1e-5)

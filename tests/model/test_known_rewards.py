"""The known rewards and ends are those of the real environments."""

import numpy as np
import pytest
import torch

from worldmodel import envs, registry
from worldmodel.model.known_rewards import KNOWN_REWARDS


def test_they_are_listed_where_no_torch_is_imported():
    assert set(registry.KNOWN_REWARDS) == set(KNOWN_REWARDS)


def record_steps(name: str, num_episodes: int) -> tuple[list, list, list, list]:
    """Vectors after each step, actions, rewards and ends of random episodes."""
    env = envs.make(name, obs="state")
    generator = np.random.default_rng(0)
    vectors, actions, rewards, ends = [], [], [], []
    for seed in range(num_episodes):
        env.reset(seed=seed)
        push = generator.uniform(-1, 1, env.action_space.shape)
        over = False
        while not over:
            # A drifting push reaches fast and far states, which white noise does not.
            push = np.clip(push + generator.normal(0, 0.3, push.shape), -1, 1)
            action = push.astype(np.float32)
            vector, reward, terminated, truncated, _ = env.step(action)
            vectors.append(vector)
            actions.append(action)
            rewards.append(reward)
            ends.append(terminated)
            over = terminated or truncated
    return vectors, actions, rewards, ends


@pytest.mark.parametrize("name", KNOWN_REWARDS)
def test_known_rewards_are_the_real_ones(name):
    vectors, actions, rewards, ends = record_steps(name, 20)
    known = KNOWN_REWARDS[name]
    vector = torch.from_numpy(np.stack(vectors))
    found = known.reward(vector, torch.from_numpy(np.stack(actions)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), np.array(rewards), atol=2e-6)
    fallen = known.ends(vector)
    assert fallen.dtype == torch.bool
    np.testing.assert_array_equal(fallen.numpy(), ends)
    if name == "cartpole":
        assert 10 < sum(ends) < len(ends) / 5
        beyond = np.abs(np.stack(vectors)[ends])
        assert (beyond[:, 2] > np.radians(12)).any()
    else:
        assert np.ptp(rewards) > 0.3, "the episodes see good and bad states"


@pytest.mark.parametrize("name", KNOWN_REWARDS)
def test_they_take_any_leading_shape(name):
    size = envs.make(name, obs="state").observation_space.shape[0]
    actions = envs.make(name, obs="state").action_space.shape[0]
    known = KNOWN_REWARDS[name]
    vector, action = torch.randn(5, 3, size) / 2, torch.rand(5, 3, actions)
    reward, ends = known.reward(vector, action), known.ends(vector)
    assert reward.shape == ends.shape == (5, 3)
    torch.testing.assert_close(reward[4, 1], known.reward(vector[4, 1], action[4, 1]))
    assert ends[2, 2] == known.ends(vector[2, 2])


def test_a_cart_beyond_the_rail_has_failed():
    rows = torch.tensor([[2.41, 0, 0, 0], [-2.41, 0, 0, 0], [2.39, 9, 0.2, 9], [0, 0, -0.21, 0]])
    assert KNOWN_REWARDS["cartpole"].ends(rows).tolist() == [True, True, False, True]

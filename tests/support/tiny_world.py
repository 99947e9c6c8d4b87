"""A world whose every answer is known: a block on a grid, and models of it that are perfect, or
wrong in one way.
"""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from worldmodel.envs.parallel.vector import SerialEnv

from worldmodel.evaluation.quality.held_out_episodes import collect_episodes
from worldmodel.evaluation.quality.model_quality import SimulatorTrials, measure_quality
from worldmodel.evaluation.quality.policies import make_constant_policy, make_noisy_policy
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.quality.trial_starts import TrialCounts
from worldmodel.rollout.collector import Rollout, make_episode_seeds
from worldmodel.spaces import ActionSpace

CELLS, SIDE = 12, 24
SPACE = ActionSpace(2)
PLAN, FOLLOW = 4, 9


def move(where, action):
    """Torch or numpy, (...,2) each: at most one cell a step, within walls."""
    return (where + action.round()).clip(0, CELLS - 1)


def worth(where):
    """Rewards are eighths, so that no sum of them is rounded."""
    return (where[..., 0] - where[..., 1]) / 8


def over(where):
    return where.sum(-1) <= 3


class Grid(gymnasium.Env):
    """The block's cell is what is seen, in a picture and as a vector; the lower left corner ends
    an episode.
    """

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
            "vector": spaces.Box(-99, 99, (2,), np.float32),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    steady = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if self.steady else None)
        self.where, self.count = self.np_random.integers(2, CELLS, 2).astype(np.float32), 0
        return self.observed(), {}

    def step(self, action):
        self.where, self.count = move(self.where, action), self.count + 1
        return (
            self.observed(),
            float(worth(self.where)),
            bool(over(self.where)),
            self.count >= 30,
            {},
        )

    def observed(self):
        return {
            "image": draw(torch.from_numpy(self.where)).mul(255).byte().numpy(),
            "vector": self.where,
        }


class Restless(Grid):
    """Seeds mean nothing here."""

    steady = False


def draw(where):
    """(...,2) -> (...,SIDE,SIDE,3) in {0, 1}: two pixels a cell, and the cell's
    neighbours green.
    """
    pixel = torch.arange(SIDE) // (SIDE // CELLS)
    gap = [(pixel - where[..., i, None]).abs() for i in (0, 1)]
    near = [(gap[0][..., None, :] <= reach) & (gap[1][..., :, None] <= reach) for reach in (0, 1)]
    return torch.stack([near[0], near[1], torch.zeros_like(near[0])], -1).float()


class Perfect:
    """The simulator itself."""

    can_draw = True

    def observe(self, episode):
        state = {
            k: torch.from_numpy(episode[k]).float() for k in ("vector", "reward", "is_terminal")
        }
        return state, state

    def reseed(self, number):
        """Nothing is drawn."""

    def observe_step(self, state, row):
        return {
            k: torch.as_tensor(np.float32(row[k]))[None]
            for k in ("vector", "reward", "is_terminal")
        }

    def imagine(self, state, actions):
        where, rows = state["vector"], []
        for action in actions.unbind(1):
            where = move(where, action)
            rows.append(
                {"vector": where, "reward": worth(where), "is_terminal": over(where).float()}
            )
        return {k: torch.stack([row[k] for row in rows], 1) for k in rows[0]}

    def decode(self, state):
        return draw(state["vector"])

    def reward(self, state):
        return state["reward"]

    def cont(self, state):
        return 1 - state["is_terminal"]

    def feat(self, state):
        return state["vector"]

    def kl(self, post, prior):
        return (post["vector"] - prior["vector"]).square().sum(-1)

    def centre(self, posts):
        return {"vector": posts["vector"].mean(0)}


class Frozen(Perfect):
    """Nothing ever changes."""

    def imagine(self, state, actions):
        length = actions.shape[1]
        return {k: v.unsqueeze(1).expand(len(v), length, *v.shape[1:]) for k, v in state.items()}


class Shuffled(Perfect):
    """Every dream is another plan's."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def imagine(self, state, actions):
        other = SPACE.random(actions[..., 0].numel(), self.generator).view(actions.shape)
        return super().imagine(state, other)


class Rosy(Perfect):
    """Rewards are a half too good: everywhere, or near a wall only."""

    def __init__(self, wall=None):
        self.wall = wall

    def reward(self, state):
        there = True if self.wall is None else state["vector"][..., 0] >= self.wall
        return state["reward"] + 0.5 * torch.as_tensor(there)


class Contrary(Perfect):
    """What is good is called bad."""

    def reward(self, state):
        return -state["reward"]


class Blind(Perfect):
    can_draw = False


def planner_of(model):
    """The best of many random plans, by the model."""
    generator = torch.Generator().manual_seed(3)

    def plan(state):
        plans = SPACE.random(200 * PLAN, generator).view(200, PLAN, 2)
        dream = model.imagine({k: v.expand(200, *v.shape[1:]) for k, v in state.items()}, plans)
        alive = torch.cat([torch.ones(200, 1), model.cont(dream)[:, :-1]], 1).cumprod(1)
        return plans[(alive * model.reward(dream)).sum(1).argmax()][None]

    return plan


def to_column(goal):
    """A policy that looks where it is, goes to a column and stays there."""
    return lambda policy_seed: (
        lambda state: (goal - state["vector"]).clamp(-1, 1) * torch.tensor([1.0, 0.0])
    )


POLICIES = {
    "left": make_constant_policy(torch.tensor([-1.0, 0.0])),
    "right": make_constant_policy(torch.tensor([1.0, 0.0])),
    "up": make_constant_policy(torch.tensor([0.0, 1.0])),
    "to column 6": to_column(6),
    "half right": make_noisy_policy(make_constant_policy(torch.tensor([1.0, 0.0])), 0.5, SPACE),
    "random": make_noisy_policy(make_constant_policy(torch.zeros(2)), 1, SPACE),
}


def wander():
    """Towards the corner where episodes end."""
    rng = np.random.default_rng(0)
    return lambda rows: rng.uniform(-1, 0.4, (1, 2)).astype(np.float32)


def quality_of(model, kind=Grid, episodes=6, own=True, keep=("image", "vector"), real=True):
    """`measure` on a few of the grid's episodes."""
    with SerialEnv(kind, 1) as envs:
        rollout = Rollout(envs, SPACE, make_episode_seeds(1))
        recorded = collect_episodes(rollout, wander(), episodes, lambda done: None)
        for episode in recorded:
            for key in {"image", "vector"} - set(keep):
                del episode.columns[key]
        simulator = Simulator(envs, rollout.to_env)
        plans = {"planner": planner_of(model)} if own else {}
        amounts = TrialCounts(starts=5, plans=8, length=PLAN, policy_steps=FOLLOW)
        tried = SimulatorTrials(simulator, plans, POLICIES, SPACE, amounts) if real else None
        return measure_quality(model, recorded, context=2, length=8, real=tried)

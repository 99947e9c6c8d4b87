"""The built-in point mass, pushed to where a picture shows it: collected at random, learnt, then
planned.

`python -m tests.support.reach` prints how near it comes by each objective and distance.
"""

import numpy as np
import torch

from worldmodel import build, envs
from worldmodel.config import loading
from worldmodel.policy.goals import Goal
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

SIZE, REPEAT, SPACE = 32, 2, ActionSpace(2)
SETTINGS = [
    "debug",
    "run.precision=fp32",
    "model.deter=64",
    "model.stoch=16",
    "model.hidden=64",
    "model.units=64",
    "model.cnn=[8, 16, 32]",
    "optim.eps=1e-8",
    "loss.reward=0",
    "loss.probe=false",
    "loss.overshooting=1",
    "planner.score=goal_distance",
    "goal.image=given.png",
    "planner.horizon=6",
    "planner.candidates=100",
    "planner.elites=10",
    "planner.iterations=3",
]
WAYS = [
    ("{forward_contrastive: 10.0}", "learnt", []),
    ("{forward_contrastive: 10.0}", "belief", []),
    ("{forward_contrastive: 10.0}", "learnt", ["planner.name=shooting", "planner.horizon=1"]),
    ("{inverse: 10.0}", "learnt", []),
    ("{contrastive: 10.0}", "learnt", []),
    ("{bootstrap: 30.0}", "belief", []),
    ("{reconstruction: 1.0}", "belief", []),
]


def make_env():
    return envs.make("pointmass", size=(SIZE, SIZE), repeat=REPEAT)


def collected(episodes, seed=0):
    """Pictures and actions of episodes whose actions change now and then."""
    env, rng, found = make_env(), np.random.default_rng(seed), []
    for episode in range(episodes):
        pictures, actions, over = (
            [env.reset(seed=1000 * seed + episode)[0]],
            [np.zeros(2, np.float32)],
            False,
        )
        action = rng.uniform(-1, 1, 2)
        while not over:
            action = rng.uniform(-1, 1, 2) if rng.random() < 0.4 else action
            picture, _, terminated, truncated, _ = env.step(action.astype(np.float32))
            pictures.append(picture)
            actions.append(action.astype(np.float32))
            over = terminated or truncated
        found.append((np.stack(pictures), np.stack(actions)))
    return found


def sample(episodes, rng, batch=16, length=16):
    parts = []
    for _ in range(batch):
        pictures, actions = episodes[rng.integers(len(episodes))]
        start = rng.integers(len(pictures) - length + 1)
        parts.append((pictures[start : start + length], actions[start : start + length]))
    image, action = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
    flags = {
        k: torch.zeros(batch, length, dtype=torch.bool)
        for k in ("is_first", "is_last", "is_terminal")
    }
    flags["is_first"][:, 0] = True
    return {"image": image, "prev_action": action, "reward": torch.zeros(batch, length), **flags}


def reach(objective, distance, overrides=(), updates=400, goals=8, seed=0):
    """Mean distance to the goal over the last five of 25 steps, and at the start."""
    c = loading.parse(
        [*SETTINGS, f"loss.objective={objective}", f"goal.distance={distance}", *overrides]
    )
    torch.manual_seed(seed)
    model = build.make_model(c, ObservationSpace({"image": (SIZE, SIZE, 3)}), SPACE)
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    rng, episodes = np.random.default_rng(seed), collected(60, seed)
    for _ in range(updates):
        learner.update(sample(episodes, rng))
    mpc = build.make_behavior(c, model, SPACE, None)
    ways = np.array([pushed(make_env(), model, mpc, c, 10**6 + k) for k in range(goals)])
    return ways[:, -5:].mean(), ways[:, 0].mean()


@torch.no_grad()
def pushed(env, model, mpc, c, seed, steps=25):
    """Distances to the goal along an episode whose goal picture shows the mass upon it."""
    image, _ = env.reset(seed=seed)
    task = env.unwrapped
    begin = task.position.copy()
    task.position = task.goal.copy()
    there = torch.from_numpy(task.render().copy())[None, None]
    task.position = begin
    goal = Goal({"image": there}, c.goal.distance, c.goal.at)
    mpc.make_score = build.make_plan_score(c, None, lambda: goal)
    state, carry, generator = (
        model.dynamics.initial(1),
        mpc.init(1),
        torch.Generator().manual_seed(seed),
    )
    action, first, found = torch.zeros(1, 2), torch.tensor([True]), []
    for _ in range(steps):
        found.append(np.linalg.norm(task.position - task.goal))
        embed = model.encode({"image": torch.from_numpy(image)[None, None]})[:, 0]
        state = model.dynamics.observe_step(state, embed, action, first, generator)
        action, carry = mpc.act(state, carry, first, "eval", generator)
        first = torch.tensor([False])
        image, *_ = env.step(action[0].numpy())
    return found


def main(seeds=2):
    torch.set_num_threads(1)
    for objective, distance, overrides in WAYS:
        ends = [reach(objective, distance, overrides, seed=k) for k in range(seeds)]
        shown = ", ".join(f"{end:.2f}" for end, _ in ends)
        print(
            f"{objective} {distance} {' '.join(overrides)}: {shown} from {ends[0][1]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

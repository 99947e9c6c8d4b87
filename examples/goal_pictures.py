"""Plan towards a picture instead of rewards: the step of the replay with the most reward.

PYTHONPATH=. python examples/goal_pictures.py runs/pendulum/pendulum/seed0
"""

import argparse

import numpy as np
from PIL import Image

import worldmodel
from worldmodel import envs
from worldmodel.replay.saved_episodes import SavedEpisodes


def find_best_picture(run):
    """The picture of the step with the most reward in the run's replay."""
    saved = SavedEpisodes(run.path)
    episodes = [saved.read_episode(number) for number in range(saved.count)]
    best = max(episodes, key=lambda rows: rows["reward"].max())
    return best["image"][best["reward"].argmax()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--goal", default="goal.png")
    args = parser.parse_args()
    run = worldmodel.load(args.run)
    goal = find_best_picture(run)
    Image.fromarray(goal).save(args.goal)
    planning = run.apply_overrides(
        {
            "behavior.name": "mpc",
            "planner.score": "goal_distance",
            "goal.image": args.goal,  # any picture of the run's size
            "planner.proposals": 0,
        }
    )
    env = envs.make_factory(run.config.env, run.config.distract)()
    obs, _ = env.reset(seed=0)
    carry, distances = None, []
    for _ in range(args.steps):
        action, carry = planning.act(obs, carry)
        obs, _, terminated, truncated, _ = env.step(action)
        distances.append(float(np.abs(obs.astype(float) - goal).mean()))
        if terminated or truncated:
            break
    first, last = np.mean(distances[:10]), np.mean(distances[-10:])
    print(f"mean pixel distance from {args.goal}: {first:.1f} at first, {last:.1f} at the end")


if __name__ == "__main__":
    main()

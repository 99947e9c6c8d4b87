"""Train on an environment of your own: push a spot to the middle of the picture.

PYTHONPATH=. python examples/own_environment.py --frames 6000

It takes minutes, and also works pasted into a notebook.
"""

import argparse

import gymnasium
import numpy as np

import worldmodel


class Spot(gymnasium.Env):
    """A spot that an action moves left or right; the closer to the middle, the more reward."""

    observation_space = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1), 0
        return self.draw(), {}

    def step(self, action):
        self.place = float(np.clip(self.place + 0.2 * action[0], -1, 1))
        self.steps += 1
        return self.draw(), 1 - abs(self.place), False, self.steps == 25, {}

    def draw(self):
        picture = np.zeros((32, 32, 3), np.uint8)
        column = round((self.place + 1) / 2 * 28)
        picture[14:18, column : column + 4] = 255
        return picture


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--root", default="runs")
    args = parser.parse_args()
    run = worldmodel.train(
        env=Spot,  # a class or a function that makes one, from the top level of this file
        frames=args.frames,
        name="spot",
        run={"root": args.root},
        train={"prefill": args.frames // 2, "pretrain": args.frames // 40},
        log={"eval": 0, "final_episodes": 1},
        overrides={"env.repeat": 1, "env.size": [32, 32], "model.cnn": [8, 16, 32]},
        planner={"horizon": 6, "candidates": 50, "iterations": 2},
    )
    env = Spot()
    obs, _ = env.reset(seed=0)
    carry, score, is_over = None, 0.0, False
    while not is_over:
        action, carry = run.act(obs, carry)
        obs, reward, _, is_over, _ = env.step(action)
        score += reward
    print(f"{run} scores {score:.1f} of 25")


if __name__ == "__main__":
    main()

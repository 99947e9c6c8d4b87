"""Train PPO of stable-baselines3 inside a saved world model, then try it in the simulator.

pip install stable-baselines3
PYTHONPATH=. python examples/ppo_in_a_dream.py runs/pendulum/pendulum/seed0 --minutes 10

PPO sees the model's features and never the simulator: 64 dreams of `--horizon` steps begin at
random steps of the run's replay. In the simulator the model filters what is seen into features.
"""

import argparse
import json
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

import worldmodel
from worldmodel import envs


class DreamVecEnv(VecEnv):
    """A DreamVectorEnv, which restarts within a step, as stable-baselines3 wants it."""

    def __init__(self, dreams):
        self.dreams, self.actions = dreams, None
        self.render_mode = None
        super().__init__(
            dreams.num_envs, dreams.single_observation_space, dreams.single_action_space
        )

    def reset(self):
        return self.dreams.reset()[0]

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        obs, rewards, terminated, truncated, infos = self.dreams.step(self.actions)
        found = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(terminated | truncated):
            found[i] = {
                "terminal_observation": infos["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
            }
        return obs, rewards.astype(np.float32), terminated | truncated, found

    def close(self):
        self.dreams.close()

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.dreams, attr_name)] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise NotImplementedError


class SeenByModel(gymnasium.Wrapper):
    """The simulator; instead of a picture, the model's features after all pictures so far."""

    def __init__(self, env, run):
        super().__init__(env)
        self.run = run
        size = run.model.dynamics.feature_size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        features, self.carry = self.run.observe(obs)
        return features, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        features, self.carry = self.run.observe(obs, self.carry, action)
        return features, reward, terminated, truncated, info


class Trial(BaseCallback):
    """Stops after some minutes; until then tries the policy in the simulator now and then."""

    def __init__(self, simulator, minutes, every, episodes, log):
        super().__init__()
        self.simulator, self.seconds, self.every = simulator, 60 * minutes, every
        self.episodes, self.log_file = episodes, log
        self.spent = self.tried = 0.0  # seconds of training

    def _on_training_start(self):
        self.began = time.monotonic()

    def _on_step(self):
        return self.spent + time.monotonic() - self.began < self.seconds

    def _on_rollout_start(self):
        self.spent += time.monotonic() - self.began
        if self.spent >= self.tried:
            self.tried += 60 * self.every
            self.note()
        self.began = time.monotonic()

    def note(self):
        """Play the same episodes as always, and write a line."""
        score = play(self.model, self.simulator, self.episodes)
        line = {"minutes": round(self.spent / 60, 2), "steps": self.num_timesteps, "score": score}
        print(json.dumps(line), flush=True)
        if self.log_file:
            with open(self.log_file, "a") as file:
                file.write(json.dumps(line) + "\n")


def play(policy, simulator, episodes):
    """The mean return of episodes with the seeds 1000, 1001, ..."""
    scores = []
    for seed in range(1000, 1000 + episodes):
        obs, over, score = simulator.reset(seed=seed)[0], False, 0.0
        while not over:
            action, _ = policy.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = simulator.step(action)
            score, over = score + reward, terminated or truncated
        scores.append(score)
    return round(float(np.mean(scores)), 2)


class RandomPolicy:
    """Uniform actions."""

    def __init__(self, space, seed):
        self.space = space
        space.seed(seed)

    def predict(self, obs, deterministic=True):
        return self.space.sample(), None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=25)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--every", type=float, default=2, help="minutes between trials")
    parser.add_argument("--log", help="a file for the curve")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small

    run = worldmodel.load(args.run)
    dreams = worldmodel.DreamVectorEnv(
        run,
        args.envs,
        obs="features",
        horizon=args.horizon,
        seed=args.seed,
        autoreset_mode="SameStep",
    )
    simulator = SeenByModel(envs.make_factory(run.config.env, run.config.distract)(), run)
    random = play(RandomPolicy(simulator.action_space, args.seed), simulator, args.episodes)
    print(f"random actions: {random}")
    ppo = PPO(
        "MlpPolicy",
        DreamVecEnv(dreams),
        n_steps=32,
        batch_size=512,
        n_epochs=8,
        gamma=0.97,
        gae_lambda=0.95,
        ent_coef=0.002,
        policy_kwargs={"net_arch": [128, 128]},
        seed=args.seed,
        device="cpu",
    )
    trial = Trial(simulator, args.minutes, args.every, args.episodes, args.log)
    ppo.learn(10**9, callback=trial)
    trial.note()
    score = play(ppo, simulator, args.episodes)
    print(
        f"PPO after {args.minutes:g} minutes of dreaming: {score}, {score / random:.1f} x random"
    )


if __name__ == "__main__":
    main()

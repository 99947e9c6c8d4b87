"""Greedy test episodes during a training, played by rank 0."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.distributed import World
from worldmodel.policy.agent import Agent
from worldmodel.rollout.collector import Rollout, VectorEnv, make_episode_seeds
from worldmodel.rollout.evaluation_episodes import Evaluation, run_episodes
from worldmodel.rollout.player import Player
from worldmodel.system.runtime import make_generator
from worldmodel.system.stop_request import Stop
from worldmodel.training import evaluation_media
from worldmodel.training.logger import Logger


@dataclass
class Evaluator:
    """Plays whole episodes on seeds that training never uses, and logs their scores."""

    agent: Agent
    logger: Logger
    world: World
    entropy: tuple[int, ...]

    def evaluate(
        self, envs: VectorEnv, stop: Stop, frames: int, episodes: int
    ) -> Evaluation | None:
        """Play episodes; None if a stop is asked for.

        Rank 0 plays and the others follow step by step, so that all see a stop and none waits
        for long.
        """
        if not self.world.main:
            return self._follow(stop)
        entropy, device = (*self.entropy, frames), self.agent.device.type
        player = Player(self.agent, envs.num_envs, "eval", make_generator(*entropy, device=device))
        rollout = Rollout(envs, self.agent.space, make_episode_seeds(*entropy))

        def after_step(done: int) -> bool:
            self.world.any(done == episodes)  # tells the others
            return bool(stop)

        result = run_episodes(rollout, player, episodes, after_step)
        if result is None:
            return None
        self.logger.write_scores(frames, {**result.summarize(), **self.logger.measure_times()})
        evaluation_media.log_evaluation(
            self.logger, frames, self.agent, result, make_generator(*entropy, 1, device=device)
        )
        return result

    def _follow(self, stop: Stop) -> Evaluation | None:
        over = False
        while not over:
            over = self.world.any(False)
            if stop:
                return None
        return Evaluation([], [], [])

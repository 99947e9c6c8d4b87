"""Another task of the same body: its rewards and ends, learnt by new heads on frozen features.

They are fitted to new episodes: the first half is random, and each of the others follows plans by
the heads as they are then. Or the run's replayed episodes are simulated again in the other task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import UsageError
from worldmodel.evaluation.returns.evaluation_rollout import record_episode
from worldmodel.rollout.collector import Episode, Rollout, convert_spaces, make_episode_seeds
from worldmodel.rollout.player import Player
from worldmodel.spaces import Row, select_prefix
from worldmodel.system.runtime import make_generator

SEED_STREAM = 21  # these episodes have other seeds than those of training and evaluation
UPDATES, BATCH, RATE = 1000, 256, 1e-3  # of the heads, by Adam, each time they are fitted
LONGEST = 100_000  # rows of an episode


@dataclass(frozen=True)
class Script:
    """The seed of an episode and the actions (N,A) to take in it, however it then goes."""

    seed: int
    actions: np.ndarray


def check_spaces(run: Any, envs: Any) -> None:
    """UsageError unless the environments are seen and acted in as the run has learned to."""
    found, learned = convert_spaces(envs), (run.observation_space, run.action_space)
    for there, here in zip(found, learned, strict=True):
        if there != here:
            raise UsageError(
                f"--env.task {run.other_task} has {there}, and {run.path} has learned {here}; it "
                "must be a task of the same body"
            )


class RewardRecorder:
    """A policy for rollouts of one environment: it passes on a player's actions or a script's, and
    keeps the features (F,), rewards and ends of all rows that an action led to.
    """

    def __init__(self) -> None:
        self.player: Player | None = None  # of the present episode
        self.script: list[np.ndarray] = []  # the actions that are left of it
        self.feat: list[Tensor] = []
        self.reward: list[float] = []
        self.terminal: list[bool] = []

    def __call__(self, rows: list[Row]) -> np.ndarray:
        assert self.player is not None
        chosen, [row] = self.player(rows), rows
        if not row["is_first"]:
            state = select_prefix(self.player.carry, "state/")
            self.feat.append(self.player.agent.model.dynamics.features(state)[0].float())
            self.reward.append(float(row["reward"]))
            self.terminal.append(bool(row["is_terminal"]))
        return self.script.pop(0)[None] if self.script else chosen


def fit_heads(model: Any, data: RewardRecorder, generator: torch.Generator) -> None:
    """Train a model's heads of reward and continuation, and nothing else, on recorded rows."""
    feat = torch.stack(data.feat)
    reward = torch.tensor(data.reward, device=feat.device)
    terminal = torch.tensor(data.terminal, device=feat.device)
    model.ends.fill_(bool(terminal.any()))
    weights = [*model.reward.parameters(), *model.cont.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, RATE)
    for _ in range(UPDATES):
        rows = torch.randint(len(feat), (BATCH,), generator=generator).to(feat.device)
        loss = model.reward.loss(feat[rows], reward[rows]).mean()
        loss = loss + model.cont.loss(feat[rows], 1.0 - terminal[rows].float()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)


def learn_task(
    run: Any, envs: Any, seed: int, episodes: int, scripts: Sequence[Script] = ()
) -> list[float]:
    """Fit the heads of a run for another task, to scripted episodes or to so many of its own;
    return the episodes' returns. `run` plans, as `Run.replace_task` has made it.
    """
    guesser = run.apply_overrides({"behavior.name": "random"})
    recorder, generator = RewardRecorder(), make_generator(seed, SEED_STREAM)
    returns: list[float] = []
    for number in range(len(scripts) or episodes):
        planned = not scripts and number >= (episodes + 1) // 2
        if planned:
            fit_heads(run.model, recorder, generator)
        agent = (run if planned else guesser).agent
        own = make_generator(seed, SEED_STREAM, number, device=agent.device.type)
        recorder.player = Player(agent, 1, "train", own)
        recorder.script, length = [], LONGEST
        rollout = Rollout(envs, run.action_space, make_episode_seeds(seed, SEED_STREAM, number))
        if scripts:
            recorder.script = list(scripts[number].actions)
            length = len(recorder.script) + 1
            rollout.episodes = [Episode(0, scripts[number].seed)]
        rows = record_episode(rollout, recorder, length)
        returns.append(float(sum(row["reward"] for row in rows)))
    fit_heads(run.model, recorder, generator)
    return returns

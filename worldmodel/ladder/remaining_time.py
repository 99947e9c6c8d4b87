"""How long the trainings of a ladder take, relative to each other, and how long the rest will."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from worldmodel.config.schema import Config
from worldmodel.sweep.grid import Cell
from worldmodel.sweep.progress import SweepProgress
from worldmodel.system.console import format_duration

# Processor seconds of one core, measured on the presets.
START = 8.0  # of a process, with its closing pictures
PLAN, MEMBER_PLAN = 0.009, 0.002  # of an iteration of a plan, and more for each further member
UPDATE, MEMBER_UPDATE = 0.008, 0.001
IMAGINED_STEP = 0.003  # of an update that imagines, for each step
POLICY_UPDATE = 0.015
PICTURES = 6.0  # how many times as long all takes from pictures


class LadderProgress(SweepProgress):
    """Says with each training how many are left and about how long they take."""

    def __init__(self, cells: Sequence[Cell], logs: Path):
        super().__init__(cells, logs)
        self.began, self.before = time.monotonic(), set[Cell]()

    def list_pending(self) -> list[Cell]:
        pending = super().list_pending()
        self.before = set(self.codes)
        return pending

    def describe_left(self) -> str:
        left = [cell for cell in self.cells if cell not in self.codes]
        ended = [c for c, code in self.codes.items() if code == 0 and c not in self.before]
        done = sum(estimate_seconds(cell.config) for cell in ended)
        if not left or not done:
            return ""
        cost = sum(estimate_seconds(cell.config) for cell in left)
        elapsed = time.monotonic() - self.began
        return f" ({len(left)} left, about {format_duration(elapsed * cost / done)})"


def estimate_seconds(c: Config) -> float:
    """About how many processor seconds a training takes."""
    members, train = c.ensemble.size, c.train
    steps = max(0, c.run.frames - train.prefill)  # that follow the first fit
    test = c.log.final_episodes * 150
    share = train.refit / train.round if train.schedule == "rounds" else train.updates_per_step
    updates = train.pretrain + steps * share
    found = updates * (UPDATE + MEMBER_UPDATE * (members - 1))
    if c.behavior.name == "mpc":
        plan = (PLAN + MEMBER_PLAN * (members - 1)) * c.planner.iterations
        whole = c.behavior.replan == "plan"
        found += (steps + test) * plan / (c.planner.horizon if whole else 1)
    else:
        imagined = c.imag.horizon if c.behavior.name == "actor_critic" else longest_rollout(c)
        policy = updates if not train.policy_updates_per_step else 0.0
        policy += steps * train.policy_updates_per_step
        found += policy * (POLICY_UPDATE + IMAGINED_STEP * imagined)
    return START + found * (PICTURES if c.env.obs == "pixels" else 1.0)


def longest_rollout(c: Config) -> int:
    """The most imagined steps of a branch of the Dyna agent."""
    length = c.dyna.rollout_length
    return max(length[:2]) if isinstance(length, list | tuple) else length

"""Returns of plans in imagination and in the simulator, and how planners exploit model errors.

A planner searches for plans with a high imagined return, so it finds errors of the model in its
favour. Exploitation is the imagined minus the real return of its own plans. The same gap of random
plans is the model's general optimism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.action_sensitivity import measure_sensitivity
from worldmodel.evaluation.quality.evaluated_model import EvaluatedModel, Planner
from worldmodel.evaluation.quality.prediction_metrics import spearman
from worldmodel.evaluation.quality.simulator import Branch, Simulator
from worldmodel.evaluation.quality.trial_starts import TrialCounts, TrialStart
from worldmodel.rollout.statistics import estimate_interval
from worldmodel.spaces import ActionSpace, State

SAMPLES = 8  # imagined rollouts per plan, which are averaged


@dataclass
class PlanTrials:
    """Results with one entry per plan.

    The pictures (M,P,H,W,3) in [0, 1] of the random plans have one entry per start.
    """

    start: list[int] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    imagined: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    imagined_pictures: list[np.ndarray] = field(default_factory=list)
    real_pictures: list[np.ndarray] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)
    failed_starts: int = 0  # starts that the simulator did not reproduce

    def add(
        self,
        kinds: Sequence[str],
        imagined: np.ndarray,
        branches: Sequence[Branch],
        pictures: Tensor | None,
    ):
        """Add the results of all plans from one start."""
        number = len(set(self.start))
        self.start += [number] * len(kinds)
        self.kind += kinds
        self.imagined += imagined.tolist()
        self.real += [float(b.reward.sum()) for b in branches]
        if pictures is not None:
            random = [i for i, kind in enumerate(kinds) if kind == "random"]
            self.imagined_pictures.append(pictures[random].numpy())
            real = [branches[i].pictures for i in random]
            self.real_pictures.append(
                np.stack([p for p in real if p is not None]).astype(np.float32) / 255
            )
            self.seen.append(np.stack([branches[i].seen for i in random]))


def imagine_plans(
    model: EvaluatedModel, state: State, plans: Tensor, counted: np.ndarray
) -> tuple[np.ndarray, Tensor | None]:
    """Returns (N,) and mean pictures (N,P,H,W,3) of plans (N,P,A) from one state (1,...).

    A reward is weighted by the probability of reaching it, and counts only where the simulator's
    reward counts (N,P). All plans use the same random draws, so that only actions differ.
    """
    total, pictures = torch.zeros(len(plans), dtype=torch.float64), None
    for draw in range(SAMPLES):
        rollouts = []
        for plan in plans:
            model.reseed(draw)
            rollouts.append(model.imagine(state, plan[None]))
        rollout = {k: torch.cat([r[k] for r in rollouts]) for k in rollouts[0]}
        cont = model.cont(rollout).double()
        alive = torch.cat([torch.ones_like(cont[:, :1]), cont[:, :-1]], 1).cumprod(1)
        total += (alive * model.reward(rollout) * torch.from_numpy(counted)).sum(1)
        if model.can_draw:
            decoded = model.decode(rollout) / SAMPLES
            pictures = decoded if pictures is None else pictures + decoded
    return (total / SAMPLES).numpy(), pictures


def try_plans(
    model: EvaluatedModel,
    simulator: Simulator,
    starts: Sequence[TrialStart],
    own: dict[str, Planner],
    space: ActionSpace,
    counts: TrialCounts,
    seed: int,
    on_plan: Callable[[int], None],
) -> PlanTrials:
    """Execute random plans and the run's own from every start, imagined and simulated."""
    generator = torch.Generator().manual_seed(seed)
    trials, done = PlanTrials(), 0
    kinds = ["random"] * counts.plans + list(own)
    for start in starts:
        state = start.state
        random = space.random(counts.plans * counts.length, generator).unflatten(
            0, (counts.plans, counts.length)
        )
        plans = torch.cat([random, *(make(state) for make in own.values())])
        branches: list[Branch] = []
        for plan in plans:
            branch = simulator.simulate_plan(start.episode, start.step, plan.numpy())
            if branch is None:
                break
            branches.append(branch)
            on_plan(done + len(branches))
        done += len(plans)
        if len(branches) < len(plans):
            trials.failed_starts += 1
            continue
        trials.add(kinds, *_imagine_branches(model, state, plans, branches))
    return trials


def _imagine_branches(
    model: EvaluatedModel, state: State, plans: Tensor, branches: list[Branch]
) -> tuple:
    imagined, pictures = imagine_plans(
        model, state, plans, np.stack([b.counted for b in branches])
    )
    return imagined, branches, pictures


def compare_returns(trials: PlanTrials, seed: int = 0) -> dict[str, Any]:
    """Rank correlations of imagined and real returns, and both returns and their gap by kind."""
    start, kind = np.array(trials.start), np.array(trials.kind)
    imagined, real = np.array(trials.imagined), np.array(trials.real)
    within = [spearman(imagined[start == s], real[start == s]) for s in np.unique(start)]
    known = [x for x in within if x == x]
    by_kind = {}
    for name in dict.fromkeys(trials.kind):
        own, actual = imagined[kind == name], real[kind == name]
        # Plans from one start are not independent: the interval is over starts.
        gaps = np.array(
            [(own - actual)[start[kind == name] == s].mean() for s in np.unique(start)]
        )
        low, high = estimate_interval(gaps, seed)
        numbers = {
            "imagined": own.mean(),
            "real": actual.mean(),
            "gap": gaps.mean(),
            "gap_low": low,
            "gap_high": high,
        }
        by_kind[name] = {k: float(v) for k, v in numbers.items()}
    return {
        "rank_within": float(np.mean(known)) if known else float("nan"),
        "rank_pooled": spearman(imagined, real),
        "by_kind": by_kind,
        "exploitation": by_kind["planner"]["gap"] if "planner" in by_kind else float("nan"),
        "start": trials.start,
        "kind": trials.kind,
        "imagined": trials.imagined,
        "real": trials.real,
    }


def measure_plan_sensitivity(trials: PlanTrials) -> dict[str, np.ndarray]:
    """Action sensitivity of the random plans."""
    return measure_sensitivity(
        np.stack(trials.imagined_pictures), np.stack(trials.real_pictures), np.stack(trials.seen)
    )

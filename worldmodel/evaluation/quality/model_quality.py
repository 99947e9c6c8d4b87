"""All measures of a world model's quality on episodes that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.evaluated_model import EvaluatedModel, Planner
from worldmodel.evaluation.quality.open_loop_error import (
    MeanBaseline,
    Table,
    add_centre_kl,
    compute_curves,
    join_tables,
    measure_windows,
)
from worldmodel.evaluation.quality.plan_returns import (
    PlanTrials,
    compare_returns,
    measure_plan_sensitivity,
    try_plans,
)
from worldmodel.evaluation.quality.policies import Policies
from worldmodel.evaluation.quality.policy_returns import measure_policy_returns, rank_policies
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.quality.state_probe import measure_by_horizon
from worldmodel.evaluation.quality.trial_starts import (
    TrialCounts,
    TrialStart,
    choose_trial_starts,
)
from worldmodel.model.representation_metrics import measure_spread
from worldmodel.spaces import ActionSpace, State


@dataclass(frozen=True)
class SimulatorTrials:
    """The simulator, with the plans and policies that are tried in it."""

    simulator: Simulator
    own: dict[str, Planner]
    policies: Policies
    space: ActionSpace
    counts: TrialCounts

    @property
    def work(self) -> int:
        return self.counts.starts * (self.counts.plans + len(self.own) + len(self.policies))


@dataclass
class QualityResults:
    """Results by name, and a line for each part that is left out."""

    results: dict[str, Any]
    left_out: list[str]


def measure_quality(
    model: EvaluatedModel,
    episodes: Sequence[RecordedEpisode],
    context: int,
    length: int,
    seed: int = 0,
    real: SimulatorTrials | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> QualityResults:
    """Measure everything; UsageError if no episode is longer than the context."""
    longest = max(len(e) for e in episodes)
    if longest <= context + 1:
        raise UsageError(
            f"--context: the longest episode has {longest} rows; give fewer than {longest - 1}"
        )
    length = min(length, longest - context)
    baseline = MeanBaseline.fit(episodes)
    posteriors: list[State] = []
    tables: list[Table | None] = []
    closed: list[float] = []
    for n, episode in enumerate(episodes):
        post, prior = model.observe(episode.columns)
        posteriors.append(post)
        closed.append(
            float(model.kl(post, prior)[context:].mean())
            if len(episode) > context
            else float("nan")
        )
        tables.append(measure_windows(model, episode, post, context, length, baseline))
        on_step(n + 1)
    add_centre_kl(model, episodes, posteriors, tables, context)
    whole = join_tables([t for t in tables if t is not None])
    quality = QualityResults(compute_curves(whole, baseline, float(np.nanmean(closed))), [])
    if not model.can_draw:
        quality.left_out.append("this model cannot draw: no picture errors, no action sensitivity")
    if not quality.results["continuation"]["ends_seen"]:
        quality.left_out.append(
            "no measured episode terminated: Brier scores only show that no end was predicted"
        )
    quality.results["features"] = _measure_features(model, posteriors, whole)
    _measure_probe(quality, model, episodes, posteriors, tables)
    if real is None:
        quality.left_out.append(
            "no simulator: no returns of plans and policies, no action sensitivity"
        )
    else:
        starts = choose_trial_starts(episodes, posteriors, real.counts, context, seed)
        _measure_trials(quality, model, real, starts, seed, lambda n: on_step(len(episodes) + n))
    return quality


def _measure_trials(
    quality: QualityResults,
    model: EvaluatedModel,
    real: SimulatorTrials,
    starts: Sequence[TrialStart],
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Measure plans and policies in imagination and in the simulator."""
    trials = try_plans(
        model, real.simulator, starts, real.own, real.space, real.counts, seed, on_step
    )
    _summarize_plans(quality, trials, seed)
    if not real.counts.policy_steps:
        quality.left_out.append("policies are not run (--follow 0)")
        return
    before, length = len(starts) * (real.counts.plans + len(real.own)), real.counts.policy_steps
    found = measure_policy_returns(
        model, real.simulator, starts, real.policies, length, seed, lambda n: on_step(before + n)
    )
    if found.real:
        quality.results["policies"] = rank_policies(found, length, seed)
    else:
        quality.left_out.append("no policy could be run: no ranking of policies")


def _measure_features(
    model: EvaluatedModel, posteriors: Sequence[State], whole: Table
) -> dict[str, float]:
    """Spread of the posterior and of imagined features at the last horizon."""
    seen = torch.cat([model.feat(b) for b in posteriors])
    last = whole["feat"][:, -1]
    imagined = torch.from_numpy(last[np.isfinite(last).all(-1)]).float()
    found = measure_spread("posterior", seen[None]) | measure_spread("open_loop", imagined[None])
    return {"size": seen.shape[-1], **{k: float(v) for k, v in found.items()}}


def _measure_probe(
    quality: QualityResults,
    model: EvaluatedModel,
    episodes: Sequence[RecordedEpisode],
    posteriors: Sequence[State],
    tables: Sequence[Table | None],
) -> None:
    """Linear probes from posteriors and from imagined features to the simulator's state."""
    usable = [
        (e, b, t) for e, b, t in zip(episodes, posteriors, tables, strict=True) if t is not None
    ]
    if any(e.state is None for e in episodes):
        quality.left_out.append("the simulator's state is not known: no linear probes")
    elif len(usable) < 3:
        quality.left_out.append(
            "fewer than 3 episodes (--episodes): no linear probes, which hold every third one out"
        )
    else:
        feats = [model.feat(b).double().numpy() for _, b, _ in usable]
        states = [e.state.astype(np.float64) for e, _, _ in usable if e.state is not None]
        quality.results["probe"] = measure_by_horizon(feats, states, [t for _, _, t in usable])


def _summarize_plans(quality: QualityResults, trials: PlanTrials, seed: int) -> None:
    if trials.failed_starts:
        quality.left_out.append(
            f"{trials.failed_starts} starts of plans: replayed from seed and actions, "
            f"the environment reached other states"
        )
    if not trials.kind:
        quality.left_out.append(
            "no plan could be tried: no exploitation and no action sensitivity"
        )
        return
    quality.results["plans"] = compare_returns(trials, seed)
    if "planner" not in trials.kind:
        quality.left_out.append("no planner: no exploitation")
    if trials.imagined_pictures:
        found = measure_plan_sensitivity(trials)
        if np.isfinite(found["agreement"]).any():
            quality.results["sensitivity"] = found
        else:
            quality.left_out.append("actions never changed the pictures: no action sensitivity")

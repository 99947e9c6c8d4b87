"""The quality of a world model on episodes it was not trained on: all of its numbers, and what
could not be had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.evaluated_model import Opened, Planner
from worldmodel.evaluation.quality.held_out_episodes import Recorded, Simulator
from worldmodel.evaluation.quality.open_loop_error import (
    Table,
    Usual,
    beside_centre,
    curves,
    dream_on,
    joined,
)
from worldmodel.evaluation.quality.plan_returns import (
    Amounts,
    Start,
    Trials,
    compared,
    sensitive,
    starts_from,
    try_plans,
)
from worldmodel.evaluation.quality.policy_returns import Policies, follow, ranked
from worldmodel.evaluation.quality.state_probe import by_horizon
from worldmodel.model.representation_metrics import spread
from worldmodel.spaces import ActionSpace, State


@dataclass(frozen=True)
class Real:
    """The simulator, whose plans are tried in it, and which policies are followed."""

    simulator: Simulator
    own: dict[str, Planner]
    policies: Policies
    space: ActionSpace
    amounts: Amounts

    @property
    def work(self) -> int:
        return self.amounts.starts * (self.amounts.plans + len(self.own) + len(self.policies))


@dataclass
class Quality:
    """Results by name, and a line for each part that is left out."""

    results: dict[str, Any]
    left_out: list[str]


def measure(
    model: Opened,
    episodes: Sequence[Recorded],
    context: int,
    length: int,
    seed: int = 0,
    real: Real | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> Quality:
    """All there is to know; UsageError where no episode is longer than the context."""
    longest = max(len(e) for e in episodes)
    if longest <= context + 1:
        raise UsageError(
            f"--context: the longest episode has {longest} rows; give fewer than {longest - 1}"
        )
    length = min(length, longest - context)
    usual = Usual.of(episodes)
    beliefs: list[State] = []
    tables: list[Table | None] = []
    closed: list[float] = []
    for n, episode in enumerate(episodes):
        post, prior = model.observe(episode.columns)
        beliefs.append(post)
        closed.append(
            float(model.kl(post, prior)[context:].mean())
            if len(episode) > context
            else float("nan")
        )
        tables.append(dream_on(model, episode, post, context, length, usual))
        on_step(n + 1)
    beside_centre(model, episodes, beliefs, tables, context)
    whole = joined([t for t in tables if t is not None])
    quality = Quality(curves(whole, usual, float(np.nanmean(closed))), [])
    if not model.draws:
        quality.left_out.append(
            "this model cannot draw: no numbers of pictures, no action sensitivity"
        )
    if not quality.results["continuation"]["ends_seen"]:
        quality.left_out.append(
            "no measured episode ended for good: Brier scores only say that no end was expected"
        )
    quality.results["features"] = _features(model, beliefs, whole)
    _probe(quality, model, episodes, beliefs, tables)
    if real is None:
        quality.left_out.append(
            "no simulator at hand: plans were not tried, policies not followed, action "
            "sensitivity not seen"
        )
    else:
        starts = starts_from(episodes, beliefs, real.amounts, context, seed)
        _tried(quality, model, real, starts, seed, lambda n: on_step(len(episodes) + n))
    return quality


def _tried(
    quality: Quality,
    model: Opened,
    real: Real,
    starts: Sequence[Start],
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Plans and policies, in the dream and in the simulator."""
    trials = try_plans(
        model, real.simulator, starts, real.own, real.space, real.amounts, seed, on_step
    )
    _plans(quality, trials, seed)
    if not real.amounts.follow:
        quality.left_out.append("policies are not followed (--follow 0)")
        return
    before, length = len(starts) * (real.amounts.plans + len(real.own)), real.amounts.follow
    found = follow(
        model, real.simulator, starts, real.policies, length, seed, lambda n: on_step(before + n)
    )
    if found.real:
        quality.results["policies"] = ranked(found, length, seed)
    else:
        quality.left_out.append("no policy could be followed: no ranking of policies")


def _features(model: Opened, beliefs: Sequence[State], whole: Table) -> dict[str, float]:
    """Spread of what is believed and of what is dreamt at the last horizon, and how many numbers a
    feature has.
    """
    seen = torch.cat([model.feat(b) for b in beliefs])
    last = whole["feat"][:, -1]
    dreamt = torch.from_numpy(last[np.isfinite(last).all(-1)]).float()
    found = spread("posterior", seen[None]) | spread("open_loop", dreamt[None])
    return {"size": seen.shape[-1], **{k: float(v) for k, v in found.items()}}


def _probe(
    quality: Quality,
    model: Opened,
    episodes: Sequence[Recorded],
    beliefs: Sequence[State],
    tables: Sequence[Table | None],
) -> None:
    """The simulator's state, read linearly off beliefs and off dreams."""
    usable = [
        (e, b, t) for e, b, t in zip(episodes, beliefs, tables, strict=True) if t is not None
    ]
    if any("vector" not in e.columns for e in episodes):
        quality.left_out.append("the simulator's state is not known: no linear probes")
    elif len(usable) < 3:
        quality.left_out.append(
            "fewer than 3 episodes (--episodes): no linear probes, which hold every third one out"
        )
    else:
        feats = [model.feat(b).double().numpy() for _, b, _ in usable]
        states = [e.columns["vector"].astype(np.float64) for e, _, _ in usable]
        quality.results["probe"] = by_horizon(feats, states, [t for _, _, t in usable])


def _plans(quality: Quality, trials: Trials, seed: int) -> None:
    if trials.strays:
        quality.left_out.append(
            f"{trials.strays} starts of plans: simulated again by seed and actions, the "
            f"environment came out elsewhere"
        )
    if not trials.kind:
        quality.left_out.append(
            "no plan could be tried: no exploitation and no action sensitivity"
        )
        return
    quality.results["plans"] = compared(trials, seed)
    if "planner" not in trials.kind:
        quality.left_out.append("no planner: no exploitation")
    if trials.dreamt:
        found = sensitive(trials)
        if np.isfinite(found["agreement"]).any():
            quality.results["sensitivity"] = found
        else:
            quality.left_out.append("actions never changed the pictures: no action sensitivity")

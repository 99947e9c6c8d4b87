"""The drivers of a saved run (actor, planners, random) with their returns and thinking times."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from worldmodel import registry
from worldmodel.config.component_settings import read_settings, states_fact
from worldmodel.config.preset_files import find_preset_files
from worldmodel.config.schema import Config, PlannerConfig, find_planner_lack, needs_critic
from worldmodel.config.yaml_io import read_yaml
from worldmodel.evaluation.plotting.style import (
    describe_markers,
    get_line_style,
    load_pyplot,
    save_figure,
    scale_markers,
)
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.rollout.player import Player
from worldmodel.rollout.statistics import warn_few_values
from worldmodel.spaces import Row

Overrides = list[tuple[str, str]]

# The keys by which the preset icem differs from a CEM of any size.
ICEM_KEYS = ("momentum", "keep", "decay", "color")
ICEM_OVERRIDES = [
    (f"planner.{k}", str(v))
    for k, v in read_yaml(find_preset_files()["icem"])["planner"].items()
    if k in ICEM_KEYS
]
CANDIDATES_PER_PROPOSAL = 20  # with proposals, one candidate in 20 comes from the actor
NO_POLICY = "this run has no actor and no critic (train with behavior.name actor_critic)"
NO_CRITIC = "this run has an actor alone and no critic"
NO_LEARNING = "this run plans in the true simulator: it trains no actor and no critic"
STEP_EFFORT = 50  # of a step without planning
ROUND_EFFORT = 500  # of a round of a planner without candidates
MOST_FEATURES = 100  # which a planner linearises unasked


@dataclass(frozen=True)
class Driver:
    """Whatever chooses the actions, as overrides of the run's configuration.

    `candidates` is None without a planner. `effort` estimates the time of a step with the
    simulator, in units of an imagined candidate.
    """

    name: str
    overrides: Overrides
    candidates: int | None = None
    effort: int = STEP_EFFORT


@dataclass(frozen=True)
class PlannerVariant:
    """A planner, its score and whether the actor proposes some of its candidates."""

    planner: str
    score: str = "reward"
    has_proposals: bool = False
    more: tuple[tuple[str, str], ...] = ()

    @property
    def needs_actor_critic(self) -> bool:
        """Whether it needs an actor or a critic."""
        return self.has_proposals or needs_critic(self.score)

    def overrides(self, candidates: int | None = None, elites: int | None = None) -> Overrides:
        keys: dict[str, Any] = {"name": self.planner, "score": self.score, "proposals": 0}
        if candidates is not None:
            keys |= {"candidates": candidates, "elites": elites}
        if candidates is not None and self.has_proposals:
            keys["proposals"] = max(1, candidates // CANDIDATES_PER_PROPOSAL)
        return [
            ("behavior.name", "mpc"),
            *((f"planner.{k}", str(v)) for k, v in keys.items()),
            *self.more,
        ]


PLANNER_VARIANTS = {
    "shooting": PlannerVariant("shooting"),
    "cem": PlannerVariant("cem"),
    "icem": PlannerVariant("cem", more=tuple(ICEM_OVERRIDES)),
    "mppi": PlannerVariant("mppi"),
    "cem, critic": PlannerVariant("cem", "reward+value"),
    "cem, actor": PlannerVariant("cem", "reward", True),
    "cem, actor and critic": PlannerVariant("cem", "reward+value", True),
    "mppi, actor and critic": PlannerVariant("mppi", "reward+value", True),
}
for _planner in registry.PLANNERS:
    PLANNER_VARIANTS.setdefault(_planner, PlannerVariant(_planner))


def list_drivers(
    planner: PlannerConfig,
    learned: bool,
    budgets: Sequence[float],
    actor: str = "actor_critic",
    why: str = NO_POLICY,
    lacks: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Driver], dict[str, str]]:
    """The drivers of a run by full name, and the reason by name for those that it lacks.

    A planner is listed once for each budget, a share of the run's candidates, or once if it has no
    candidates; without budgets there is no planner. `actor` is the behavior that acts by the run's
    actor, `why` the reason where nothing was learned that could, and `lacks` holds the reasons by
    name for planners that cannot search here.
    """
    found = {"random": Driver("random", [("behavior.name", "random")])}
    if learned:
        found["actor"] = Driver("actor", [("behavior.name", actor)])
    variants = PLANNER_VARIANTS if budgets else {}
    able = {
        name: planning
        for name, planning in variants.items()
        if name not in lacks and (learned or not planning.needs_actor_critic)
    }
    for name, planning in able.items():
        if not has_candidates(planning.planner):
            effort = STEP_EFFORT + planner.iterations * ROUND_EFFORT
            found[name] = Driver(name, planning.overrides(), None, effort)
            continue
        for share in budgets:
            candidates = max(4, round(planner.candidates * share))
            elites = min(max(2, round(planner.elites * share)), candidates // 2)
            rounds = 1 if planning.planner == "shooting" else planner.iterations
            effort = STEP_EFFORT + rounds * candidates
            found[f"{name}, {candidates}"] = Driver(
                name, planning.overrides(candidates, elites), candidates, effort
            )
    unable = {} if learned else {"actor": why}
    unable |= {name: lacks.get(name, why) for name in variants if name not in able}
    return found, {name: f"left out: {name}; {reason}" for name, reason in unable.items()}


def has_candidates(planner: str) -> bool:
    """Whether a planner has a number of candidates, which budgets are shares of."""
    settings = read_settings(registry.PLANNERS[planner])
    return settings is None or "candidates" in settings.__annotations__


def find_lacks(
    c: Config,
    discrete: bool,
    features: int,
    named: Collection[str] = (),
    policy: LearnedPolicy | None = None,
) -> dict[str, str]:
    """The reason by name for each planner that cannot search with a run's model, actions and
    policy, or would take seconds for an action and is not among those that the command line
    named.
    """
    found: dict[str, str | None] = {}
    for name, variant in PLANNER_VARIANTS.items():
        found[name] = find_planner_lack(c, variant.planner, variant.score, discrete)
        if policy is not None and not policy.has_critic and needs_critic(variant.score):
            found[name] = NO_CRITIC
        linearizes = states_fact(registry.PLANNERS[variant.planner], "needs_predicted_features")
        if not found[name] and linearizes and features > MOST_FEATURES and name not in named:
            found[name] = f"with {features} features it is slow; --drivers {name} runs it"
    return {name: lack for name, lack in found.items() if lack}


class TimedPlayer:
    """A player that measures how long it takes for each action."""

    def __init__(self, player: Player):
        self.player, self.seconds = player, list[float]()

    def __call__(self, rows: list[Row]) -> np.ndarray:
        began = time.perf_counter()
        actions = self.player(rows)
        self.seconds.append(time.perf_counter() - began)
        return actions

    @property
    def milliseconds(self) -> float:
        """The median, which a slow first call does not affect."""
        return 1000 * float(np.median(self.seconds))


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """The results as text, best return first."""
    given = any("given_reward" in r for r in results.values())
    lines = [f"{'driven by (candidates)':<30}{'return':>9}{'95 % interval':>20}{'ms/action':>11}"]
    lines[0] += f"{'by --reward':>13}" * given
    for name, r in sorted(results.items(), key=lambda item: -item[1]["eval/score"]):
        interval = (
            f"{r['eval/score_low']:.1f} to {r['eval/score_high']:.1f}"
            if len(r["scores"]) > 1
            else "-"
        )
        lines.append(f"{name:<30}{r['eval/score']:>9.1f}{interval:>20}{r['ms_per_action']:>11.1f}")
        lines[-1] += f"{r['given_reward']['mean']:>13.1f}" if given else ""
    count = min(len(r["scores"]) for r in results.values())
    return "\n".join(
        [
            *lines,
            *warn_few_values(
                f"{'one episode' if count == 1 else f'{count} episodes'} per driver (--episodes)",
                count,
            ),
        ]
    )


def plot_drivers(results: dict[str, dict[str, Any]], target: Path, title: str) -> Path:
    """Plot returns over thinking time; a line connects the budgets of each driver."""
    figure, axes = load_pyplot().subplots(figsize=(8.5, 5), dpi=100)
    sizes = scale_markers([r["candidates"] for r in results.values()])
    for number, way in enumerate(dict.fromkeys(r["way"] for r in results.values())):
        own = [r for r in results.values() if r["way"] == way]
        mean, low, high = (
            np.array([r[f"eval/score{k}"] for r in own]) for k in ("", "_low", "_high")
        )
        spread = [mean - low, high - mean] if all(len(r["scores"]) > 1 for r in own) else None
        style, took = get_line_style(number), [r["ms_per_action"] for r in own]
        axes.errorbar(
            took, mean, spread, label=way, capsize=2, lw=1.5, elinewidth=0.7, ms=5, **style
        )
        for r in own:
            axes.plot(
                r["ms_per_action"],
                r["eval/score"],
                ms=5 * sizes.get(r["candidates"], 1.0),
                **style,
            )
    axes.set_xscale("log")
    axes.set(
        xlabel=f"milliseconds per action, log scale{describe_markers(sizes)}",
        ylabel="mean return, 95 % range",
        title="up is better, left is faster",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return save_figure(figure, target, title)

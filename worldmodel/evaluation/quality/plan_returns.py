"""Plans as the model dreams them and as the simulator answers: returns side by side, and what
planners make of errors.

A planner looks for plans that the model likes. Where the model is wrong in their favour it finds
just those: what its own plans earn less than was dreamt is exploitation. The same of random plans
is the model's general optimism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.quality.action_sensitivity import sensitivity
from worldmodel.evaluation.quality.agreement import spearman
from worldmodel.evaluation.quality.evaluated_model import Opened, Planner
from worldmodel.evaluation.quality.held_out_episodes import Branch, Recorded, Simulator
from worldmodel.evaluation.quality.open_loop_error import pick
from worldmodel.rollout.episodes import interval
from worldmodel.spaces import ActionSpace, State

DRAWS = 8  # dreams of one plan, which are averaged


@dataclass(frozen=True)
class Amounts:
    """How many states to start from, how many random plans from each, how long plans are and
    policies are followed.
    """

    starts: int
    plans: int
    length: int
    follow: int


@dataclass(frozen=True)
class Start:
    """A step of an episode, and what is believed there (1,...)."""

    episode: Recorded
    step: int
    state: State


@dataclass
class Trials:
    """One entry per plan; pictures (M,P,H,W,3) of the random ones, one entry per start,
    in [0, 1].
    """

    start: list[int] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    imagined: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    dreamt: list[np.ndarray] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)
    strays: int = 0  # starts that the simulator did not come back to

    def add(
        self,
        kinds: Sequence[str],
        imagined: np.ndarray,
        branches: Sequence[Branch],
        pictures: Tensor | None,
    ):
        """All plans from one more start."""
        number = len(set(self.start))
        self.start += [number] * len(kinds)
        self.kind += kinds
        self.imagined += imagined.tolist()
        self.real += [float(b.reward.sum()) for b in branches]
        if pictures is not None:
            random = [i for i, kind in enumerate(kinds) if kind == "random"]
            self.dreamt.append(pictures[random].numpy())
            real = [branches[i].pictures for i in random]
            self.drawn.append(
                np.stack([p for p in real if p is not None]).astype(np.float32) / 255
            )
            self.seen.append(np.stack([branches[i].seen for i in random]))


def dream_plans(
    model: Opened, state: State, plans: Tensor, counted: np.ndarray
) -> tuple[np.ndarray, Tensor | None]:
    """Returns (N,) and mean pictures (N,P,H,W,3) of plans (N,P,A) from one state (1,...).

    A reward counts by the chance of being alive before it, and only where the simulator's counted
    (N,P). All plans are dreamt with the same luck, so that only actions tell them apart.
    """
    total, pictures = torch.zeros(len(plans), dtype=torch.float64), None
    for draw in range(DRAWS):
        dreams = []
        for plan in plans:
            model.reseed(draw)
            dreams.append(model.imagine(state, plan[None]))
        dream = {k: torch.cat([d[k] for d in dreams]) for k in dreams[0]}
        cont = model.cont(dream).double()
        alive = torch.cat([torch.ones_like(cont[:, :1]), cont[:, :-1]], 1).cumprod(1)
        total += (alive * model.reward(dream) * torch.from_numpy(counted)).sum(1)
        if model.draws:
            drawn = model.decode(dream) / DRAWS
            pictures = drawn if pictures is None else pictures + drawn
    return (total / DRAWS).numpy(), pictures


def starts_from(
    episodes: Sequence[Recorded],
    beliefs: Sequence[State],
    amounts: Amounts,
    context: int,
    seed: int,
) -> list[Start]:
    """Steps all over the episodes; with room for plans and policies after them, where the episode
    is that long.
    """
    rng, found = np.random.default_rng(seed), []
    long = [i for i, e in enumerate(episodes) if len(e) > context]
    for n in range(amounts.starts):
        episode, belief = episodes[long[n % len(long)]], beliefs[long[n % len(long)]]
        last = max(context - 1, len(episode) - 1 - max(amounts.length, amounts.follow))
        step = int(rng.integers(context - 1, last + 1))
        found.append(Start(episode, step, pick(belief, np.array([step]))))
    return found


def try_plans(
    model: Opened,
    simulator: Simulator,
    starts: Sequence[Start],
    own: dict[str, Planner],
    space: ActionSpace,
    amounts: Amounts,
    seed: int,
    on_plan: Callable[[int], None],
) -> Trials:
    """From every start, random plans and the run's own, dreamt and done."""
    generator = torch.Generator().manual_seed(seed)
    trials, done = Trials(), 0
    kinds = ["random"] * amounts.plans + list(own)
    for start in starts:
        state = start.state
        random = space.random(amounts.plans * amounts.length, generator).unflatten(
            0, (amounts.plans, amounts.length)
        )
        plans = torch.cat([random, *(make(state) for make in own.values())])
        branches: list[Branch] = []
        for plan in plans:
            branch = simulator.branch(start.episode, start.step, plan.numpy())
            if branch is None:
                break
            branches.append(branch)
            on_plan(done + len(branches))
        done += len(plans)
        if len(branches) < len(plans):
            trials.strays += 1
            continue
        trials.add(kinds, *_dreamt(model, state, plans, branches))
    return trials


def _dreamt(model: Opened, state: State, plans: Tensor, branches: list[Branch]) -> tuple:
    imagined, pictures = dream_plans(model, state, plans, np.stack([b.counted for b in branches]))
    return imagined, branches, pictures


def compared(trials: Trials, seed: int = 0) -> dict[str, Any]:
    """Rank correlations of imagined with real returns, and both by kind of plan with the gap
    between them.
    """
    start, kind = np.array(trials.start), np.array(trials.kind)
    imagined, real = np.array(trials.imagined), np.array(trials.real)
    within = [spearman(imagined[start == s], real[start == s]) for s in np.unique(start)]
    known = [x for x in within if x == x]
    by_kind = {}
    for name in dict.fromkeys(trials.kind):
        said, was = imagined[kind == name], real[kind == name]
        # Plans from one start are not independent: the interval is over starts.
        gaps = np.array([(said - was)[start[kind == name] == s].mean() for s in np.unique(start)])
        low, high = interval(gaps, seed)
        numbers = {
            "imagined": said.mean(),
            "real": was.mean(),
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


def sensitive(trials: Trials) -> dict[str, np.ndarray]:
    """Action sensitivity of the random plans."""
    return sensitivity(np.stack(trials.dreamt), np.stack(trials.drawn), np.stack(trials.seen))

"""What ensembles and the policies of the middle rungs cost, as ratios of CPU time in one process.

Each case and its baseline take turns, so that both meet the same load; the medians count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.compute import Entry, make_plan_function, pick_best_precision
from worldmodel import build
from worldmodel.config import loading
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

ACTION = ActionSpace(6)
VECTOR = 17  # entries of an observed vector
CPU = torch.device("cpu")

# Words of the command line; a case is measured beside its baseline.
MLP = ("pets", "mlp.layers=3", "mlp.units=200", "model.reward_head=gaussian")
MLP += ("model.cont_head=learned", "env.task=pendulum", "ensemble.size=1")
LATENT = ("laptop", "behavior.name=random", "loss.overshooting=1")
TRAINED = ("laptop", "behavior.name=actor_critic", "loss.overshooting=1")
FIVE = ("ensemble.size=5", "ensemble.of=dynamics")
HEADS = ("ensemble.size=5", "ensemble.of=heads")
SAC = ("model.dynamics=frame_stack", "loss.objective={}", "loss.probe=false")
SAC += ("dyna.rollout_length=0",)
UPDATES = {
    "mlp": ((*MLP, *FIVE), MLP),
    "priors": ((*LATENT, *FIVE), LATENT),
    "heads": ((*LATENT, *HEADS), LATENT),
    "corrective": ((*LATENT, "loss.corrective=1"), LATENT),
    "dyna": ((*TRAINED, "behavior.name=dyna", "actor.dist=squashed"), TRAINED),
    "sac": ((*TRAINED, "behavior.name=dyna", "actor.dist=squashed", *SAC), TRAINED),
    "plan2explore": (
        (*TRAINED, "behavior.name=plan2explore", "critic.replay=0", *HEADS),
        TRAINED,
    ),
}
MANY = ("planner.particles=5",)
MLP_PLAN = (*MLP, "planner.candidates=100", "planner.iterations=2", "planner.particles=0")
PLANS = {
    "mlp.equal_steps": ((*MLP_PLAN, *FIVE, *MANY), (*MLP_PLAN, *MANY)),
    "mlp.all_members": ((*MLP_PLAN, *FIVE), MLP_PLAN),
    "priors.equal_steps": ((*LATENT, *FIVE, *MANY), (*LATENT, *MANY)),
    "priors.all_members": ((*LATENT, *FIVE), LATENT),
    "heads.pessimism": ((*LATENT, *HEADS, "planner.pessimism=1"), (*LATENT, *HEADS)),
}


def measure_updates(rounds: int = 5) -> dict[str, Entry]:
    """Measure CPU seconds per update with five members beside one, and with other policies beside
    the imagination actor-critic.
    """
    return measure_cases("ensemble.update", UPDATES, make_update, rounds)


def measure_plans(rounds: int = 5) -> dict[str, Entry]:
    """Measure CPU seconds per plan: of five members at as many latent steps as one, of all members
    in turn beside one, and with pessimism by one-step heads.
    """
    return measure_cases("ensemble.plan", PLANS, make_plan, rounds)


def measure_cases(
    group: str,
    cases: dict[str, tuple[tuple[str, ...], tuple[str, ...]]],
    make: Callable[[tuple[str, ...]], Callable[[], object]],
    rounds: int,
) -> dict[str, Entry]:
    """Measure CPU seconds of each case beside those of its baseline."""
    found: dict[str, Entry] = {}
    for name, pair in cases.items():
        functions, times = [make(words) for words in pair], [[], []]
        for turn in range(rounds + 2):
            for function, taken in zip(functions, times, strict=True):
                began = time.process_time()
                function()
                taken += [time.process_time() - began] * (turn >= 2)
        value, baseline = (float(np.median(taken)) for taken in times)
        found[f"{group}.{name}"] = {"value": value, "unit": "CPU s", "baseline": baseline}
    return found


def make_parts(words: tuple[str, ...]):
    """The configuration of some words, its model, and a random batch."""
    c = loading.parse(list(words))
    torch.manual_seed(0)
    raw = c.env.obs == "state"
    observation = ObservationSpace({"vector": VECTOR} if raw else {"image": (*c.env.size, 3)})
    model = build.make_model(c, observation, ACTION)
    size = c.replay.batch, c.replay.length
    picture = torch.randint(0, 256, (*size, *c.env.size, 3), dtype=torch.uint8)
    batch = {"vector": torch.randn(*size, VECTOR)} if raw else {"image": picture}
    batch |= {"prev_action": torch.rand(*size, ACTION.size) * 2 - 1, "reward": torch.rand(size)}
    flags = ("is_first", "is_last", "is_terminal")
    return c, model, batch | {k: torch.zeros(size, dtype=torch.bool) for k in flags}


def make_update(words: tuple[str, ...]) -> Callable[[], object]:
    """A function that makes one update."""
    c, model, batch = make_parts(words)
    policy = build.make_policy(c, model, ACTION)
    learner = Learner(model, c.optim, CPU, pick_best_precision(), policy)
    return lambda: learner.update(batch)


def make_plan(words: tuple[str, ...]) -> Callable[[], object]:
    """A function that makes one plan from one state."""
    c, model, _ = make_parts(words)
    model.requires_grad_(False)
    return make_plan_function(c, model, ACTION, pick_best_precision())

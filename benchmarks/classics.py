"""What the classics cost, as ratios of CPU time in one process: locally linear and linear-Gaussian
dynamics, moved pixels, feature points, their losses, and planners by derivatives.

A plan by derivatives is measured beside CEM with the model that it has.
"""

from __future__ import annotations

from benchmarks.compute import Entry
from benchmarks.ensembles import make_plan, make_update, measure_cases

GAUSSIAN = ("laptop", "behavior.name=random", "loss.overshooting=1", "model.latent=gaussian")
PICTURES = ("foresight", "planner.score=reward")
RSSM = (*PICTURES, "model.dynamics=rssm", "loss.objective={reconstruction: 1}")
LINEAR = ("model.dynamics=locally_linear",)
UPDATES = {
    "locally_linear": ((*GAUSSIAN, *LINEAR), GAUSSIAN),
    "linear_gaussian": ((*GAUSSIAN, "model.dynamics=linear_gaussian"), GAUSSIAN),
    "pixels": (PICTURES, RSSM),
    "spatial": (
        (*GAUSSIAN, "model.patch=2", "model.encoder=spatial"),
        (*GAUSSIAN, "model.patch=2"),
    ),
    "straightening": ((*GAUSSIAN, "loss.objective.straightening=1"), GAUSSIAN),
    "curvature": ((*GAUSSIAN, *LINEAR, "loss.objective.curvature=1"), (*GAUSSIAN, *LINEAR)),
    "transition_contrastive": (
        (*GAUSSIAN, *LINEAR, "loss.objective.transition_contrastive=1"),
        (*GAUSSIAN, *LINEAR),
    ),
}
GRADIENT = ("planner.name=gradient",)
ILQR = ("planner.name=ilqr",)
PLANS = {
    "gradient": ((*GAUSSIAN, *GRADIENT), GAUSSIAN),
    "ilqr": ((*GAUSSIAN, *ILQR), GAUSSIAN),
    "ilqr.locally_linear": ((*GAUSSIAN, *LINEAR, *ILQR), (*GAUSSIAN, *LINEAR)),
    "cem.locally_linear": ((*GAUSSIAN, *LINEAR), GAUSSIAN),
    "cem.linear_gaussian": ((*GAUSSIAN, "model.dynamics=linear_gaussian"), GAUSSIAN),
    "cem.pixels": (PICTURES, RSSM),
}


def measure_updates(rounds: int = 5) -> dict[str, Entry]:
    """Measure CPU seconds per update beside an RSSM, or the same without the loss."""
    return measure_cases("classics.update", UPDATES, make_update, rounds)


def measure_plans(rounds: int = 3) -> dict[str, Entry]:
    """Measure CPU seconds per plan beside CEM, or beside an RSSM."""
    return measure_cases("classics.plan", PLANS, make_plan, rounds)

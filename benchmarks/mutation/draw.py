"""Draws mutants by a fixed seed: from each package in proportion to its lines, one a line.

A line's place in the draw depends on nothing but its own text and function, so that a change
elsewhere leaves the rest of the draw as it was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks.mutation.operators import Mutant, find_mutants

SEED = 0
COUNT = 320
# The longest prefix counts.
PACKAGES = (
    "worldmodel/model",
    "worldmodel/model/objectives",
    "worldmodel/policy",
    "worldmodel/policy/planners",
    "worldmodel/replay",
    "worldmodel/rollout",
    "worldmodel/training",
    "worldmodel/kernels",
)


# Files that are drawn from apart, and the tests of theirs.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rungs": (
        (
            "worldmodel/model/dynamics/mlp.py",
            "worldmodel/model/dynamics/simulator.py",
            "worldmodel/model/member_networks.py",
            "worldmodel/model/ensembles.py",
            "worldmodel/model/known_rewards.py",
            "worldmodel/policy/soft_actor_critic.py",
            "worldmodel/policy/learned_policy.py",
            "worldmodel/policy/plan2explore.py",
            "worldmodel/policy/evolution.py",
            "worldmodel/policy/plan_scores/__init__.py",
            "worldmodel/policy/plan_scores/particles.py",
            "worldmodel/policy/plan_scores/reward.py",
            "worldmodel/policy/plan_scores/goal_distance.py",
            "worldmodel/policy/behaviors/dyna.py",
            "worldmodel/policy/behaviors/plan2explore.py",
            "worldmodel/replay/resampling.py",
        ),
        (
            "tests/model/test_member_networks.py",
            "tests/policy/test_particles.py",
            "tests/model/test_state_dynamics.py",
            "tests/model/test_ensembles.py",
            "tests/model/test_known_rewards.py",
            "tests/model/test_simulator_dynamics.py",
            "tests/model/test_frame_stack.py",
            "tests/model/test_model.py",
            "tests/kernels/test_member_mlp.py",
            "tests/policy/test_control_problems.py",
            "tests/policy/test_plan_scores.py",
            "tests/policy/test_goals.py",
            "tests/policy/test_behaviors.py",
            "tests/policy/test_actor_critic.py",
            "tests/policy/test_evolution.py",
            "tests/policy/test_soft_actor_critic.py",
            "tests/policy/test_plan2explore.py",
            "tests/replay/test_resampling.py",
            "tests/programs/test_given_reward.py",
            "tests/programs/test_other_task.py",
            "tests/ladder/test_lesson_statements.py",
        ),
    ),
    "classics": (
        (
            "worldmodel/model/derivatives.py",
            "worldmodel/model/loss_balance.py",
            "worldmodel/model/spatial_encoder.py",
            "worldmodel/model/dynamics/linear_gaussian.py",
            "worldmodel/model/dynamics/locally_linear.py",
            "worldmodel/model/dynamics/pixels.py",
            "worldmodel/model/objectives/curvature.py",
            "worldmodel/model/objectives/decorrelation.py",
            "worldmodel/model/objectives/straightening.py",
            "worldmodel/model/objectives/transition_contrastive.py",
            "worldmodel/policy/guided_policy.py",
            "worldmodel/policy/local_controllers.py",
            "worldmodel/policy/local_models.py",
            "worldmodel/policy/behaviors/guided.py",
            "worldmodel/policy/plan_scores/control_problem.py",
            "worldmodel/policy/plan_scores/pixel_distance.py",
            "worldmodel/policy/planners/bounded_quadratic.py",
            "worldmodel/policy/planners/gradient.py",
            "worldmodel/policy/planners/ilqr.py",
        ),
        (
            "tests/model/test_derivatives.py",
            "tests/model/test_loss_balance.py",
            "tests/model/test_spatial_encoder.py",
            "tests/model/test_quadratic_head.py",
            "tests/model/test_linear_gaussian.py",
            "tests/model/test_locally_linear.py",
            "tests/model/test_pixels.py",
            "tests/model/test_classic_objectives.py",
            "tests/policy/test_control_problems.py",
            "tests/policy/test_controller_states.py",
            "tests/policy/test_gradient_planner.py",
            "tests/policy/test_guided_policy.py",
            "tests/policy/test_ilqr.py",
            "tests/policy/test_local_controllers.py",
            "tests/policy/test_local_models.py",
            "tests/policy/test_pixel_distance.py",
            "tests/policy/test_quadratic_cost.py",
        ),
    ),
}

# Files that joined a group after its first draw, which stays what it was: other seeds draw from
# them too.
JOINED: dict[str, tuple[str, ...]] = {
    "rungs": (
        "worldmodel/kernels/member_mlp.py",
        "worldmodel/model/dynamics/frame_stack.py",
        "worldmodel/model/given_reward.py",
        "worldmodel/model/kl.py",
        "worldmodel/model/multi_step.py",
        "worldmodel/policy/behaviors/mpc.py",
        "worldmodel/policy/plan_scores/reward_and_value.py",
        "worldmodel/evaluation/returns/other_task.py",
        "worldmodel/ladder/statements.py",
    ),
    "classics": (
        "worldmodel/policy/controller_states.py",
        "worldmodel/policy/quadratic_cost.py",
    ),
}


def find_package(path: str) -> str | None:
    """The package that a file belongs to."""
    return max((p for p in PACKAGES if path.startswith(p + "/")), key=len, default=None)


def rank(*of: object, seed: int = SEED) -> str:
    """A number at random for a thing, the same at every call, as text that sorts."""
    return hashlib.sha256(repr((seed, *of)).encode()).hexdigest()


def draw_mutants(root: Path, count: int = COUNT, seed: int = SEED) -> list[Mutant]:
    """About `count` mutants, those of a package in the order of the draw."""
    sources: dict[str, dict[str, bytes]] = {package: {} for package in PACKAGES}
    for path in sorted((root / "worldmodel").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if package := find_package(name):
            sources[package][name] = path.read_bytes()
    sizes = {p: sum(s.count(b"\n") for s in files.values()) for p, files in sources.items()}
    found = []
    for package, files in sources.items():
        share = round(count * sizes[package] / sum(sizes.values()))
        found += draw_from_files(files, share, seed)
    return found


def list_files(group: str, seed: int) -> tuple[str, ...]:
    """The files that a group's draw by this seed takes mutants from."""
    return GROUPS[group][0] + (JOINED.get(group, ()) if seed != SEED else ())


def draw_group(root: Path, group: str, count: int, seed: int = SEED) -> list[Mutant]:
    """`count` mutants of the files of a group."""
    files = {name: (root / name).read_bytes() for name in list_files(group, seed)}
    return draw_from_files(files, count, seed)


def draw_from_files(files: dict[str, bytes], count: int, seed: int = SEED) -> list[Mutant]:
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for name, source in files.items():
        for mutant in find_mutants(name, source):
            lines.setdefault((name, mutant.lineno), []).append(mutant)
    for mutants in lines.values():
        mutants.sort(
            key=lambda m: (
                rank(m.operator, *m.key[:3], seed=seed),
                rank("mutant", *m.key, seed=seed),
            )
        )
    ordered = sorted(
        lines.values(),
        key=lambda found: rank("line", found[0].path, *line_of(found[0]), seed=seed),
    )
    drawn: list[Mutant] = []
    for mutants in ordered:
        if len(drawn) == count:
            break
        drawn += [m for m in mutants if m.is_valid(files[m.path])][:1]
    return drawn


def line_of(mutant: Mutant) -> tuple[str, str, int]:
    return mutant.function, mutant.line, mutant.number

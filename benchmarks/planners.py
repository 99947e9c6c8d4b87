"""Compare planners that get the same number of model calls, on problems and in a saved run.

python benchmarks/planners.py [RUN ...] [--calls N ...] [--episodes N] [--seed N]
python benchmarks/planners.py RUN --planner.horizon 20
python benchmarks/planners.py --table FILE [FILE ...]

Each line is JSON: what was planned, by which planner, its return and the milliseconds of a plan. A
call is one step of the model for one candidate; a pass back through it counts as two. --calls
gives the calls per step of a plan, so 1000 calls are 1000 candidates in all. --table prints a
table of files of such lines: a row per run and number of calls, a column per planner.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel import build, envs
from worldmodel.config import loading
from worldmodel.config.schema import find_planner_lack, plans_in_simulator
from worldmodel.evaluation.returns.drivers import TimedPlayer
from worldmodel.evaluation.returns.evaluation_rollout import make_evaluation_rollout
from worldmodel.model.derivatives import compute_hessian, compute_jacobian
from worldmodel.policy.planners.proposals import Box
from worldmodel.programs.eval_options import parse_with_changes
from worldmodel.rollout.evaluation_episodes import run_episodes
from worldmodel.saved_run import Run
from worldmodel.system import runtime

PLANNERS = ("cem", "mppi", "gradient", "ilqr")
ROUNDS = 10  # of CEM and MPPI, at most
RESTARTS = 8  # of gradient ascent
ALPHAS = 11  # rollouts of a line search
BACK = 2  # calls that a pass back through a step counts as

Pairs = list[tuple[str, str]]


def list_keys(
    planner: str, calls: int, states: int, actions: int, by_differences: bool = False
) -> Pairs:
    """The keys with which a planner makes about so many calls per step of a plan."""
    keys: dict[str, Any] = {"name": planner}
    if planner in ("cem", "mppi"):
        keys["iterations"] = max(1, min(ROUNDS, calls // 20))
        keys["candidates"] = max(4, calls // keys["iterations"])
        keys["elites"] = max(2, keys["candidates"] // 10)
    if planner == "gradient":
        keys["candidates"] = max(2, min(RESTARTS, calls // 20))
        keys["elites"] = 2
        keys["iterations"] = max(1, calls // keys["candidates"] // (1 + BACK))
    if planner == "ilqr":
        keys["iterations"] = max(
            1, min(1000, calls // count_round(states, actions, by_differences))
        )
    return [(f"planner.{key}", str(value)) for key, value in keys.items()]


def count_round(states: int, actions: int, by_differences: bool = False) -> int:
    """Calls of a round of iterative LQR: a line search, a Jacobian and a Hessian at each step."""
    if by_differences:
        entries = states + actions
        return ALPHAS + 1 + 2 * entries + 1 + entries * (entries + 3)
    jacobian = 1 + BACK * states
    hessian = 1 + BACK + 2 * BACK * (states + actions)
    return ALPHAS + jacobian + hessian


# -- problems with equations ----------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """A problem of control: the next state and the cost of steps from rows [state, action]."""

    advance: Callable[[Tensor], Tensor]  # (...,n+A) -> (...,n)
    measure: Callable[[Tensor, Tensor], Tensor]  # rows, and whether a step is the last -> (...)
    begin: tuple[float, ...]
    horizon: int
    actions: int = 1

    @property
    def start(self) -> Tensor:
        return torch.tensor([self.begin], dtype=torch.float64)

    def step(self, states: Tensor, actions: Tensor, time: int) -> tuple[Tensor, Tensor]:
        rows = torch.cat([states, actions], -1)
        return self.advance(rows), self.measure(rows, torch.tensor(time == self.horizon - 1))

    def linearize(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        found = compute_jacobian(self.advance, torch.cat([states, actions], -1))
        return found[..., : states.shape[-1]], found[..., states.shape[-1] :]

    def expand_cost(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        last = torch.arange(len(states))[:, None] == self.horizon - 1
        rows = torch.cat([states, actions], -1)
        return compute_hessian(lambda r: self.measure(r, last), rows)

    def make_problem(self, horizon: int, control: float, copies: int = 1) -> Problem:
        return self

    def __call__(self, plans: Tensor) -> Tensor:
        """Minus the costs (B,N) of plans (B,N,H,A)."""
        now = self.start.to(plans.dtype).expand(*plans.shape[:2], -1)
        total = torch.zeros(plans.shape[:2], dtype=plans.dtype)
        for number, actions in enumerate(plans.unbind(2)):
            now, cost = self.step(now, actions, number)
            total = total + cost
        return -total

    def score_with_gradient(self, plans: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            plans = plans.detach().requires_grad_()
            scores = self(plans)
            return scores.detach(), torch.autograd.grad(scores.sum(), plans)[0]


def make_mass(count: int, horizon: int) -> Problem:
    """Bring masses from rest at 1 to the origin by bounded forces: linear and quadratic."""

    def advance(rows: Tensor) -> Tensor:
        position, speed, force = rows.split(count, -1)
        speed = speed + 0.3 * force
        return torch.cat([position + 0.3 * speed, speed], -1)

    def measure(rows: Tensor, last: Tensor) -> Tensor:
        position, speed = advance(rows).split(count, -1)
        cost = position.square() + 0.1 * speed.square() + 0.05 * rows[..., -count:].square()
        return cost.sum(-1)

    return Problem(advance, measure, (1.0,) * count + (0.0,) * count, horizon, count)


def make_pendulum(horizon: int) -> Problem:
    """Swing up a pendulum whose motor is too weak to lift it at once."""

    def advance(rows: Tensor) -> Tensor:
        angle, speed, torque = rows.unbind(-1)
        speed = speed + 0.05 * (9.81 * angle.sin() + 6.0 * torque - 0.1 * speed)
        return torch.stack([angle + 0.05 * speed, speed], -1)

    def measure(rows: Tensor, last: Tensor) -> Tensor:
        angle, speed = advance(rows).unbind(-1)
        weight = torch.where(last, 20.0, 0.2)
        return weight * (1 - angle.cos() + 0.05 * speed.square()) + 1e-3 * rows[..., 2].square()

    return Problem(advance, measure, (3.0, 0.0), horizon)


PROBLEMS = {
    "one mass": partial(make_mass, 1, 12),
    "three masses": partial(make_mass, 3, 20),
    "pendulum": partial(make_pendulum, 50),
}


def find_best(problem: Problem) -> float:
    """The best return by a quasi-Newton method with bounds, from several starts.

    It is the optimum of the masses, whose problem is convex, and a local one of the pendulum.
    """
    from scipy.optimize import minimize

    shape = 1, 1, problem.horizon, problem.actions

    def measure(flat: np.ndarray) -> tuple[float, np.ndarray]:
        score, gradient = problem.score_with_gradient(torch.from_numpy(flat).view(shape))
        return -score.item(), -gradient.flatten().numpy()

    generator, size = np.random.default_rng(0), problem.horizon * problem.actions
    starts = [np.zeros(size), *generator.uniform(-1, 1, (2, size))]
    found = [minimize(measure, x, jac=True, bounds=[(-1, 1)] * size, tol=1e-9) for x in starts]
    return -float(min(f.fun for f in found))


@torch.no_grad()
def plan_problems(budgets: Sequence[int], seeds: int) -> Iterator[dict[str, Any]]:
    """Plan each problem by each planner: the mean return over seeds, beside the best."""
    for name, make in PROBLEMS.items():
        problem = make()
        best = find_best(problem)
        states = problem.start.shape[-1]
        for calls in budgets:
            for planner in PLANNERS:
                keys = list_keys(planner, calls, states, problem.actions)
                settings = loading.parse([f"{key}={value}" for key, value in keys]).planner
                returns, seconds = [], []
                for seed in range(seeds):
                    proposal, generator = Box(), torch.Generator().manual_seed(seed)
                    start = proposal.start(1, problem.horizon, problem.actions)
                    began = time.perf_counter()
                    plan = build.make_planner(settings)(problem, *start, proposal, generator)
                    seconds.append(time.perf_counter() - began)
                    returns.append(problem(plan.double().unsqueeze(1)).item())
                yield {
                    "problem": name,
                    "best": round(best, 4),
                    "calls": calls,
                    **describe(planner, keys),
                    "return": round(float(np.mean(returns)), 4),
                    "worst": round(min(returns), 4),
                    "ms": round(1000 * float(np.median(seconds)), 1),
                }


def describe(planner: str, keys: Pairs) -> dict[str, Any]:
    shown = {key.removeprefix("planner."): int(value) for key, value in keys[1:]}
    shown.pop("elites", None)
    return {"planner": planner, **shown}


# -- saved runs -----------------------------------------------------------------------------------
def open_run(path: str, overrides: Pairs) -> tuple[Run, Callable[[], Any]]:
    """A saved run of the user's own, planning by rewards, and what makes its environment."""

    def make_simulator(config: Any, place: Path) -> Any:
        return envs.make_simulator(config.env, trust=True)

    run = Run.open(path, "auto", make_simulator)
    runtime.configure_torch(run.config.run.threads)
    plain = [("behavior.name", "mpc"), ("planner.score", "reward"), ("planner.proposals", "0")]
    run = run.apply_overrides([*plain, *overrides])
    c = run.config
    factory = envs.make_factory(c.env, c.distract, trust=True, simulator=plans_in_simulator(c))
    one = partial(factory, held_out=True)
    return run, partial(envs.make_vector, one, 1, timeout_s=c.env.timeout, restart_budget=0)


def describe_run(run: Run) -> dict[str, Any]:
    """The run by the end of its path, its task, and what its model is."""
    c = run.config
    return {
        "run": "/".join(run.path.resolve().parts[-3:]),
        "task": c.env.task,
        "obs": c.env.obs,
        "dynamics": c.model.dynamics,
        "members": c.ensemble.size,
        "straightening": c.loss.objective.get("straightening", 0.0),
        "frames": 0 if plans_in_simulator(c) else run.frames,
        "horizon": c.planner.horizon,
    }


def plan_run(
    path: str, overrides: Pairs, budgets: Sequence[int], episodes: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Play the same episodes by each planner that the run can have."""
    run, make = open_run(path, overrides)
    space, dynamics = run.action_space, run.model.dynamics
    features = dynamics.feature_size if dynamics.differentiable else len(dynamics.smooth_features)
    with make() as vector:
        for calls, planner in product(budgets, PLANNERS):
            about = {**describe_run(run), "calls": calls}
            lack = find_planner_lack(run.config, planner, "reward", space.discrete)
            if lack:
                yield {**about, "planner": planner, "left_out": lack}
                continue
            keys = list_keys(planner, calls, features, space.size, not dynamics.differentiable)
            rollout, player = make_evaluation_rollout(run.apply_overrides(keys), vector, seed)
            timed = TimedPlayer(player)
            result = run_episodes(rollout, timed, episodes)
            assert result is not None
            found = result.summarize(seed)
            yield {
                **about,
                **describe(planner, keys),
                "return": round(found["eval/score"], 2),
                "low": round(found["eval/score_low"], 2),
                "high": round(found["eval/score_high"], 2),
                "scores": [round(score, 2) for score in result.scores],
                "ms": round(timed.milliseconds, 1),
            }


def format_table(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: returns with their intervals, and milliseconds of a plan."""
    rows: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault((line["run"], line["calls"]), {})[line["planner"]] = line
    planners = [name for name in PLANNERS if any(name in cells for cells in rows.values())]
    text = [
        f"| run | calls per step | {' | '.join(planners)} |",
        "|---" * (2 + len(planners)) + "|",
    ]
    for (run, calls), cells in rows.items():
        shown = [format_cell(cells[name]) if name in cells else "" for name in planners]
        text.append(f"| {run} | {calls} | {' | '.join(shown)} |")
    return "\n".join(text)


def format_cell(line: dict[str, Any]) -> str:
    if "left_out" in line:
        return "-"
    return f"{line['return']:.1f} ({line['low']:.1f} to {line['high']:.1f}), {line['ms']:.0f} ms"


def read_lines(path: str) -> list[dict[str, Any]]:
    """The JSON lines of a file, without what programs print between them."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line[:1] == "{"]


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--table", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--calls", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5, help="searches of each problem")
    args = parse_with_changes(parser, list(words))
    if args.table:
        print(format_table([line for path in args.table for line in read_lines(path)]))
        return 0
    if not args.runs:
        for line in plan_problems(args.calls, args.seeds):
            print(json.dumps(line), flush=True)
    for path in args.runs:
        for line in plan_run(path, args.changes, args.calls, args.episodes, args.seed):
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

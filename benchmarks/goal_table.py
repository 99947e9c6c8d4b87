"""Fill the table of PCC and PC3: per cent of steps in the goal, by model and domain.

python benchmarks/goal_table.py [--root DIR] [--domains NAMES] [--models NAMES] [--seeds N]

Each model learns from 5,000 independent transitions of a domain; its plans then play ten episodes,
the same for all models. Cells whose numbers are in docs/results/goal_share/ already are skipped,
and an interrupted training goes on, so the same command completes the table. --show prints it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.goal_share import Episodes, find_region, make_mean_planner_policy
from worldmodel.checkpoint.validate import read_json_lines
from worldmodel.programs.eval_options import parse_positive
from worldmodel.system.console import say

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "goal_share"
EPISODES, SEED = 10, 0
TRANSITIONS = 5000


@dataclass(frozen=True)
class Domain:
    """A column of the table: a task, the goal region, and what depends on the pictures."""

    task: str
    goal: str
    horizon: int
    latent: int  # size of PC3's latent
    size: int  # of a picture's sides
    ilqr: dict[str, Any] = field(default_factory=dict)  # changes of the planner


# As in the public code, plans on the plane know no bounds. So the robot moves at full speed along
# both axes first, and past the obstacle beside the straight way.
UNBOUNDED = {"planner.reach": 20, "planner.control": 0.01}
DOMAINS = {
    "planar": Domain("pcc_planar", "corners", 10, 2, 40, UNBOUNDED),
    "balance": Domain("pcc_pendulum", "balance", 10, 3, 48),
    "swing_up": Domain("pcc_pendulum", "swing_up", 10, 3, 48),
    "cartpole": Domain("pcc_cartpole", "balance", 5, 8, 40),
}


@dataclass(frozen=True)
class Model:
    """A row: a preset with changes, and the planner."""

    preset: str
    keys: str
    by_task: dict[str, str]
    planner: str = "ilqr"
    trained_as: str = ""  # the row whose models this one plans with
    # changes of the planner by task
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    def find_name(self, own: str) -> str:
        return self.trained_as or own


# Of the public numbers, PC3 has a curvature of weight 7 and radius 0.1. That leaves the planar
# latent twisted, which a wider radius prevents.
FLAT = "--curvature.radius 1 --loss.objective '{transition_contrastive: 1.0, curvature: 30.0}'"
# With noise of std 1 instead of 0.1 on the next latent, the contrast compares with pasts that are
# further away, and the latent of the cartpole has to show the pole too.
WIDE = "--model.min_std 1.0 --curvature.radius 1"
WIDE += " --loss.objective '{transition_contrastive: 1.0, curvature: 0.3}'"
PC3 = {
    "pcc_planar": f"{FLAT} --train.pretrain 4000",
    "pcc_cartpole": f"--env.size [80,80] {WIDE}",
}
PATCHES = "--train.pretrain 3000 --model.cnn [32] --model.patch 8 --replay.batch 8"
# In a free latent, place and angle of the cartpole lie nearly along one line: the distance from
# the goal falls where the cart runs away under the pole. Decorrelation keeps them apart.
UNCORRELATED = "--model.min_std 1.0 --curvature.radius 1 --decorrelation.spread 5"
UNCORRELATED += " --loss.objective "
UNCORRELATED += "'{transition_contrastive: 1.0, curvature: 0.3, decorrelation: 10.0}'"
UNTWISTED = "--curvature.radius 1 --train.pretrain 4000 --loss.objective "
UNTWISTED += "'{transition_contrastive: 1.0, curvature: 30.0, decorrelation: 3.0}'"
# To right a pole that leans outwards, the cart must first move further from the middle. A plan of
# 0.1 s does not reach the return, one of 0.4 s does.
FAR = {"pcc_cartpole": {"planner.horizon": 20, "planner.restarts": 10, "goal.at": "end"}}
APART = {
    "pcc_planar": UNTWISTED,
    "pcc_pendulum": UNCORRELATED,
    "pcc_cartpole": f"--env.size [80,80] --optim.decay [1200,3000] {UNCORRELATED}",
}
# Feature points are coordinates, so that the latent has the shape of the scene from the start.
POINTS = "--train.pretrain 1500 --model.encoder spatial --spatial.points 8"
SHAPED = {"pcc_planar": FLAT, "pcc_pendulum": WIDE, "pcc_cartpole": WIDE}
DECODED = "--train.pretrain 2000 --model.cnn [16,32] --model.patch 4 --replay.batch 8"
SHORT = "--replay.batch 32 --replay.length 8"  # as many steps, in shorter sequences
SOLAR = f"{DECODED} {SHORT} --model.dynamics linear_gaussian --model.stoch 10"
SOLAR += " --loss.dyn 1 --loss.rep 1"
RSSM = f"{DECODED} {SHORT} --model.dynamics rssm --model.transition ssm --loss.dyn 1 --loss.rep 1"
MODELS = {
    "pc3": Model("pc3", PATCHES + " --model.stoch {latent}", PC3),
    "pc3_apart": Model("pc3", PATCHES + " --model.stoch {latent}", APART, plans=FAR),
    "pc3_points": Model("pc3", POINTS + " --model.stoch {latent}", SHAPED),
    "pcc": Model("pcc", DECODED, {}),
    "e2c": Model("e2c", DECODED, {}),
    "solar": Model("e2c", SOLAR, {}),
    "rssm_cem": Model("e2c", RSSM, {}, planner="cem", trained_as="rssm"),
    "rssm_ilqr": Model("e2c", RSSM, {}, trained_as="rssm"),
}
DATA = (
    f"--env.time_limit 1 --run.frames {TRANSITIONS} --train.prefill {TRANSITIONS} "
    f"--train.round {TRANSITIONS} --replay.length 32 --log.checkpoint {TRANSITIONS} "
    "--log.every 1000 --run.threads 1"
)
PLANNERS = {
    "ilqr": {"planner.iterations": 4, "planner.restarts": 5, "planner.mu": 1e-5},
    "cem": {"planner.candidates": 100, "planner.iterations": 4, "planner.elites": 10},
}


@dataclass(frozen=True)
class Cell:
    """A model of one seed in one domain."""

    domain: str
    model: str
    seed: int

    @property
    def run_name(self) -> str:
        return MODELS[self.model].find_name(self.model)

    def find_run(self, root: Path) -> Path:
        task = DOMAINS[self.domain].task
        return root / task / self.run_name / f"seed{self.seed}"

    def make_command(self, root: Path) -> list[str]:
        """The words of the training."""
        domain, model = DOMAINS[self.domain], MODELS[self.model]
        own = ["--env.task", domain.task, "--env.size", f"[{domain.size},{domain.size}]"]
        own += ["--run.root", str(root), "--run.name", self.run_name, "--run.seed", str(self.seed)]
        keys = DATA, model.keys.format(latent=domain.latent), model.by_task.get(domain.task, "")
        return ["train.py", model.preset, *own, *shlex.split(" ".join(keys))]

    def list_planner_keys(self) -> dict[str, Any]:
        """The keys by which its plans differ from the run's."""
        domain, model = DOMAINS[self.domain], MODELS[self.model]
        keys = {"planner.name": model.planner, "planner.horizon": domain.horizon}
        keys |= PLANNERS[model.planner] | (domain.ilqr if model.planner == "ilqr" else {})
        return keys | model.plans.get(domain.task, {})


def list_cells(domains: list[str], models: list[str], seeds: int) -> Iterator[Cell]:
    """All cells, the first seeds of all models before the second ones."""
    for seed in range(seeds):
        for model in models:
            yield from (Cell(domain, model, seed) for domain in domains)


def train(cell: Cell, root: Path) -> None:
    """Train the cell's model, or go on where an earlier training was stopped.

    A finished run stays as it is, and one that was made with other keys is refused.
    """
    words = cell.make_command(root)
    say(f"python {shlex.join(words)}")
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def evaluate(cell: Cell, root: Path) -> dict[str, Any]:
    """Play the episodes of the cell's domain by its model's plans."""
    from benchmarks.reach import prepare_run
    from worldmodel.system import runtime

    domain, path = DOMAINS[cell.domain], cell.find_run(root)
    run = prepare_run(str(path), []).apply_overrides(cell.list_planner_keys())
    runtime.configure_torch(run.config.run.threads)
    episodes = make_episodes(domain, run.config.env.size[0])
    began = time.process_time()
    shares = episodes.play(lambda shown: make_mean_planner_policy(run, shown))
    plans = EPISODES * episodes.region.steps
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "shares": shares,
        "updates": last["updates"],
        "training_cpu_minutes": round(last["time/processor_minutes"], 2),
        "plan_cpu_ms": round((time.process_time() - began) / plans * 1000, 1),
    }


def make_episodes(domain: Domain, size: int) -> Episodes:
    region = find_region(domain.task, domain.goal)
    return Episodes(domain.task, (size, size), region, EPISODES, SEED)


def measure_baselines(name: str) -> Iterator[dict[str, Any]]:
    """The shares of those who need no model."""
    domain = DOMAINS[name]
    episodes = make_episodes(domain, domain.size)
    for player, make_policy in episodes.list_policies(domain.task, SEED).items():
        shares = episodes.play(make_policy)
        yield {"domain": name, "model": player, "seed": SEED, "shares": shares}


def read_rows(domain: str) -> list[dict[str, Any]]:
    return read_json_lines(RESULTS / f"{domain}.jsonl")


def add_row(row: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{row['domain']}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def is_known(domain: str, model: str, seed: int) -> bool:
    return any((r["model"], r["seed"]) == (model, seed) for r in read_rows(domain))


def format_table() -> str:
    """A row for each model: mean over its models and episodes, and the best model's mean."""
    rows = {name: read_rows(name) for name in DOMAINS}
    models = dict.fromkeys(r["model"] for found in rows.values() for r in found)
    lines = ["".join(f"{name:>18}" for name in DOMAINS) + "  by"]
    for model in models:
        texts = []
        for found in rows.values():
            means = [100 * np.mean(r["shares"]) for r in found if r["model"] == model]
            text = f"{np.mean(means):.1f}" if means else "-"
            if len(means) > 1:
                text += f" / {max(means):.1f} ({len(means)})"
            texts.append(f"{text:>18}")
        lines.append("".join(texts) + f"  {model}")
    return "\n".join(lines)


def fill(args: argparse.Namespace) -> int:
    for domain in args.domains:
        if not is_known(domain, "expert", SEED):
            for row in measure_baselines(domain):
                add_row(row)
    for cell in list_cells(args.domains, args.models, args.seeds):
        if is_known(cell.domain, cell.model, cell.seed):
            continue
        train(cell, args.root)
        found = evaluate(cell, args.root)
        add_row({"domain": cell.domain, "model": cell.model, "seed": cell.seed, **found})
        share = 100 * np.mean(found["shares"])
        say(f"{cell.domain}, {cell.model}, seed {cell.seed}: {share:.1f} % of steps in the goal")
    return 0


def parse_names(known: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return parse


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/goal_table.py", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="of the runs (runs)")
    parser.add_argument("--domains", type=parse_names(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--models", type=parse_names(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=parse_positive, default=3, help="models of each (3)")
    parser.add_argument("--show", action="store_true", help="print the table as it is")
    args = parser.parse_args(argv)
    if args.show:
        say(format_table())
        return 0

    from worldmodel.programs.exit_codes import run_command  # torch is imported from here on

    return run_command(lambda: fill(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

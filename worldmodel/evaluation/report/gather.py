"""A run directory as a report reads it: files alone, and of a checkpoint no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel import checkpoint
from worldmodel.evaluation.media import read_lines
from worldmodel.rundir import RunDir, RunError
from worldmodel.schema import Config


@dataclass
class Seed:
    """One run. `state` is what its newest good checkpoint says; None without one."""

    path: Path
    config: Config
    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    state: dict[str, Any] | None
    done: bool

    @property
    def frames(self) -> int:
        """As far as it has come."""
        known = [x["frames"] for x in [*self.metrics[-1:], *self.scores[-1:]]]
        return max([*known, self.state["frames"] if self.state else 0])

    @property
    def name(self) -> str:
        return f"seed {self.config.run.seed}"

    def measured(self, name: str) -> dict[str, Any] | None:
        """A JSON file that eval.py left; None where there is none, or none that can be read."""
        try:
            found = json.loads((self.path / "eval" / name).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def read(path: Path) -> Seed:
    run = RunDir(path)
    config = run.config()
    try:
        states = checkpoint.retained_states(run.checkpoints)
    except (checkpoint.CheckpointError, ValueError):
        states = []
    metrics, scores = (numbered(run.path / f"{name}.jsonl") for name in ("metrics", "scores"))
    return Seed(run.path, config, metrics, scores, states[-1] if states else None, run.is_done(0, 0))


def read_all(paths: list[Path]) -> list[Seed]:
    """Several seeds; RunError where they are not of one task."""
    seeds = [read(path) for path in paths]
    if len({seed.path.resolve() for seed in seeds}) < len(seeds):
        raise RunError("report: the same run is named twice", 2)
    tasks = dict.fromkeys(seed.config.env.task for seed in seeds)
    if len(tasks) > 1:
        raise RunError(f"report: these runs are not seeds of one: they are of {' and '.join(tasks)}", 2)
    return seeds


def numbered(path: Path) -> list[dict[str, Any]]:
    """The lines that say at how many frames they were written."""
    return [x for x in read_lines(path) if isinstance(x.get("frames"), int)]


def curve(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """A number by frames, where it is known."""
    return [(x["frames"], float(x[key])) for x in lines if isinstance(x.get(key), int | float)]

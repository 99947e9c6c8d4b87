"""A run directory as a report reads it: files alone, and of a checkpoint no weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.checkpoint import store
from worldmodel.checkpoint.validate import check_integer, check_spaces, read_json_lines
from worldmodel.config.schema import Config
from worldmodel.run_directory import RunDir, RunError
from worldmodel.system import provenance
from worldmodel.system.files import read_json, to_finite

MOST = 1 << 26  # bytes of a file that eval.py made
# What a damaged or foreign file gives, wherever it is read.
ODD = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass
class Seed:
    """One run. `state` is what its newest good checkpoint says; None without one. `odd` has a line
    on damaged logs.
    """

    path: Path
    config: Config
    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    state: dict[str, Any] | None
    done: bool
    odd: list[str] = field(default_factory=list)
    made_with: list[dict[str, Any]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """As far as it has come."""
        known = [x["frames"] for x in [*self.metrics[-1:], *self.scores[-1:]]]
        reached = to_finite(self.state.get("frames")) if self.state else None
        return max([*known, int(reached or 0)])

    @property
    def minutes(self) -> float | None:
        """Of training, all commands together, where that is known."""
        lines = [*self.metrics, *self.scores]
        known = [x["time/minutes"] for x in lines if x.get("time/minutes") is not None]
        return max(known) if known else None

    @property
    def sees(self) -> bool:
        """Whether it is given pictures."""
        return self.config.env.obs != "state"

    @property
    def draws(self) -> bool:
        """Whether its model can draw what it dreams."""
        return self.sees and (
            self.config.loss.probe or self.config.loss.objective.get("reconstruction", 0) > 0
        )

    @property
    def name(self) -> str:
        return f"seed {self.config.run.seed}"

    def measured(self, name: str) -> dict[str, Any] | None:
        """A JSON file that eval.py left; None where there is none, or none that can be read."""
        try:
            found = read_json(self.path / "eval" / name, MOST)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def read(path: Path) -> Seed:
    run = RunDir(path)
    config = run.load_config()
    odd: list[str] = []
    metrics, scores = (numbered(run.path / f"{name}.jsonl", odd) for name in ("metrics", "scores"))
    return Seed(
        run.path,
        config,
        metrics,
        scores,
        state_of(run),
        run.is_done(0, 0),
        odd,
        provenance.read_entries(run.path),
    )


def state_of(run: RunDir) -> dict[str, Any] | None:
    """What the newest checkpoint says; None where there is none, or none that says what is shown
    of it.
    """
    with contextlib.suppress(store.CheckpointError, ValueError):
        for path, state in store.iterate_states(run.checkpoints):
            with store.report_incompatible(path):
                check_spaces(state)
                check_integer(state["frames"], "frames")
                check_integer(state["learner"]["updates"], "learner.updates")
            return state
    return None


def read_all(paths: list[Path]) -> list[Seed]:
    """Several seeds; RunError where they are not of one task."""
    seeds = [read(path) for path in paths]
    if len({seed.path.resolve() for seed in seeds}) < len(seeds):
        raise RunError("report: the same run is named twice", 2)
    tasks = dict.fromkeys(seed.config.env.task for seed in seeds)
    if len(tasks) > 1:
        raise RunError(
            f"report: these runs are not seeds of one: they are of {' and '.join(tasks)}", 2
        )
    return seeds


def numbered(path: Path, odd: list[str]) -> list[dict[str, Any]]:
    """The lines that say at how many frames they were written, finite numbers alone; into `odd`
    what they lost.
    """
    try:
        lines = read_json_lines(path)
    except OSError as error:
        odd.append(f"{path} cannot be read ({error.strerror})")
        return []
    kept, lost = [], 0
    for line in lines:
        values = {k: x for k, x in line.items() if to_finite(x) is not None}
        lost += sum(x is not None for x in line.values()) - len(values)
        if type(values.get("frames")) is int:
            kept.append(values)
    if lost:
        odd.append(
            f"{path} is damaged: {lost} of its values {'is' if lost == 1 else 'are'} no finite "
            f"number and left out"
        )
    return kept


def curve(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """A number by frames, where it is known."""
    return [(x["frames"], float(x[key])) for x in lines if key in x]


def sure(value: object) -> float:
    """A finite number, or ValueError."""
    found = to_finite(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is no finite number")
    return found

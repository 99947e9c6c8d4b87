"""A run directory as the report reads it: its files, without a checkpoint's weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.checkpoint import store
from worldmodel.checkpoint.validate import check_integer, check_spaces, read_json_lines
from worldmodel.config.component_settings import states_fact
from worldmodel.config.schema import Config, learns_model, plans_in_simulator
from worldmodel.errors import RunError
from worldmodel.registry import DYNAMICS
from worldmodel.run_directory import RunDir
from worldmodel.system import provenance
from worldmodel.system.files import read_json, to_finite

MAX_BYTES = 1 << 26  # size limit of a result file of eval.py
# What reading a damaged or foreign file can raise.
DAMAGE_ERRORS = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass
class ReportedRun:
    """The configuration, logs and state of one run.

    `state` is the metadata of the newest sound checkpoint, or None; `log_warnings` has a line for
    each damaged log.
    """

    path: Path
    config: Config
    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    state: dict[str, Any] | None
    done: bool
    log_warnings: list[str] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Environment frames so far."""
        known = [x["frames"] for x in [*self.metrics[-1:], *self.scores[-1:]]]
        reached = to_finite(self.state.get("frames")) if self.state else None
        return max([*known, int(reached or 0)])

    @property
    def minutes(self) -> float | None:
        """Minutes of training over all resumes, or None if unknown."""
        lines = [*self.metrics, *self.scores]
        known = [x["time/minutes"] for x in lines if x.get("time/minutes") is not None]
        return max(known) if known else None

    @property
    def has_pictures(self) -> bool:
        """Whether the run observes pictures."""
        return self.config.env.obs != "state"

    @property
    def has_model(self) -> bool:
        """Whether it trains a model that can be looked at."""
        return learns_model(self.config)

    @property
    def can_plan(self) -> bool:
        """Whether planners have a model, or the true simulator."""
        return self.has_model or plans_in_simulator(self.config)

    @property
    def can_draw(self) -> bool:
        """Whether its model can decode pictures."""
        c = self.config
        decodes = c.loss.probe or c.loss.objective.get("reconstruction", 0) > 0
        moves = states_fact(DYNAMICS[c.model.dynamics], "moves_pixels")
        return self.has_model and self.has_pictures and (decodes or moves)

    @property
    def name(self) -> str:
        return f"seed {self.config.run.seed}"

    def read_result(self, name: str) -> dict[str, Any] | None:
        """A result file of eval.py; None if it is missing or unreadable."""
        try:
            found = read_json(self.path / "eval" / name, MAX_BYTES)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def read_run(path: Path) -> ReportedRun:
    run_dir = RunDir(path)
    config = run_dir.load_config()
    log_warnings: list[str] = []
    metrics, scores = (
        read_log(run_dir.path / f"{name}.jsonl", log_warnings) for name in ("metrics", "scores")
    )
    return ReportedRun(
        run_dir.path,
        config,
        metrics,
        scores,
        read_state(run_dir),
        run_dir.is_done(0, 0),
        log_warnings,
        provenance.read_entries(run_dir.path),
    )


def read_state(run_dir: RunDir) -> dict[str, Any] | None:
    """The metadata of the newest checkpoint that has what the report shows, or None."""
    with contextlib.suppress(store.CheckpointError, ValueError):
        for path, state in store.iterate_states(run_dir.checkpoints):
            with store.report_incompatible(path):
                check_spaces(state)
                check_integer(state["frames"], "frames")
                check_integer(state["learner"]["updates"], "learner.updates")
            return state
    return None


def read_runs(paths: list[Path]) -> list[ReportedRun]:
    """The runs of several seeds; RunError if they are not of one task."""
    runs = [read_run(path) for path in paths]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError("report: the same run is named twice", 2)
    tasks = dict.fromkeys(run.config.env.task for run in runs)
    if len(tasks) > 1:
        raise RunError(f"report: these runs are of different tasks: {' and '.join(tasks)}", 2)
    return runs


def read_log(path: Path, log_warnings: list[str]) -> list[dict[str, Any]]:
    """The lines that have a frame count, reduced to finite numbers; losses go to `log_warnings`."""
    try:
        lines = read_json_lines(path)
    except OSError as error:
        log_warnings.append(f"{path} cannot be read ({error.strerror})")
        return []
    kept, lost = [], 0
    for line in lines:
        values = {k: x for k, x in line.items() if to_finite(x) is not None}
        lost += sum(x is not None for x in line.values()) - len(values)
        if type(values.get("frames")) is int:
            kept.append(values)
    if lost:
        log_warnings.append(
            f"{path} is damaged: {lost} of its values {'is' if lost == 1 else 'are'} not finite "
            f"and left out"
        )
    return kept


def extract_curve(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Pairs (frames, number) of the lines that have this key."""
    return [(x["frames"], float(x[key])) for x in lines if key in x]


def require_number(value: object) -> float:
    """The value as a float; ValueError unless it is a finite number."""
    found = to_finite(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is not a finite number")
    return found

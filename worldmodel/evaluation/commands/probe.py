"""`eval.py RUN probe`: a linear probe from the latent to the simulator's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.state_probe import collect_features, measure_held_out_r2
from worldmodel.evaluation.results import write_result
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    require_environment,
)
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say


def probe_state(run: Run, make: Callable[..., Any], episodes: int, seed: int) -> None:
    """Fit on two thirds of the episodes, test on every third one; write probe.json."""
    if episodes < 3:
        raise UsageError("--episodes: every third episode is held out; give at least 3")
    obs = run.config.env.obs
    bar = Progress(episodes, "episodes")
    with require_environment(make)("both" if obs == "pixels" else obs) as envs:
        found = measure_held_out_r2(
            *collect_features(*make_evaluation_rollout(run, envs, seed), episodes, bar.update)
        ).tolist()
    bar.close()
    r2 = [None if x != x else x for x in found]
    lines = {
        "run": str(run.path),
        "frames": run.frames,
        "seed": seed,
        "episodes": episodes,
        "r2": r2,
    }
    shown = ", ".join("constant" if x is None else f"{x:.3f}" for x in r2)
    say(
        f"R^2 of a linear probe to the simulator's state, by coordinate: {shown}; 1 is best, 0 no "
        f"better than the mean"
    )
    say(f"  {write_result(run.path / 'eval' / 'probe.json', lines)}")

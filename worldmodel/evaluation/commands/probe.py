"""`eval.py RUN probe`: how much of the simulator's true state a linear map reads off the
latent.
"""

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
    """On every third episode, which it was not fitted on."""
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
    target = run.path / "eval" / "probe.json"
    write_result(target, lines)
    shown = ", ".join("never changes" if x is None else f"{x:.3f}" for x in r2)
    say(
        f"R^2 of a linear read-out of the true state, by coordinate: {shown}; 1 is all of it, 0 "
        f"nothing\n  {target}"
    )

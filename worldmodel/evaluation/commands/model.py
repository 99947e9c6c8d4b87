"""`eval.py RUN model`: the quality of a world model, on played or replayed episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.held_out_episodes import (
    collect_episodes,
    load_other_episodes,
    load_replay_episodes,
)
from worldmodel.evaluation.quality.model_quality import (
    QualityResults,
    SimulatorTrials,
    measure_quality,
)
from worldmodel.evaluation.quality.quality_plots import plot_quality
from worldmodel.evaluation.quality.recorded_episode import RecordedEpisode
from worldmodel.evaluation.quality.run_policies import make_planners, make_policies
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.quality.summary_text import format_summary
from worldmodel.evaluation.quality.trial_starts import TrialCounts
from worldmodel.evaluation.results import to_plain, write_result
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    make_first_available,
)
from worldmodel.run_directory import RunDir
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say

OWN_SOURCES = ("fresh", "replay")
UNTRAINED_REWARDS = (
    "rewards were not learnt (loss.reward 0): no returns of plans and policies, and the reward "
    "errors are those of an untrained head"
)
Make = Callable[[str], Any]  # environments by what is observed


@dataclass(frozen=True)
class ModelOptions:
    """How much to measure, and on which episodes.

    `source` is `fresh`, `replay`, or the directory of another run.
    """

    source: str
    episodes: int
    seed: int
    context: int
    length: int
    starts: int
    plans: int
    follow: int


def evaluate_model(run: Run, make: Make, options: ModelOptions) -> None:
    """Write model.json and model.png, and print a summary."""
    source, episodes, quality = measure_run(run, make, options)
    found, target = to_plain(quality.results), run.path / "eval"
    about = {
        "run": str(run.path),
        "frames": run.frames,
        "seed": options.seed,
        "source": source,
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
    }
    lines = {**about, "context": options.context, "left_out": quality.left_out, **found}
    title = f"{run.config.env.task}, {run.frames} frames: {len(episodes)} episodes, {source}"
    say(format_summary(found, quality.left_out))
    write_result(target / "model.json", lines)
    say(f"  {target / 'model.json'}\n  {plot_quality(found, target / 'model.png', title)}")
    say("definitions of all numbers: docs/evaluation.md")


def measure_run(
    run: Run, make: Make, options: ModelOptions
) -> tuple[str, list[RecordedEpisode], QualityResults]:
    """Measure; return the episodes' source, the episodes and the results."""
    if options.source not in OWN_SOURCES:
        path = Path(options.source)
        episodes = load_other_episodes(
            path, run.observation_space, run.action_space, options.episodes
        )
        say(
            f"{len(episodes)} episodes of the replay of {path}, trained on "
            f"{RunDir(path).load_config().env.task}"
        )
        return options.source, episodes, _measure(run, episodes, options, None)
    vector = None if options.source == "replay" else _make_environments(run, make)
    if vector is None:
        episodes = load_replay_episodes(run.path, options.episodes)
        say(
            f"{len(episodes)} episodes of the run's replay, which it was trained on: they say "
            f"nothing about generalization"
        )
        return "replay", episodes, _measure(run, episodes, options, None)
    with vector:
        rollout, player = make_evaluation_rollout(run, vector, options.seed)
        bar = Progress(options.episodes, "playing")
        episodes = collect_episodes(rollout, player, options.episodes, bar.update)
        bar.close()
        own, length, left_out = make_planners(run, options.seed)
        policies = make_policies(run, options.seed) if options.follow else {}
        counts = TrialCounts(options.starts, options.plans, length, options.follow)
        real = SimulatorTrials(
            Simulator(vector, rollout.to_env), own, policies, run.action_space, counts
        )
        quality = _measure(run, episodes, options, real)
        quality.left_out += left_out
        return "fresh", episodes, quality


def _make_environments(run: Run, make: Make) -> Any | None:
    """Environments with pictures and state, or with what the run observes; None with a message."""
    obs = run.config.env.obs
    found, why = make_first_available(make, ["both", obs] if obs == "pixels" else [obs])
    if found is None:
        say(f"the environment can't be made here ({why}): using the run's replay")
    return found


def _measure(
    run: Run, episodes: list[RecordedEpisode], options: ModelOptions, real: SimulatorTrials | None
) -> QualityResults:
    bar = Progress(len(episodes) + (real.work if real else 0), "measuring")
    quality = measure_quality(
        EvaluatedAgent(run.agent, options.seed),
        episodes,
        options.context,
        options.length,
        options.seed,
        real,
        bar.update,
    )
    bar.close()
    if not run.config.loss.reward and run.config.model.reward_head != "known":
        for compared in ("plans", "policies"):
            quality.results.pop(compared, None)
        quality.left_out.append(UNTRAINED_REWARDS)
    return quality

"""`eval.py RUN returns`: returns over whole episodes; videos of the best, median and worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import RunError
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.results import write_result
from worldmodel.evaluation.returns.evaluation_rollout import make_evaluation_rollout
from worldmodel.evaluation.returns.reward_meter import RewardMeter
from worldmodel.model.given_reward import GivenReward
from worldmodel.rollout.evaluation_episodes import Evaluation, run_episodes
from worldmodel.rollout.statistics import format_interval
from worldmodel.run_directory import RunDir, locate_results
from worldmodel.saved_run import Run
from worldmodel.system.console import PROGRAM, Progress, say
from worldmodel.system.cpu_cores import count_cores
from worldmodel.system.files import read_json, to_finite

FILE = "returns.json"
MAX_BYTES = 1 << 26  # size limit of that file
REQUIRED_KEYS = (
    "eval/episodes",
    "eval/score",
    "eval/score_low",
    "eval/score_high",
    "eval/iqm",
    "eval/iqm_low",
    "eval/iqm_high",
)
SUCCESS_KEYS = ("eval/success", "eval/success_low", "eval/success_high")


@dataclass(frozen=True)
class ReturnsOptions:
    """How many episodes to play, their seed, and how many environments in parallel (0: cores)."""

    episodes: int
    seed: int
    envs: int

    @property
    def env_count(self) -> int:
        return min(self.episodes, self.envs or count_cores())


def evaluate_returns(
    run: Run, make: Callable[[int], Any], options: ReturnsOptions
) -> dict[str, Any]:
    """Play episodes, write returns.json and videos, print a summary; return the results."""
    target = run.results
    bar = Progress(options.episodes, "episodes")
    with make(options.env_count) as envs:
        rollout, player = make_evaluation_rollout(run, envs, options.seed)
        reward = run.model.reward
        meter = RewardMeter(player, reward) if isinstance(reward, GivenReward) else None

        def draw(done: int) -> bool:
            bar.update(done)
            return False

        result = run_episodes(rollout, meter or player, options.episodes, draw, keep_videos=True)
        bar.close()
    assert result is not None
    lines = {
        "run": str(run.path),
        "task": run.config.env.task,
        "name": run.config.run.name,
        "frames": run.frames,
        "seed": options.seed,
        "envs": options.env_count,
        **result.summarize(options.seed),
        **result.estimate_iqm(options.seed),
        "scores": result.scores,
        "lengths": result.lengths,
        "successes": result.successes,
        "places": result.pick_episodes(),
    }
    if meter is not None:
        lines["given_reward"] = meter.summarize(options.episodes, options.seed)
    say(format_returns(lines))
    made = [write_result(target / FILE, lines), *_save_videos(result, target)]
    say("\n".join(f"  {path}" for path in made))
    if len(made) > 1 and not any(path.suffix == ".mp4" for path in made):
        say(media.NO_MP4)
    return lines


def _save_videos(result: Evaluation, target: Path) -> list[Path]:
    made: list[Path] = []
    for name, place in result.pick_episodes().items():
        video = result.videos[place]
        if video is not None:
            made += media.save_video(target / name, video.pictures())
    return made


def format_returns(x: dict[str, Any]) -> str:
    """The results as text."""
    count = x["eval/episodes"]
    ends = format_interval(x["eval/score_low"], x["eval/score_high"], count)
    iqm = f", {x['eval/iqm_low']:.1f} to {x['eval/iqm_high']:.1f}" * (count > 1)
    lines = [
        f"return {x['eval/score']:.1f}, {ends}, {count} episode{'s' * (count != 1)}; higher is "
        f"better",
        f"  interquartile mean of the episodes (IQM) {x['eval/iqm']:.1f}{iqm}",
    ]
    if "given_reward" in x:
        given = x["given_reward"]
        ends = format_interval(given["low"], given["high"], count)
        lines.insert(0, f"return by {given['name']} {given['mean']:.1f}, {ends}")
        lines[1] = f"the task's own {lines[1]}"
    if "eval/success" in x:
        ends = f", {x['eval/success_low']:.0%} to {x['eval/success_high']:.0%}" * (count > 1)
        lines.append(f"  success rate {x['eval/success']:.0%}{ends}")
    places = (
        f"{name} {x['scores'][place]:.1f} (episode {place})" for name, place in x["places"].items()
    )
    lines.append("  " + ", ".join(places))
    return "\n".join(lines)


def load_returns(path: Path, other_task: str = "", reward: str = "") -> dict[str, Any]:
    """The results that an earlier command wrote; RunError if there are none or if damaged."""
    RunDir(path).load_config()  # fails with a message if this is no run
    file = locate_results(path, reward or other_task) / FILE
    command = f"{PROGRAM} eval {path}" + f" --env.task {other_task}" * bool(other_task)
    command += f" --reward {reward}" * bool(reward)
    try:
        return validate_returns(read_json(file, MAX_BYTES))
    except FileNotFoundError:
        raise RunError(f"{file} does not exist: {command} writes it", 4) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"{file} is damaged or of another version: {command} writes it again", 4
        ) from None


def validate_returns(found: dict[str, Any]) -> dict[str, Any]:
    """The results, if they hold what later code reads, with the right types; else an error."""
    numbers = [
        found[key] for key in (*REQUIRED_KEYS, *(SUCCESS_KEYS if "eval/success" in found else ()))
    ]
    numbers += [found["frames"], *found["scores"]]
    words = [found[key] for key in ("run", "task", "name")]
    places = found["places"].values()
    if not (
        found["scores"]
        and isinstance(found["scores"], list)
        and all(isinstance(word, str) for word in words)
        and all(to_finite(x) is not None for x in numbers)
        and all(type(place) is int and 0 <= place < len(found["scores"]) for place in places)
    ):
        raise ValueError(f"{FILE} does not have the expected content")
    return found

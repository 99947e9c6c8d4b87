"""`eval.py RUN returns`: what a run earns over whole episodes, and videos of the best, the median
and the worst.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import RunError
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.returns.recordings import playing
from worldmodel.rollout.episodes import Evaluation, run_episodes, spoken
from worldmodel.run_directory import RunDir
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say
from worldmodel.system.cpu_cores import count_cores
from worldmodel.system.files import read_json, to_finite

FILE = "returns.json"
MOST = 1 << 26  # bytes of it that are read
NUMBERS = (
    "eval/episodes",
    "eval/score",
    "eval/score_low",
    "eval/score_high",
    "eval/iqm",
    "eval/iqm_low",
    "eval/iqm_high",
)
SUCCESS = ("eval/success", "eval/success_low", "eval/success_high")


@dataclass(frozen=True)
class Wanted:
    """How many episodes, of which seed, in how many environments side by side; 0 takes one for
    every core.
    """

    episodes: int
    seed: int
    envs: int

    @property
    def side_by_side(self) -> int:
        return min(self.episodes, self.envs or count_cores())


def score(run: Run, make: Callable[[int], Any], wanted: Wanted) -> dict[str, Any]:
    """Play, write RUN/eval/returns.json and the videos, say what came out; returns what the file
    holds.
    """
    target = run.path / "eval"
    bar = Progress(wanted.episodes, "episodes")
    with make(wanted.side_by_side) as envs:
        rollout, player = playing(run, envs, wanted.seed)

        def draw(done: int) -> bool:
            bar.update(done)
            return False

        result = run_episodes(rollout, player, wanted.episodes, draw, films=True)
        bar.close()
    assert result is not None
    lines = {
        "run": str(run.path),
        "task": run.config.env.task,
        "name": run.config.run.name,
        "frames": run.frames,
        "seed": wanted.seed,
        "envs": wanted.side_by_side,
        **result.summary(wanted.seed),
        **result.robust(wanted.seed),
        "scores": result.scores,
        "lengths": result.lengths,
        "successes": result.successes,
        "places": result.places(),
    }
    made = [target / FILE, *_videos(result, target)]
    (target / FILE).write_text(json.dumps(lines, indent=1) + "\n")
    say(describe(lines))
    say("\n".join(f"  {path}" for path in made))
    if len(made) > 1 and not any(path.suffix == ".mp4" for path in made):
        say(media.NO_MP4)
    return lines


def _videos(result: Evaluation, target: Path) -> list[Path]:
    made: list[Path] = []
    for name, place in result.places().items():
        film = result.films[place]
        if film is not None:
            made += media.save_video(target / name, film.pictures())
    return made


def describe(x: dict[str, Any]) -> str:
    """What the numbers are, and which way is good."""
    count = x["eval/episodes"]
    ends = spoken(x["eval/score_low"], x["eval/score_high"], count)
    iqm = f", {x['eval/iqm_low']:.1f} to {x['eval/iqm_high']:.1f}" * (count > 1)
    lines = [
        f"return {x['eval/score']:.1f}, {ends}, {count} episode{'s' * (count != 1)}; higher is "
        f"better",
        f"  middle half of the episodes (IQM) {x['eval/iqm']:.1f}{iqm}",
    ]
    if "eval/success" in x:
        ends = f", {x['eval/success_low']:.0%} to {x['eval/success_high']:.0%}" * (count > 1)
        lines.append(f"  success in {x['eval/success']:.0%} of the episodes{ends}")
    places = (
        f"{name} {x['scores'][place]:.1f} (episode {place})" for name, place in x["places"].items()
    )
    lines.append("  " + ", ".join(places))
    return "\n".join(lines)


def saved(path: Path) -> dict[str, Any]:
    """What an earlier command left of a run; RunError in one line where there is nothing
    to read.
    """
    RunDir(path).load_config()  # says what is wrong where this is no run
    try:
        return checked(read_json(path / "eval" / FILE, MOST))
    except FileNotFoundError:
        raise RunError(
            f"{path}/eval/{FILE} is not there: make it with ./wm eval {path}", 4
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"{path}/eval/{FILE} is damaged or of another version: ./wm eval {path} makes it anew",
            4,
        ) from None


def checked(found: dict[str, Any]) -> dict[str, Any]:
    """The same, if all that `describe` and the aggregates read of it is there and of its kind;
    else an error.
    """
    numbers = [found[key] for key in (*NUMBERS, *(SUCCESS if "eval/success" in found else ()))]
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
        raise ValueError(f"{FILE} does not hold what it should")
    return found

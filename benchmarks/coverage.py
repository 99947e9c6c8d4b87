"""How much of a task's states the episodes in a run's replay have visited.

coverage.py RUN [RUN ...] [--bins 20]

Two coordinates of the true state are cut into bins, and those are counted that held it
at least once, after each tenth of the frames. Beside each run stand random actions over as many
episodes of the same lengths. Pixels do not hold the state, so episodes are simulated again from
their seeds and actions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel import envs
from worldmodel.config.schema import Config
from worldmodel.errors import UsageError
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.run_directory import RunDir
from worldmodel.system.runtime import STREAMS


def read_first(state: np.ndarray) -> np.ndarray:
    """The first two numbers (N,2) of states (N,n)."""
    return state[:, :2]


def read_pole(state: np.ndarray) -> np.ndarray:
    """Angle and speed (N,2) of the pole, of the suite's position, cosine, sine, two speeds."""
    return np.stack([np.arctan2(state[:, 2], state[:, 1]), state[:, 4]], 1)


# By task: how both coordinates are read from true states, and their ranges.
PLACE = (read_first, ((-0.85, 0.85), (-0.85, 0.85)))
COORDINATES = {
    "pendulum": (read_first, ((-math.pi, math.pi), (-8.0, 8.0))),  # angle and speed
    "dmc:cartpole_swingup": (read_pole, ((-math.pi, math.pi), (-10.0, 10.0))),
    "pointmass": PLACE,
    "noisy_room": PLACE,
}
TENTHS = 10


def count_bins(states: np.ndarray, bounds: Any, bins: int) -> list[int]:
    """The visited bins after each tenth of the states (N,2)."""
    low, high = (np.array(side) for side in zip(*bounds, strict=True))
    cells = np.clip((states - low) / (high - low) * bins, 0, bins - 1).astype(int)
    flat = cells[:, 0] * bins + cells[:, 1]
    ends = (np.arange(1, TENTHS + 1) * len(flat)) // TENTHS
    return [len(np.unique(flat[:end])) for end in ends]


def read_actions(path: Path, c: Config) -> Iterator[tuple[int, np.ndarray]]:
    """The seed and the actions (T,A) of each episode of the run's first environment."""
    saved, seeds = SavedEpisodes(path), make_episode_seeds(c.run.seed, STREAMS["collect"])
    for i in range(saved.count):
        stream, after = saved.locate_episode(i)
        last = saved.collecting[0]["number"] - int(saved.collecting[0]["fresh"])
        if stream == 0:
            yield seeds(0, last - after), saved.read_episode(i)["prev_action"][1:]


def simulate(env: Any, seed: int, actions: np.ndarray) -> Iterator[np.ndarray]:
    """The true states of an episode."""
    env.reset(seed=seed)
    yield env.unwrapped.state()
    for action in actions:
        env.step(action)
        yield env.unwrapped.state()


def measure(path: Path, bins: int) -> dict[str, Any]:
    """Count the visited bins of a run, and of random actions in its place."""
    c = RunDir(path).load_config()
    if c.env.task not in COORDINATES:
        raise UsageError(f"{path}: {c.env.task} is not one of {', '.join(COORDINATES)}")
    read, bounds = COORDINATES[c.env.task]
    env = envs.make_factory(replace(c.env, obs="state"), c.distract)()
    generator = np.random.default_rng(c.run.seed)
    visited: dict[str, list[np.ndarray]] = {"run": [], "random": []}
    for seed, actions in read_actions(path, c):
        drawn = generator.uniform(-1, 1, actions.shape).astype(np.float32)
        for name, taken in (("run", actions), ("random", drawn)):
            visited[name] += simulate(env, seed, taken)
    env.close()
    found = {k: count_bins(read(np.stack(v)), bounds, bins) for k, v in visited.items()}
    return {"path": str(path), "states": len(visited["run"]), "bins": bins**2, **found}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/coverage.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--bins", type=int, default=20, help="bins of each coordinate (20)")
    args = parser.parse_args(argv)

    from worldmodel.programs.exit_codes import run_command

    def report() -> int:
        for path in args.runs:
            print(json.dumps(measure(path, args.bins)))
        return 0

    return run_command(report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

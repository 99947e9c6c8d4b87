"""Measure in pixels how well runs know where things are in their pictures.

python benchmarks/feature_points.py RUN [RUN ...] [--episodes N]

For runs of `pushing` and `dmc:reacher_easy`. Random actions, each held for some steps, move the
things; every run sees the same episodes. The simulator says where they truly are. For each thing:

- point: the error of one feature point (model.encoder spatial), the nearest on the episodes that
  are fitted on, without any fit;
- embedding, features: the error of a linear map of the encoder's output, of the posterior;
- mean: the error of the thing's mean place.

Each is the root of the mean squared distance on held-out episodes, a third of all. A line of JSON
per run also has the number of weights of the encoder and of the whole model.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.state_readout import open_run, play_random_episode
from worldmodel.errors import UsageError
from worldmodel.evaluation.quality.state_probe import LinearProbe, split_episodes
from worldmodel.programs.eval_options import parse_positive
from worldmodel.programs.exit_codes import run_command
from worldmodel.spaces import select_prefix
from worldmodel.system import runtime

TASKS = {"pushing": ("pusher", "object"), "dmc:reacher_easy": ("elbow", "tip")}

Episodes = list[np.ndarray]


def find_places(env: Any) -> np.ndarray:
    """The things' x and y (2n,) in the picture: [-1, 1], to the right and downwards."""
    world = env.unwrapped
    if hasattr(world, "bodies"):
        body = world.bodies[0]
        return np.array([*world.pusher, body.x, body.y]) * (1, -1, 1, -1)
    model, there = world.physics.model, world.physics.named.data.xpos[["hand", "finger"]]
    half = math.tan(math.radians(model.cam_fovy[0]) / 2) * (model.cam_pos[0, 2] - there[:, 2])
    return (there[:, :2] / half[:, None] * (1, -1)).ravel()


@torch.no_grad()
def collect(run: Any, env: Any, episodes: int) -> dict[str, Episodes]:
    """Places (T,2n), embeddings (T,E), features (T,F) and points (T,2K) of every episode."""
    found: dict[str, Episodes] = {}
    model = run.agent.model
    for seed in range(episodes):
        rows: dict[str, list[np.ndarray]] = {"places": [], "embedding": [], "features": []}
        for obs, carry in play_random_episode(run, env, seed):
            embed = model.encode({"image": torch.from_numpy(obs["image"])[None, None]})
            feat = model.dynamics.features(select_prefix(carry, "state/"))
            rows["places"].append(find_places(env))
            rows["embedding"].append(embed.flatten().double().numpy())
            rows["features"].append(feat.flatten().double().numpy())
            for points in model.find_points(embed).values():
                rows.setdefault("points", []).append(points.flatten().double().numpy())
        for name, values in rows.items():
            found.setdefault(name, []).append(np.stack(values))
    return found


def measure_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """The root of the mean squared distance of places (N,2)."""
    return float(np.sqrt(np.square(predicted - true).sum(1).mean()))


def measure_thing(number: int, found: dict[str, Episodes]) -> dict[str, float]:
    """The errors of one thing's place on held-out episodes, in units of half a picture."""
    places = [p[:, 2 * number : 2 * number + 2] for p in found["places"]]
    fit, held = split_episodes(places)
    true, mean = np.concatenate(held), np.concatenate(fit).mean(0)
    errors = {}
    if "points" in found:
        seen, unseen = (np.concatenate(part) for part in split_episodes(found["points"]))
        by_point = [
            measure_error(seen[:, k : k + 2], np.concatenate(fit))
            for k in range(0, seen.shape[1], 2)
        ]
        best = 2 * int(np.argmin(by_point))
        errors["point"] = measure_error(unseen[:, best : best + 2], true)
    for name in ("embedding", "features"):
        seen_by_episode, unseen_by_episode = split_episodes(found[name])
        probe = LinearProbe.fit_cross_validated(seen_by_episode, fit)
        errors[name] = measure_error(probe.predict(np.concatenate(unseen_by_episode)), true)
    return {**errors, "mean": measure_error(np.broadcast_to(mean, true.shape), true)}


def measure_run(path: str, episodes: int) -> dict[str, Any]:
    run, env = open_run(Path(path))
    c, model = run.config, run.agent.model
    if c.env.task not in TASKS or c.env.obs != "pixels":
        raise UsageError(
            f"{path}: places are known in pictures of {' and '.join(TASKS)} only, not in "
            f"{c.env.obs} of {c.env.task}"
        )
    runtime.configure_torch(c.run.threads)
    found = collect(run, env, episodes)
    env.close()
    half = min(c.env.size) / 2  # pixels
    things = {
        name: {key: round(half * error, 2) for key, error in measure_thing(i, found).items()}
        for i, name in enumerate(TASKS[c.env.task])
    }
    return {
        "run": "/".join(run.path.resolve().parts[-3:]),
        "task": c.env.task,
        "size": list(c.env.size),
        "encoder": c.model.encoder,
        "encoder_weights": sum(p.numel() for p in model.encoder.parameters()),
        "weights": sum(p.numel() for p in model.parameters()),
        "frames": run.frames,
        "episodes": episodes,
        "pixels": things,
    }


def write_lines(args: argparse.Namespace) -> int:
    for path in args.runs:
        print(json.dumps(measure_run(path, args.episodes)), flush=True)
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/feature_points.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--episodes", type=parse_positive, default=24, help="of each (24)")
    args = parser.parse_args(argv)
    return run_command(lambda: write_lines(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

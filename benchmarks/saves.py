"""python benchmarks/saves.py [PRESET ...] [--rows N] [--size PIXELS]: how long a save takes, and
what it writes.

The replay first takes N rows; then every save has the rows of `log.checkpoint` frames to add, as
in a run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SAVES = 5


def measure(presets: list[str], rows: int, pixels: int) -> dict:
    """Seconds of each save, and bytes on disk before and after."""
    import torch

    import envs
    from envs.parallel.vector import make_vector
    from worldmodel.config import loading
    from worldmodel.run_directory import RunDir
    from worldmodel.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as root:
        frames = [
            f"--run.frames={10**9}",
            "--replay.capacity_gb=16",
            "--env.task=pointmass",
            f"--env.size=[{pixels}, {pixels}]",
            f"--run.root={root}",
        ]
        c = loading.parse([*presets, *frames])
        torch.manual_seed(0)
        run = RunDir.for_config(c)
        run.path.mkdir(parents=True)
        with make_vector(partial(envs.make, c.env.task, size=tuple(c.env.size)), 1) as vector:
            t = Trainer(c, vector, run, torch.device("cpu"))
            taken = [dict(t.rollout.step(t.policy)[0]) for _ in range(256)]
            fill(t, taken, rows)
            first, pauses, written = timed(t), [], []
            for _ in range(SAVES):
                fill(t, taken, c.log.checkpoint // c.env.repeat)
                t.rollout.steps += 1  # a checkpoint of another number
                t._count_steps()
                before = size(run.replay)
                pauses.append(timed(t))
                written.append(size(run.replay) - before + size(max(run.checkpoints.iterdir())))
            return {
                "presets": presets,
                "pixels": pixels,
                "replay_rows": len(t.replay),
                "rows_between_saves": c.log.checkpoint // c.env.repeat,
                "seconds_first_save": round(first, 3),
                "seconds": [round(x, 3) for x in pauses],
                "megabytes_written": [round(x / 1e6, 1) for x in written],
                "megabytes_replay": round(size(run.replay) / 1e6, 1),
            }


def fill(t, taken: list[dict], rows: int) -> None:
    """Rows of a real environment, over and over."""
    for i in range(rows):
        t.replay.add(0, {**taken[i % len(taken)], "reward": np.float32(i)})


def timed(t) -> float:
    began = time.perf_counter()
    t.save()
    return time.perf_counter() - began


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["laptop"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    sys.stdout.write(json.dumps(measure(args.presets, args.rows, args.size)) + "\n")


if __name__ == "__main__":
    main()

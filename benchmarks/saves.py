"""Measure how long a save pauses training, and how much it writes.

python benchmarks/saves.py [PRESET ...] [--rows N] [--size PIXELS]

The replay is first filled with N rows. Then each save adds the rows of `log.checkpoint` frames, as
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
    """Measure the seconds and megabytes of several saves."""
    import torch
    from worldmodel.envs.parallel.vector import make_vector

    from worldmodel import envs
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
            add_rows(t, taken, rows)
            first, pauses, written = time_save(t), [], []
            for _ in range(SAVES):
                add_rows(t, taken, c.log.checkpoint // c.env.repeat)
                t.rollout.steps += 1  # so that the checkpoint gets a new number
                t._count_steps()
                before = measure_folder(run.replay)
                pauses.append(time_save(t))
                written.append(
                    measure_folder(run.replay)
                    - before
                    + measure_folder(max(run.checkpoints.iterdir()))
                )
            return {
                "presets": presets,
                "pixels": pixels,
                "replay_rows": len(t.replay),
                "rows_between_saves": c.log.checkpoint // c.env.repeat,
                "seconds_first_save": round(first, 3),
                "seconds": [round(x, 3) for x in pauses],
                "megabytes_written": [round(x / 1e6, 1) for x in written],
                "megabytes_replay": round(measure_folder(run.replay) / 1e6, 1),
            }


def add_rows(t, taken: list[dict], rows: int) -> None:
    """Add rows to the replay by repeating those of a real environment."""
    for i in range(rows):
        t.replay.add(0, {**taken[i % len(taken)], "reward": np.float32(i)})


def time_save(t) -> float:

    began = time.perf_counter()
    t.save()
    return time.perf_counter() - began


def measure_folder(folder: Path) -> int:
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

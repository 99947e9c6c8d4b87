"""The time to sample a batch from the replay buffer, and the bytes per stored frame."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel import envs
from worldmodel.replay.buffer import Replay, count_row_bytes
from worldmodel.replay.samplers.uniform import Uniform

BATCH, LENGTH = 16, 32


def make_spec(size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Make the spec of a task with one action and `size`-pixel images."""
    flags = {key: ((), "bool") for key in ("is_first", "is_last", "is_terminal")}
    return {
        "image": ((size, size, 3), "uint8"),
        "prev_action": ((1,), "float32"),
        "reward": ((), "float32"),
        **flags,
    }


def fill_buffer(
    size: int, rows: int, store: str, directory: Path | None
) -> tuple[Replay, list[dict[str, Any]]]:
    """Fill a buffer, and a plain list of the same rows, with random frames."""
    shape = make_spec(size)
    replay = Replay(
        shape,
        capacity_bytes=4 * 10**9,
        store=store,
        directory=directory,
        num_streams=1,
        seed=0,
        sampler=Uniform(),
    )
    pixels = np.random.default_rng(0).integers(256, size=(64, size, size, 3), dtype=np.uint8)
    kept = []
    for i in range(rows):
        row = {
            "image": pixels[i % 64],
            "prev_action": np.full(1, 0.5, np.float32),
            "reward": np.float32(i),
            "is_first": i % 500 == 0,
            "is_last": i % 500 == 499,
            "is_terminal": False,
        }
        replay.add(0, row)
        if i < 10_000:
            kept.append({**row, "image": row["image"].copy()})
    replay.flush()
    return replay, kept


def record_task(task: str, rows: int, codec: str) -> Replay:
    """Fill a buffer with a random policy's experience of a DeepMind Control task."""
    env = envs.make(task, repeat=2, render="ray")
    env.action_space.seed(0)
    size = env.action_space.shape[0]
    layout = {**make_spec(64), "prev_action": ((size,), "float32")}
    replay = Replay(
        layout,
        capacity_bytes=10**9,
        store="ram",
        codec=codec,
        directory=None,
        num_streams=1,
        seed=0,
        sampler=Uniform(),
    )
    picture, first = env.reset(seed=0)[0], True
    for i in range(rows):
        action = np.zeros(size, np.float32) if first else env.action_space.sample()
        reward, last = 0.0, False
        if not first:
            picture, reward, terminated, truncated, _ = env.step(action)
            last = terminated or truncated
        flags = {"is_first": first, "is_last": last, "is_terminal": False}
        replay.add(
            0, {"image": picture, "prev_action": action, "reward": np.float32(reward), **flags}
        )
        first = last
        if last:
            picture = env.reset(seed=i)[0]
    env.close()
    return replay


def measure_compression() -> dict[str, dict[str, Any]]:
    """Measure compressed bytes per frame against raw pixels, and sampling against uncompressed
    rows.
    """
    found = {}
    for task in ("dmc:cartpole_swingup", "dmc:walker_walk", "dmc:ball_in_cup_catch"):
        packed, plain = record_task(task, 4096, "zstd"), record_task(task, 4096, "none")
        name, kept = task.removeprefix("dmc:"), packed.stats()["bytes_per_row"]
        found[f"replay.packed.bytes_per_frame.{name}"] = make_entry(kept, "B", 64 * 64 * 3)
        times = [
            measure_milliseconds(lambda replay=replay: replay.sample(BATCH, LENGTH))
            for replay in (packed, plain)
        ]
        found[f"replay.packed.sample.16x32.{name}"] = make_entry(times[0], "ms", times[1])
    return found


def sample_naively(rows: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample the same batch from a list of rows with np.stack."""
    starts = rng.integers(len(rows) - LENGTH + 1, size=BATCH)
    return {
        key: np.stack([np.stack([rows[s + t][key] for t in range(LENGTH)]) for s in starts])
        for key in rows[0]
    }


def measure_milliseconds(call: Callable[[], object], repeats: int = 40) -> float:
    """Measure the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def measure_sampling(size: int, rows: int, store: str) -> tuple[float, float]:
    """Measure milliseconds per 16x32 batch: of the buffer, and of a list of up to 10,000 rows."""
    with tempfile.TemporaryDirectory() as folder:
        replay, kept = fill_buffer(size, rows, store, Path(folder) if store == "disk" else None)
        rng = np.random.default_rng(0)
        return measure_milliseconds(lambda: replay.sample(BATCH, LENGTH)), measure_milliseconds(
            lambda: sample_naively(kept, rng), 20
        )


def make_entry(value: float, unit: str, baseline: float) -> dict[str, Any]:
    """Make the entry of one figure and its baseline."""
    return {"value": round(value, 4), "unit": unit, "baseline": round(baseline, 4)}


def measure() -> dict[str, dict[str, Any]]:
    """Measure sampling (against np.stack over a list of rows) and storage (against raw pixels)."""
    ram, ram_naive = measure_sampling(64, 10_000, "ram")
    disk, _ = measure_sampling(64, 10_000, "disk")
    # The bookkeeping of a million rows does not depend on the size of a row, so 8x8 images stand
    # in for 64x64. The baseline is the same buffer with 10,000 rows: equal figures mean that the
    # number of rows does not matter.
    small, _ = measure_sampling(8, 10_000, "ram")
    million, _ = measure_sampling(8, 1_000_000, "ram")
    return {
        "replay.sample.16x32": make_entry(ram, "ms", ram_naive),
        "replay.sample.16x32.disk": make_entry(disk, "ms", ram_naive),
        "replay.sample.16x32.1M": make_entry(million, "ms", small),
        "replay.bytes_per_frame": make_entry(count_row_bytes(make_spec(64)), "B", 64 * 64 * 3),
        **measure_compression(),
    }


def main() -> None:
    """Print the figures as one JSON object."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()

"""Published scores on DeepMind Control (reference.csv; where they come from:
docs/evaluation.md).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("reference.csv")
DMC, DISTRACT = "dmc:", "distract:"
NAMES = {
    "pixels": {
        "dreamerv3": "DreamerV3, published",
        "dreamerv2": "DreamerV2, published",
        "dreamer": "Dreamer (first), published",
        "drqv2": "DrQ-v2, published",
        "planet": "PlaNet, published",
    },
    "state": {
        "dreamerv3_state": "DreamerV3 from states, published",
        "tdmpc2_state": "TD-MPC2 from states, published",
    },
    "video": {
        "dreamerpro_video": "DreamerPro before videos, published",
        "tpc_video": "TPC before videos, published",
        "dreamerv2_video": "DreamerV2 before videos, published",
    },
}
SETTINGS = {
    "pixels": "Published runs see the task's standard picture with action repeat {repeat}; this "
    "run: renderer "
    "{env.render}, repeat {env.repeat}.",
    "state": "Published runs from states are given the simulator's vector with action repeat "
    "{repeat}; this run: "
    "{env.obs}, repeat {env.repeat}.",
    "video": "Published runs see the task before natural videos (Kinetics), 64x64 pixels, "
    "action repeat {repeat}; "
    "this run: before moving noise or blobs, renderer {env.render}, repeat {env.repeat}. "
    "Backgrounds and "
    "pictures differ: this says only of what order returns are.",
}
TRAINING = " DreamerV3's numbers are those of training episodes."


@dataclass
class Published:
    """A method's mean return and its standard deviation over seeds, by environment frames."""

    method: str
    name: str
    frames: list[int]
    mean: list[float]
    std: list[float]
    seeds: str
    repeat: str
    source: str


def setting(task: str, obs: str) -> str:
    """Which of the published settings is nearest; empty where none is."""
    if task.startswith(DISTRACT + DMC):
        return "video"
    return "" if not task.startswith(DMC) else "state" if obs == "state" else "pixels"


def published(task: str, obs: str) -> list[Published]:
    """What there is for a task of DeepMind Control."""
    names = NAMES.get(setting(task, obs), {})
    with TABLE.open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["task"] == task.removeprefix(DISTRACT).removeprefix(DMC)
        ]
    found = []
    for method, name in names.items():
        own = sorted(
            (row for row in rows if row["method"] == method), key=lambda row: int(row["frames"])
        )
        if own:
            columns = [
                [float(row[k]) for row in own] for k in ("frames", "score_mean", "score_std")
            ]
            last = own[-1]
            found.append(
                Published(
                    method,
                    name,
                    [int(x) for x in columns[0]],
                    columns[1],
                    columns[2],
                    last["seeds"],
                    last["action_repeat"],
                    last["source"],
                )
            )
    return found


def note(env: Any, known: Sequence[Published]) -> str:
    """What keeps the published numbers from being the same measurement as a run of an `env`
    section.
    """
    repeats = " or ".join(dict.fromkeys(method.repeat for method in known))
    text = SETTINGS[setting(env.task, env.obs)].format(env=env, repeat=repeats)
    return text + TRAINING * any(method.method.startswith("dreamerv3") for method in known)

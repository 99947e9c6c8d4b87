"""Published scores on DeepMind Control, from reference.csv; docs/evaluation.md has the sources."""

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
    "pixels": "Published runs observe the task's standard picture with action repeat {repeat}. "
    "This run: renderer {env.render}, action repeat {env.repeat}.",
    "state": "Published runs from states observe the simulator's vector with action repeat "
    "{repeat}. This run: {env.obs}, action repeat {env.repeat}.",
    "video": "Published runs observe the task in front of natural videos (Kinetics), 64x64 "
    "pixels, action repeat {repeat}. This run: moving noise or blobs as background, renderer "
    "{env.render}, action repeat {env.repeat}. Backgrounds and pictures differ: compare only the "
    "order of magnitude.",
}
TRAINING_NOTE = " DreamerV3's numbers are from training episodes."


@dataclass
class PublishedScores:
    """A method's mean return and its standard deviation over seeds, by environment frames."""

    method: str
    name: str
    frames: list[int]
    mean: list[float]
    std: list[float]
    seeds: str
    repeat: str
    source: str


def find_setting(task: str, obs: str) -> str:
    """The name of the nearest published setting, or an empty string."""
    if task.startswith(DISTRACT + DMC):
        return "video"
    return "" if not task.startswith(DMC) else "state" if obs == "state" else "pixels"


def load_published_scores(task: str, obs: str) -> list[PublishedScores]:
    """The published scores of every method on this task, in this setting."""
    names = NAMES.get(find_setting(task, obs), {})
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
                PublishedScores(
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


def describe_setting(env: Any, known: Sequence[PublishedScores]) -> str:
    """How the published measurements differ from those of a run with this `env` section."""
    repeats = " or ".join(dict.fromkeys(method.repeat for method in known))
    text = SETTINGS[find_setting(env.task, env.obs)].format(env=env, repeat=repeats)
    return text + TRAINING_NOTE * any(method.method.startswith("dreamerv3") for method in known)

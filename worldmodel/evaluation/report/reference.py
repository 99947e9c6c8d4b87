"""Published scores on DeepMind Control from pixels (reference.csv; where they come from: docs/evaluation.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("reference.csv")
NAMES = {"dreamerv3": "DreamerV3, published", "drqv2": "DrQ-v2, published"}


@dataclass
class Published:
    """A method's mean return and its standard deviation over seeds, by environment frames."""

    name: str
    frames: list[int]
    mean: list[float]
    std: list[float]
    seeds: str
    repeat: str
    source: str


def published(task: str, obs: str) -> list[Published]:
    """What there is for a task of DeepMind Control that is seen as pictures."""
    if obs != "pixels" or not task.startswith("dmc:"):
        return []
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task.removeprefix("dmc:")]
    found = []
    for method, name in NAMES.items():
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["frames"]))
        if own:
            columns = [[float(row[k]) for row in own] for k in ("frames", "score_mean", "score_std")]
            last = own[-1]
            found.append(Published(name, [int(x) for x in columns[0]], columns[1], columns[2], last["seeds"],
                                   last["action_repeat"], last["source"]))  # fmt: skip
    return found

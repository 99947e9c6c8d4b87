"""Plain values out of a checkpoint that anyone may have made: every one is checked before a run
goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from worldmodel.system.files import open_regular

MOST = 2**53  # what any counter may say
NAME = 200  # letters of a metric's name


def whole(value: Any, what: str, low: int = 0, high: int = MOST) -> int:
    """A whole number within bounds; ValueError says which one is not."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is {_short(value)}, not a whole number from {low} to {high}")
    return value


def flag(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{what} is {_short(value)}, not true or false")
    return value


def number(value: Any, what: str) -> float:
    """A finite number that is not negative."""
    if type(value) not in (int, float) or not 0 <= value <= MOST:  # NaN is in no range
        raise ValueError(f"{what} is {_short(value)}, not a number from 0 to {MOST}")
    return float(value)


def read_lines(path: Path, most: int = 1 << 30, longest: int = 1 << 20) -> list[dict[str, Any]]:
    """The tables of a JSON-lines file, none where it is not there; other lines, as a torn last
    one, are left out.
    """
    lines = []
    with contextlib.suppress(FileNotFoundError), os.fdopen(open_regular(path), "rb") as file:
        while file.tell() < most and (line := file.readline(longest)):
            with contextlib.suppress(ValueError, RecursionError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def check(state: dict[str, Any], place: int) -> None:
    """All of a training's state but its rollouts and replays, which check their own; `place`
    numbers its checkpoint.
    """
    for key in ("log", "eval", "save"):
        flag(table(state, "due", 3)[key], f"due.{key}")
    prefill, learner = table(state, "prefill", 2), table(state, "learner")
    flag(prefill["over"], "prefill.over")
    for key in ("updates", "skipped", "skipped_in_a_row"):
        whole(learner[key], f"learner.{key}")
    whole(learner.get("rollbacks", 0), "learner.rollbacks")
    shares = [state, *state.get("others", [])]
    steps = sum(whole(table(share, "rollout")["steps"], "rollout.steps") for share in shares)
    whole(prefill["steps"], "prefill.steps", high=steps)
    if steps + learner["updates"] != place:
        raise ValueError(
            f"rollout.steps {steps} and learner.updates {learner['updates']} do not make up its "
            f"number {place}"
        )
    whole(state["frames"], "frames")
    check_spaces(state)
    _check_means(state["means"])
    _check_logger(state["logger"])


def check_spaces(state: dict[str, Any]) -> None:
    """What is seen and what is done, of sizes that anything has."""
    seen, done = table(state, "observation"), table(state, "action")
    if seen["image"] is None and seen["vector"] is None:
        raise ValueError("observation holds neither image nor vector")
    if seen["image"] is not None:
        if not isinstance(seen["image"], list) or len(seen["image"]) != 3:
            raise ValueError(f"observation.image is {_short(seen['image'])}, not three sizes")
        for size in seen["image"]:
            whole(size, "observation.image", 1, 1 << 14)
    if seen["vector"] is not None:
        whole(seen["vector"], "observation.vector", 1, 1 << 24)
    size = whole(done["size"], "action.size", 1, 1 << 20)
    flag(done["scalar"], "action.scalar")
    groups = done["groups"]
    if not isinstance(groups, list):
        raise ValueError(f"action.groups is {_short(groups)}, not a list")
    if groups and sum(whole(n, "action.groups", 1, 1 << 20) for n in groups) != size:
        raise ValueError(f"action.groups do not add up to action.size {size}")


def table(state: Any, name: str, length: int | None = None) -> dict[str, Any]:
    """A table of a state, of so many entries."""
    found = state[name]
    if not isinstance(found, dict) or len(found) != (len(found) if length is None else length):
        raise ValueError(
            f"{name} is {_short(found)}, not a table{f' of {length} values' if length else ''}"
        )
    return found


def _check_means(means: Any) -> None:
    if isinstance(means, dict):  # as runs kept it before metrics were added together
        groups = [
            {"sums": {k: v}, "count": table(means, "counts")[k]}
            for k, v in table(means, "sums").items()
        ]
    elif isinstance(means, list):
        groups = means
    else:
        raise ValueError(f"means is {_short(means)}, not a list")
    for group in groups:
        whole(group["count"], "means[].count", 1)
        for name, text in table(group, "sums").items():
            if not (name.isascii() and name.isprintable() and 0 < len(name) <= NAME):
                raise ValueError(f"means[].sums names a metric {_short(name)}")
            if not isinstance(text, str) or len(text) > NAME:
                raise ValueError(
                    f"means[].sums.{name} is {_short(text)}, not a number's hexadecimal digits"
                )
            float.fromhex(text)


def _check_logger(logger: Any) -> None:
    if logger is None:
        return
    for key in ("metrics", "scores"):
        whole(table({"logger": logger}, "logger")[key], f"logger.{key}")
    number(logger["minutes"], "logger.minutes")


def _short(value: Any) -> str:
    """A value as a few letters of one line, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = (
        ascii(value)
        if isinstance(value, str | int | float | None)
        else f"a {type(value).__name__}"
    )
    return text if len(text) <= 40 else f"{text[:40]}..."

"""Checks of the values in an untrusted checkpoint, before a run uses them."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from worldmodel.system.files import open_regular

MAX_COUNT = 2**53  # the largest value of a counter
MAX_NAME_LENGTH = 200  # characters of a metric's name
MAX_OBSERVATIONS = 100  # pictures and vectors of an environment


def check_integer(value: Any, what: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return the value if it is an integer from low to high; ValueError names it otherwise."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is {_cut_text(value)}, not a whole number from {low} to {high}")
    return value


def check_bool(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{what} is {_cut_text(value)}, not true or false")
    return value


def check_number(value: Any, what: str) -> float:
    """Return the value as a float if it is a finite number that is not negative."""
    if type(value) not in (int, float) or not 0 <= value <= MAX_COUNT:  # also refuses NaN
        raise ValueError(f"{what} is {_cut_text(value)}, not a number from 0 to {MAX_COUNT}")
    return float(value)


def read_json_lines(
    path: Path, most: int = 1 << 30, longest: int = 1 << 20
) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; none if it is missing.

    Lines that are no JSON object, such as a half-written last one, are skipped.
    """
    lines = []
    with contextlib.suppress(FileNotFoundError), os.fdopen(open_regular(path), "rb") as file:
        while file.tell() < most and (line := file.readline(longest)):
            with contextlib.suppress(ValueError, RecursionError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def check_state(state: dict[str, Any], place: int) -> None:
    """Check the state of a training at checkpoint number `place`.

    Rollouts and replays are not checked here; they check their own state.
    """
    for key in ("log", "eval", "save"):
        check_bool(check_table(state, "due", 3)[key], f"due.{key}")
    prefill, learner = check_table(state, "prefill", 2), check_table(state, "learner")
    check_bool(prefill["over"], "prefill.over")
    for key in ("updates", "skipped", "skipped_in_a_row"):
        check_integer(learner[key], f"learner.{key}")
    check_integer(learner.get("rollbacks", 0), "learner.rollbacks")
    apart = check_integer(learner.get("policy_updates", 0), "learner.policy_updates")
    shares = [state, *state.get("others", [])]
    steps = sum(
        check_integer(check_table(share, "rollout")["steps"], "rollout.steps") for share in shares
    )
    check_integer(prefill["steps"], "prefill.steps", high=steps)
    if steps + learner["updates"] + apart != place:
        raise ValueError(
            f"rollout.steps {steps}, learner.updates {learner['updates']} and "
            f"learner.policy_updates {apart} do not make up its number {place}"
        )
    check_integer(state["frames"], "frames")
    check_spaces(state)
    _check_means(state["means"])
    _check_logger(state["logger"])


def check_spaces(state: dict[str, Any]) -> None:
    """Check the shapes of observations and actions."""
    check_observation(state)
    done = check_table(state, "action")
    size = check_integer(done["size"], "action.size", 1, 1 << 20)
    check_bool(done["scalar"], "action.scalar")
    groups = done["groups"]
    if not isinstance(groups, list):
        raise ValueError(f"action.groups is {_cut_text(groups)}, not a list")
    if groups and sum(check_integer(n, "action.groups", 1, 1 << 20) for n in groups) != size:
        raise ValueError(f"action.groups do not add up to action.size {size}")


def check_observation(state: dict[str, Any]) -> dict[str, list[int] | int]:
    """Return the observations by name: three sizes of each picture, one of each vector."""
    # Earlier versions named both image and vector, null where the run had none.
    seen = {k: v for k, v in check_table(state, "observation").items() if v is not None}
    if not 0 < len(seen) <= MAX_OBSERVATIONS:
        raise ValueError(f"observation holds {len(seen)} pictures and vectors")
    for name, sizes in seen.items():
        what = f"observation.{ascii(name)[1:-1][:MAX_NAME_LENGTH]}"
        if isinstance(sizes, list):
            if len(sizes) != 3:
                raise ValueError(f"{what} is {_cut_text(sizes)}, not three sizes")
            for size in sizes:
                check_integer(size, what, 1, 1 << 14)
        else:
            check_integer(sizes, what, 1, 1 << 24)
    return seen


def check_table(state: Any, name: str, length: int | None = None) -> dict[str, Any]:
    """Return `state[name]`; ValueError unless it is a dict, of `length` entries if given."""
    found = state[name]
    if not isinstance(found, dict) or len(found) != (len(found) if length is None else length):
        raise ValueError(
            f"{name} is {_cut_text(found)}, not a table{f' of {length} values' if length else ''}"
        )
    return found


def _check_means(means: Any) -> None:
    if isinstance(means, dict):  # the form that earlier versions saved
        groups = [
            {"sums": {k: v}, "count": check_table(means, "counts")[k]}
            for k, v in check_table(means, "sums").items()
        ]
    elif isinstance(means, list):
        groups = means
    else:
        raise ValueError(f"means is {_cut_text(means)}, not a list")
    for group in groups:
        check_integer(group["count"], "means[].count", 1)
        for name, text in check_table(group, "sums").items():
            if not (name.isascii() and name.isprintable() and 0 < len(name) <= MAX_NAME_LENGTH):
                raise ValueError(f"means[].sums names a metric {_cut_text(name)}")
            if not isinstance(text, str) or len(text) > MAX_NAME_LENGTH:
                raise ValueError(
                    f"means[].sums.{name} is {_cut_text(text)}, not a number's hexadecimal digits"
                )
            float.fromhex(text)


def _check_logger(logger: Any) -> None:
    if logger is None:
        return
    for key in ("metrics", "scores"):
        check_integer(check_table({"logger": logger}, "logger")[key], f"logger.{key}")
    check_number(logger["minutes"], "logger.minutes")
    if "processor_minutes" in logger:  # earlier versions did not save it
        check_number(logger["processor_minutes"], "logger.processor_minutes")


def _cut_text(value: Any) -> str:
    """Format any value as at most 43 characters of one line."""
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

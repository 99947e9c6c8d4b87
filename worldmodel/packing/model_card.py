"""The README.md of a packed run, which the hub shows as its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worldmodel.config.schema import Config
from worldmodel.errors import escape_control
from worldmodel.system.files import to_finite

NAME = "README.md"


def format_card(
    c: Config,
    frames: int,
    scores: Sequence[tuple[str, dict[str, Any]]],
    command: str,
    versions: dict[str, str],
) -> str:
    """The card as Markdown; `scores` are (title, summary of an evaluation)."""
    task = escape_control(c.env.task)
    rows = [
        f"| {title} | {values['eval/score']:.1f} | {_format_interval(values)} | "
        f"{values.get('eval/episodes', '')} |"
        for title, values in scores
    ]
    table = (
        ["| evaluation | mean return | 95 % interval | episodes |", "|---|---|---|---|", *rows]
        if rows
        else ["It has not been evaluated."]
    )
    head = {
        "library_name": "worldmodel",
        "tags": ["reinforcement-learning", "world-model", "model-based"],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
        "---",
        "",
        f"# {escape_control(c.run.name)} on {task}",
        "",
        f"A world model (dynamics `{c.model.dynamics}`, latent `{c.model.latent}`) with behavior "
        f"`{c.behavior.name}`, trained on {frames:,} frames of `{task}` with seed {c.run.seed}.",
        "",
        *table,
        "",
        "Trained by:",
        "",
        "```",
        escape_control(command),
        "```",
        "",
        "Use it:",
        "",
        "```python",
        "import worldmodel",
        "",
        'run = worldmodel.load("PATH")  # this directory, its zip file, or hf://user/repo',
        "action, carry = run.act(observation)",
        "```",
        "",
        "`config.yaml` has every setting, `golden.safetensors` observations with the model's "
        "outputs, which are compared when it is opened.",
        "",
        f"Packed with {', '.join(f'{k} {escape_control(v)}' for k, v in versions.items())}.",
    ]
    return "\n".join(lines) + "\n"


def _format_interval(values: dict[str, Any]) -> str:
    if values.get("eval/episodes") == 1:
        return ""
    low, high = (to_finite(values.get(f"eval/score_{end}")) for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"

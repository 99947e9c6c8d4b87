"""Saved runs on the same episodes of shaking: what a linear map reads off their latents, and what
they draw.

Actions are kept to for some steps each, whatever a run would do itself: an agent that balances
hardly moves the state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from worldmodel.evaluation.plotting.style import load_pyplot, save_figure
from worldmodel.evaluation.quality.state_probe import measure_held_out_r2
from worldmodel.saved_run import Run
from worldmodel.spaces import select_prefix

EPISODES = 12  # of the read-out
CHANGE = 1 / 6  # how often an action is drawn anew: a pendulum comes over its upper half that way


def read_out(path: Path) -> list[float | None]:
    """R^2 by coordinate of the simulator's state, kept beside the run for as long as it is trained
    no further.
    """
    kept = path / "eval" / "shaken.json"
    run, env = opened(path)
    about = {"frames": run.frames, "episodes": EPISODES, "change": CHANGE}
    if not kept.is_file() or not about.items() <= json.loads(kept.read_text()).items():
        feats, states = [], []
        for seed in range(EPISODES):
            seen = [
                (run.agent.model.dynamics.features(select_prefix(carry, "state/")), obs)
                for obs, carry in shaken(run, env, seed)
            ]
            feats.append(torch.cat([feat for feat, _ in seen]).double().numpy())
            states.append(np.stack([obs["vector"] for _, obs in seen]).astype(np.float64))
        r2 = [None if x != x else x for x in measure_held_out_r2(feats, states).tolist()]
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({**about, "r2": r2}) + "\n")
    env.close()
    return json.loads(kept.read_text())["r2"]


def opened(path: Path) -> tuple[Run, Any]:
    """A run that does not think about what to do, and its environment before backgrounds that
    training never had.
    """
    run = Run.open(path).driven([("behavior.name", "random")])
    return run, envs.configured(run.config.env, run.config.distract)(obs="both", held_out=True)


@torch.no_grad()
def shaken(run: Run, env: Any, seed: int) -> Iterator[tuple[dict, dict]]:
    """What is seen in an episode of actions that are kept to for some steps each, and what the
    model makes of it.
    """
    generator, carry, over = np.random.default_rng(seed), None, False
    action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
    obs, _ = env.reset(seed=12345 + seed)
    while not over:
        _, carry = run.act(obs["image"], carry)
        yield obs, carry
        if generator.random() < CHANGE:
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        carry = {**carry, "prev_action": torch.from_numpy(action)[None]}
        obs, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


def draw_seen(runs: dict[str, Path], target: Path, pictures: int = 10) -> None:
    """What each run's decoder or probe draws of the same pictures, a row each, the truth above."""
    rows: dict[str, np.ndarray] = {}
    for name, path in runs.items():
        run, env = opened(path)
        seen = [
            (obs["image"], run.draw(carry))
            for obs, carry in islice(shaken(run, env, 0), 2, 3 * pictures, 3)
        ]
        env.close()
        truth, drawn = (np.concatenate(row, 1) for row in zip(*seen, strict=True))
        rows = {"truth": truth, **rows, name: drawn}
    figure, axes = load_pyplot().subplots(
        len(rows), 1, figsize=(9, 0.74 * len(rows)), dpi=80, layout="constrained"
    )
    for axis, (name, row) in zip(axes, rows.items(), strict=True):
        axis.imshow(row)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_ylabel(name.replace("+", "\n+ "), rotation=0, ha="right", va="center")
    save_figure(figure, target)

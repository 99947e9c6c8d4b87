"""A linear readout of the simulator's state from a saved run's latents, on random episodes.

Each action is random and held for some steps, and all runs see the same actions: an agent that
balances would hardly move the state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import envs
from worldmodel.evaluation.plotting.style import load_pyplot, save_figure
from worldmodel.evaluation.quality.state_probe import measure_held_out_r2
from worldmodel.saved_run import Run
from worldmodel.spaces import select_prefix

EPISODES = 12  # of the readout
CHANGE = 1 / 6  # probability of a new action per step; enough to swing a pendulum over the top


def measure_readout(path: Path) -> list[float | None]:
    """Measure the R^2 of each coordinate of the simulator's state, cached in the run directory."""
    kept = path / "eval" / "shaken.json"
    run, env = open_run(path)
    about = {"frames": run.frames, "episodes": EPISODES, "change": CHANGE}
    if not kept.is_file() or not about.items() <= json.loads(kept.read_text()).items():
        feats, states = [], []
        for seed in range(EPISODES):
            seen = [
                (run.agent.model.dynamics.features(select_prefix(carry, "state/")), obs)
                for obs, carry in play_random_episode(run, env, seed)
            ]
            feats.append(torch.cat([feat for feat, _ in seen]).double().numpy())
            states.append(np.stack([obs["vector"] for _, obs in seen]).astype(np.float64))
        r2 = [None if x != x else x for x in measure_held_out_r2(feats, states).tolist()]
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({**about, "r2": r2}) + "\n")
    env.close()
    return json.loads(kept.read_text())["r2"]


def open_run(path: Path) -> tuple[Run, Any]:
    """Open a run with random behaviour, and its environment with held-out backgrounds."""
    run = Run.open(path).apply_overrides([("behavior.name", "random")])
    return run, envs.make_factory(run.config.env, run.config.distract)(obs="both", held_out=True)


@torch.no_grad()
def play_random_episode(run: Run, env: Any, seed: int) -> Iterator[tuple[dict, dict]]:
    """Play an episode of held random actions; yield each observation and the model's state."""
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


def draw_pictures(runs: dict[str, Path], target: Path, pictures: int = 10) -> None:
    """Draw the same pictures as each run's decoder or probe reconstructs them, below the truth."""
    rows: dict[str, np.ndarray] = {}
    for name, path in runs.items():
        run, env = open_run(path)
        seen = [
            (obs["image"], run.draw(carry))
            for obs, carry in islice(play_random_episode(run, env, 0), 2, 3 * pictures, 3)
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

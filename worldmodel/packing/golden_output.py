"""A golden observation and what the model makes of it, so that a copy elsewhere can be checked."""

from __future__ import annotations

import logging
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from worldmodel.checkpoint.format import parse_tensors
from worldmodel.errors import DataError
from worldmodel.packing.file_list import FileList
from worldmodel.spaces import ObservationSpace
from worldmodel.system.files import read_small_file, replace_file
from worldmodel.system.provenance import describe_cpu
from worldmodel.system.runtime import autocast, make_generator

log = logging.getLogger(__name__)

NAME, MAX_BYTES, ROWS = "golden.safetensors", 1 << 28, 4
# Of the largest difference of an output, relative to the largest value where that is above 1.
TOLERANCE = 1e-3  # within it, other libraries and processors count as equal
FAR_OFF = 0.1  # beyond it, this is another function than was packed, and the run is refused
INPUT, OUTPUT = "seen/", "made/"


def describe_here() -> dict[str, str]:
    """What may change numbers: versions and hardware."""
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "CPU": describe_cpu(),
    }


def write_golden(run: Any, folder: Path) -> None:
    """Write random observations and actions, and the outputs that a run makes of them.

    `run` is anything with an agent, an observation_space, an action_space and a policy.
    """
    draw = np.random.default_rng(0)
    seen: dict[str, Tensor] = {}
    for name, shape in run.observation_space.items():
        is_picture = name in run.observation_space.pictures
        drawn = (
            draw.integers(0, 256, (ROWS, *shape), np.uint8)
            if is_picture
            else draw.standard_normal((ROWS, *shape), np.float32)
        )
        seen[name] = torch.from_numpy(drawn)
    seen["prev_action"] = run.action_space.random(ROWS, make_generator(0))
    tensors = {INPUT + k: v for k, v in seen.items()}
    tensors |= {OUTPUT + k: v for k, v in compute_outputs(run, seen).items()}
    replace_file(folder / NAME, safetensors.torch.save(tensors))


@torch.no_grad()
def compute_outputs(run: Any, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs (B,...) in fp32 by name, of one step from the zero state; nothing is sampled."""
    agent, model = run.agent, run.agent.model
    obs = {**seen, "is_first": torch.zeros(len(seen["prev_action"]), dtype=torch.bool)}
    generator = make_generator(0, device=agent.device.type)
    with autocast(agent.device, "fp32"):
        state, _ = agent.filter(obs, agent.init(len(seen["prev_action"])), generator)
        shown = {k: seen[k].unsqueeze(1).to(agent.device) for k in model.observation}
        embed = model.encode(shown).squeeze(1)
        latent = model.dynamics.infer_latent(state, embed)  # in place of the state's own sample
        feat = model.dynamics.expected_features({**state, **latent})
        made = {"embedding": embed, "features": feat}
        if model.dynamics.imagines:
            made["reward"], made["continuation"] = model.predict(feat)
        if run.policy is not None:
            made["action"] = run.policy.choose(feat).mode()
        if model.can_draw:
            pictures = model.decode(feat.unsqueeze(1))
            made |= {f"picture/{name}": picture for name, picture in pictures.items()}
    return {name: value.float().cpu().contiguous() for name, value in made.items()}


def check_golden(run: Any, folder: Path, listed: FileList) -> None:
    """Compare with the golden outputs: a warning names what differs, and DataError refuses what
    is far off.
    """
    seen, expected = read_golden(folder / NAME, run.observation_space, run.action_space.size)
    made = compute_outputs(run, seen)
    if made.keys() != expected.keys():
        raise DataError(f"{folder / NAME} holds the outputs of another model")
    worst = max(measure_difference(made[name], expected[name]) for name in made)
    now = describe_here()
    changed = [f"{k} {listed.versions.get(k)}" for k in now if listed.versions.get(k) != now[k]]
    here = ", ".join(f"{k} {now[k]}" for k in now if listed.versions.get(k) != now[k])
    numbers = f"its outputs differ by {worst:.1e} (tolerance {TOLERANCE:g})"
    if not worst <= FAR_OFF:
        raise DataError(
            f"{folder}: {numbers}, so this is not the model that was packed; packed with "
            f"{', '.join(f'{k} {v}' for k, v in listed.versions.items())}"
        )
    if changed or worst > TOLERANCE:
        versions = f"packed with {', '.join(changed)}, opened with {here}; " if changed else ""
        log.warning("%s: %s%s", folder, versions, numbers)


def read_golden(
    path: Path, observation: ObservationSpace, actions: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The golden observations and outputs of a file; DataError if they are not of this shape."""
    try:
        tensors = parse_tensors(path, read_small_file(path, MAX_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    seen = {k[len(INPUT) :]: v for k, v in tensors.items() if k.startswith(INPUT)}
    made = {k[len(OUTPUT) :]: v for k, v in tensors.items() if k.startswith(OUTPUT)}
    wanted = {name: tuple(shape) for name, shape in observation.items()}
    wanted["prev_action"] = (actions,)
    kinds = {k: torch.uint8 if k in observation.pictures else torch.float32 for k in wanted}
    if {k: tuple(v.shape) for k, v in seen.items()} != {
        k: (ROWS, *shape) for k, shape in wanted.items()
    } or {k: v.dtype for k, v in seen.items()} != kinds:
        raise DataError(f"{path} does not hold observations of this run's shapes")
    return seen, made


def measure_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value above 1; infinite if shapes differ or
    a number is not finite.
    """
    if one.shape != other.shape or not other.is_floating_point() or not one.numel():
        return math.inf
    scale = max(1.0, float(other.abs().max()))
    difference = float((one - other.float()).abs().max()) / scale
    return difference if math.isfinite(difference) else math.inf

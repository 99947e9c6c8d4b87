"""A lower bound on the memory of a run, checked before anything large is allocated."""

from __future__ import annotations

import math

import torch

from worldmodel import build
from worldmodel.config.schema import Config, find_policy, learns_policy
from worldmodel.distributed import ALONE, World
from worldmodel.errors import UsageError
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.networks import compute_encoded_size
from worldmodel.model.spatial_encoder import shrink_sides
from worldmodel.replay.capacity import count_row_bytes
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.system.available_memory import GB, available_memory

BYTES_PER_WEIGHT = 16  # the weight, its gradient and Adam's two moments
BYTES_PER_ACTIVATION = 2  # at least, in bf16
KEYS_TO_LOWER = {
    "weights": "model.deter, model.hidden, model.units, model.cnn or spatial.channels",
    "an update": "replay.batch, replay.length, env.size or imag.starts",
    "a plan": "planner.candidates, planner.horizon or env.num",
    "the replay": "replay.capacity_gb",
}


def estimate_rows(c: Config, environments: int) -> int:
    """Estimate the replay rows that a run writes: one per agent step and one per reset."""
    steps = -(-c.run.frames // c.env.repeat)
    return steps + steps // 10 + environments


def check_memory(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    device: torch.device,
    world: World = ALONE,
) -> None:
    """Raise UsageError, naming the keys to lower, if this machine's ranks need too much memory."""
    parts = {"an update": estimate_update(c, obs, space), "a plan": estimate_plan(c, space)}
    if device.type == "cuda":
        _raise_if_short(c, obs, space, parts, torch.cuda.mem_get_info(device)[0])
    else:
        parts = {name: world.local_size * size for name, size in parts.items()} | {
            "the replay": estimate_replay(c, obs, space, world)
        }
        _raise_if_short(c, obs, space, parts, available_memory(), world.local_size)


def check_weights(c: Config, obs: ObservationSpace, space: ActionSpace) -> None:
    """Raise UsageError if even the weights need too much memory.

    This guards against untrusted run directories.
    """
    _raise_if_short(c, obs, space, {}, available_memory())


def _raise_if_short(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    parts: dict[str, int],
    free: int,
    here: int = 1,
) -> None:
    # Counting weights exactly takes a second, so only count when they might matter.
    widest = find_widest_layer(c, obs)
    largest = widest * max(widest, space.size)
    if here * BYTES_PER_WEIGHT * 50 * largest > free // 10:
        parts = {"weights": here * BYTES_PER_WEIGHT * count_weights(c, obs, space), **parts}
    needed = sum(parts.values())
    if needed > free:
        most = max(parts, key=lambda name: parts[name])
        shown = ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
        raise UsageError(
            f"this run needs at least {needed / GB:.2f} GB of memory ({shown}) but only "
            f"{free / GB:.2f} GB are "
            f"available; {_advise(most, space.size > widest, space)}"
        )


def _advise(most: str, is_action: bool, space: ActionSpace) -> str:
    """Say what to lower; no key helps against actions that are wider than any layer."""
    if is_action:
        return f"an action of this environment is a vector of {space.size:,} numbers; make it less"
    return f"lower {KEYS_TO_LOWER[most]}"


def count_features(c: Config) -> int:
    """Count the features of a state."""
    return _lay_out_dynamics(c).feature_size


def _lay_out_dynamics(c: Config) -> Dynamics:
    with torch.device("meta"):
        return build.make_dynamics(c, 1, 1)


def find_widest_layer(c: Config, obs: ObservationSpace) -> int:
    """Return the width of the widest layer; its square roughly bounds any weight matrix."""
    m = c.model
    dynamics = (min(p.shape) for p in _lay_out_dynamics(c).parameters() if p.dim() > 1)
    sides = [
        compute_encoded_size(shape[:2], len(m.cnn), m.patch) for shape in obs.pictures.values()
    ]
    flat = sum(height * width * m.cnn[-1] for height, width in sides)
    maps = [*c.spatial.channels, c.spatial.points] if m.encoder == "spatial" else []
    if c.loss.grey:
        maps += [math.prod(shrink_sides(shape)) for shape in obs.pictures.values()]
    return max(count_features(c), *dynamics, m.units, m.bins, *m.cnn, *maps, flat)


def count_weights(c: Config, obs: ObservationSpace, space: ActionSpace) -> int:
    """Count the trainable parameters, on the meta device, which allocates no memory."""
    with torch.device("meta"):
        model = build.make_model(c, obs, space)
        policy = build.make_policy(c, model, space)
    modules = [model, policy] if policy is not None else [model]
    return sum(p.numel() for module in modules for p in module.parameters())


def estimate_update(c: Config, obs: ObservationSpace, space: ActionSpace) -> int:
    """Estimate the bytes of a batch, its activations in encoder and decoder, and imagination."""
    m, states = c.model, c.replay.batch * c.replay.length
    total = 4 * states * space.size
    for height, width, colours in obs.pictures.values():
        sides = [compute_encoded_size((height, width), i + 1, m.patch) for i in range(len(m.cnn))]
        inner = sum(h * w * channels for (h, w), channels in zip(sides, m.cnn, strict=True))
        encoded = inner
        if m.encoder == "spatial":
            maps = sum(c.spatial.channels) + c.spatial.points
            encoded = (height // 2) * (width // 2) * maps
        total += states * (
            height * width * colours * (1 + BYTES_PER_ACTIVATION)
            + BYTES_PER_ACTIVATION * (encoded + inner)
        )
    if learns_policy(c) and find_policy(c) not in ("soft_actor_critic", "guided"):
        actors = c.actor.population if c.actor.gradient == "es" else 1
        total += (
            actors
            * min(c.imag.starts or states, states)
            * c.imag.horizon
            * count_features(c)
            * BYTES_PER_ACTIVATION
        )
    return total + states * count_features(c) * BYTES_PER_ACTIVATION


def estimate_replay(c: Config, obs: ObservationSpace, space: ActionSpace, world: World) -> int:
    """Estimate the bytes of replay that this machine's ranks keep in memory."""
    row = count_row_bytes(build.make_replay_spec(obs, space))
    kept = min(int(c.replay.capacity_gb * GB), estimate_rows(c, c.env.num * world.size) * row)
    return kept * world.local_size // world.size if c.replay.store == "ram" else 0


def estimate_plan(c: Config, space: ActionSpace) -> int:
    """Estimate the bytes of the planner's candidates and of their imagined features."""
    if c.behavior.name != "mpc":
        return 0
    p = c.planner
    return (
        c.env.num
        * p.candidates
        * p.horizon
        * (4 * space.size + BYTES_PER_ACTIVATION * count_features(c))
    )

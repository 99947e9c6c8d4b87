"""Whether a machine can hold a run, known before anything large is made; every figure is the least
it will take.
"""

from __future__ import annotations

import torch

from worldmodel import build
from worldmodel.config.schema import Config, learns_policy
from worldmodel.distributed import ALONE, World
from worldmodel.model.networks import shrunk
from worldmodel.replay.capacity import bytes_per_row
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.system.available_memory import GB, available_memory

ADAM = 16  # bytes a weight takes: itself, its gradient, two moments
ROUGH = 2  # bytes an activation takes at least
KEYS = {
    "weights": "model.deter, model.hidden, model.units or model.cnn",
    "an update": "replay.batch, replay.length, env.size or imag.starts",
    "a plan": "planner.candidates, planner.horizon or env.num",
    "the replay": "replay.capacity_gb",
}


def expected_rows(c: Config, environments: int) -> int:
    """Rows the whole run will write: its agent steps, and one more for every reset."""
    steps = -(-c.run.frames // c.env.repeat)
    return steps + steps // 10 + environments


def check(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    device: torch.device,
    world: World = ALONE,
) -> None:
    """ValueError, naming the keys to lower, where the ranks of this machine cannot all have what
    they need.
    """
    parts = {"an update": an_update(c, obs), "a plan": a_plan(c, space)}
    if device.type == "cuda":
        _compare(c, obs, space, parts, torch.cuda.mem_get_info(device)[0])
    else:
        parts = {name: world.here * size for name, size in parts.items()} | {
            "the replay": a_replay(c, obs, space, world)
        }
        _compare(c, obs, space, parts, available_memory(), world.here)


def check_weights(c: Config, obs: ObservationSpace, space: ActionSpace) -> None:
    """ValueError where not even the weights would find room: a run directory may ask for
    anything.
    """
    _compare(c, obs, space, {}, available_memory())


def _compare(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    parts: dict[str, int],
    free: int,
    here: int = 1,
) -> None:
    # Counting weights exactly takes a second: only where they might matter.
    if here * ADAM * 50 * widest(c, obs) ** 2 > free // 10:
        parts = {"weights": here * ADAM * weights(c, obs, space), **parts}
    needed = sum(parts.values())
    if needed > free:
        most = max(parts, key=lambda name: parts[name])
        shown = ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
        raise ValueError(
            f"this run needs at least {needed / GB:.2f} GB of memory ({shown}) but only "
            f"{free / GB:.2f} GB are "
            f"available; lower {KEYS[most]}"
        )


def feat_size(c: Config) -> int:
    """Features of a state."""
    return build.make_latent(c.model).size + (c.model.deter if c.model.transition == "rssm" else 0)


def widest(c: Config, obs: ObservationSpace) -> int:
    """No weight matrix is larger than this, squared, by much."""
    m = c.model
    height, width = shrunk(obs.image[:2], len(m.cnn), m.patch) if obs.image else (0, 0)
    return max(
        feat_size(c), m.deter, m.hidden, m.units, m.bins, *m.cnn, height * width * m.cnn[-1]
    )


def weights(c: Config, obs: ObservationSpace, space: ActionSpace) -> int:
    """Numbers in everything that learns, counted on a device that keeps none."""
    with torch.device("meta"):
        model = build.make_model(c, obs, space)
        policy = build.make_policy(c, model, space)
    modules = [model, policy] if policy is not None else [model]
    return sum(p.numel() for module in modules for p in module.parameters())


def an_update(c: Config, obs: ObservationSpace) -> int:
    """Bytes of a batch, of what encoder and decoder make of it, and of the dreams that start from
    it.
    """
    m, total = c.model, 0
    states = c.replay.batch * c.replay.length
    if obs.image:
        height, width, colours = obs.image
        sides = [shrunk((height, width), i + 1, m.patch) for i in range(len(m.cnn))]
        inner = sum(h * w * channels for (h, w), channels in zip(sides, m.cnn, strict=True))
        total += states * (height * width * colours * (1 + ROUGH) + 2 * ROUGH * inner)
    if learns_policy(c):
        total += min(c.imag.starts or states, states) * c.imag.horizon * feat_size(c) * ROUGH
    return total + states * feat_size(c) * ROUGH


def a_replay(c: Config, obs: ObservationSpace, space: ActionSpace, world: World) -> int:
    """Bytes of experience that the ranks of this machine keep in memory."""
    row = bytes_per_row(build.replay_spec(obs, space))
    kept = min(int(c.replay.capacity_gb * GB), expected_rows(c, c.env.num * world.size) * row)
    return kept * world.here // world.size if c.replay.store == "ram" else 0


def a_plan(c: Config, space: ActionSpace) -> int:
    """Bytes of the candidates of all environments and of the features they lead to."""
    if c.behavior.name != "mpc":
        return 0
    p = c.planner
    return c.env.num * p.candidates * p.horizon * (4 * space.size + ROUGH * feat_size(c))

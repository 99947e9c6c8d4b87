"""The time of updates, plans and policy steps, and this machine's matrix-product speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.schema import Config
from worldmodel.kernels.packing import fixed_weights
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.planners.proposals import make_proposal
from worldmodel.replay.buffer import Replay
from worldmodel.replay.samplers.uniform import Uniform
from worldmodel.rollout.player import Player
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.system import runtime
from worldmodel.training.learner import Learner

ACTION = ActionSpace(6)
Entry = dict[str, float | str | None]


def measure_seconds(function: Callable[[], object], repeats: int, warm: int = 2) -> float:
    """Measure the median wall-clock time of several calls, after a few unmeasured ones."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def pick_best_precision() -> str:
    """Return bf16 if the processor multiplies it natively, else fp32."""
    return runtime.pick_precision("auto", torch.device("cpu"))


def measure_roofline() -> dict[str, Entry]:
    """Measure the speed of large square matrix products, the most this machine can do."""
    found: dict[str, Entry] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
        seconds = measure_seconds(lambda a=a, b=b: a @ b, 7)
        found[f"roofline.matmul.{name}"] = {
            "value": 2 * 2048**3 / seconds / 1e9,
            "unit": "GFLOP/s",
            "baseline": None,
        }
    return found


def make_model_and_batch(preset: list[str], action: ActionSpace = ACTION):
    """Make the configuration, the model and a random batch of a preset."""
    c = loading.parse(preset)
    torch.manual_seed(0)
    observation = ObservationSpace({"image": (*c.env.size, 3)})
    model = build.make_model(c, observation, action)
    b, t = c.replay.batch, c.replay.length
    flags = {
        k: torch.zeros(b, t, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")
    }
    batch = {
        "image": torch.randint(0, 256, (b, t, *observation["image"]), dtype=torch.uint8),
        "prev_action": torch.rand(b, t, action.size) * 2 - 1,
        "reward": torch.rand(b, t),
        **flags,
    }
    return c, model, batch


def measure_update(preset: str = "small", count: int = 20) -> dict[str, Entry]:
    """Measure seconds per update, whole and of the world model alone, against fp32.

    They are means over updates of a training, so batches are drawn from a replay, and every tenth
    update measures the representation too. The speed in FLOP/s is compared with the roofline.
    """
    found: dict[str, Entry] = {}
    for name, behavior in (
        (f"update.{preset}", "actor_critic"),
        (f"update.{preset}.model", "random"),
    ):
        seconds = {}
        for precision in sorted({pick_best_precision(), "fp32"}):
            learner, batch = make_learner(preset, behavior, precision)
            seconds[precision] = time_updates(learner, fill_replay(batch), batch, count)
        found[name] = {
            "value": seconds[pick_best_precision()],
            "unit": "s",
            "baseline": seconds["fp32"],
        }
    learner, batch = make_learner(preset, "actor_critic", "fp32")
    with FlopCounterMode(display=False) as counter:
        learner.loss(batch)[0].backward()
    work = counter.get_total_flops() / 1e9
    speed = work / float(found[f"update.{preset}"]["value"] or 1)
    roof = measure_roofline()[f"roofline.matmul.{pick_best_precision()}"]["value"]
    return {
        **found,
        f"update.{preset}.speed": {"value": speed, "unit": "GFLOP/s", "baseline": roof},
    }


def fill_replay(batch: dict[str, torch.Tensor]) -> Replay:
    """A replay that holds the rows of a random batch, as one episode."""
    rows = {k: v.flatten(0, 1).numpy() for k, v in batch.items()}
    replay = Replay(
        {k: (v.shape[1:], str(v.dtype)) for k, v in rows.items()},
        capacity_bytes=10**9,
        store="ram",
        directory=None,
        num_streams=1,
        seed=0,
        sampler=Uniform(),
    )
    for i in range(len(rows["reward"])):
        replay.add(0, {k: v[i] for k, v in rows.items()} | {"is_first": i == 0})
    replay.flush()
    return replay


def time_updates(
    learner: Learner, replay: Replay, shape: dict[str, torch.Tensor], count: int
) -> float:
    """Mean wall-clock seconds of drawing a batch of this shape and learning from it."""
    began = 0.0
    for done in range(2 + count):
        if done == 2:  # the first two warm up
            began = time.perf_counter()
        learner.update(build.to_tensors(replay.sample(*shape["reward"].shape)))
    return (time.perf_counter() - began) / count


def make_learner(
    preset: str, behavior: str, precision: str
) -> tuple[Learner, dict[str, torch.Tensor]]:
    """Make a learner and a batch; without overshooting, as in the published algorithms."""
    changes = [f"run.precision={precision}", f"behavior.name={behavior}", "loss.overshooting=1"]
    c, model, batch = make_model_and_batch([preset, *changes])
    policy = build.make_policy(c, model, ACTION)
    return Learner(model, c.optim, torch.device("cpu"), precision, policy), batch


def measure_objectives(preset: str = "laptop", repeats: int = 9) -> dict[str, Entry]:
    """Measure CPU seconds per world-model update with each objective; reconstruction is the
    baseline.
    """
    found: dict[str, float] = {}
    cases = {name: (name, "false") for name in registry.OBJECTIVES} | {
        "barlow with a probe": ("barlow", "true")
    }
    for label, (name, probe) in cases.items():
        overrides = [f"loss.objective={{{name}: 1.0}}", f"loss.probe={probe}"]
        found[label] = measure_model_seconds([preset, *overrides], ACTION, repeats)
    whole = found["reconstruction"]
    return {
        f"objectives.{name}": {"value": s, "unit": "CPU s", "baseline": whole}
        for name, s in found.items()
    }


def measure_model_seconds(preset: list[str], action: ActionSpace, repeats: int) -> float:
    """Measure the median CPU seconds, summed over threads, of one world-model update."""
    c, model, batch = make_model_and_batch([*preset, "behavior.name=random"], action)
    learner = Learner(model, c.optim, torch.device("cpu"), pick_best_precision())
    times = []
    for _ in range(repeats + 2):
        began = time.process_time()
        learner.update(batch)
        times.append(time.process_time() - began)
    return float(np.median(times[2:]))


def measure_plan() -> dict[str, Entry]:
    """Measure a plan of PlaNet's size (1000 x 10 x 12, heads of 2 x 200), of iCEM and of the
    defaults.
    """
    found: dict[str, Entry] = {}
    small = ["model.layers=2", "model.units=200"]
    for name, preset in (
        ("planet", ["planet", *small]),
        ("icem", ["planet", "icem", *small]),
        ("default", []),
    ):
        times = {}
        for precision in sorted({pick_best_precision(), "fp32"}):
            c, model, _ = make_model_and_batch([*preset, f"run.precision={precision}"])
            plan = make_plan_function(c, model, ACTION, precision)
            times[precision] = measure_seconds(plan, 5) * 1e3
        found[f"plan.cem.{name}"] = {
            "value": times[pick_best_precision()],
            "unit": "ms",
            "baseline": times["fp32"],
        }
    return found


def make_plan_function(
    c: Config, model: WorldModel, space: ActionSpace, precision: str
) -> Callable[[], torch.Tensor]:
    """A function that makes one plan from one state, by the planner and score of a
    configuration.
    """
    p, state = c.planner, model.dynamics.initial(1)
    planner, make_score = build.make_planner(p), build.make_plan_score(c, None, None)
    proposal = make_proposal(space, p.init_std, p.min_std, p.color)
    mean, std = proposal.start(1, p.horizon, space.size)
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def plan() -> torch.Tensor:
        with runtime.autocast(torch.device("cpu"), precision), fixed_weights():
            return planner(make_score(model, state, generator), mean, std, proposal, generator)

    return plan


def measure_policy() -> dict[str, Entry]:
    """Measure a step of filter and actor with one environment; the baseline is 1/16 of a step
    with 16.
    """
    c, model, batch = make_model_and_batch(["small", "behavior.name=actor_critic"])
    agent = build.make_agent(
        c, model, ACTION, torch.device("cpu"), build.make_policy(c, model, ACTION)
    )
    row = {k: batch[k][0, 0].numpy() for k in ("image", "prev_action", "is_first")}
    times = {}
    for count in (1, 16):
        player = Player(agent, count, "train", runtime.make_generator(0))
        rows = [row] * count
        times[count] = (
            measure_seconds(lambda player=player, rows=rows: player(rows), 200, warm=20) * 1e3
        )
    return {"policy.small": {"value": times[1], "unit": "ms", "baseline": times[16] / 16}}

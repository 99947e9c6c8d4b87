"""The only file that maps configuration names to classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from worldmodel import registry
from worldmodel.config.component_settings import read_settings, states_fact
from worldmodel.config.loading import format_value, to_plain
from worldmodel.config.schema import (
    Config,
    ModelConfig,
    PlannerConfig,
    ReplayConfig,
    find_planner_lack,
    find_policy,
    get_settings,
    list_used_objectives,
    plans_in_simulator,
    plans_to_goal,
)
from worldmodel.distributed import ALONE, World
from worldmodel.errors import UsageError
from worldmodel.log_writers import LoggedRun, LogWriter
from worldmodel.model.dynamics import Dynamics, Simulator
from worldmodel.model.dynamics.linear_gaussian import LinearGaussian
from worldmodel.model.dynamics.simulator import ENTRY
from worldmodel.model.ensembles import OneStepHeads
from worldmodel.model.heads import (
    BellHead,
    ContinueHead,
    GaussianHead,
    KnownHead,
    NoHead,
    QuadraticHead,
    ScalarHead,
    TwoHotHead,
)
from worldmodel.model.known_rewards import KNOWN_REWARDS
from worldmodel.model.loss_balance import LossBalance
from worldmodel.model.networks import BiasedMLP, Encoder, RawPicture, RawVectors
from worldmodel.model.objectives import ModelSpec, Objective
from worldmodel.model.probe_decoder import Probe
from worldmodel.model.spatial_encoder import BlobDecoder, PointDecoder
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.actor_critic import Actor, ActorCritic
from worldmodel.policy.agent import Agent
from worldmodel.policy.behaviors import BehaviorParts, Planning
from worldmodel.policy.controller_states import ControllerStates, LatentBelief, TrueVector
from worldmodel.policy.goal_files import load_goal
from worldmodel.policy.goals import Goal, PixelGoal
from worldmodel.policy.guided_policy import GuidedPolicy
from worldmodel.policy.learned_policy import LearnedPolicy
from worldmodel.policy.plan2explore import Explorer, Plan2Explore
from worldmodel.policy.plan_scores import ScoreInputs, ScoreMaker
from worldmodel.policy.plan_scores.particles import Particles
from worldmodel.policy.planners.proposals import make_proposal
from worldmodel.policy.soft_actor_critic import Critics, SoftActorCritic
from worldmodel.replay.samplers import Sampler
from worldmodel.replay.start_states import BurnInStart, StoredStart, ZeroStart
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.system.optional_packages import require_package
from worldmodel.system.runtime import pick_precision

SCALAR_HEADS: dict[str, Callable[[int, int, int, int], ScalarHead]] = {
    "gaussian": lambda feat, layers, units, bins: GaussianHead(feat, layers, units),
    "twohot": TwoHotHead,
}

QUADRATIC_HEADS = {"quadratic": QuadraticHead, "bell": BellHead}

D = TypeVar("D", PointDecoder, BlobDecoder)

STARTS: dict[str, Callable[[ReplayConfig], ZeroStart]] = {
    "cold": lambda r: ZeroStart(),
    "burnin": lambda r: BurnInStart(r.burnin),
    "stored": lambda r: StoredStart(r.max_stale),
}


def make_latent(m: ModelConfig, size: int | None = None):
    """The latent, of model.stoch units or of another size."""
    latent = registry.import_class(registry.LATENTS, m.latent)
    return latent(m.stoch if size is None else size, m.classes, m.unimix, m.min_std)


def make_encoder(c: Config, obs: ObservationSpace) -> Encoder | RawVectors | RawPicture:
    """The encoder of all pictures and vectors; the keys of `cnn` stand in section model."""
    place = registry.DYNAMICS[c.model.dynamics]
    if states_fact(place, "moves_pixels"):
        if len(obs.pictures) != 1:
            raise UsageError(
                f"model.dynamics pixels moves those of one picture; this environment has "
                f"{', '.join(obs.pictures)}: choose one with env.image_keys or env.camera"
            )
        return RawPicture(obs)
    if states_fact(place, "encodes_nothing"):
        return RawVectors(obs)
    if c.model.encoder == "spatial" and not obs.pictures:
        raise UsageError(
            f"model.encoder: spatial finds points in pictures, and the model sees only "
            f"{', '.join(obs)}; set env.obs or model.unseen otherwise, or leave it at cnn"
        )
    kind = registry.import_class(registry.ENCODERS, c.model.encoder)
    settings = get_settings(c, registry.ENCODERS, c.model.encoder) or c.model
    return Encoder(obs, partial(kind, settings), c.model.units)


def make_dynamics(c: Config, actions: int, embed: int, **more: Any) -> Dynamics:
    """The dynamics, with what it needs beside its settings in `more`."""
    name = c.model.dynamics
    dynamics = registry.import_class(registry.DYNAMICS, name)
    settings = get_settings(c, registry.DYNAMICS, name)
    has_members = c.ensemble.size > 1 and c.ensemble.of == "dynamics"
    if has_members:
        more["members"] = c.ensemble.size
    if states_fact(registry.DYNAMICS[name], "moves_pixels"):
        more.setdefault("shape", (*c.env.size, 3))
    return dynamics(settings, partial(make_latent, c.model), actions=actions, embed=embed, **more)


def make_model(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    world: World = ALONE,
    simulator: Simulator | None = None,
) -> WorldModel:
    """A world model from a configuration and the environment's spaces.

    `simulator` is the true one, for a run that plans in it.
    """
    if plans_in_simulator(c):
        return make_true_model(c, obs, space, world, simulator)
    m = c.model
    obs, unseen = split_observations(c, obs)
    encoder = make_encoder(c, obs)
    more = {"shape": encoder.shape} if isinstance(encoder, RawPicture) else {}
    dynamics = make_dynamics(c, space.size, encoder.size, **more)
    feat = dynamics.feature_size
    spec = ModelSpec(obs, space, feat, encoder.size, m.cnn, m.patch, m.units, c.ema.rate)
    objectives: dict[str, tuple[Objective, float]] = {
        name: (make_objective(c, name, spec), c.loss.objective[name])
        for name in list_used_objectives(c)
    }
    names = [n for module, _ in objectives.values() for n in module.loss_names]
    names += ["reward", "cont", "dyn", "rep"] + (["overshoot"] if c.loss.overshooting > 1 else [])
    ensemble = make_ensemble(c, dynamics, space)
    names += ["corrective"] * (c.loss.corrective > 0) + ["ensemble"] * (ensemble is not None)
    names += ["smooth"] * (c.loss.smooth > 0) + ["grey"] * (c.loss.grey > 0)
    names += ["blobs"] * (c.loss.blobs > 0)
    names = names if dynamics.imagines else []
    replaced = {n for module, _ in objectives.values() for n in module.replaces}
    names = [name for name in names if name not in replaced]
    return WorldModel(
        obs,
        encoder,
        dynamics,
        objectives,
        *make_heads(c, dynamics),
        scales=make_loss_scales(c, names),
        free=c.loss.free if dynamics.noisy else -math.inf,
        free_on=c.loss.free_on,
        overshooting=c.loss.overshooting,
        world=world,
        shift=c.augment.shift,
        mean_image_updates=m.backdrop,
        ema=c.ema.rate,
        probe=make_probe(c, spec, [module for module, _ in objectives.values()]),
        ensemble=ensemble,
        corrective_steps=c.loss.corrective_steps if c.loss.corrective else 0,
        reward_free=c.loss.reward_free,
        smooth=c.loss.smooth > 0,
        grey=make_point_decoders(PointDecoder, c.loss.grey, c, obs),
        blobs=make_point_decoders(BlobDecoder, c.loss.blobs, c, obs),
        balance=LossBalance(names) if c.loss.balance == "learned" and names else None,
        unseen=unseen,
    )


def split_observations(
    c: Config, obs: ObservationSpace
) -> tuple[ObservationSpace, ObservationSpace]:
    """What the model sees, and what is only stored (model.unseen)."""
    hidden = c.model.unseen or []
    if any(name not in obs for name in hidden) or len({*hidden}) >= len(obs):
        raise UsageError(
            f"model.unseen: [{', '.join(hidden)}] of the observations {', '.join(obs)}; name some "
            "of these, but not all"
        )
    return (
        ObservationSpace({k: v for k, v in obs.items() if k not in hidden}),
        ObservationSpace({k: v for k, v in obs.items() if k in hidden}),
    )


def make_true_model(
    c: Config,
    obs: ObservationSpace,
    space: ActionSpace,
    world: World,
    simulator: Simulator | None,
) -> WorldModel:
    """The true simulator behind the interface of a world model: nothing in it is learnt."""
    encoder = RawVectors(ObservationSpace({ENTRY: obs[ENTRY]}))
    dynamics: Any = make_dynamics(
        c,
        space.size,
        encoder.size,
        simulator=simulator,
        decode_actions=space.decode_actions if space.discrete else np.asarray,
    )
    return WorldModel(
        obs,
        encoder,
        dynamics,
        {},
        KnownHead(lambda feat: feat, dynamics.read_reward),
        KnownHead(lambda feat: feat, dynamics.read_continuation),
        scales=make_loss_scales(c, ["reward", "cont", "dyn", "rep"]),
        free=0.0,
        free_on=c.loss.free_on,
        overshooting=1,
        world=world,
        shift=0,
        mean_image_updates=0,
        ema=c.ema.rate,
        probe=None,
    )


def make_point_decoders(
    kind: Callable[[int, tuple[int, int, int]], D], weight: float, c: Config, obs: ObservationSpace
) -> dict[str, D]:
    """What draws each picture from its feature points, if the weight of its loss asks."""
    shapes = obs.pictures if weight else {}
    return {name: kind(c.spatial.points, shape) for name, shape in shapes.items()}


def make_ensemble(c: Config, dynamics: Dynamics, space: ActionSpace) -> OneStepHeads | None:
    """The one-step heads on the latent's features, if the ensemble is one of heads."""
    e = c.ensemble
    if e.size == 1 or e.of != "heads":
        return None
    return OneStepHeads(dynamics.feature_size, space.size, dynamics.latent.size, e)


def make_heads(c: Config, dynamics: Dynamics) -> tuple[ScalarHead, ScalarHead]:
    """The heads of reward and continuation: learned, or the task's own equations."""
    m, feat = c.model, dynamics.feature_size
    if not dynamics.imagines:
        return NoHead(), NoHead()
    reward: ScalarHead
    cont: ScalarHead
    if m.reward_head == "known":
        known = KNOWN_REWARDS[c.env.task]
        reward = KnownHead(
            dynamics.restore, lambda v: known.reward(v, torch.zeros_like(v[..., :1]))
        )
    elif m.reward_head in QUADRATIC_HEADS:
        reward = QUADRATIC_HEADS[m.reward_head](feat, m.reward_rows)
    else:
        reward = SCALAR_HEADS[m.reward_head](feat, m.layers, m.units, m.bins)
    if m.cont_head == "known":
        ends = KNOWN_REWARDS[c.env.task].ends
        cont = KnownHead(dynamics.restore, lambda vector: ~ends(vector))
    else:
        cont = ContinueHead(feat, m.layers, m.units)
    return reward, cont


def make_objective(c: Config, name: str, spec: ModelSpec, **options: Any) -> Objective:
    objective = registry.import_class(registry.OBJECTIVES, name)
    return objective(get_settings(c, registry.OBJECTIVES, name), spec, **options)


def make_probe(c: Config, spec: ModelSpec, objectives: list[Objective]) -> Probe | None:
    """A decoder to look at the model with, if no objective decodes pictures; it leaves the random
    state unchanged.
    """
    has_model = not states_fact(registry.DYNAMICS[c.model.dynamics], "imagines_nothing")
    if (
        not c.loss.probe
        or not has_model
        or states_fact(registry.DYNAMICS[c.model.dynamics], "moves_pixels")
        or not spec.obs.pictures
        or any(o.can_draw for o in objectives)
    ):
        return None
    pictures = replace(spec, obs=ObservationSpace(spec.obs.pictures))
    with torch.random.fork_rng(devices=[]):
        return Probe(make_objective(c, "reconstruction", pictures, even=True))


def make_loss_scales(c: Config, names: list[str]) -> dict[str, float]:
    """The scale of every loss by name: that of `image` for image/NAME, and 1 for an objective's
    own losses, which its weight scales already.
    """
    table = {
        "image": c.loss.image,
        "vector": c.loss.vector,
        "reward": c.loss.reward,
        "cont": c.loss.cont,
        "dyn": c.loss.dyn,
        "rep": c.loss.rep,
        "overshoot": c.loss.overshoot,
        "corrective": c.loss.corrective,
        "ensemble": c.loss.ensemble,
        "smooth": c.loss.smooth,
        "grey": c.loss.grey,
        "blobs": c.loss.blobs,
        "imagined_reward": c.loss.reward,
        "imagined_cont": c.loss.cont,
    }
    return {name: table.get(name.partition("/")[0], 1.0) for name in names}


def make_policy(
    c: Config, model: WorldModel, space: ActionSpace, world: World = ALONE
) -> LearnedPolicy | None:
    """The policy that the behavior needs, if it needs any."""
    name = find_policy(c)
    return None if name is None else POLICIES[name](c, model, space, world)


def make_actor_critic(
    c: Config,
    model: WorldModel,
    space: ActionSpace,
    world: World,
    kind: type[ActorCritic] = ActorCritic,
) -> ActorCritic:
    feat, m = model.dynamics.feature_size, c.model
    critic = SCALAR_HEADS[c.critic.head](feat, m.layers, m.units, m.bins)
    return kind(Actor(feat, space, m.layers, m.units, c.actor), critic, c.imag, c.critic, world)


def make_plan2explore(
    c: Config, model: WorldModel, space: ActionSpace, world: World
) -> Plan2Explore:
    explorer = make_actor_critic(c, model, space, world, Explorer)
    return Plan2Explore(explorer, make_actor_critic(c, model, space, world))


def make_soft_actor_critic(
    c: Config, model: WorldModel, space: ActionSpace, world: World
) -> SoftActorCritic:
    feat, m = model.dynamics.feature_size, c.model
    critics = Critics(feat, space, c.dyna.critics, m.layers, m.units)
    actor = Actor(feat, space, m.layers, m.units, c.actor, BiasedMLP)
    return SoftActorCritic(actor, critics, c.imag, c.dyna)


def make_guided_policy(
    c: Config, model: WorldModel, space: ActionSpace, world: World
) -> GuidedPolicy:
    if space.discrete or world.size > 1:
        raise UsageError("behavior.name: guided needs continuous actions and a single process")
    states = make_controller_states(c, model)
    actor = Actor(model.dynamics.feature_size, space, c.model.layers, c.model.units, c.actor)
    return GuidedPolicy(actor, states, c.guided, c.env.num)


def make_controller_states(c: Config, model: WorldModel) -> ControllerStates:
    """What the local controllers see (guided.state)."""
    if isinstance(model.dynamics, LinearGaussian) and c.guided.state == "latent":
        return LatentBelief(model.dynamics, model.observation, c.guided)
    if len(model.unseen.vectors) != 1:
        raise UsageError(
            "behavior.name: guided needs one vector in model.unseen that its controllers see, or "
            "guided.state latent"
        )
    ((name, size),) = model.unseen.vectors.items()
    if len(c.guided.target) != size:
        raise UsageError(
            f"guided.target: {len(c.guided.target)} numbers for {name} of {size}; the cost of a "
            "step is guided.weights times the squared distances from the target"
        )
    return TrueVector(name, size, c.guided)


POLICIES: dict[str, Callable[[Config, WorldModel, ActionSpace, World], LearnedPolicy]] = {
    "actor_critic": make_actor_critic,
    "plan2explore": make_plan2explore,
    "soft_actor_critic": make_soft_actor_critic,
    "guided": make_guided_policy,
}


def make_planner(p: PlannerConfig):
    return registry.import_class(registry.PLANNERS, p.name)(p)


def make_plan_score(
    c: Config, policy: LearnedPolicy | None, goal: Callable[[], Goal | PixelGoal] | None
) -> ScoreMaker:
    """Make what makes the configured plan score: (model, state, generator, memory) -> score."""
    name, pessimism = c.planner.score, c.planner.pessimism
    has_heads = c.ensemble.size > 1 and c.ensemble.of == "heads"
    variances, doubt = (0.0, pessimism) if has_heads else (pessimism, 0.0)
    inputs = ScoreInputs(
        discount=c.planner.discount,
        particles=Particles(c.planner.particles, c.planner.propagation, variances),
        doubt=doubt,
        settings=get_settings(c, registry.PLAN_SCORES, name),
        value=None if policy is None else policy.value,
        goal=goal,
    )
    return ScoreMaker(registry.import_class(registry.PLAN_SCORES, name), inputs)


def make_behavior(
    c: Config, model: WorldModel, space: ActionSpace, policy: LearnedPolicy | None
) -> Any:
    p = c.planner
    lack = find_planner_lack(c, p.name, p.score, space.discrete)
    if lack:
        raise UsageError(f"planner.name: {lack}")
    planning = Planning(
        make_planner(p),
        make_proposal(space, p.init_std, p.min_std, p.color),
        make_plan_score(c, policy, make_goal_loader(c, model)),
        p,
    )
    name = c.behavior.name
    behavior = registry.import_class(registry.BEHAVIORS, name)
    settings = get_settings(c, registry.BEHAVIORS, name)
    return behavior(BehaviorParts(model, space, c.behavior.noise, policy, planning, settings))


def check_goal(c: Config, model: WorldModel) -> None:
    """Load the goal once, so that a bad one is refused before the first plan."""
    goal = make_goal_loader(c, model)
    if goal is not None:
        goal()


def make_goal_loader(c: Config, model: WorldModel) -> Callable[[], Goal | PixelGoal] | None:
    """Make a function that loads the goal once, if plans are scored by one; a saved run opens
    without the goal's file.
    """
    if c.behavior.name != "mpc" or not plans_to_goal(c):
        return None
    if states_fact(registry.PLAN_SCORES[c.planner.score], "aims_at_pixels"):
        pixels = torch.tensor([c.goal.designated, c.goal.pixels]).unsqueeze(1)
        return lambda: PixelGoal(*pixels)
    return cache(lambda: load_goal(c.goal, model.observation))


def make_agent(
    c: Config,
    model: WorldModel,
    space: ActionSpace,
    device: torch.device,
    policy: LearnedPolicy | None = None,
) -> Agent:
    behavior = make_behavior(c, model, space, policy)
    return Agent(
        model, behavior, space, device=device, precision=pick_precision(c.run.precision, device)
    )


def check_log_packages(c: Config) -> None:
    """MissingPackageError if a package is missing that a writer of log.to needs."""
    for name in c.log.to:
        settings: Any = read_settings(registry.LOG_WRITERS[name])
        require_package(settings.package, f"log.to: {name}", f", or leave {name} out")


def make_log_starts(c: Config, run_dir: Path) -> dict[str, Callable[[int | None], LogWriter]]:
    """By name in log.to, a function that starts its writer, given the frames it resumes at."""
    name = f"{c.env.task}/{c.run.name}/seed{c.run.seed}"
    hparams = {
        f"{section}.{key}": value if isinstance(value, int | float | str) else format_value(value)
        for section, keys in to_plain(c).items()
        for key, value in keys.items()
    }
    logged = LoggedRun(run_dir, c.log.project, name, hparams)
    return {
        name: partial(registry.import_class(registry.LOG_WRITERS, name), logged)
        for name in c.log.to
    }


def make_sampler(r: ReplayConfig) -> Sampler:
    return registry.import_class(registry.SAMPLERS, r.sampler)(r)


def make_replay_spec(
    obs: ObservationSpace, space: ActionSpace
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Keys, shapes and types of one row of experience."""
    spec: dict[str, tuple[tuple[int, ...], str]] = {
        name: (shape, "uint8" if name in obs.pictures else "float32")
        for name, shape in obs.items()
    }
    spec.update({"prev_action": ((space.size,), "float32"), "reward": ((), "float32")})
    return spec | {k: ((), "bool") for k in ("is_first", "is_last", "is_terminal")}


def to_tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in batch.items()}

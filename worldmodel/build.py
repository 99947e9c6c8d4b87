"""The only file that maps configuration names to classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from worldmodel.config.schema import (
    Config,
    ModelConfig,
    PlannerConfig,
    ReplayConfig,
    learns_policy,
)
from worldmodel.distributed import ALONE, World
from worldmodel.model.heads import ContinueHead, GaussianHead, ScalarHead, TwoHotHead
from worldmodel.model.latents.categorical import Categorical
from worldmodel.model.latents.deterministic import Deterministic
from worldmodel.model.latents.gaussian import Gaussian
from worldmodel.model.mean_image import Backdrop
from worldmodel.model.networks import Encoder
from worldmodel.model.objectives import Objective
from worldmodel.model.objectives.barlow import Barlow
from worldmodel.model.objectives.bootstrap import Bootstrap
from worldmodel.model.objectives.bottleneck import Bottleneck
from worldmodel.model.objectives.contrastive import Contrastive
from worldmodel.model.objectives.forward_contrastive import ForwardContrastive
from worldmodel.model.objectives.inverse import Inverse
from worldmodel.model.objectives.prototypes import Prototypes
from worldmodel.model.objectives.reconstruction import Reconstruction
from worldmodel.model.objectives.reward_only import RewardOnly
from worldmodel.model.probe_decoder import Probe
from worldmodel.model.rssm import RSSM
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.actor_critic import Actor, ActorCritic
from worldmodel.policy.agent import Agent
from worldmodel.policy.behaviors.actor_critic import ActorPolicy
from worldmodel.policy.behaviors.mpc import MPC
from worldmodel.policy.behaviors.random import Random
from worldmodel.policy.goals import Goal, load_goal
from worldmodel.policy.planners.cem import CEM
from worldmodel.policy.planners.mppi import MPPI
from worldmodel.policy.planners.proposals import make_proposal
from worldmodel.policy.planners.shooting import Shooting
from worldmodel.replay.start_states import BurnIn, Cold, Stored
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.system.runtime import pick_precision

LATENTS = {"gaussian": Gaussian, "categorical": Categorical, "deterministic": Deterministic}


@dataclass(frozen=True)
class Sizes:
    """What objectives stand between."""

    obs: ObservationSpace
    space: ActionSpace
    feat: int
    embed: int


OBJECTIVES: dict[str, Callable[[Config, Sizes], Objective]] = {
    "reconstruction": lambda c, s: make_decoder(c, s.obs, s.feat),
    "contrastive": lambda c, s: Contrastive(s.feat, s.embed, c.contrastive),
    "forward_contrastive": lambda c, s: ForwardContrastive(s.feat, s.embed, c.forward_contrastive),
    "inverse": lambda c, s: Inverse(s.feat, s.embed, s.space, c.model.units, c.inverse),
    "barlow": lambda c, s: Barlow(s.feat, s.embed, c.barlow),
    "prototypes": lambda c, s: Prototypes(s.feat, s.embed, c.prototypes, c.ema.rate),
    "bootstrap": lambda c, s: Bootstrap(s.feat, s.embed, c.model.units, c.bootstrap),
    "bottleneck": lambda c, s: Bottleneck(c.bottleneck),
    "reward_only": lambda c, s: RewardOnly(c.reward_only),
}

SCALAR_HEADS: dict[str, Callable[[int, int, int, int], ScalarHead]] = {
    "gaussian": lambda feat, layers, units, bins: GaussianHead(feat, layers, units),
    "twohot": TwoHotHead,
}

STARTS: dict[str, Callable[[ReplayConfig], Cold]] = {
    "cold": lambda r: Cold(),
    "burnin": lambda r: BurnIn(r.burnin),
    "stored": lambda r: Stored(r.max_stale),
}

PLANNERS = {
    "shooting": lambda p: Shooting(p.candidates),
    "cem": lambda p: CEM(p.candidates, p.iterations, p.elites, p.momentum, p.keep, p.decay),
    "mppi": lambda p: MPPI(p.candidates, p.iterations, p.elites, p.temperature, p.momentum),
}

BEHAVIORS = {
    "random": lambda c, model, space, policy: Random(space),
    "mpc": lambda c, model, space, policy: make_mpc(c, model, space, policy),
    "actor_critic": lambda c, model, space, policy: ActorPolicy(
        model, space, policy, c.behavior.noise
    ),
}


def make_latent(m: ModelConfig):
    return LATENTS[m.latent](
        m.deter if m.transition == "rnn" else m.stoch, m.classes, m.unimix, m.min_std
    )


def make_model(
    c: Config, obs: ObservationSpace, space: ActionSpace, world: World = ALONE
) -> WorldModel:
    """Encoder, RSSM, objectives and heads from a configuration and the environment's spaces."""
    m = c.model
    encoder = Encoder(obs.image, obs.vector, m.cnn, m.patch, m.units)
    rssm = RSSM(
        make_latent(m),
        m.transition,
        actions=space.size,
        embed=encoder.size,
        deter=m.deter,
        hidden=m.hidden,
        blocks=m.blocks,
    )
    feat = rssm.feat_size
    sizes = Sizes(obs, space, feat, encoder.size)
    objectives: dict[str, tuple[Objective, float]] = {
        k: (OBJECTIVES[k](c, sizes), w) for k, w in c.loss.objective.items() if w
    }
    names = [n for module, _ in objectives.values() for n in module.loss_names]
    names += ["reward", "cont", "dyn", "rep"] + (["overshoot"] if c.loss.overshooting > 1 else [])
    replaced = {n for module, _ in objectives.values() for n in module.replaces}
    return WorldModel(
        obs,
        Backdrop(obs.image, m.backdrop) if obs.image else None,
        encoder,
        rssm,
        objectives,
        SCALAR_HEADS[m.reward_head](feat, m.layers, m.units, m.bins),
        ContinueHead(feat, m.layers, m.units),
        scales=loss_scales(c, [n for n in names if n not in replaced]),
        free=c.loss.free if rssm.latent.noisy else 0.0,
        free_on=c.loss.free_on,
        overshooting=c.loss.overshooting,
        world=world,
        shift=c.augment.shift,
        ema=c.ema.rate,
        probe=make_probe(c, obs, feat, [module for module, _ in objectives.values()]),
    )


def make_decoder(
    c: Config, obs: ObservationSpace, feat: int, even: bool = False
) -> Reconstruction:
    m, share = c.model, c.loss.pictures
    return Reconstruction(obs.image, obs.vector, feat, m.cnn, m.patch, m.units, share, even)


def make_probe(
    c: Config, obs: ObservationSpace, feat: int, objectives: list[Objective]
) -> Probe | None:
    """A decoder to look at the model by, where nothing else draws; random numbers stay as they
    were.
    """
    if not c.loss.probe or obs.image is None or any(o.draws for o in objectives):
        return None
    with torch.random.fork_rng(devices=[]):
        return Probe(make_decoder(c, ObservationSpace(obs.image), feat, even=True))


def loss_scales(c: Config, names: list[str]) -> dict[str, float]:
    """The weight of every loss the model has, by name: an objective's own losses have that of the
    objective alone.
    """
    table = {
        "image": c.loss.image,
        "vector": c.loss.vector,
        "reward": c.loss.reward,
        "cont": c.loss.cont,
        "dyn": c.loss.dyn,
        "rep": c.loss.rep,
        "overshoot": c.loss.overshoot,
        "dreamt_reward": c.loss.reward,
        "dreamt_cont": c.loss.cont,
    }
    return {name: table.get(name, 1.0) for name in names}


def make_policy(
    c: Config, model: WorldModel, space: ActionSpace, world: World = ALONE
) -> ActorCritic | None:
    """Actor and critic, where the behaviour uses them."""
    if not learns_policy(c):
        return None
    feat, m = model.rssm.feat_size, c.model
    critic = SCALAR_HEADS[c.critic.head](feat, m.layers, m.units, m.bins)
    return ActorCritic(
        Actor(feat, space, m.layers, m.units, c.actor), critic, c.imag, c.critic, world
    )


def make_planner(p: PlannerConfig):
    return PLANNERS[p.name](p)


def make_mpc(c: Config, model: WorldModel, space: ActionSpace, policy: ActorCritic | None) -> MPC:
    p = c.planner
    return MPC(
        model,
        space,
        make_planner(p),
        make_proposal(space, p.init_std, p.min_std, p.color),
        horizon=p.horizon,
        discount=p.discount,
        warm_start=p.warm_start,
        noise=c.behavior.noise,
        policy=policy,
        closed_by_critic=p.score == "reward+value",
        proposals=p.proposals,
        goal=goal_of(c, model),
    )


def check_goal(c: Config, model: WorldModel) -> None:
    """Refuse a goal that cannot be had now rather than when the first plan is made."""
    goal = goal_of(c, model)
    if goal is not None:
        goal()


def goal_of(c: Config, model: WorldModel) -> Callable[[], Goal] | None:
    """What loads the goal once, where plans are scored by one; a saved run opens without
    the file.
    """
    if c.behavior.name != "mpc" or c.planner.score != "goal_distance":
        return None
    return cache(lambda: load_goal(c.goal, model.observation))


def make_agent(
    c: Config,
    model: WorldModel,
    space: ActionSpace,
    device: torch.device,
    policy: ActorCritic | None = None,
) -> Agent:
    behavior = BEHAVIORS[c.behavior.name](c, model, space, policy)
    return Agent(
        model, behavior, space, device=device, precision=pick_precision(c.run.precision, device)
    )


def replay_spec(
    obs: ObservationSpace, space: ActionSpace
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Keys, shapes and types of one row of experience."""
    spec: dict[str, tuple[tuple[int, ...], str]] = {}
    if obs.image:
        spec["image"] = (obs.image, "uint8")
    if obs.vector:
        spec["vector"] = ((obs.vector,), "float32")
    spec.update({"prev_action": ((space.size,), "float32"), "reward": ((), "float32")})
    return spec | {k: ((), "bool") for k in ("is_first", "is_last", "is_terminal")}


def to_tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in batch.items()}

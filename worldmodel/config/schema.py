"""Types and ranges of every configuration key; values live in configs/defaults.yaml. Nothing here
imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from worldmodel.config.ranges import Count, Natural, Positive, Range, Share, Weight
from worldmodel.config.schema_objectives import (
    AugmentConfig,
    BarlowConfig,
    BootstrapConfig,
    BottleneckConfig,
    ContrastiveConfig,
    EmaConfig,
    ForwardContrastiveConfig,
    GoalConfig,
    InverseConfig,
    Objective,
    PrototypesConfig,
    RewardOnlyConfig,
    objective_contradictions,
)


@dataclass(frozen=True)
class RunConfig:
    root: str
    name: str
    seed: Annotated[int, Range(0, 2**31 - 1)]
    frames: Count
    max_minutes: Positive | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "bf16", "fp32"]
    threads: Annotated[int, Range(0, 1024)]
    fresh: bool


@dataclass(frozen=True)
class EnvConfig:
    task: str
    size: tuple[Annotated[int, Range(8, 1024)], Annotated[int, Range(8, 1024)]]
    repeat: Annotated[int, Range(1, 1000)]
    obs: Literal["pixels", "state", "both"]
    render: Literal["auto", "gl", "fast", "ray"]
    camera: int | None
    time_limit: Count | None
    patience: Count | None
    patience_floor: float
    num: Annotated[int, Range(1, 1024)]
    timeout: Positive
    restarts: Natural


@dataclass(frozen=True)
class DistractConfig:
    strength: Share
    kind: Literal["noise", "blobs", "both"]


@dataclass(frozen=True)
class ReplayConfig:
    store: Literal["ram", "disk"]
    codec: Literal["none", "zstd"]
    capacity_gb: Positive
    batch: Count
    length: Annotated[int, Range(2)]
    start: Literal["cold", "burnin", "stored"]
    burnin: Count
    max_stale: Natural
    lost: Literal["refuse", "accept"]


@dataclass(frozen=True)
class TrainConfig:
    prefill: Count
    pretrain: Natural
    ratio: Weight


@dataclass(frozen=True)
class LogConfig:
    every: Count
    tensorboard: bool
    checkpoint: Count
    keep: Count
    eval: Natural
    episodes: Count
    final_episodes: Count


@dataclass(frozen=True)
class ModelConfig:
    transition: Literal["rssm", "ssm", "rnn"]
    latent: Literal["gaussian", "categorical", "deterministic"]
    deter: Count
    stoch: Count
    classes: Annotated[int, Range(2)]
    blocks: Count
    hidden: Count
    unimix: Annotated[float, Range(0, 0.5)]
    min_std: Positive
    cnn: list[Count]
    patch: Annotated[int, Range(2, 16)]
    backdrop: Natural
    layers: Count
    units: Count
    reward_head: Literal["gaussian", "twohot"]
    bins: Annotated[int, Range(3)]


@dataclass(frozen=True)
class LossConfig:
    objective: dict[Objective, Weight]
    image: Weight
    pictures: Annotated[float, Range(1e-3, 1)]
    vector: Weight
    reward: Weight
    cont: Weight
    dyn: Weight
    rep: Weight
    free: Weight
    free_on: Literal["mean", "element"]
    overshooting: Count
    overshoot: Weight
    probe: bool


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adam", "laprop"]
    lr: Positive
    actor_lr: Positive | None
    critic_lr: Positive | None
    eps: Annotated[float, Range(1e-30)]
    clip: Positive
    clip_by: Literal["global", "adaptive"]
    weight_decay: Weight
    warmup: Natural


@dataclass(frozen=True)
class BehaviorConfig:
    name: Literal["mpc", "actor_critic", "random"]
    noise: Weight


@dataclass(frozen=True)
class ImagConfig:
    horizon: Count
    starts: Natural
    every: Count
    discount: Share
    lam: Share


@dataclass(frozen=True)
class ActorConfig:
    dist: Literal["bounded", "tanh", "truncated"]
    gradient: Literal["dynamics", "reinforce", "mix"]
    mix: Share
    normalize: Literal["none", "percentile"]
    entropy: Weight
    min_std: Positive
    max_std: Positive
    unimix: Annotated[float, Range(0, 0.5)]
    init_scale: Positive
    greedy: bool


@dataclass(frozen=True)
class CriticConfig:
    head: Literal["gaussian", "twohot"]
    slow: Literal["none", "ema", "copy"]
    rate: Share
    every: Count
    bootstrap: Literal["online", "slow"]
    pull: Weight
    replay: Weight


@dataclass(frozen=True)
class PlannerConfig:
    name: Literal["cem", "mppi", "shooting"]
    score: Literal["reward", "reward+value", "goal_distance"]
    horizon: Count
    candidates: Count
    proposals: Natural
    iterations: Count
    elites: Count
    init_std: Positive
    min_std: Positive
    temperature: Positive
    momentum: Annotated[float, Range(0, 0.999)]
    keep: Annotated[float, Range(0, 1)]
    decay: Annotated[float, Range(1, 10)]
    color: Annotated[float, Range(0, 4)]
    warm_start: bool
    discount: Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Config:
    run: RunConfig
    env: EnvConfig
    distract: DistractConfig
    replay: ReplayConfig
    train: TrainConfig
    log: LogConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    behavior: BehaviorConfig
    imag: ImagConfig
    actor: ActorConfig
    critic: CriticConfig
    planner: PlannerConfig
    augment: AugmentConfig
    ema: EmaConfig
    contrastive: ContrastiveConfig
    forward_contrastive: ForwardContrastiveConfig
    inverse: InverseConfig
    barlow: BarlowConfig
    prototypes: PrototypesConfig
    bootstrap: BootstrapConfig
    bottleneck: BottleneckConfig
    reward_only: RewardOnlyConfig
    goal: GoalConfig


def contradictions(c: Config) -> list[str]:
    """Keys that are fine alone and impossible together, one line each."""
    m, p = c.model, c.planner
    found = []
    if p.elites > p.candidates:
        found.append(f"planner.elites: {p.elites} is more than planner.candidates {p.candidates}")
    if p.keep * p.elites > p.candidates - 1:
        found.append(
            f"planner.keep: {p.keep} of planner.elites {p.elites} leaves no candidate to draw anew"
        )
    if p.proposals >= p.candidates:
        found.append(
            f"planner.proposals: {p.proposals} leaves none of planner.candidates {p.candidates} "
            f"to search with"
        )
    if p.proposals and p.name == "shooting":
        found.append("planner.proposals: shooting has no refits to seed; use cem or mppi")
    found += _policy_contradictions(c)
    if m.transition == "rnn" and m.latent != "deterministic":
        found.append(
            f"model.transition: rnn has no noise; it needs model.latent deterministic, not "
            f"{m.latent}"
        )
    if m.deter % m.blocks:
        found.append(f"model.blocks: {m.blocks} does not divide model.deter {m.deter}")
    if c.env.task.startswith("distract:") and c.env.obs == "state":
        found.append("env.task: distract: changes pictures; env.obs is state")
    factor = m.patch * 2 ** (len(m.cnn) - 1)
    if c.env.obs != "state" and any(side % factor for side in c.env.size):
        h, w = c.env.size
        why = "model.patch, and a halving for each further layer of model.cnn"
        found.append(f"env.size: {h}x{w} must be divisible by {factor} ({why})")
    if c.loss.overshooting >= c.replay.length:
        found.append(
            f"loss.overshooting: {c.loss.overshooting} must be shorter than replay.length "
            f"{c.replay.length}"
        )
    steps = c.train.prefill // c.env.repeat // c.env.num
    needed = c.replay.length + (c.replay.burnin if c.replay.start == "burnin" else 0)
    if steps < needed:
        found.append(
            f"train.prefill: {c.train.prefill} frames are {steps} agent steps in each "
            f"environment, "
            f"fewer than the {needed} of a sequence (replay.length, and replay.burnin where it "
            f"is used)"
        )
    if c.run.frames < c.train.prefill:
        found.append(f"run.frames: {c.run.frames} is less than train.prefill {c.train.prefill}")
    if not any(c.loss.objective.values()):
        found.append("loss.objective: every weight is zero; the latent would learn nothing")
    return found + objective_contradictions(c)


def _policy_contradictions(c: Config) -> list[str]:
    found = []
    a, critic = c.actor, c.critic
    if a.min_std >= a.max_std:
        found.append(f"actor.min_std: {a.min_std} is not below actor.max_std {a.max_std}")
    if critic.slow == "none" and critic.bootstrap == "slow":
        found.append("critic.bootstrap: slow needs a slow critic; set critic.slow to ema or copy")
    if critic.slow == "none" and critic.pull:
        found.append(
            "critic.pull: there is no slow critic to be pulled to; set critic.slow, or "
            "critic.pull 0"
        )
    return found


def learns_policy(c: Config) -> bool:
    """Whether an actor and a critic are trained: to act, or to help a planner."""
    return c.behavior.name == "actor_critic" or (
        c.behavior.name == "mpc" and (c.planner.score == "reward+value" or c.planner.proposals > 0)
    )

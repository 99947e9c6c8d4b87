"""Types and ranges of every configuration key; values live in configs/defaults.yaml.

The sections of the program itself are written here. Those of components are read from the
components' own files. Nothing here imports torch.

Sections share one `__eq__` and each has a docstring, because dataclasses spend a tenth of a
program's start on making these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from worldmodel import registry
from worldmodel.config.component_settings import (
    Section,
    group_settings,
    join_settings,
    read_fact,
    read_settings,
    states_fact,
)
from worldmodel.config.ranges import (
    AnyOf,
    Count,
    Duration,
    Horizon,
    Layers,
    Natural,
    OneOf,
    Positive,
    Range,
    Share,
    Weight,
    Width,
)


@dataclass(frozen=True, eq=False)
class RunConfig(Section):
    """The run's place, seed, length, device and precision."""

    root: str
    name: str
    seed: Annotated[int, Range(0, 2**31 - 1)]
    frames: Count
    max_minutes: Positive | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "bf16", "fp32"]
    threads: Annotated[int, Range(0, 1024)]
    fresh: bool


Side = Annotated[int, Range(8, 1024)]


@dataclass(frozen=True, eq=False)
class EnvConfig(Section):
    """The task, what of it is observed and how, and its processes."""

    task: str
    kwargs: dict[str, Any]
    size: tuple[Side, Side]
    sizes: dict[str, tuple[Side, Side]]
    repeat: Annotated[int, Range(1, 1000)]
    obs: Literal["pixels", "state", "both"]
    image_keys: list[str] | None
    vector_keys: list[str] | None
    starts: Natural
    render: Literal["auto", "gl", "fast", "ray"]
    camera: int | list[int] | None
    time_limit: Count | None
    patience: Count | None
    patience_floor: float
    num: Annotated[int, Range(1, 1024)]
    timeout: Positive
    restarts: Natural


@dataclass(frozen=True, eq=False)
class DistractConfig(Section):
    """Moving backgrounds behind a task's foreground."""

    strength: Share
    kind: Literal["noise", "blobs", "both"]


class ReplayConfig(Section):
    """The replay itself. The keys of the samplers are added to this section."""

    store: Literal["ram", "disk"]
    codec: Literal["none", "zstd"]
    capacity_gb: Positive
    batch: Count
    length: Annotated[int, Range(2)]
    start: Literal["cold", "burnin", "stored"]
    burnin: Count
    max_stale: Natural
    sampler: Annotated[str, OneOf(registry.SAMPLERS)]
    lost: Literal["refuse", "accept"]


@dataclass(frozen=True, eq=False)
class TrainConfig(Section):
    """How many steps and updates are made, and when."""

    budget: Duration | None
    prefill: Count
    pretrain: Natural
    schedule: Literal["online", "rounds"]
    updates_per_step: Weight
    round: Count
    refit: Natural
    policy_updates_per_step: Weight
    policy_batch: Count | None
    policy_length: Annotated[int, Range(2)] | None


@dataclass(frozen=True, eq=False)
class LogConfig(Section):
    """When to log, evaluate and save."""

    every: Count
    to: Annotated[list[str], AnyOf(registry.LOG_WRITERS)]
    project: str
    checkpoint: Count
    keep: Count
    eval: Natural
    episodes: Count
    final_episodes: Count


class ModelConfig(Section):
    """What every world model has. The keys of the RSSM are added to this section."""

    dynamics: Annotated[str, OneOf(registry.DYNAMICS)]
    unseen: list[str] | None
    encoder: Annotated[str, OneOf(registry.ENCODERS)]
    latent: Annotated[str, OneOf(registry.LATENTS)]
    stoch: Width
    classes: Annotated[int, Range(2, 10**6)]
    unimix: Annotated[float, Range(0, 0.5)]
    min_std: Positive
    cnn: list[Width]
    patch: Annotated[int, Range(2, 16)]
    backdrop: Natural
    layers: Layers
    units: Width
    reward_head: Literal["gaussian", "twohot", "quadratic", "bell", "known"]
    reward_rows: Annotated[int, Range(0, 10**6)]
    cont_head: Literal["learned", "known"]
    bins: Annotated[int, Range(3, 10**6)]

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class EnsembleConfig(Section):
    """Several predictions of the next state; their spread measures what the model doesn't know."""

    size: Annotated[int, Range(1, 1000)]
    of: Literal["dynamics", "heads"]
    bootstrap: bool
    layers: Layers
    units: Width
    dropout: Annotated[float, Range(0, 0.9)]


@dataclass(frozen=True, eq=False)
class LossConfig(Section):
    """The representation objectives and the weights of all losses."""

    objective: dict[Annotated[str, OneOf(registry.OBJECTIVES)], Weight]
    image: Weight
    vector: Weight
    reward: Weight
    cont: Weight
    dyn: Weight
    rep: Weight
    free: Weight
    free_on: Literal["mean", "element"]
    overshooting: Count
    overshoot: Weight
    corrective: Weight
    corrective_steps: Count
    ensemble: Weight
    smooth: Weight
    grey: Weight
    blobs: Weight
    reward_free: bool
    balance: Literal["fixed", "learned"]
    probe: bool


@dataclass(frozen=True, eq=False)
class OptimConfig(Section):
    """The optimizer and its learning rates."""

    name: Literal["adam", "laprop"]
    lr: Positive
    actor_lr: Positive | None
    critic_lr: Positive | None
    eps: Annotated[float, Range(1e-30)]
    clip: Positive
    clip_by: Literal["global", "adaptive"]
    weight_decay: Weight
    warmup: Natural
    decay: tuple[Natural, Natural] | None


class BehaviorConfig(Section):
    """What chooses actions. The keys of the behaviors themselves are added to this section."""

    name: Annotated[str, OneOf(registry.BEHAVIORS)]
    noise: Weight

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class ImagConfig(Section):
    """The imagined rollouts that train the actor-critic."""

    horizon: Horizon
    starts: Natural
    every: Count
    discount: Share
    lam: Share
    pessimism: float


@dataclass(frozen=True, eq=False)
class ActorConfig(Section):
    """The actor and its loss."""

    dist: Literal["bounded", "tanh", "truncated", "squashed"]
    gradient: Literal["dynamics", "reinforce", "mix", "es"]
    mix: Share
    population: Annotated[int, Range(2, 10**6)]
    perturbation: Positive
    normalize: Literal["none", "percentile"]
    entropy: Weight
    target_entropy: Share | None
    min_std: Positive
    max_std: Positive
    unimix: Annotated[float, Range(0, 0.5)]
    init_scale: Positive
    greedy: bool


@dataclass(frozen=True, eq=False)
class CriticConfig(Section):
    """The critic, its target copy and its loss."""

    head: Literal["gaussian", "twohot"]
    slow: Literal["none", "ema", "copy"]
    rate: Share
    every: Count
    bootstrap: Literal["online", "slow"]
    pull: Weight
    replay: Weight


@dataclass(frozen=True, eq=False)
class PlannerConfig(Section):
    """What every search shares. The keys of the planners themselves are added to this section."""

    name: Annotated[str, OneOf(registry.PLANNERS)]
    score: Annotated[str, OneOf(registry.PLAN_SCORES)]
    horizon: Horizon
    particles: Annotated[int, Range(0, 10**6)]
    propagation: Literal["tsinf", "ts1"]
    pessimism: float
    proposals: Natural
    init_std: Positive
    min_std: Positive
    color: Annotated[float, Range(0, 4)]
    warm_start: bool
    discount: Annotated[float, Range(0, 1)]

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class AugmentConfig(Section):
    """Random shifts of images."""

    shift: Natural


@dataclass(frozen=True, eq=False)
class EmaConfig(Section):
    """The slow copy of the encoder."""

    rate: Share


class GoalConfig(Section):
    """The goal observation, and how far from it a state is. The keys of pixels as goals are added
    to this section.
    """

    image: str | dict[str, str] | None
    run: str | None
    episode: int
    step: int
    distance: Literal["belief", "kl", "learnt"]
    at: Literal["every", "end"]

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class ProgramConfig(Section):
    """The sections of the program itself."""

    run: RunConfig
    env: EnvConfig
    distract: DistractConfig
    replay: ReplayConfig
    train: TrainConfig
    log: LogConfig
    model: ModelConfig
    ensemble: EnsembleConfig
    loss: LossConfig
    optim: OptimConfig
    behavior: BehaviorConfig
    imag: ImagConfig
    actor: ActorConfig
    critic: CriticConfig
    planner: PlannerConfig
    augment: AugmentConfig
    ema: EmaConfig
    goal: GoalConfig


def _add_component_sections() -> type:
    """`ProgramConfig` with the keys of every component that a registry names."""
    sections = {name: [kind] for name, kind in get_type_hints(ProgramConfig).items()}
    for table in registry.TABLES:
        for section, settings in group_settings(table).items():
            sections.setdefault(section, []).extend(settings)
    kinds = [(name, join_settings(name, parts)) for name, parts in sections.items()]
    about = {"__doc__": ProgramConfig.__doc__}
    return make_dataclass(
        "Config", kinds, bases=(ProgramConfig,), namespace=about, frozen=True, eq=False
    )


if TYPE_CHECKING:

    class Config(ProgramConfig):
        """The whole configuration, a section for each of its keys' tables."""

        def __getattr__(self, section: str) -> Any: ...

else:
    Config = _add_component_sections()


def contradictions(c: Config) -> list[str]:
    """Keys that are fine alone and impossible together, one line each."""
    m, p = c.model, c.planner
    found = []
    if any(part in ("", ".", "..") for part in c.run.name.split("/")):
        found.append(
            f"run.name: {c.run.name!r} is no name of a folder; --run.root says where it lies"
        )
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
    lack = find_planner_lack(c, p.name, p.score)
    found += [f"planner.name: {lack}"] if lack else []
    found += _component_contradictions(c, registry.PLANNERS, p.name)
    found += _component_contradictions(c, registry.PLAN_SCORES, p.score)
    found += _policy_contradictions(c)
    found += _component_contradictions(c, registry.BEHAVIORS, c.behavior.name)
    found += _component_contradictions(c, registry.DYNAMICS, m.dynamics)
    if states_fact(registry.DYNAMICS[m.dynamics], "moves_gaussian") and m.latent != "gaussian":
        found.append(
            f"model.latent: model.dynamics {m.dynamics} moves a Gaussian; it needs gaussian, not "
            f"{m.latent}"
        )
    if c.env.task.startswith("distract:") and c.env.obs == "state":
        found.append("env.task: distract: changes pictures; env.obs is state")
    found += _encoder_contradictions(c)
    factor = m.patch * 2 ** (len(m.cnn) - 1)
    sizes = {"env.size": c.env.size} | {f"env.sizes.{k}": v for k, v in c.env.sizes.items()}
    for key, (h, w) in sizes.items():
        if c.env.obs != "state" and (h % factor or w % factor):
            why = "model.patch, and a halving for each further layer of model.cnn"
            found.append(f"{key}: {h}x{w} must be divisible by {factor} ({why})")
    if c.loss.overshooting >= c.replay.length:
        found.append(
            f"loss.overshooting: {c.loss.overshooting} must be shorter than replay.length "
            f"{c.replay.length}"
        )
    if c.loss.corrective and c.loss.corrective_steps + 1 >= c.replay.length:
        found.append(
            f"loss.corrective_steps: {c.loss.corrective_steps} and one more must be fewer than "
            f"replay.length {c.replay.length}"
        )
    if c.optim.decay and c.optim.decay[0] >= c.optim.decay[1]:
        found.append(f"optim.decay: {list(c.optim.decay)} must go from an update to a later one")
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
        found.append(
            f"run.frames: {c.run.frames} is less than train.prefill {c.train.prefill}, the frames "
            "before the first update: take more, or set --train.prefill too"
        )
    raw = states_fact(registry.DYNAMICS[m.dynamics], "encodes_nothing")
    for key in ("reward_head", "cont_head"):
        if getattr(m, key) != "known":
            continue
        if c.env.task not in registry.KNOWN_REWARDS:
            found.append(
                f"model.{key}: the equations of {c.env.task} are not known here, only those of "
                f"{', '.join(registry.KNOWN_REWARDS)}"
            )
        elif not raw:
            found.append(
                f"model.{key}: known is an equation of the observed vector; it needs "
                f"model.dynamics mlp"
            )
    imagines = not states_fact(registry.DYNAMICS[m.dynamics], "imagines_nothing")
    if not any(c.loss.objective.values()) and not raw and imagines:
        found.append("loss.objective: every weight is zero; the latent would learn nothing")
    found += _ensemble_contradictions(c)
    return found + _objective_contradictions(c) + _goal_contradictions(c)


def _encoder_contradictions(c: Config) -> list[str]:
    """Of the encoder of pictures and the losses of its points, which not all dynamics use."""
    m, found = c.model, []
    raw = states_fact(registry.DYNAMICS[m.dynamics], "encodes_nothing")
    if raw and m.encoder != "cnn":
        found.append(
            f"model.encoder: model.dynamics {m.dynamics} encodes nothing, so {m.encoder} would "
            "not be used; leave it at cnn"
        )
    elif not raw:
        found += _component_contradictions(c, registry.ENCODERS, m.encoder)
    lack = _find_points_lack(c)
    used = [key for key in ("smooth", "grey", "blobs") if getattr(c.loss, key)]
    return found + [f"loss.{key}: {lack}" for key in used if lack]


def _find_points_lack(c: Config) -> str | None:
    """Why no loss can train feature points; None if it can."""
    m = c.model
    if states_fact(registry.DYNAMICS[m.dynamics], "encodes_nothing"):
        return (
            f"model.dynamics {m.dynamics} encodes nothing, so there are no feature points; set it "
            "to 0"
        )
    if states_fact(registry.DYNAMICS[m.dynamics], "imagines_nothing"):
        return (
            f"model.dynamics {m.dynamics} learns from the policy alone, so it would train "
            "nothing; set it to 0"
        )
    if m.encoder != "spatial":
        return f"{m.encoder} finds no feature points; set model.encoder spatial, or this to 0"
    return None


def _ensemble_contradictions(c: Config) -> list[str]:
    """Of an ensemble's members, and of the rollouts that a plan score imagines with them."""
    e, p, found = c.ensemble, c.planner, []
    if e.size == 1 and (e.bootstrap or e.dropout):
        key = "bootstrap" if e.bootstrap else "dropout"
        found.append(
            f"ensemble.{key}: a single member has no other to differ from; raise ensemble.size"
        )
    counts = c.behavior.name != "dyna" or c.dyna.counts_imagined_rewards()
    if c.imag.pessimism and e.size == 1 and counts:
        found.append(
            f"imag.pessimism: {c.imag.pessimism} of a disagreement needs members that disagree; "
            "raise ensemble.size"
        )
    if c.loss.reward_free and learns_policy(c) and c.critic.replay:
        found.append(
            f"critic.replay: {c.critic.replay} trains the model by rewards, and loss.reward_free "
            "wants none; set it to 0"
        )
    if e.dropout and e.bootstrap:
        found.append(
            "ensemble.bootstrap: with ensemble.dropout all members are one network, which learns "
            "from the same rows; set one of the two"
        )
    members = _count_members(c)
    if members > 1 and not states_fact(registry.DYNAMICS[c.model.dynamics], "has_members"):
        found.append(
            f"ensemble.of: dynamics needs model.dynamics rssm or mlp, not {c.model.dynamics}; "
            f"take ensemble.of heads"
        )
    raw = states_fact(registry.DYNAMICS[c.model.dynamics], "encodes_nothing")
    if raw and e.size > 1 and e.of == "heads":
        found.append(
            f"ensemble.of: heads predict a latent, which model.dynamics {c.model.dynamics} lacks; "
            "set it to dynamics"
        )
    if e.dropout and e.of == "dynamics":
        found.append("ensemble.dropout: it needs ensemble.of heads")
    if e.bootstrap and members > 1 and c.loss.overshooting > 1:
        found.append(
            "ensemble.bootstrap: overshooting trains every member on all data; set "
            "loss.overshooting 1"
        )
    if p.particles % members:
        found.append(
            f"planner.particles: {p.particles} cannot be shared evenly by {members} members "
            f"(ensemble.size)"
        )
    if p.pessimism and e.size == 1 and p.particles < 2:
        found.append(
            "planner.pessimism: one rollout per plan has no variance; set ensemble.size or "
            "planner.particles"
        )
    return found


def _policy_contradictions(c: Config) -> list[str]:
    found = []
    a, critic = c.actor, c.critic
    if a.min_std >= a.max_std:
        found.append(f"actor.min_std: {a.min_std} is not below actor.max_std {a.max_std}")
    if a.target_entropy is not None and a.dist != "bounded":
        found.append(
            f"actor.target_entropy: {a.dist} has no known range of entropies; set actor.dist "
            "bounded (tasks of choices ignore it), or actor.target_entropy null"
        )
    if a.target_entropy in (0, 1):
        found.append(
            f"actor.target_entropy: no actor reaches a share of {a.target_entropy}; take one "
            "between 0 and 1"
        )
    if a.target_entropy is not None and not a.entropy:
        found.append("actor.target_entropy: the weight that learns starts at actor.entropy, not 0")
    if a.population % 2:
        found.append(f"actor.population: {a.population} is odd, and perturbations come in pairs")
    if critic.slow == "none" and critic.bootstrap == "slow":
        found.append("critic.bootstrap: slow needs a slow critic; set critic.slow to ema or copy")
    if critic.slow == "none" and critic.pull:
        found.append(
            "critic.pull: there is no slow critic to be pulled to; set critic.slow, or "
            "critic.pull 0"
        )
    if c.train.policy_updates_per_step and not learns_policy(c):
        found.append(
            "train.policy_updates_per_step: this behavior trains no policy; set it to 0, or "
            "choose a behavior.name that learns one"
        )
    if c.train.policy_length and c.train.policy_length > c.replay.length:
        found.append(
            f"train.policy_length: {c.train.policy_length} is more than replay.length "
            f"{c.replay.length}"
        )
    return found


def _component_contradictions(c: Config, table: Mapping[str, str], name: str) -> list[str]:
    """Contradictions that a component's own settings find, if they check any."""
    check = getattr(read_settings(table[name]), "contradictions", None)
    return check(get_settings(c, table, name), c) if check else []


def _objective_contradictions(c: Config) -> list[str]:
    found = []
    for name in list_used_objectives(c):
        settings = get_settings(c, registry.OBJECTIVES, name)
        furthest = max(getattr(settings, "distances", [0]))
        if furthest >= c.replay.length:
            found.append(
                f"{name}.distances: {furthest} must be shorter than replay.length "
                f"{c.replay.length}"
            )
        if getattr(settings, "negatives", "all") != "all" and c.replay.batch < 2:
            found.append(
                f"{name}.negatives: a replay.batch of {c.replay.batch} has no other sequence; "
                f"take all"
            )
        needs = states_fact(registry.OBJECTIVES[name], "needs_predicted_features")
        able = [
            k
            for k, v in registry.DYNAMICS.items()
            if states_fact(v, "predicts_features") and not states_fact(v, "encodes_nothing")
        ]
        if needs and c.model.dynamics not in able:
            found.append(
                f"loss.objective: {name} linearises the transition, which model.dynamics "
                f"{c.model.dynamics} does not offer; take {' or '.join(able)}"
            )
        found += _component_contradictions(c, registry.OBJECTIVES, name)
    shift = c.augment.shift
    if shift and c.env.obs == "state":
        found.append(f"augment.shift: {shift} pixels need pictures; env.obs is state")
    elif 2 * shift >= min(c.env.size):
        found.append(
            f"augment.shift: {shift} pixels either way are more than a picture of env.size "
            f"{c.env.size} has"
        )
    return found


def _goal_contradictions(c: Config) -> list[str]:
    if c.behavior.name != "mpc" or not plans_to_goal(c):
        return []
    if states_fact(registry.PLAN_SCORES[c.planner.score], "aims_at_pixels"):
        return []
    found = []
    if (c.goal.image is None) == (c.goal.run is None):
        how = "neither is given" if c.goal.image is None else "both are given"
        found.append(f"planner.score: {c.planner.score} needs goal.image or goal.run; {how}")
    if c.goal.distance != "learnt":
        return found
    comparing = [name for name in list_used_objectives(c) if name in DISTANCE_OBJECTIVES]
    if not comparing:
        found.append(
            f"goal.distance: learnt needs one of {', '.join(DISTANCE_OBJECTIVES)} in "
            f"loss.objective"
        )
        return found
    heaviest = max(comparing, key=c.loss.objective.__getitem__)
    explain = getattr(get_settings(c, registry.OBJECTIVES, heaviest), "explain_no_distance", None)
    problem = explain() if explain else None
    return [*found, f"goal.distance: {problem}"] if problem else found


def get_settings(c: Config, table: Mapping[str, str], name: str) -> Any:
    """The section that holds the settings of a registry's component; None where it has none."""
    kind = read_settings(table[name])
    return getattr(c, getattr(kind, "section", name)) if kind and kind.__annotations__ else None


def list_used_objectives(c: Config) -> list[str]:
    return [name for name, weight in c.loss.objective.items() if weight]


# Objectives that measure a distance between features and pictures, for `goal.distance: learnt`.
DISTANCE_OBJECTIVES = tuple(
    name for name, place in registry.OBJECTIVES.items() if states_fact(place, "measures_distance")
)


def find_policy(c: Config) -> str | None:
    """The name of the policy that is trained, to act or to help a planner; None if none is."""
    behavior = registry.BEHAVIORS[c.behavior.name]
    scored = needs_critic(c.planner.score)
    if states_fact(behavior, "plans") and not scored and not c.planner.proposals:
        return None
    return read_fact(behavior, "policy")


def learns_policy(c: Config) -> bool:
    """Whether a policy is trained beside the model."""
    return find_policy(c) is not None


def plans_with_critic(c: Config) -> bool:
    """Whether plans are made, and scored by a critic."""
    plans = states_fact(registry.BEHAVIORS[c.behavior.name], "plans")
    return plans and needs_critic(c.planner.score)


def needs_critic(score: str) -> bool:
    """Whether a plan score, by its name, asks a critic."""
    return states_fact(registry.PLAN_SCORES[score], "needs_critic")


def find_unused_sections(c: Config) -> set[str]:
    """Sections of dynamics, encoders and objectives that a configuration does not choose."""
    used = {c.model.dynamics, c.model.encoder, *c.loss.objective}
    return {*registry.DYNAMICS, *registry.ENCODERS, *registry.OBJECTIVES} - used


def learns_model(c: Config) -> bool:
    """Whether a model is trained, which can be looked at and planned with."""
    has_none = states_fact(registry.DYNAMICS[c.model.dynamics], "imagines_nothing")
    updates = c.train.schedule == "rounds" or c.train.updates_per_step > 0
    return updates and not has_none and not plans_in_simulator(c)


def find_planner_lack(c: Config, name: str, score: str, discrete: bool = False) -> str | None:
    """Why a planner cannot search with the run's model, by a score, and for its kind of actions;
    None if it can.
    """
    planner, model = registry.PLANNERS[name], c.model.dynamics
    if states_fact(planner, "needs_continuous") and discrete:
        return f"{name} moves actions by small steps, and these are choices; take cem or mppi"
    if states_fact(planner, "needs_gradient") and states_fact(
        registry.DYNAMICS[model], "lacks_gradient"
    ):
        return f"{name} follows a gradient, and model.dynamics {model} has none; take cem or mppi"
    if states_fact(planner, "needs_predicted_features") and not states_fact(
        registry.DYNAMICS[model], "predicts_features"
    ):
        return f"{name} linearises the step, which model.dynamics {model} does not offer; take cem"
    if states_fact(planner, "needs_control_problem") and not states_fact(
        registry.PLAN_SCORES[score], "is_control_problem"
    ):
        return f"{name} expands costs of single steps, which planner.score {score} does not have"
    changes = _list_changes_to_mean(c) if states_fact(planner, "needs_predicted_features") else []
    if changes:
        mean = "mean of all members" if _count_members(c) > 1 else "mean step"
        return f"{name} sees the {mean} alone; set {' and '.join(changes)}, or take cem"
    return None


def _count_members(c: Config) -> int:
    """The members that a plan score's rollouts may have; one-step heads imagine none."""
    return c.ensemble.size if c.ensemble.of == "dynamics" else 1


def _list_changes_to_mean(c: Config) -> list[str]:
    """The keys that a planner needs which sees the model's mean step and no separate rollouts."""
    p, members, found = c.planner, _count_members(c), []
    if p.propagation == "ts1" and members > 1:
        found.append("planner.propagation tsinf")
    if p.particles not in (0, members):
        found.append("planner.particles 0")
    has_heads = c.ensemble.size > members  # whose disagreement lowers rewards, without rollouts
    if p.pessimism and not has_heads and max(members, p.particles) > 1:
        found.append("planner.pessimism 0")
    return found


def plans_in_simulator(c: Config) -> bool:
    """Whether the true simulator stands in for a model."""
    return states_fact(registry.DYNAMICS[c.model.dynamics], "needs_simulator")


def plans_to_goal(c: Config) -> bool:
    """Whether plans are scored by a goal instead of by rewards."""
    return states_fact(registry.PLAN_SCORES[c.planner.score], "needs_goal")

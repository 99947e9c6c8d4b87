"""Every component behind a seam: the name that a configuration uses, and the class it stands for.

A new component is one file, one line in a table here, and its keys in configs/defaults.yaml. Its
class is imported when it is built, so that a configuration is checked without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

DYNAMICS = {
    "rssm": "worldmodel.model.dynamics.rssm:RSSM",
    "transformer": "worldmodel.model.dynamics.transformer:Transformer",
    "linear_gaussian": "worldmodel.model.dynamics.linear_gaussian:LinearGaussian",
    "mlp": "worldmodel.model.dynamics.mlp:MLPDynamics",
    "pixels": "worldmodel.model.dynamics.pixels:Pixels",
    "simulator": "worldmodel.model.dynamics.simulator:SimulatorDynamics",
    "frame_stack": "worldmodel.model.dynamics.frame_stack:FrameStack",
    "locally_linear": "worldmodel.model.dynamics.locally_linear:LocallyLinear",
}

ENCODERS = {
    "cnn": "worldmodel.model.networks:ImageEncoder",
    "spatial": "worldmodel.model.spatial_encoder:SpatialEncoder",
}

LATENTS = {
    "gaussian": "worldmodel.model.latents.gaussian:Gaussian",
    "categorical": "worldmodel.model.latents.categorical:Categorical",
    "deterministic": "worldmodel.model.latents.deterministic:Deterministic",
}

OBJECTIVES = {
    "reconstruction": "worldmodel.model.objectives.reconstruction:Reconstruction",
    "contrastive": "worldmodel.model.objectives.contrastive:Contrastive",
    "forward_contrastive": "worldmodel.model.objectives.forward_contrastive:ForwardContrastive",
    "inverse": "worldmodel.model.objectives.inverse:Inverse",
    "barlow": "worldmodel.model.objectives.barlow:Barlow",
    "prototypes": "worldmodel.model.objectives.prototypes:Prototypes",
    "bootstrap": "worldmodel.model.objectives.bootstrap:Bootstrap",
    "bottleneck": "worldmodel.model.objectives.bottleneck:Bottleneck",
    "reward_only": "worldmodel.model.objectives.reward_only:RewardOnly",
    "decorrelation": "worldmodel.model.objectives.decorrelation:Decorrelation",
    "straightening": "worldmodel.model.objectives.straightening:Straightening",
    "curvature": "worldmodel.model.objectives.curvature:Curvature",
    "transition_contrastive": (
        "worldmodel.model.objectives.transition_contrastive:TransitionContrastive"
    ),
}

PLANNERS = {
    "cem": "worldmodel.policy.planners.cem:CEM",
    "mppi": "worldmodel.policy.planners.mppi:MPPI",
    "shooting": "worldmodel.policy.planners.shooting:Shooting",
    "gradient": "worldmodel.policy.planners.gradient:Gradient",
    "ilqr": "worldmodel.policy.planners.ilqr:ILQR",
}

PLAN_SCORES = {
    "reward": "worldmodel.policy.plan_scores.reward:Reward",
    "reward+value": "worldmodel.policy.plan_scores.reward_and_value:RewardAndValue",
    "goal_distance": "worldmodel.policy.plan_scores.goal_distance:GoalDistance",
    "pixel_distance": "worldmodel.policy.plan_scores.pixel_distance:PixelDistance",
}

BEHAVIORS = {
    "mpc": "worldmodel.policy.behaviors.mpc:MPC",
    "actor_critic": "worldmodel.policy.behaviors.actor_critic:ActorPolicy",
    "plan2explore": "worldmodel.policy.behaviors.plan2explore:Explore",
    "dyna": "worldmodel.policy.behaviors.dyna:Dyna",
    "guided": "worldmodel.policy.behaviors.guided:FollowControllers",
    "random": "worldmodel.policy.behaviors.random:Random",
}

SAMPLERS = {
    "uniform": "worldmodel.replay.samplers.uniform:Uniform",
    "recent": "worldmodel.replay.samplers.recent:Recent",
    "prioritized": "worldmodel.replay.samplers.prioritized:Prioritized",
}

LOG_WRITERS = {
    "tensorboard": "worldmodel.log_writers.tensorboard:TensorBoard",
    "wandb": "worldmodel.log_writers.wandb:Wandb",
    "trackio": "worldmodel.log_writers.trackio:Trackio",
}

# Tasks whose rewards and ends model/known_rewards.py has as equations
KNOWN_REWARDS = ("cartpole", "cartpole_swingup", "noisy_room", "pendulum", "pointmass")

TABLES = (
    DYNAMICS,
    ENCODERS,
    LATENTS,
    OBJECTIVES,
    PLANNERS,
    PLAN_SCORES,
    BEHAVIORS,
    SAMPLERS,
    LOG_WRITERS,
)


def import_class(table: Mapping[str, str], name: str) -> Any:
    """The class that a table names, `module:Class`; only build.py asks."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)

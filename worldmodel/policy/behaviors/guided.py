"""Collect by local controllers of the true state, or of the latent, and act by the policy that
they teach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from worldmodel.config.ranges import Count, Natural, Positive, Weight
from worldmodel.errors import UsageError
from worldmodel.policy.behaviors import BehaviorParts
from worldmodel.policy.behaviors.actor_critic import ActorPolicy
from worldmodel.policy.guided_policy import UNKNOWN, GuidedPolicy
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    policy = "guided"

    evaluate: Literal["policy", "controllers"]
    state: Literal["vector", "latent"]
    conditions: Count
    rollouts: Count
    steps: Count
    hold: Count
    target: list[float]
    weights: list[float]
    control: Positive
    rank: Natural
    std: Positive
    kl: Positive
    kl_limits: tuple[Positive, Positive]
    prior: Weight
    reach: Natural
    adopt: Weight
    adopt_after: Natural
    rounds: Natural
    improvements: Natural
    match: Literal["step", "state"]

    def contradictions(self, c: Config) -> list[str]:
        found = []
        latent = self.state == "latent"
        if latent and c.model.dynamics != "linear_gaussian":
            found.append(
                "guided.state: latent needs model.dynamics linear_gaussian, whose latent is "
                f"Gaussian and moves linearly; {c.model.dynamics} has none"
            )
        if latent and c.model.reward_head not in ("quadratic", "bell"):
            found.append(
                "guided.state: latent takes its cost from model.reward_head quadratic or bell; "
                f"{c.model.reward_head} has none"
            )
        if latent and not c.loss.reward:
            found.append(
                "loss.reward: 0 does not train the reward head that guided.state latent takes its "
                "cost from"
            )
        if latent and c.model.reward_head == "bell" and set(self.kl_limits) != {self.kl}:
            found.append(
                f"guided.kl_limits: {list(self.kl_limits)} let the bound adapt by comparing "
                "rewards with the squared distances of a bell, which differ; give guided.kl, "
                f"{self.kl}, twice"
            )
        if self.rank and not latent:
            found.append("guided.rank: the cost of guided.state vector is given; set it to 0")
        if latent and self.match == "state":
            found.append(
                "guided.match: state needs states that can be compared, but the latent moves "
                "while the model learns; take step with guided.state latent"
            )
        if latent and self.improvements:
            found.append(
                "guided.improvements: fixed controllers go wrong in a latent that moves; set it "
                "to 0 with guided.state latent"
            )
        if latent and self.conditions != 1:
            found.append(
                f"guided.conditions: {self.conditions} controllers tell starts apart by numbers "
                "that do not change, but the latent moves while the model learns; take 1 with "
                "guided.state latent"
            )
        if not latent and not c.model.unseen:
            found.append(
                "model.unseen: guided policy search has teachers who see the true state; store it "
                "with env.obs both, and keep it from the model with model.unseen [vector]"
            )
        if not latent and len(self.target) != len(self.weights):
            found.append(
                f"guided.weights: {len(self.weights)} weights of the cost for a guided.target of "
                f"{len(self.target)} numbers"
            )
        if not latent and c.env.starts and c.env.starts != self.conditions:
            found.append(
                f"guided.conditions: {self.conditions} controllers for env.starts {c.env.starts}; "
                "each start has one"
            )
        steps = (c.env.time_limit or 0) // c.env.repeat
        if 0 < steps < self.steps:
            found.append(
                f"guided.steps: controllers have {self.steps} steps, but episodes end after "
                f"{steps} (env.time_limit {c.env.time_limit}, env.repeat {c.env.repeat})"
            )
        return found


class FollowControllers:
    """While collecting, the controller of the episode's start acts; otherwise the policy, or with
    `guided.evaluate controllers` the teachers.
    """

    plans = False
    reads_unseen = True

    def __init__(self, parts: BehaviorParts):
        if not isinstance(parts.policy, GuidedPolicy):
            raise UsageError(
                "behavior.name: this run trained no controllers; guided acts only in runs that "
                "were trained with it"
            )
        self.policy, self.evaluates = parts.policy, parts.settings.evaluate
        self.model = parts.model
        self.actor = ActorPolicy(parts)

    def init(self, batch: int) -> State:
        """The step and the condition of the episode, and whether it is one without noise."""
        zeros = torch.zeros(batch)
        return {"step": zeros, "condition": zeros + UNKNOWN, "calm": zeros}

    def act(
        self, state: State, carry: State, is_first: Tensor, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        unseen = {k: carry.pop(k) for k in self.model.unseen if k in carry}
        seen = self.policy.states.see(self.model, state, unseen)
        if seen is None or (mode != "train" and self.evaluates == "policy"):
            return self.actor.act(state, carry, is_first, "eval", generator)
        kept = self._begin_episodes(seen, carry, is_first.bool(), mode == "train")
        step, condition = (kept[k].long() for k in ("step", "condition"))
        if mode == "train":
            action = self.policy.explore(seen, step, condition, kept["calm"], generator)
        else:
            action = self.policy.teach(seen, step, condition)
        return action.float(), kept

    def _begin_episodes(
        self, seen: Tensor, carry: State, is_first: Tensor, collects: bool
    ) -> State:
        """Count the step, and find the conditions of the episodes that begin."""
        kept = {k: carry[k].to(seen.device).clone() for k in ("step", "condition", "calm")}
        kept["step"] = torch.where(is_first, 0.0, kept["step"] + 1)
        if is_first.any():
            found = self.policy.find_conditions(seen[is_first], enrol=collects)
            kept["condition"][is_first] = found.to(kept["condition"])
            kept["calm"][is_first] = self.policy.needs_calm(found).to(kept["calm"])
        return kept

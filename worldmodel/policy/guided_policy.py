"""Guided policy search (Levine et al. 2016): local controllers teach one policy.

Each start of episodes, a condition, has a controller u_t ~ N(K_t x_t + k_t, C) of the true state
x_t, which the model does not see. When every condition has its rollouts, a round is over:

fit A_t, B_t, c_t to the rollouts (local_models.py) and improve the controllers by LQR within a KL
bound (local_controllers.py); the bound grows where the improvement that was predicted comes about

A controller that turns out worse over its steps is given up, and one that costs more than the best
by `adopt` tries the best one's. After their own steps all controllers hold: they act by one linear
controller, the LQR of a model that is fitted to the steps nearest to the target of the cost. The
teacher of a condition is whatever has had the cheapest whole episode. The policy learns the
teachers' actions at replayed states by the KL between the two, of which only the means matter,
since C is fixed:

minimise (mode(pi(. | o_t)) - clip(K_t x_t + k_t))' C^-1 (...) / 2
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.policy.action_distributions import Dist
from worldmodel.policy.actor_critic import Actor
from worldmodel.policy.learned_policy import LearnedPolicy, Rate
from worldmodel.policy.local_controllers import (
    Controllers,
    QuadraticCost,
    adapt_bounds,
    improve_controllers,
    make_controllers,
    recentre_controllers,
    solve_lqr,
)
from worldmodel.policy.local_models import (
    LinearModels,
    Prior,
    fit_local_models,
    measure_cov,
    measure_spread,
    pool_model,
)
from worldmodel.spaces import Batch, Metrics, Row, State

log = logging.getLogger(__name__)

COLUMNS = "guide_step", "guide_condition", "guide_round"
UNKNOWN = -1  # the condition of a row that no controller acted on
UNTRIED = 1e9  # the cost of controllers before their first round
SAME_START = 1e-4  # starts nearer than this are one
HORIZON = 100  # steps of the LQR that holds
FREE_STD = 10.0  # of its old self, which does not matter


class GuidedPolicy(LearnedPolicy):
    """The policy, its teachers, and the rollouts that improve them.

    `tried` are the controllers that collect, `base` those that they come from. `name` is the
    vector that they see, of `size` numbers, in each of so many environments.
    """

    has_critic = False

    weights: Tensor
    target: Tensor
    starts: Tensor
    known: Tensor
    round: Tensor
    tried_gain: Tensor
    tried_offset: Tensor
    teacher_gain: Tensor
    teacher_offset: Tensor
    hold_gain: Tensor
    hold_offset: Tensor
    cov: Tensor
    costs: Tensor
    predicted: Tensor
    bounds: Tensor
    new_states: Tensor
    new_actions: Tensor
    kept_states: Tensor
    kept_actions: Tensor
    filled: Tensor
    open_states: Tensor
    open_actions: Tensor
    usable: Tensor
    open_costs: Tensor
    episode_costs: Tensor
    teacher_costs: Tensor
    teacher_hold_offset: Tensor
    teacher_hold_gain: Tensor
    base_offset: Tensor
    base_gain: Tensor

    def __init__(self, actor: Actor, name: str, size: int, settings: Any, envs: int):
        super().__init__()
        self.actor, self.name, self.settings = actor, name, settings
        count, steps, actions = settings.conditions, settings.steps, actor.space.size
        self.steps, self.has_warned = steps, False
        wide: dict[str, Any] = {"dtype": torch.float64}
        weights, target = (torch.tensor(v, **wide) for v in (settings.weights, settings.target))
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("target", target, persistent=False)
        self._keep("starts", torch.zeros(count, size, **wide))
        self._keep("known", torch.zeros((), dtype=torch.int64))
        self._keep("round", torch.zeros((), dtype=torch.int64))
        first = make_controllers(count, steps, size, actions, settings.std)
        for kind in ("tried", "base", "teacher"):
            self._keep(f"{kind}_gain", first.gain.clone())
            self._keep(f"{kind}_offset", first.offset.clone())
        self._keep("hold_gain", torch.zeros(actions, size, **wide))
        self._keep("hold_offset", torch.zeros(actions, **wide))
        self._keep("teacher_hold_gain", torch.zeros(count, actions, size, **wide))
        self._keep("teacher_hold_offset", torch.zeros(count, actions, **wide))
        self._keep("teacher_costs", torch.full((count,), UNTRIED, **wide))
        self._keep("episode_costs", torch.zeros(count, **wide))
        self._keep("open_costs", torch.zeros(envs, **wide))
        self.register_buffer("cov", first.cov, persistent=False)
        self._keep("costs", torch.full((count,), UNTRIED, **wide))
        self._keep("predicted", torch.zeros(count, **wide))
        self._keep("bounds", torch.full((count,), settings.kl, **wide))
        shape = count, settings.rollouts
        for kind in ("new", "kept"):  # rollouts of this round, and of the teachers
            self._keep(f"{kind}_states", torch.zeros(*shape, steps + 1, size, **wide))
            self._keep(f"{kind}_actions", torch.zeros(*shape, steps, actions, **wide))
        self._keep("filled", torch.zeros(shape, dtype=torch.bool))
        self._keep("open_states", torch.zeros(envs, steps + 1, size, **wide))
        self._keep("open_actions", torch.zeros(envs, steps, actions, **wide))
        self._keep("usable", torch.zeros(envs, dtype=torch.bool))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    def list_parts(self) -> dict[str, tuple[nn.Module, Rate]]:
        return {"actor": (self.actor, "actor")}

    def choose(self, feat: Tensor) -> Dist:
        return self.actor(feat)

    def list_columns(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {name: ((), "int32") for name in COLUMNS}

    @property
    def cost(self) -> QuadraticCost:
        return QuadraticCost(self.weights, self.target, self.settings.control)

    def losses(
        self, model, batch: Batch, post: State, feat: Tensor
    ) -> tuple[dict[str, Tensor], Metrics]:
        """The actor learns the teachers' actions at states of the last rounds; its loss reaches
        the features' graph if the dynamics has it so.
        """
        if not model.dynamics.trained_by_policy:
            feat = feat.detach()
        step, condition, age = (batch[name].long() for name in COLUMNS)
        age = self.round - age
        taught = (
            (condition != UNKNOWN) & (age <= self.settings.rounds) & (self.round > 0)
        ).float()
        wanted = self.teach(batch[self.name], step, condition).float()
        gap = (self.actor(feat).mode() - wanted).square().sum(-1) / (2 * self.settings.std**2)
        metrics = {
            "taught": taught.mean(),
            "teacher_cost": torch.where(self.round > 0, self.teacher_costs.mean(), 0.0).float(),
            "kl_bound": self.bounds.mean().float(),
            "round": self.round.float(),
        }
        return {"imitation": (taught * gap).sum() / taught.sum().clamp(min=1)}, metrics

    def teach(self, state: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """The teachers' mean actions (...,A) at true states (...,n), in the box."""
        i = condition.clamp(min=0)
        hold = self.teacher_hold_gain[i], self.teacher_hold_offset[i]
        steps = self.teacher_gain, self.teacher_offset
        return self._act(steps, hold, state, step, i).clamp(-1, 1)

    def explore(
        self,
        state: Tensor,
        step: Tensor,
        condition: Tensor,
        calm: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Actions (B,A) of the controllers that are tried, with noise unless `calm`."""
        steps, hold = (self.tried_gain, self.tried_offset), (self.hold_gain, self.hold_offset)
        mean = self._act(steps, hold, state, step, condition.clamp(min=0))
        mean = torch.where((condition == UNKNOWN).unsqueeze(-1), 0.0, mean)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        loud = (~calm.bool()).unsqueeze(-1).to(mean)
        return (mean + loud * self.settings.std * noise.to(mean)).clamp(-1, 1)

    def _act(
        self,
        steps: tuple[Tensor, Tensor],
        hold: tuple[Tensor, Tensor],
        state: Tensor,
        step: Tensor,
        condition: Tensor,
    ) -> Tensor:
        """The mean actions (...,A) of controllers, which hold after their last step."""
        place = condition, step.clamp(0, self.steps - 1)
        held = (step >= self.steps).unsqueeze(-1)
        gain = torch.where(held.unsqueeze(-1), hold[0], steps[0][place])
        offset = torch.where(held, hold[1], steps[1][place])
        return (gain @ state.to(gain).unsqueeze(-1)).squeeze(-1) + offset

    def find_conditions(self, state: Tensor, enrol: bool) -> Tensor:
        """The conditions (B,) whose starts are nearest to first states (B,n).

        While there is room for another, a start that is new becomes one, if it may `enrol`.
        """
        found = []
        for x in state.to(self.starts):
            known = int(self.known)
            gaps = (self.starts[:known] - x).square().sum(-1).sqrt()
            if enrol and known < len(self.starts) and not (gaps < SAME_START).any():
                self.starts[known] = x
                self.known += 1
                found.append(known)
            else:
                found.append(int(gaps.argmin()) if known else UNKNOWN)
        return torch.tensor(found, device=state.device)

    def needs_calm(self, condition: Tensor) -> Tensor:
        """Whether (B,) the conditions still lack the rollout without noise of this round."""
        return (condition != UNKNOWN) & ~self.filled[condition.clamp(min=0), 0]

    def watch(self, rows: list[Row], carry: Mapping[str, Tensor]) -> None:
        """Note with each row who acted on it, and keep the rollouts; improve once a round is
        over.
        """
        for i, row in enumerate(rows):
            step, condition, calm = 0, UNKNOWN, False
            if carry:
                step, condition = int(carry["step"][i]), int(carry["condition"][i])
                calm = bool(carry["calm"][i])
            values = step, condition, int(self.round)
            row.update({k: np.int32(v) for k, v in zip(COLUMNS, values, strict=True)})
            if condition != UNKNOWN:
                self._keep_step(i, row, step)
                if row["is_last"] and step < self.steps:
                    self._warn_of_short_episode(step)
                elif row["is_last"] and self.usable[i]:
                    self._keep_rollout(i, condition, calm)
        if self.filled.all():
            self.improve()

    def _warn_of_short_episode(self, step: int) -> None:
        if not self.has_warned:
            log.warning(
                "an episode ended after %d steps, before the %d of guided.steps: its controllers "
                "learn nothing from it; lower guided.steps, or raise env.time_limit",
                step,
                self.steps,
            )
        self.has_warned = True

    def _keep_step(self, i: int, row: Row, step: int) -> None:
        """Keep a step of the open rollout of environment i."""
        state, action = (
            torch.from_numpy(row[k]).to(self.starts) for k in (self.name, "prev_action")
        )
        if row["is_first"]:
            self.usable[i], self.open_costs[i] = True, 0.0
        else:
            self.open_costs[i] += self.cost.measure(torch.stack([state, state]), action[None])
        if step <= self.steps:
            self.open_states[i, step] = state
            if step:
                self.open_actions[i, step - 1] = action

    def _keep_rollout(self, i: int, condition: int, calm: bool) -> None:
        """Keep a rollout that has ended: that without noise first, others where there is room."""
        free = (~self.filled[condition]).nonzero().squeeze(1).tolist()
        places = [place for place in free if (place == 0) == calm]
        if places:
            self.new_states[condition, places[0]] = self.open_states[i]
            self.new_actions[condition, places[0]] = self.open_actions[i]
            self.filled[condition, places[0]] = True
            if calm:
                self.episode_costs[condition] = self.open_costs[i]

    @torch.no_grad()
    def improve(self) -> None:
        """Judge the controllers that were tried by their rollout without noise, and improve."""
        self._choose_teachers()
        cost = self.cost.measure(self.new_states[:, 0], self.new_actions[:, 0])
        better = cost < self.costs
        if self.round > 0:
            gain, limits = self.costs - cost, self.settings.kl_limits
            self.bounds.copy_(adapt_bounds(self.bounds, gain, self.predicted, limits))
        self.costs.copy_(torch.where(better, cost, self.costs))
        for kept, new in (
            (self.kept_states, self.new_states),
            (self.kept_actions, self.new_actions),
            (self.base_gain, self.tried_gain),
            (self.base_offset, self.tried_offset),
        ):
            kept[better] = new[better]
        prior = self._make_prior()
        self._improve_steps(prior)
        self._improve_hold(prior)
        if self.round >= self.settings.adopt_after:
            self._adopt_best()
        self.round += 1
        self.filled.fill_(False)
        self.usable.fill_(False)  # open rollouts have begun with other controllers

    def _choose_teachers(self) -> None:
        """Teach by what was tried, where its whole episode was the cheapest yet."""
        best = self.episode_costs < self.teacher_costs
        self.teacher_gain[best] = self.tried_gain[best]
        self.teacher_offset[best] = self.tried_offset[best]
        self.teacher_hold_gain[best] = self.hold_gain
        self.teacher_hold_offset[best] = self.hold_offset
        self.teacher_costs[best] = self.episode_costs[best]

    def _make_prior(self) -> Prior:
        """The global model of all steps of the rollouts."""
        rollouts = self.kept_states, self.kept_actions
        return Prior(pool_model(*rollouts), measure_spread(*rollouts), 0.0, self.settings.prior)

    def _improve_steps(self, prior: Prior) -> None:
        """Try better controllers within the KL bound."""
        states = self.kept_states
        models = fit_local_models(states, self.kept_actions, prior, self.settings.reach)
        spread = measure_cov(states - states.mean(1, keepdim=True))
        start = states[:, :, 0].mean(1), spread
        old = Controllers(self.base_gain, self.base_offset, self.cov)
        new, path, before = improve_controllers(
            models, self.cost, old, start, self.bounds * self.steps, box=1.0
        )
        self.predicted.copy_(before - path.expect_cost(self.cost))
        new = recentre_controllers(new, path)
        self.tried_gain.copy_(new.gain)
        self.tried_offset.copy_(new.offset)

    def _improve_hold(self, prior: Prior) -> None:
        """Hold by the LQR of a model of the steps that are nearest to the target."""
        states, actions = self.kept_states, self.kept_actions
        pairs = torch.stack([states[:, :, :-1], states[:, :, 1:]], -2).flatten(0, 2)
        gaps = (pairs[:, 0] - self.target).square().sum(-1)
        near = gaps.topk(min(self.settings.hold, len(gaps)), largest=False).indices
        model = fit_local_models(pairs[near], actions.flatten(0, 2)[near].unsqueeze(1), prior)
        models = LinearModels(*(v.expand(1, HORIZON, *v.shape[1:]) for v in vars(model).values()))
        free = make_controllers(1, HORIZON, states.shape[-1], actions.shape[-1], FREE_STD)
        found = solve_lqr(models, self.cost, free, self.costs.new_ones(1))
        if torch.isfinite(found.gain).all():
            self.hold_gain.copy_(found.gain[0, 0])
            self.hold_offset.copy_(found.offset[0, 0])

    def _adopt_best(self) -> None:
        """Let controllers that cost much more than the best one try that one's instead."""
        best = int(self.costs.argmin())
        behind = self.costs > self.costs[best] + self.settings.adopt
        self.tried_gain[behind] = self.base_gain[best]
        self.tried_offset[behind] = self.base_offset[best]

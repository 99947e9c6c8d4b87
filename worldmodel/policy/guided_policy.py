"""Guided policy search (Levine et al. 2016): local controllers teach one policy.

Each start of episodes, a condition, has a controller u_t ~ N(K_t x_t + k_t, C) of a state x_t: the
true one, which the model does not see, or the belief of the latent (SOLAR, controller_states.py).
When every condition has its rollouts, a round is over:

fit A_t, B_t, c_t to the rollouts (local_models.py) and improve the controllers by LQR within a KL
bound (local_controllers.py); the bound grows where the improvement that was predicted comes about

After their own steps all controllers hold: they act by one linear controller, the LQR of a model
that is fitted to the steps nearest to the target of the cost.

Controllers of the true state that turn out worse over their steps are given up, and those that
cost more than the best by `adopt` try the best one's. The teacher of a condition is whatever has
had the cheapest whole episodes, the mean of all with noise and without. Controllers of the latent
are always kept, since the latent has moved, and the newest are the teachers.

After `improvements` rounds the teachers are fixed, and collect. In the last rounds before
that, conditions with teachers that cost more than the best one by `adopt` try the best one.

The policy learns the teachers' actions at replayed states by the KL between the two, of which only
the means matter, since C is fixed:

minimise (mode(pi(. | o_t)) - clip(K_s x_t + k_s))' C^-1 (...) / 2

The step s is the row's own, t, of its own teacher. The policy sees no clock, so that teachers who
pass one state at different steps contradict each other. With `match state`, s is therefore the
step at which any of the teachers was nearest to x_t, as in a library of trajectories (Stolle and
Atkeson 2006).
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
from worldmodel.policy.controller_states import ControllerStates, Rollouts
from worldmodel.policy.learned_policy import LearnedPolicy, Rate
from worldmodel.policy.local_controllers import (
    Controllers,
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
)
from worldmodel.policy.quadratic_cost import QuadraticCost
from worldmodel.spaces import Batch, Metrics, Row, State

log = logging.getLogger(__name__)

COLUMNS = "guide_step", "guide_condition", "guide_round"
UNKNOWN = -1  # the condition of a row that no controller acted on
UNTRIED = 1e9  # the cost of controllers before their first round
SAME_START = 1e-4  # starts nearer than this are one
HORIZON = 100  # steps of the LQR that holds
LAST = 3  # rounds before the teachers are fixed in which bad ones may be replaced
FREE_STD = 10.0  # of its old self, which does not matter


class GuidedPolicy(LearnedPolicy):
    """The policy, its teachers, and the rollouts that improve them.

    `tried` are the controllers that collect, `base` those that they come from. `states` says what
    they see, in each of so many environments.
    """

    has_critic = False

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
    filled: Tensor
    usable: Tensor
    open_costs: Tensor
    episode_costs: Tensor
    teacher_costs: Tensor
    open_path: Tensor
    tried_path: Tensor
    teacher_path: Tensor
    teacher_hold_offset: Tensor
    teacher_hold_gain: Tensor
    base_offset: Tensor
    base_gain: Tensor

    def __init__(self, actor: Actor, states: ControllerStates, settings: Any, envs: int):
        super().__init__()
        self.actor, self.states, self.settings = actor, states, settings
        count, steps, actions = settings.conditions, settings.steps, actor.space.size
        size = states.size
        self.steps, self.has_warned = steps, False
        wide: dict[str, Any] = {"dtype": torch.float64}
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
        if settings.match == "state":
            for kind, lead in (("open", envs), ("tried", count), ("teacher", count)):
                path = torch.zeros(lead, steps + HORIZON, size, **wide)
                self._keep(f"{kind}_path", path)
        self._keep("episode_costs", torch.zeros(count, **wide))
        self._keep("open_costs", torch.zeros(envs, **wide))
        self.register_buffer("cov", first.cov, persistent=False)
        self._keep("costs", torch.full((count,), UNTRIED, **wide))
        self._keep("predicted", torch.zeros(count, **wide))
        self._keep("bounds", torch.full((count,), settings.kl, **wide))
        shape = count, settings.rollouts
        self.open = Rollouts(self, "open", states.columns, (envs,), steps, actions)
        self.new = Rollouts(self, "new", states.columns, shape, steps, actions)  # of this round
        if states.compares_rounds:
            self.best = Rollouts(self, "kept", states.columns, shape, steps, actions)
        self._keep("filled", torch.zeros(shape, dtype=torch.bool))
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
    def kept(self) -> Rollouts:
        """The rollouts of the controllers that are improved."""
        return self.best if self.states.compares_rounds else self.new

    @property
    def has_fixed_teachers(self) -> bool:
        return 0 < self.settings.improvements <= int(self.round)

    @property
    def is_closing(self) -> bool:
        """Whether the next rounds are the last ones before the teachers are fixed."""
        improvements = self.settings.improvements
        return improvements > 0 and int(self.round) + 1 >= improvements - LAST

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
        state = self.states.recall(model, batch, post)
        if self.settings.match == "state":
            condition, step = self.find_nearest(state)
        wanted = self.teach(state, step, condition).float()
        gap = (self.actor(feat).mode() - wanted).square().sum(-1) / (2 * self.settings.std**2)
        metrics = {
            "taught": taught.mean(),
            "kl_bound": self.bounds.mean().float(),
            "round": self.round.float(),
        }
        if self.states.compares_rounds:  # else the teachers have not acted yet
            cost = torch.where(self.round > 0, self.teacher_costs.mean(), 0.0)
            metrics["teacher_cost"] = cost.float()
        return {"imitation": (taught * gap).sum() / taught.sum().clamp(min=1)}, metrics

    def teach(self, state: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """The teachers' mean actions (...,A) at states (...,n), in the box."""
        i = condition.clamp(min=0)
        hold = self.teacher_hold_gain[i], self.teacher_hold_offset[i]
        steps = self.teacher_gain, self.teacher_offset
        return self._act(steps, hold, state, step, i).clamp(-1, 1)

    def find_nearest(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The conditions and steps (...) at which teachers came nearest to states (...,n).

        Each entry is measured by its standard deviation along the teachers' paths.
        """
        path = self.teacher_path.flatten(0, 1)
        scale = path.std(0).clamp(min=1e-6)
        flat = state.to(path).flatten(0, -2)
        near = torch.cdist(flat / scale, path / scale).argmin(-1).view(state.shape[:-1])
        length = self.teacher_path.shape[1]
        return near // length, near % length

    def explore(
        self,
        state: Tensor,
        step: Tensor,
        condition: Tensor,
        calm: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Actions (B,A) of the controllers that are tried, or of the teachers once these are
        fixed, with noise unless `calm`.
        """
        if self.has_fixed_teachers:
            mean = self.teach(state, step, condition)
        else:
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

    def watch(self, model, rows: list[Row], carry: Mapping[str, Tensor]) -> None:
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
            self.improve(model)

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
        if row["is_first"]:
            self.usable[i], self.open_costs[i] = True, 0.0
        else:
            action = torch.from_numpy(row["prev_action"]).to(self.starts)
            self.open_costs[i] += self.states.measure_step(row, action)
        if step <= self.steps:
            self.open.keep_step(i, step, row)
        if self.settings.match == "state":
            (name,) = self.states.columns
            state = torch.as_tensor(row[name])
            self.open_path[i, step:] = state.to(self.open_path)  # it stays where it ends

    def _keep_rollout(self, i: int, condition: int, calm: bool) -> None:
        """Keep a rollout that has ended: that without noise first, others where there is room."""
        free = (~self.filled[condition]).nonzero().squeeze(1).tolist()
        places = [place for place in free if (place == 0) == calm]
        if places:
            for new, own in zip(self.new.list_tensors(), self.open.list_tensors(), strict=True):
                new[condition, places[0]] = own[i]
            self.filled[condition, places[0]] = True
            if self.states.compares_rounds:
                self.episode_costs[condition] += self.open_costs[i] / self.settings.rollouts
            elif calm:
                self.episode_costs[condition] = self.open_costs[i]
            if calm and self.settings.match == "state":
                self.tried_path[condition] = self.open_path[i]

    @torch.no_grad()
    def improve(self, model) -> None:
        """Judge the controllers that were tried by their rollouts, and improve them, unless the
        teachers are fixed.
        """
        if not self.has_fixed_teachers:
            self._improve(model)
        self.round += 1
        self.filled.fill_(False)
        self.episode_costs.zero_()
        self.usable.fill_(False)  # open rollouts have begun with other controllers

    def _improve(self, model) -> None:
        self._judge_round()
        states, actions = self.states.infer(model, self.kept), self.kept.actions
        cost = self.states.find_cost(model, states)
        prior = self._make_prior(model, states, actions)
        self._improve_steps(states, actions, cost, prior)
        self._improve_hold(states, actions, cost, prior)
        if self.round >= self.settings.adopt_after:
            self._adopt_best()
        if self.is_closing:
            self._try_best_teacher()
        if not self.states.compares_rounds:
            self._teach_by(torch.ones_like(self.costs, dtype=torch.bool))

    def _judge_round(self) -> None:
        """Take over what was tried where it is better, and adapt the bounds."""
        if self.states.compares_rounds:
            self._teach_by(self.episode_costs < self.teacher_costs)
        cost = self.states.measure_round(self.new)
        better = cost < self.costs
        if self.round > 0:
            gain, limits = self.costs - cost, self.settings.kl_limits
            self.bounds.copy_(adapt_bounds(self.bounds, gain, self.predicted, limits))
        if not self.states.compares_rounds:
            better = torch.ones_like(better)
        self.costs.copy_(torch.where(better, cost, self.costs))
        pairs = [(self.base_gain, self.tried_gain), (self.base_offset, self.tried_offset)]
        if self.states.compares_rounds:
            pairs += zip(self.best.list_tensors(), self.new.list_tensors(), strict=True)
        for kept, new in pairs:
            kept[better] = new[better]

    def _teach_by(self, chosen: Tensor) -> None:
        """Let the controllers that are tried teach the conditions that are chosen (C,)."""
        self.teacher_gain[chosen] = self.tried_gain[chosen]
        self.teacher_offset[chosen] = self.tried_offset[chosen]
        self.teacher_hold_gain[chosen] = self.hold_gain
        self.teacher_hold_offset[chosen] = self.hold_offset
        self.teacher_costs[chosen] = self.episode_costs[chosen]
        if self.settings.match == "state":
            self.teacher_path[chosen] = self.tried_path[chosen]

    def _make_prior(self, model, states: Tensor, actions: Tensor) -> Prior:
        """The global model, which counts as some rollouts of each step."""
        found = self.states.make_global_model(model, states, actions)
        return Prior(found, measure_spread(states, actions), 0.0, self.settings.prior)

    def _improve_steps(
        self, states: Tensor, actions: Tensor, cost: QuadraticCost, prior: Prior
    ) -> None:
        """Try better controllers within the KL bound."""
        models = fit_local_models(states, actions, prior, self.settings.reach)
        spread = measure_cov(states - states.mean(1, keepdim=True))
        if not self.states.compares_rounds:
            spread = spread[:, 0]  # the models say how new controllers make it grow
        start = states[:, :, 0].mean(1), spread
        old = Controllers(self.base_gain, self.base_offset, self.cov)
        new, path, before = improve_controllers(
            models, cost, old, start, self.bounds * self.steps, box=1.0
        )
        self.predicted.copy_(before - path.expect_cost(cost))
        new = recentre_controllers(new, path)
        self.tried_gain.copy_(new.gain)
        self.tried_offset.copy_(new.offset)

    def _improve_hold(
        self, states: Tensor, actions: Tensor, cost: QuadraticCost, prior: Prior
    ) -> None:
        """Hold by the LQR of a model of the steps that are nearest to the target."""
        pairs = torch.stack([states[:, :, :-1], states[:, :, 1:]], -2).flatten(0, 2)
        gaps = self.states.measure_gaps(pairs[:, 0], cost)
        near = gaps.topk(min(self.settings.hold, len(gaps)), largest=False).indices
        model = fit_local_models(pairs[near], actions.flatten(0, 2)[near].unsqueeze(1), prior)
        models = LinearModels(*(v.expand(1, HORIZON, *v.shape[1:]) for v in vars(model).values()))
        free = make_controllers(1, HORIZON, states.shape[-1], actions.shape[-1], FREE_STD)
        found = solve_lqr(models, cost, free, self.costs.new_ones(1))
        if torch.isfinite(found.gain).all():
            self.hold_gain.copy_(found.gain[0, 0])
            self.hold_offset.copy_(found.offset[0, 0])

    def _adopt_best(self) -> None:
        """Let controllers that cost much more than the best one try that one's instead."""
        best = int(self.costs.argmin())
        behind = self.costs > self.costs[best] + self.settings.adopt
        self.tried_gain[behind] = self.base_gain[best]
        self.tried_offset[behind] = self.base_offset[best]

    def _try_best_teacher(self) -> None:
        """Let conditions whose teachers cost much more than the best one try that one's instead,
        and all hold as it does: the newest hold may be worse.

        Their own controllers may cost as little over their steps, but end where none can hold.
        """
        best = int(self.teacher_costs.argmin())
        behind = self.teacher_costs > self.teacher_costs[best] + self.settings.adopt
        self.tried_gain[behind] = self.teacher_gain[best]
        self.tried_offset[behind] = self.teacher_offset[best]
        if behind.any():
            self.hold_gain.copy_(self.teacher_hold_gain[best])
            self.hold_offset.copy_(self.teacher_hold_offset[best])

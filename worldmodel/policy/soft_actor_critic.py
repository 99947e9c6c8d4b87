"""Soft actor-critic (Haarnoja et al. 2018) on the features of a model, with Dyna's imagined steps.

An ensemble of critics Q_k with slow copies Q'_k, an actor pi, and a temperature alpha that holds
the actor's entropy H at a target:

    V(s) = min_k Q'_k(s, a) + alpha H(pi(s)),  a ~ pi(s)                    soft value
    y_t = r_{t+1} + gamma c_{t+1} V(s_{t+1})                                target of Q_k(s_t, a_t)
    minimise (Q_k(s_t, a_t) - y_t)^2 / 2, and -min_k Q_k(s, a) - alpha H(pi(s)) by the actor

Transitions (s_t, a_t, r_{t+1}, s_{t+1}) are those of the batch, and those of rollouts that branch
off at its posterior states and follow the actor in imagination (Sutton 1990; Janner et al. 2019).
With value expansion the targets look H imagined steps further (Feinberg et al. 2018). Every
imagined reward, and no replayed one, is the predicted reward less `imag.pessimism` p times the
ensemble's disagreement (model/ensembles.py) about where the action leads:

    r_{t+1} = reward(s_{t+1}) - p disagreement(s_t, a_t)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.config.schema import ImagConfig
from worldmodel.model.networks import BiasedMLP, add_constant, apply_side_by_side
from worldmodel.policy.action_distributions import Dist, OneHotGroups, clip_actions
from worldmodel.policy.actor_critic import Actor, freeze_weights
from worldmodel.policy.learned_policy import (
    LearnedPolicy,
    Rate,
    pick_starts,
    subtract_disagreement,
)
from worldmodel.policy.temperature import Temperature
from worldmodel.spaces import ActionSpace, Batch, Metrics, State, map_state


class Critics(nn.Module):
    """K values of an action at features: (...,F), (...,A) -> (K,...).

    Each network reads both. For discrete actions it reads the features alone and gives each choice
    a value; those of several groups add up.
    """

    def __init__(self, inputs: int, space: ActionSpace, count: int, layers: int, units: int):
        super().__init__()
        self.discrete = space.discrete
        sizes = (inputs, space.size) if space.discrete else (inputs + space.size, 1)
        self.nets = nn.ModuleList(BiasedMLP(*sizes, layers, units) for _ in range(count))

    def read(self, x: Tensor) -> Tensor:
        """The outputs of all networks: (...,X) -> (K,...,outputs)."""
        return torch.stack(apply_side_by_side(list(self.nets), add_constant(x)))  # type: ignore[arg-type]

    def forward(self, feat: Tensor, action: Tensor) -> Tensor:
        if self.discrete:
            return (self.read(feat) * action).sum(-1)
        return self.read(torch.cat([feat, action], -1)).squeeze(-1)

    def evaluate_choices(self, feat: Tensor, dist: OneHotGroups) -> Tensor:
        """The least of the K values of each choice, in expectation over the choices: (...)."""
        probs = torch.cat(dist.log_probs, -1).exp()
        return (self.read(feat).amin(0) * probs).sum(-1)


@dataclass(frozen=True)
class Rows:
    """Rows of experience, replayed or imagined, time first: row t holds the action that led to it
    and the reward on arrival.
    """

    feat: Tensor  # (T,N,F)
    action: Tensor  # (T,N,A)
    reward: Tensor  # (T,N)
    discount: Tensor  # (T,N), zero where the episode terminates
    last: Tensor  # (T,N), whether the next row does not follow from this one
    weight: Tensor  # (T,N), of the transition from this row to the next


class SoftActorCritic(LearnedPolicy):
    """Actor, critics, their slow copies and the temperature; `settings` are those of `dyna`."""

    def __init__(self, actor: Actor, critics: Critics, imag: ImagConfig, settings: Any):
        super().__init__()
        self.actor, self.critics, self.imag, self.settings = actor, critics, imag, settings
        self.every, self.greedy = imag.every, actor.config.greedy
        self.slow = copy.deepcopy(critics).requires_grad_(False)
        self.temperature = Temperature(settings.temperature)
        self.target_entropy = settings.target_entropy
        if self.target_entropy is None:
            self.target_entropy = choose_target_entropy(actor.space)
        self.length = 0  # of the imagined rollouts in this update

    def list_parts(self) -> dict[str, tuple[nn.Module, Rate]]:
        return {
            "actor": (self.actor, "actor"),
            "critic": (self.critics, "critic"),
            "temperature": (self.temperature, "actor"),
        }

    def begin_update(self, frames: int) -> Hashable:
        self.length = choose_length(self.settings.rollout_length, frames)
        return self.length

    def choose(self, feat: Tensor) -> Dist:
        return self.actor(feat)

    def value(self, feat: Tensor) -> Tensor:
        dist = self.actor(feat)
        if isinstance(dist, OneHotGroups):
            return self.critics.evaluate_choices(feat, dist)
        return self.critics(feat, clip_actions(dist.mode())).amin(0)

    def losses(
        self, model, batch: Batch, post: State, feat: Tensor
    ) -> tuple[dict[str, Tensor], Metrics]:
        """The critics' loss reaches the features' graph if the dynamics has it so; no other
        does.
        """
        if not model.dynamics.trained_by_policy:
            feat = feat.detach()
        rows = self._read_rows(batch, feat)
        value, entropy = self._evaluate_slowly(rows.feat[1:])
        metrics = {
            "temperature": self.temperature().detach(),
            "entropy": entropy.mean(),
            "value": value.mean(),
        }
        value = torch.cat([0 * value[:1], value])  # no target looks at the first row
        share = self.settings.real_ratio if self.length else 1.0
        parts = []
        if self.length or self.settings.value_expansion:
            value, imagined, target = self._imagine(model, batch, post, value)
            if share < 1:
                metrics["imag_reward"] = imagined.reward[1:].mean()
                parts.append((1 - share, self._losses_of(model, imagined, target)))
        if share > 0:
            target = compute_targets(rows, value, self.settings.n_step - 1)
            metrics["target"] = target.mean()
            parts.append((share, self._losses_of(model, rows, target)))
        names = parts[0][1]
        return {k: torch.stack([w * found[k] for w, found in parts]).sum() for k in names}, metrics

    def _read_rows(self, batch: Batch, feat: Tensor) -> Rows:
        """The batch's own rows (B,T,...); time limits do not end the discount."""
        first = batch["is_first"]
        last = torch.cat([first[:, 1:], torch.ones_like(first[:, :1])], 1)
        going = 1.0 - batch["is_terminal"].float()
        entries = (
            feat,
            batch["prev_action"],
            batch["reward"],
            self.imag.discount * going,
            last,
            (~last).float(),
        )
        return Rows(*(x.transpose(0, 1) for x in entries))

    @torch.no_grad()
    def _imagine(
        self, model, batch: Batch, post: State, value: Tensor
    ) -> tuple[Tensor, Rows, Tensor]:
        """Branch off at the batch's posteriors and follow the actor.

        Returns the values (T,B) of the batch's rows, with their expansion, and the imagined rows
        with their targets.
        """
        expansion = self.settings.value_expansion
        picks = pick_starts(batch["is_terminal"], self.imag.starts)
        start = map_state(post, lambda v: v.detach().flatten(0, 1)[picks])
        steps = max(self.length, expansion)
        rollout = model.dynamics.start_rollout(start, steps)
        actions = [torch.zeros_like(batch["prev_action"]).flatten(0, 1)[picks]]
        for _ in range(steps):
            actions.append(clip_actions(self.actor(rollout.features).sample()))
            rollout.step(actions[-1])
        after = rollout.features_after()
        feat = torch.cat([rollout.features_before(), after[-1:]])
        ahead, entropy = self._evaluate_slowly(feat)
        reward, cont = model.predict(after)
        reward = subtract_disagreement(
            model, reward, feat[0], after, torch.stack(actions[1:]), self.imag.pessimism
        )
        reward, cont = (torch.cat([x[:1] * 0, x]).float() for x in (reward, cont))
        alive = 1.0 - batch["is_terminal"].float().flatten()[picks]
        going = torch.cat([alive.unsqueeze(0), cont[1:]]).cumprod(0)
        discount, last = self.imag.discount * cont, torch.zeros_like(cont, dtype=torch.bool)
        last[-1] = True
        rows = Rows(feat, torch.stack(actions), reward, discount, last, going * ~last)
        # The actor chose these actions, so each imagined step of an expansion earns its entropy.
        bonus = self.temperature() * entropy
        expanded = expand_values(rows, ahead, expansion, bonus)
        if expansion:
            value = expanded[0].unflatten(0, batch["is_first"].shape).transpose(0, 1)
        target = reward[1:] + discount[1:] * expanded[1:]
        kept = slice(self.length + 1)
        shorter = Rows(*(getattr(rows, name)[kept] for name in Rows.__dataclass_fields__))
        return value, shorter, target[: self.length]

    def _evaluate(self, critics: Critics, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Of states at features: min_k Q_k of the actor's action, and the actor's entropy, both
        (...).
        """
        dist = self.actor(feat)
        if isinstance(dist, OneHotGroups):
            return critics.evaluate_choices(feat, dist), dist.entropy()
        action, log_prob = dist.sample_with_log_prob()
        return critics(feat, clip_actions(action)).amin(0), -log_prob

    @torch.no_grad()
    def _evaluate_slowly(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """The soft value by the slow critics, and the actor's entropy, without gradients."""
        q, entropy = self._evaluate(self.slow, feat)
        return q + self.temperature() * entropy, entropy

    def _losses_of(self, model, rows: Rows, target: Tensor) -> dict[str, Tensor]:
        """The losses on the transitions of rows, each weighted; target (T-1,N)."""
        weight = rows.weight[:-1]
        mean = weight / weight.sum().clamp(min=1)
        read = self.critics(rows.feat[:-1], rows.action[1:])
        with freeze_weights(self.critics):
            q, entropy = self._evaluate(self.critics, rows.feat[:-1].detach())
        alpha = self.temperature()
        return {
            "critic": (mean * 0.5 * (read - target).square()).sum(),
            "actor": -(mean * (q + alpha.detach() * entropy)).sum(),
            "temperature": self.temperature.make_loss(entropy, self.target_entropy, mean),
        }

    @torch.no_grad()
    def after_update(self) -> None:
        """Move the slow critics a little towards the critics (Polyak averaging)."""
        torch._foreach_lerp_(
            list(self.slow.parameters()), list(self.critics.parameters()), self.settings.tau
        )


def choose_target_entropy(space: ActionSpace) -> float:
    """Minus the number of actions, as published; half of the largest entropy if discrete."""
    if space.discrete:
        return 0.5 * sum(math.log(count) for count in space.groups)
    return -float(space.size)


def choose_length(length: int | list[int], frames: int) -> int:
    """The length of a rollout: a number, or (from, to, first frame, last frame) of a linear
    schedule.
    """
    if isinstance(length, int):
        return length
    low, high, first, last = length
    share = min(1.0, max(0.0, (frames - first) / (last - first)))
    return int(low + share * (high - low))


def expand_values(rows: Rows, value: Tensor, steps: int, bonus: Tensor | float = 0.0) -> Tensor:
    """Values (T,N) that look `steps` rows ahead before they trust a critic, V^0 being `value`:

        V^k_t = bonus_t + r_{t+1} + gamma c_{t+1} V^{k-1}_{t+1}

    The last row of an episode or of a rollout keeps V^0.
    """
    bonus = bonus + torch.zeros_like(value)
    found = value
    for _ in range(steps):
        ahead = bonus[:-1] + rows.reward[1:] + rows.discount[1:] * found[1:]
        found = torch.cat([torch.where(rows.last[:-1], value[:-1], ahead), value[-1:]])
    return found


def compute_targets(rows: Rows, value: Tensor, steps: int) -> Tensor:
    """The targets (T-1,N) of the rows' transitions: their reward and what follows it, which looks
    `steps` rows further before it trusts the values (T,N).
    """
    return rows.reward[1:] + rows.discount[1:] * expand_values(rows, value, steps)[1:]

"""Dynamics: how a latent state follows from states, actions and embeddings.

One file per dynamics; registry.py names them, build.py imports them, the world model calls them.
A state is opaque outside the file that makes it: others may only map over its leaves
(`spaces.map_state`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.kernels import leave_to_torch
from worldmodel.model.derivatives import compute_jacobian
from worldmodel.spaces import State


class Dynamics(nn.Module):
    """The protocol of all dynamics: B states in a batch, T steps, features F.

    A state that a method returns may be passed to any other. States hold what the next step needs
    and, where `observe` or `imagine_step` made them, the latent's distribution there. `latent` is
    one of `model.latents`; a dynamics without one overrides what uses it below.
    """

    latent: Any
    feature_size: int
    differentiable = True  # whether gradients pass through its steps
    imagines = True  # whether it predicts anything; an agent without a model has one that doesn't
    trained_by_policy = False  # whether the losses of critics and imitation reach features
    members = 1  # of an ensemble of transitions
    smooths = (
        False  # whether `observe`, unlike `infer_states`, lets later steps inform earlier ones
    )
    standardizes = False  # whether `update_statistics` is to be called before each update

    def initial(self, batch: int) -> State:
        """The state before anything was observed."""
        raise NotImplementedError

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """Filter sequences (B,T,E), (B,T,A), (B,T): posterior states and priors, leaves (B,T,...).

        `start` is the state before the first step, or empty. Nothing is carried into a step that
        is first.
        """
        raise NotImplementedError

    def infer_states(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> State:
        """The posterior states alone, each given what an agent had seen by then."""
        return self.observe(embed, prev_action, is_first, start)[0]

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        """Filter one step: embed (B,E), prev_action (B,A), is_first (B,)."""
        raise NotImplementedError

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """Take one step without an observation: action (B,A)."""
        raise NotImplementedError

    def imagine(
        self, state: State, actions: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """Roll out actions (B,H,A) without observations: states (B,H,...)."""
        state, steps = self.keep_members(state, generator), []
        for action in actions.unbind(1):
            state = self.imagine_step(state, action, generator)
            steps.append(state)
        return {k: torch.stack([step[k] for step in steps], 1) for k in state}

    def start_rollout(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Rollout:
        """Begin a rollout from states (B,...) whose actions are given step by step."""
        return Rollout(self, self.keep_members(state, generator), generator)

    def keep_members(self, state: State, generator: torch.Generator | None = None) -> State:
        """Choose a random member of an ensemble for each state (N,), to imagine all steps with.

        States that have a leaf `redraw` get another member at each step instead.
        """
        if self.members == 1 or "member" in state or "redraw" in state:
            return state
        return {**state, "member": self.choose_members(state, generator)}

    def choose_members(self, state: State, generator: torch.Generator | None) -> Tensor:
        """The members (N,) that imagine a step from states (N,...): their own, or random ones."""
        if "member" in state:
            return state["member"].long()
        first = next(iter(state.values()))
        if self.members == 1:
            return torch.zeros(len(first), dtype=torch.long, device=first.device)
        return draw_members(len(first), self.members, generator, first.device)

    def predict_members(self, feat: Tensor, action: Tensor) -> Tensor:
        """The latent (K,...,S) that each member expects after features (...,F) and actions."""
        raise NotImplementedError

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        """The mean features (...,F) in fp32 that follow from features (...,F) and actions (...,A),
        without a draw; an ensemble's are the mean over its members.
        """
        raise NotImplementedError

    def predict_state(self, feat: Tensor, action: Tensor) -> State:
        """The states whose features `predict_features` gives, for distances from a goal."""
        raise NotImplementedError

    def linearize(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (...,F,F), B (...,F,A) and o (...,F): near these features and actions the step of
        `predict_features` is A feat + B action + o.
        """
        size = feat.shape[-1]

        def predict(rows: Tensor) -> Tensor:
            return self.predict_features(rows[..., :size], rows[..., size:])

        rows = torch.cat([feat, action], -1)
        jacobian = compute_jacobian(predict, rows)
        offset = predict(rows) - (jacobian @ rows.unsqueeze(-1)).squeeze(-1)
        return jacobian[..., :size], jacobian[..., size:], offset

    @property
    def smooth_features(self) -> range:
        """The features that a step depends on smoothly, for finite differences."""
        return range(self.feature_size)

    def apply_linearization(
        self, feat: Tensor, action: Tensor, change: Tensor, action_change: Tensor
    ) -> Tensor:
        """J (change, action_change) (...,F), of the derivative J of `predict_features` there."""
        moves = change, action_change
        with leave_to_torch():
            return torch.autograd.functional.jvp(
                self.predict_features, (feat, action), moves, create_graph=True
            )[1]

    def update_statistics(
        self, embed: Tensor, is_first: Tensor, update: int, over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        """Move statistics of the data towards those of a batch (B,T,E), before update `update`."""

    def features(self, state: State) -> Tensor:
        """The input of heads, decoder and actor at states (...,): (...,F)."""
        raise NotImplementedError

    def restore(self, feat: Tensor) -> Tensor:
        """The observed vectors (...,E) of features (...,F), where nothing is encoded."""
        raise NotImplementedError

    def expected_features(self, state: State) -> Tensor:
        """`features` with the latent's mean in place of its sample: (...,F) in fp32."""
        raise NotImplementedError

    def predict_latent(self, state: State) -> State:
        """The prior: the latent's distribution before a state's own observation."""
        raise NotImplementedError

    def infer_latent(self, state: State, embed: Tensor) -> State:
        """The posterior if embeddings (...,E) were observed at states (...,); both broadcast."""
        raise NotImplementedError

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        """The states (...,) with another sample of the latent."""
        raise NotImplementedError

    def begin_here(self, state: State) -> State:
        """The states whose pictures now count as the first of their episode.

        Only dynamics that move pixels do this.
        """
        raise NotImplementedError

    def designate(
        self, state: State, probabilities: Tensor, first: Tensor, least_mask: float = 0.0
    ) -> State:
        """The states (N,...) with probabilities (N,D,H*W) of where D designated pixels are, and of
        where they were in each state's first picture; both sum to one, or are zero if unknown.
        Masks below the least one count as none.

        Only dynamics that move pixels do this; their imagined steps move the probabilities too.
        """
        raise NotImplementedError

    def locate(self, state: State) -> Tensor:
        """Where the designated pixels of states are expected: (N,D,H*W)."""
        raise NotImplementedError

    def register(self, state: State, std: float, side: int = 1) -> State:
        """The states with the probabilities multiplied by how well patches of their pictures match
        those around the designated pixels at first: a Gaussian of this std of colours.
        """
        raise NotImplementedError

    def join_features(self, *parts: Tensor) -> Tensor:
        """Concatenate parts of a state, in the precision that the heads multiply in."""
        device = parts[0].device.type
        if torch.is_autocast_enabled(device):
            parts = tuple(p.to(torch.get_autocast_dtype(device)) for p in parts)
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    @property
    def noisy(self) -> bool:
        """Whether the latent has noise, so that free nats apply to its KL."""
        return self.latent.noisy

    def distribution(self, state: State) -> State:
        """The latent's distribution that states from `observe` hold."""
        return {k: state[k] for k in self.latent.dist_keys}

    def mean_latent(self, state: State) -> Tensor:
        """The mean (...,S) of the latent's distribution."""
        return self.latent.compute_mean(state)

    def kl(self, post: State, prior: State) -> Tensor:
        """KL divergence (...) between the latent's distributions.

        A prior may have an axis of members after those of the posterior: then it is the mean over
        them, weighted by how often each member's resample of the data holds the row.
        """
        key = self.latent.dist_keys[0]
        if prior[key].dim() == post[key].dim():
            return self.latent.kl(post, prior)
        axis = -1 - len(self.latent.shape)
        kl = self.latent.kl({k: post[k].unsqueeze(axis) for k in self.latent.dist_keys}, prior)
        return average_members(kl, prior)

    def tabulate_log_probs(self, post: State, prior: State) -> Tensor:
        """log p(z_i | prior j) (N,N) of the posteriors' samples in all N = B*T steps (B,T)."""
        dist = {k: prior[k].flatten(0, 1) for k in self.latent.dist_keys}
        return self.latent.tabulate_log_probs(post["stoch"].float().flatten(0, 1), dist)

    def centre(self, posts: State) -> State:
        """The single distribution from which the mean KL of many (N,...) is least."""
        return self.latent.centre(self.distribution(posts))


def draw_members(
    rows: int, members: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """A random member (N,) for each row, each for the same number of rows if that is possible."""
    full = -(-rows // members) * members
    order = torch.randperm(full, generator=generator, device=device)
    return order[:rows] % members


def average_members(loss: Tensor, prior: State) -> Tensor:
    """The mean over members of their losses (...,K), weighted by how often each member's resample
    of the data holds the row: (...).
    """
    return (loss * prior["weight"]).mean(-1) if "weight" in prior else loss.mean(-1)


def select_members(state: State) -> State:
    """The leaves of a state that say which members imagine it."""
    return {k: state[k] for k in ("member", "redraw") if k in state}


class Simulator(Protocol):
    """A private copy of the environment, which steps from any state."""

    @property
    def angles(self) -> Sequence[int]:
        """Entries of the state that jump from pi to -pi, and may be set to any angle."""

    def step(
        self, states: np.ndarray, actions: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step from states (N,n) by the environment's own actions (N,...).

        Returns the next states (N,n) in float64, the rewards (N,) and whether each ended.
        """


class Rollout:
    """An imagined rollout in progress: N states, one `step` per action, features time first."""

    def __init__(self, dynamics: Any, state: State, generator: torch.Generator | None):
        self.dynamics, self.state, self.generator = dynamics, state, generator
        self.trace = [dynamics.features(state)]

    @property
    def features(self) -> Tensor:
        """Features (N,F) of the current states, without their graph."""
        return self.trace[-1].detach()

    def step(self, action: Tensor) -> None:
        """Take one step by actions (N,A)."""
        self.state = self.dynamics.imagine_step(self.state, action, self.generator)
        self.trace.append(self.dynamics.features(self.state))

    def features_before(self) -> Tensor:
        """Features (H,N,F) of the states the actions were taken in, without their graph."""
        return torch.stack([f.detach() for f in self.trace[:-1]])

    def features_after(self) -> Tensor:
        """Features (H,N,F) of the states the actions led to."""
        return torch.stack(self.trace[1:])

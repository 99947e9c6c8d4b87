"""The true simulator in place of a learned model: the upper line of planning.

A state holds the full state of the simulator, `simulator` (...,n), and what the step that led to
it earned and whether the episode went on, `reward` and `cont` (...). Features are all of these, so
that fixed heads read reward and continuation. Nothing is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.model.derivatives import estimate_jacobian
from worldmodel.model.dynamics import Dynamics, Simulator
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

ENTRY = "simulator"  # of the observation: the state of the simulator


class Settings:
    encodes_nothing = True
    needs_simulator = True
    lacks_gradient = True
    predicts_features = True

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.behavior.name not in ("mpc", "random"):
            found.append(
                f"behavior.name: model.dynamics simulator trains no {c.behavior.name}; take mpc"
            )
        if c.planner.score != "reward" or c.planner.proposals:
            key = "proposals" if c.planner.score == "reward" else "score"
            found.append(
                f"planner.{key}: model.dynamics simulator trains nothing and sees no goal; take "
                "planner.score reward and planner.proposals 0"
            )
        return found


class SimulatorDynamics(Dynamics):
    """Steps the simulator row by row, in float64 from the second step on."""

    differentiable = False

    def __init__(
        self,
        settings: Any,
        make_latent: Callable[..., Any],
        *,
        actions: int,
        embed: int,
        simulator: Simulator | None = None,
        decode_actions: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        super().__init__()
        self.size, self.feature_size = embed, embed + 2
        # Without a simulator only shapes can be asked for.
        self.simulator, self.decode_actions = simulator, decode_actions

    @property
    def noisy(self) -> bool:
        return False

    def initial(self, batch: int) -> State:
        return mark_unknown({ENTRY: torch.zeros(batch, self.size)})

    def features(self, state: State) -> Tensor:
        parts = state[ENTRY], state["reward"].unsqueeze(-1), state["cont"].unsqueeze(-1)
        return torch.cat([part.float() for part in parts], -1)

    def expected_features(self, state: State) -> Tensor:
        return self.features(state)

    def restore(self, feat: Tensor) -> Tensor:
        return feat[..., : self.size]

    def read_reward(self, feat: Tensor) -> Tensor:
        return feat[..., -2]

    def read_continuation(self, feat: Tensor) -> Tensor:
        return feat[..., -1]

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """The posterior is what was seen, the prior what the simulator makes of the step before.

        Nothing predicts the first state of an episode: there the prior is what was seen.
        """
        before = start[ENTRY].unsqueeze(1) if start else embed[:, :1]
        before = torch.cat([before, embed[:, :-1]], 1)
        after = self.imagine_step(mark_unknown({ENTRY: before}), prev_action)
        prior = torch.where(is_first.bool().unsqueeze(-1), embed.double(), after[ENTRY])
        return mark_unknown({ENTRY: embed.float()}), {ENTRY: prior}

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        """What was seen: the state alone, whatever the step that led to it earned."""
        return mark_unknown({ENTRY: embed.float()})

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        """Step rows (...,n) that have not ended; others stay where they are and earn nothing."""
        # What is random in a step follows from the generator of the rollout.
        seed = int(torch.randint(2**31, (), generator=generator, device=find_device(generator)))
        after, rewards, cont = self._step(state[ENTRY], action.float(), state["cont"], seed)
        return {ENTRY: after, "reward": rewards.float(), "cont": cont.float()}

    def _step(
        self, before: Tensor, action: Tensor, cont: Tensor, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The states (...,n) after those before, rewards and continuations (...), in float64."""
        assert self.simulator is not None and self.decode_actions is not None
        rows = before.double().reshape(-1, self.size).cpu().numpy()
        plans = action.reshape(len(rows), -1).cpu().numpy()
        runs = cont.reshape(-1).cpu().numpy() > 0
        after, rewards, ends = rows.copy(), np.zeros(len(rows)), ~runs
        if runs.any():
            own = self.decode_actions(plans[runs])
            after[runs], rewards[runs], ends[runs] = self.simulator.step(rows[runs], own, seed)
        shape, device = before.shape, before.device
        return (
            torch.from_numpy(after).to(device).view(shape),
            torch.from_numpy(rewards).to(device).view(shape[:-1]),
            torch.from_numpy(~ends).double().to(device).view(shape[:-1]),
        )

    def predict_features(self, feat: Tensor, action: Tensor) -> Tensor:
        """A step in float64 whose random numbers are always the same; angles do not jump."""
        state, cont = feat[..., : self.size].double(), feat[..., -1]
        after, reward, cont = self._step(state, action.double(), cont, seed=0)
        assert self.simulator is not None
        for i in self.simulator.angles:
            turns = ((after[..., i] - state[..., i]) / (2 * math.pi)).round()
            after[..., i] -= 2 * math.pi * turns
        return torch.cat([after, reward.unsqueeze(-1), cont.unsqueeze(-1)], -1)

    def linearize(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By finite differences in the simulator's state and the action."""
        size = feat.shape[-1]

        def predict(rows: Tensor) -> Tensor:
            return self.predict_features(rows[..., :size], rows[..., size:])

        rows = torch.cat([feat, action], -1).double()
        moving = [*self.smooth_features, *range(size, rows.shape[-1])]
        jacobian = estimate_jacobian(predict, rows, moving)
        offset = predict(rows) - (jacobian @ rows.unsqueeze(-1)).squeeze(-1)
        return jacobian[..., :size], jacobian[..., size:], offset

    @property
    def smooth_features(self) -> range:
        """The simulator's state, not what the step before earned."""
        return range(self.size)

    def predict_members(self, feat: Tensor, action: Tensor) -> Tensor:
        state = mark_unknown({ENTRY: self.restore(feat)})
        return self.restore(self.features(self.imagine_step(state, action))).unsqueeze(0)

    def predict_latent(self, state: State) -> State:
        return {ENTRY: state[ENTRY]}

    def infer_latent(self, state: State, embed: Tensor) -> State:
        return {ENTRY: embed.expand_as(state[ENTRY])}

    def replace_latent(self, state: State, stoch: Tensor) -> State:
        return {**state, ENTRY: stoch}

    def distribution(self, state: State) -> State:
        return {ENTRY: state[ENTRY]}

    def mean_latent(self, state: State) -> Tensor:
        return state[ENTRY].float()

    def kl(self, post: State, prior: State) -> Tensor:
        """Half the squared distance, as of two unit Gaussians: 0 up to the noise of the task."""
        return 0.5 * (post[ENTRY] - prior[ENTRY]).square().sum(-1).float()

    def centre(self, posts: State) -> State:
        return {ENTRY: posts[ENTRY].mean(0)}


def mark_unknown(state: State) -> State:
    """A state whose last step earned nothing that is known, and ended nothing."""
    shape, device = state[ENTRY].shape[:-1], state[ENTRY].device
    reward = torch.zeros(shape, device=device)
    return {**state, "reward": reward, "cont": torch.ones(shape, device=device)}


def find_device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device

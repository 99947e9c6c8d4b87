"""No model: the last frames side by side, for agents that learn from replay alone (DrQ-v2).

features = tanh(LayerNorm(W [e_{t-n+1}, ..., e_t]))      of the embeddings e of the last n frames

The critic's loss trains encoder and projection (Kostrikov et al. 2020, Yarats et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from worldmodel.config.ranges import Count, Width
from worldmodel.errors import UsageError
from worldmodel.model.dynamics import Dynamics, Rollout
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config

NO_MODEL = "this agent has no model (model.dynamics frame_stack): it cannot imagine"


@dataclass(frozen=True)
class Settings:
    imagines_nothing = True

    frames: Count
    size: Width

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.behavior.name not in ("dyna", "guided", "random"):
            found.append(
                f"model.dynamics: frame_stack imagines nothing, and behavior.name "
                f"{c.behavior.name} needs a model; take behavior.name dyna or guided"
            )
        if c.behavior.name == "dyna" and (c.dyna.rollout_length or c.dyna.value_expansion):
            found.append(
                "model.dynamics: frame_stack imagines nothing; set dyna.rollout_length 0 and "
                "dyna.value_expansion 0"
            )
        used = [name for name, weight in c.loss.objective.items() if weight]
        if used:
            found.append(
                f"loss.objective: model.dynamics frame_stack learns from the policy alone, so "
                f"{used[0]} would train nothing that acts; set it to {{}}"
            )
        if c.train.policy_updates_per_step:
            found.append(
                "train.policy_updates_per_step: with model.dynamics frame_stack every update "
                "trains policy and encoder; set it to 0 and take train.updates_per_step"
            )
        if c.ensemble.size > 1:
            found.append("ensemble.size: model.dynamics frame_stack predicts nothing; set it to 1")
        return found


class FrameStack(Dynamics):
    """A state holds the embeddings of the last n frames (...,n,E), the newest last."""

    imagines = False
    trained_by_policy = True

    def __init__(
        self, settings: Settings, make_latent: Callable[..., Any], *, actions: int, embed: int
    ):
        super().__init__()
        self.frames, self.embed, self.feature_size = settings.frames, embed, settings.size
        self.project = nn.Linear(settings.frames * embed, settings.size)
        self.norm = nn.LayerNorm(settings.size)

    @property
    def noisy(self) -> bool:
        return False

    def initial(self, batch: int) -> State:
        device = self.project.weight.device
        return {"frames": torch.zeros(batch, self.frames, self.embed, device=device)}

    def observe(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State
    ) -> tuple[State, State]:
        """Stack the frames of sequences; an episode's first frame stands for those before it.

        There is no prior: it is the posterior too.
        """
        batch, length = is_first.shape
        before = start["frames"] if start else embed[:, :1].expand(-1, self.frames, -1)
        rows = torch.cat([before.to(embed.dtype), embed], 1)
        time = torch.arange(length, device=embed.device)
        begun = torch.where(is_first.bool(), time, -self.frames).cummax(1).values
        ages = torch.arange(self.frames - 1, -1, -1, device=embed.device)
        place = (time[:, None] - ages).maximum(begun.unsqueeze(-1)) + self.frames  # (B,T,n)
        sequence = torch.arange(batch, device=embed.device)[:, None, None]
        state = {"frames": rows[sequence, place]}
        return state, state

    def observe_step(
        self,
        state: State,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None,
    ) -> State:
        newest = embed.unsqueeze(1)
        moved = torch.cat([state["frames"][:, 1:].to(embed.dtype), newest], 1)
        return {"frames": torch.where(is_first.bool()[:, None, None], newest, moved)}

    def features(self, state: State) -> Tensor:
        return torch.tanh(self.norm(self.project(state["frames"].flatten(-2)).float()))

    def expected_features(self, state: State) -> Tensor:
        return self.features(state)

    def infer_latent(self, state: State, embed: Tensor) -> State:
        return {}

    def imagine_step(
        self, state: State, action: Tensor, generator: torch.Generator | None = None
    ) -> State:
        raise UsageError(NO_MODEL)

    def imagine(
        self, state: State, actions: Tensor, generator: torch.Generator | None = None
    ) -> State:
        raise UsageError(NO_MODEL)

    def start_rollout(
        self, state: State, steps: int, generator: torch.Generator | None = None
    ) -> Rollout:
        raise UsageError(NO_MODEL)

"""How far a plan leaves designated pixels from where they are to go (Finn and Levine 2017).

cost = sum_t w_t mean_d sum_x p_t,d(x) |x - g_d|

p_t,d are the probabilities of where pixel d is after t steps, which the model moves as it moves
the picture, and g_d is where it is to go. All w_t are one, but that of a plan's last step is
`goal.last`; with `goal.at: end` it alone counts.

An episode's first picture shows where the designated pixels are. From then on the model's own
kernels and masks track them: they move the probabilities by each action that is taken, as they do
in a plan, but from pictures that are observed. With `goal.registration` s, each observed picture
multiplies them by exp(-|c(x) - c_d|^2 / 2s^2): how far the colour there differs from that of the
designated pixel at first. With `goal.patch` n the patches of n x n pixels around the two are
compared, by the mean over their pixels, so that the middle of a thing is found again. Predicted
pictures are not compared: they fade, and would hold pixels back.

Masks below `goal.least_mask` count as none. They would move the probabilities a little with every
action, and so steer plans that touch nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from worldmodel.config.ranges import Pixel, Range, Share, Weight
from worldmodel.model.world_model import WorldModel
from worldmodel.policy.goals import PixelGoal
from worldmodel.policy.plan_scores import PlanScore, ScoreInputs
from worldmodel.spaces import State

if TYPE_CHECKING:
    from worldmodel.config.schema import Config


@dataclass(frozen=True)
class Settings:
    section = "goal"
    needs_goal = True
    aims_at_pixels = True

    designated: list[Pixel] | None
    pixels: list[Pixel] | None
    last: Weight
    registration: Weight
    patch: Annotated[int, Range(1, 31)]
    least_mask: Share

    def contradictions(self, c: Config) -> list[str]:
        found = []
        if c.model.dynamics != "pixels":
            found.append(
                "planner.score: pixel_distance needs a model that moves pixels; set "
                f"model.dynamics to pixels, not {c.model.dynamics}"
            )
        if self.patch % 2 == 0:
            found.append(f"goal.patch: {self.patch} is even and has no middle")
        if c.behavior.name != "mpc":
            return found
        start, end = self.designated or [], self.pixels or []
        if not start or len(start) != len(end):
            found.append(
                f"goal.designated: planner.score pixel_distance needs pixels [row, column] and as "
                f"many places in goal.pixels, not {len(start)} and {len(end)}"
            )
        height, width = c.env.size
        for key, pixels in (("designated", start), ("pixels", end)):
            found += [
                f"goal.{key}: there is no pixel [{row}, {column}] in a picture of {height}x{width}"
                for row, column in pixels
                if row >= height or column >= width
            ]
        return found


class PixelDistance(PlanScore):
    """Minus the expected distance, in pixels, of designated pixels from their goals."""

    def __init__(
        self,
        model: WorldModel,
        state: State,
        generator: torch.Generator | None,
        inputs: ScoreInputs,
        memory: State | None = None,
    ):
        super().__init__(model, state, generator, inputs, memory)
        leaf = next(iter(state.values()))
        self.memory = self.memory or self.start_memory(model, inputs, len(leaf))
        self.memory = {k: v.to(leaf.device) for k, v in self.memory.items()}
        self.distances = tabulate_distances(read_goal(inputs), model).to(leaf.device)

    @staticmethod
    def start_memory(model: WorldModel, inputs: ScoreInputs, batch: int) -> State:
        """Where the designated pixels are in a first picture: probabilities (B,D,H*W), for now and
        for then.
        """
        height, width = picture_size(model)
        at = read_goal(inputs).designated
        row, column = at[..., 0].clamp(0, height - 1), at[..., 1].clamp(0, width - 1)
        spot = torch.nn.functional.one_hot(row * width + column, height * width).float()
        spot = spot.expand(batch, -1, -1)
        return {"now": spot, "first": spot}

    def designate(self) -> State:
        """The states with where their designated pixels are."""
        memory, dynamics, settings = self.memory, self.model.dynamics, self.inputs.settings
        now, first, least = memory["now"], memory["first"], settings.least_mask
        states = dynamics.designate(self.state, now, first, least)
        if not settings.registration:
            return states
        return dynamics.register(states, settings.registration, settings.patch)

    def advance_memory(self, action: Tensor) -> State:
        """Where the model expects the pixels after an action (B,A)."""
        after = self.model.dynamics.imagine_step(self.designate(), action, self.generator)
        return {**self.memory, "now": self.model.dynamics.locate(after)}

    def __call__(self, candidates: Tensor) -> Tensor:
        batch, count, horizon = candidates.shape[:3]
        dynamics, particles = self.model.dynamics, self.inputs.particles
        states = particles.repeat_states(dynamics, self.designate(), count)
        plans = particles.repeat_plans(dynamics, candidates.flatten(0, 1))
        distances = self.distances
        if len(distances) > 1:
            distances = particles.repeat_plans(dynamics, distances.repeat_interleave(count, 0))
        cost = torch.zeros(len(plans), device=plans.device)
        for t, action in enumerate(plans.unbind(1)):
            states = dynamics.imagine_step(states, action, self.generator)
            weight = self.weigh_step(t, horizon)
            if weight:
                gaps = (dynamics.locate(states) * distances).sum(-1)
                cost = cost + weight * gaps.mean(-1)
        return particles.combine(dynamics, -cost).view(batch, count)

    def weigh_step(self, time: int, horizon: int) -> float:
        if time == horizon - 1:
            return self.inputs.settings.last
        return float(self.inputs.settings.at == "every")


def read_goal(inputs: ScoreInputs) -> PixelGoal:
    assert inputs.goal is not None
    goal = inputs.goal()
    assert isinstance(goal, PixelGoal)
    return goal


def picture_size(model: WorldModel) -> tuple[int, int]:
    ((height, width, _),) = model.observation.pictures.values()
    return height, width


def tabulate_distances(goal: PixelGoal, model: WorldModel) -> Tensor:
    """The distance of each pixel from each goal: (1 or B,D,H*W)."""
    height, width = picture_size(model)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], -1).flatten(0, 1).float()  # (H*W,2)
    return (places - goal.pixels.float().unsqueeze(-2)).norm(dim=-1)

"""Act by the actor of a soft actor-critic, which learns from real and imagined steps (Dyna)."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.ranges import Count, Natural, Positive, Share
from worldmodel.policy.behaviors.actor_critic import ActorPolicy


@dataclass(frozen=True)
class Settings:
    policy = "soft_actor_critic"

    rollout_length: Natural | list[Natural]
    real_ratio: Share
    value_expansion: Natural
    n_step: Count
    critics: Count
    tau: Share
    temperature: Positive
    target_entropy: float | None

    def contradictions(self, c) -> list[str]:
        found = []
        length = self.rollout_length
        if not isinstance(length, int) and (len(length) != 4 or length[2] >= length[3]):
            found.append(
                f"dyna.rollout_length: {length} is neither a number nor [from, to, first frame, "
                f"last frame] with the last frame after the first"
            )
        if self.value_expansion and c.imag.starts:
            found.append(
                f"imag.starts: dyna.value_expansion {self.value_expansion} looks ahead from every "
                f"state of a batch; set imag.starts 0"
            )
        if length == 0 and self.real_ratio == 0:
            found.append(
                "dyna.real_ratio: 0 learns from imagined steps alone, and dyna.rollout_length 0 "
                "imagines none"
            )
        if c.imag.pessimism and not self.counts_imagined_rewards():
            key = "dyna.real_ratio 1" if self.real_ratio == 1 else "dyna.rollout_length 0"
            found.append(
                f"imag.pessimism: it lowers imagined rewards, and with {key} and "
                "dyna.value_expansion 0 none counts; set it to 0"
            )
        longest = c.train.policy_length or c.replay.length
        if self.n_step >= longest:
            found.append(
                f"dyna.n_step: {self.n_step} must be shorter than the sequences learned from, of "
                f"{longest} steps"
            )
        return found

    def counts_imagined_rewards(self) -> bool:
        """Whether imagined rewards enter any loss, at some time of a training."""
        length = self.rollout_length
        imagines = length > 0 if isinstance(length, int) else any(length[:2])
        return self.value_expansion > 0 or (imagines and self.real_ratio < 1)


class Dyna(ActorPolicy):
    """Acts by the actor; what differs is how the actor is trained."""

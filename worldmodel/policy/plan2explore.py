"""Plan2Explore (Sekar et al. 2020): an explorer seeks what the model cannot predict, and a second
actor-critic learns the task, both in imagination of one model.

    r_{t+1} = log( mean over S of the std over members of E[z_{t+1}] )    reward of the explorer

The log, of later implementations, makes the reward's scale that of the returns' range. Where tasks
terminate, a negative log rewards ending an episode.
"""

from __future__ import annotations

from torch import Tensor, nn

from worldmodel.policy.action_distributions import Dist, clip_actions
from worldmodel.policy.actor_critic import ActorCritic
from worldmodel.policy.learned_policy import LearnedPolicy, Rate
from worldmodel.spaces import Batch, Metrics, State


class Explorer(ActorCritic):
    """An actor-critic whose reward is the ensemble's disagreement about the next latent."""

    def compute_rewards(
        self, model, predicted: Tensor, before: Tensor, after: Tensor, action: Tensor
    ) -> Tensor:
        action = clip_actions(action)
        return model.measure_rollout_disagreement(before[0], after, action).log()


class Plan2Explore(LearnedPolicy):
    """An explorer, and an actor-critic of the task's own rewards, which answers for both."""

    def __init__(self, explorer: ActorCritic, task: ActorCritic):
        super().__init__()
        self.explorer, self.task = explorer, task
        self.every, self.greedy = task.every, task.greedy

    def list_parts(self) -> dict[str, tuple[nn.Module, Rate]]:
        explorer = {f"explorer_{k}": part for k, part in self.explorer.list_parts().items()}
        return {**self.task.list_parts(), **explorer}

    def losses(
        self, model, batch: Batch, post: State, feat: Tensor
    ) -> tuple[dict[str, Tensor], Metrics]:
        losses, metrics = self.task.losses(model, batch, post, feat)
        found, shown = self.explorer.losses(model, batch, post, feat)
        losses |= {f"explorer_{k}": v for k, v in found.items()}
        return losses, {**metrics, **{f"explorer_{k}": v for k, v in shown.items()}}

    def after_update(self) -> None:
        self.task.after_update()
        self.explorer.after_update()

    def choose(self, feat: Tensor) -> Dist:
        return self.task.choose(feat)

    def value(self, feat: Tensor) -> Tensor:
        return self.task.value(feat)

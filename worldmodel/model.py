"""The world model: encode, observe, imagine, predict, and the losses that train it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldmodel.backdrop import Backdrop
from worldmodel.heads import ContinueHead, ScalarHead, means
from worldmodel.losses import detach, free_nats, overshooting
from worldmodel.nets import Encoder
from worldmodel.objectives import Context
from worldmodel.rssm import RSSM
from worldmodel.types import Batch, Losses, Metrics, State


class WorldModel(nn.Module):
    """Encoder, RSSM, representation objectives and heads.

    `scales` holds the weight of every loss by name; the losses' names must equal its keys.
    """

    def __init__(
        self,
        backdrop: Backdrop | None,
        encoder: Encoder,
        rssm: RSSM,
        objectives: Mapping[str, tuple[nn.Module, float]],
        reward: ScalarHead,
        cont: ContinueHead,
        *,
        scales: dict[str, float],
        free: float,
        free_on: str,
        overshooting: int,
    ):
        super().__init__()
        self.backdrop, self.encoder, self.rssm = backdrop, encoder, rssm
        self.reward: ScalarHead = reward
        self.cont = cont
        self.objectives = nn.ModuleDict({name: module for name, (module, _) in objectives.items()})
        self.objective_weights = {name: weight for name, (_, weight) in objectives.items()}
        self.ends: Tensor  # whether any episode ever ended for good
        self.register_buffer("ends", torch.tensor(False))
        self.scales = scales
        self.free, self.free_on, self.overshooting = free, free_on, overshooting

    def watch(self, batch: Batch, update: int) -> None:
        """Before an update is made of a batch: take in its mean picture, and whether episodes end."""
        self.ends |= batch["is_terminal"].any()
        if self.backdrop is not None:
            self.backdrop.watch(batch["image"], update)

    def encode(self, batch: Batch) -> Tensor:
        """Embeddings (B,T,E) of what was seen."""
        if self.backdrop is None:
            return self.encoder(batch)
        rough = torch.is_autocast_enabled(batch["image"].device.type)
        picture = self.backdrop.take_out(batch["image"], torch.bfloat16 if rough else torch.float32)
        return self.encoder({**batch, "image": picture})

    def observe(self, batch: Batch) -> tuple[Tensor, State, State]:
        """Embeddings, posteriors and priors of sequences; their first step counts as a start unless one is given."""
        start = {k: batch[f"start_{k}"] for k in ("deter", "stoch") if f"start_{k}" in batch}
        is_first = batch["is_first"].clone()
        is_first[:, 0] |= not start
        embed = self.encode(batch)
        return embed, *self.rssm.observe(embed, batch["prev_action"], is_first, start)

    def losses(self, batch: Batch) -> tuple[Losses, Metrics, State, Tensor]:
        """Every loss (B,T), scalar metrics, the posterior states and their features."""
        embed, post, prior = self.observe(batch)
        feat = self.rssm.feat(post)
        losses: Losses = {}
        metrics: Metrics = {}
        ctx = Context(batch, embed, post, prior, feat, self.backdrop)
        for name, objective in self.objectives.items():
            own, extra = objective(ctx)
            losses.update({k: v * self.objective_weights[name] for k, v in own.items()})
            metrics.update(extra)
        losses["reward"] = self.reward.loss(feat, batch["reward"])
        losses["cont"] = self.cont.loss(feat, 1.0 - batch["is_terminal"].float())
        losses.update(self._kl_losses(batch, post, prior))
        metrics["kl"] = self.rssm.latent.kl(post, prior).mean()
        return losses, metrics, post, feat

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics, State, Tensor]:
        """The scaled sum of all losses; metrics with every part before its scale; posterior states and features."""
        losses, metrics, post, feat = self.losses(batch)
        assert losses.keys() == self.scales.keys(), f"losses {set(losses)} but scales {set(self.scales)}"
        shape = batch["reward"].shape
        assert all(v.shape == shape for v in losses.values()), {k: v.shape for k, v in losses.items()}
        total = torch.stack([v.mean() * self.scales[k] for k, v in losses.items()]).sum()
        shown = {f"loss/{k}": v.mean() for k, v in losses.items()}
        return total, {**metrics, **shown, "loss/total": total}, post, feat

    def _kl_losses(self, batch: Batch, post: State, prior: State) -> Losses:
        kl = self.rssm.latent.kl
        losses = {
            "dyn": free_nats(kl(detach(post), prior), self.free, self.free_on),
            "rep": free_nats(kl(post, detach(prior)), self.free, self.free_on),
        }
        if self.overshooting > 1:
            raw = overshooting(self.rssm, post, batch["prev_action"], batch["is_first"], self.overshooting)
            losses["overshoot"] = free_nats(raw, self.free, self.free_on)
        return losses

    def predict(self, feat: Tensor, *others: ScalarHead) -> list[Tensor]:
        """Expected reward, probability of going on, and what other heads say, by features (...,F)."""
        return means([self.reward, self.cont, *others], feat)

    def outlook(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` for planners: a model that saw no end expects none, and need not ask its head."""
        if self.ends:
            reward, cont = self.predict(feat)
            return reward, cont
        reward = self.reward.mean(feat)
        return reward, torch.ones_like(reward)

    @property
    def can_draw(self) -> bool:
        """Whether some objective decodes pictures."""
        return any(getattr(o, "image", None) is not None for o in self.objectives.values())

    def decode(self, feat: Tensor) -> Tensor:
        """Mean pictures (B,T,H,W,3) of features (B,T,F), in about [0, 1]."""
        for objective in self.objectives.values():
            if self.backdrop is not None and getattr(objective, "image", None) is not None:
                return self.backdrop.put_back(objective.decode(feat))  # type: ignore[operator]
        raise ValueError("this model cannot draw; that takes env.obs pixels or both, and loss.objective.reconstruction")

"""Groups of one-hot variables with straight-through gradients (Dreamer 2, 3)."""

from __future__ import annotations

import torch
from torch import Tensor


class Categorical:
    """stoch (...,S,K) one-hot; a share `unimix` of uniform probability keeps the KL finite (Dreamer 3)."""

    dist_keys = ("logits",)

    def __init__(self, stoch: int, classes: int, unimix: float, min_std: float):
        self.shape: tuple[int, ...] = (stoch, classes)
        self.size = stoch * classes
        self.num_params = stoch * classes
        self.unimix = unimix

    def dist(self, params: Tensor) -> dict[str, Tensor]:
        logits = params.float().unflatten(-1, self.shape)
        if not self.unimix:
            return {"logits": logits.log_softmax(-1)}
        probs = (1 - self.unimix) * logits.softmax(-1) + self.unimix / self.shape[-1]
        return {"logits": probs.log()}

    def sample(self, dist: dict[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        # Gumbel-max: one pass over the logits, cheaper on a CPU than torch.multinomial over S rows.
        logits = dist["logits"]
        noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp_min_(1e-20).log_().neg_()
        pick = (logits.detach() - noise.log_()).argmax(-1)
        return self._straight_through(logits, pick)

    def mode(self, dist: dict[str, Tensor]) -> Tensor:
        return self._straight_through(dist["logits"], dist["logits"].argmax(-1))

    def _straight_through(self, logits: Tensor, pick: Tensor) -> Tensor:
        hard = torch.zeros_like(logits).scatter_(-1, pick.unsqueeze(-1), 1.0)
        if not logits.requires_grad:
            return hard
        probs = logits.exp()
        return hard + (probs - probs.detach())

    def kl(self, post: dict[str, Tensor], prior: dict[str, Tensor]) -> Tensor:
        log_post = post["logits"]
        return (log_post.exp() * (log_post - prior["logits"])).sum((-2, -1))

    def flat(self, stoch: Tensor) -> Tensor:
        return stoch.flatten(-2)

"""The KL terms of the ELBO: balance of prior and posterior, free nats, latent overshooting; and
corrective labels for imagined states.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodel.model.dynamics import Dynamics
from worldmodel.model.multi_step import Average, imagine_from_each_step
from worldmodel.spaces import State, map_state


def balance_kl(dynamics: Dynamics, post: State, prior: State) -> dict[str, Tensor]:
    """The KL (B,T) once for the prior and once for the posterior, to be weighed apart:

    dyn = KL(sg(post) || prior) trains the prior, rep = KL(post || sg(prior)) the posterior.
    """
    stop = Tensor.detach
    return {
        "dyn": dynamics.kl(map_state(post, stop), prior),
        "rep": dynamics.kl(post, map_state(prior, stop)),
    }


def apply_free_nats(
    kl: Tensor, free: float, on: str, over_ranks: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Keep the KL from being pushed below `free`: per step (Dreamer 3) or on the batch's mean
    (Dreamer 1, 2).

    `over_ranks` averages the mean over processes, so that all are on the same side of `free`.
    """
    if on == "element":
        return kl.clamp(min=free)
    mean = over_ranks(kl.mean()) if over_ranks else kl.mean()
    return torch.where(mean >= free, kl, torch.full_like(kl, free))


def compute_overshooting(
    dynamics: Dynamics, post: State, prev_action: Tensor, is_first: Tensor, steps: int
) -> Tensor:
    """Mean KL(sg(posterior at t) || prior at t imagined from t-d), over distances d = 2..steps:
    (B,T).

    Pairs with an episode's start between them are masked. With times as letters, steps = 3, T = 5:

        d = 2: posts at a b c predict c d e      d = 3: posts at a b predict d e
    """
    mean = Average(is_first)
    for distance, state, unbroken in imagine_from_each_step(
        dynamics, post, prev_action, is_first, steps
    ):
        if distance == 1:  # the plain ELBO already trains this one
            continue
        target = {k: v[:, distance:].detach() for k, v in dynamics.distribution(post).items()}
        mean.add(distance, dynamics.kl(target, dynamics.predict_latent(state)), unbroken)
    return mean.mean()


def compute_corrections(
    dynamics: Dynamics, post: State, prev_action: Tensor, is_first: Tensor, steps: int
) -> Tensor:
    """Mean KL(sg(posterior at t) || prior one step after sg(state at t-1, imagined from t-1-d)),
    over d = 1..steps: (B,T).

    The real actions lead to states that only imagination reaches; the real next step labels them
    (Venkatraman et al. 2015, data as demonstrator). Overshooting's gradient goes through the whole
    rollout, this one's through its last step.
    """
    mean = Average(is_first)
    for distance, state, unbroken in imagine_from_each_step(
        dynamics, post, prev_action, is_first, steps + 1, single_steps=True
    ):
        if distance == 1:  # predicted from a posterior
            continue
        target = {k: v[:, distance:].detach() for k, v in dynamics.distribution(post).items()}
        mean.add(distance, dynamics.kl(target, dynamics.predict_latent(state)), unbroken)
    return mean.mean()

"""What each latent group draws, and an interpolation between two posterior states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.spaces import State, map_state, select_states

MAX_GROUPS, VALUES, BETWEEN = 8, 7, 9
MAX_DEVIATION = 3.0  # in standard deviations over the episode, to either side


def traverse_groups(
    observed: ObservedEpisode,
) -> tuple[list[tuple[str, np.ndarray]], dict[str, Any]]:
    """Videos of the groups that change the picture most, and how much every group changes it.

    A Gaussian latent varies by `MAX_DEVIATION` standard deviations of the episode's posteriors. A
    categorical group takes its classes, the most common of the episode first. The rest of the
    state stays that of the posterior.
    """
    dynamics = observed.model.agent.model.dynamics
    here = select_states(observed.posteriors, np.array([observed.context - 1]))
    latent, episode = dynamics.distribution(here), dynamics.distribution(observed.posteriors)
    vary = _vary_classes if "logits" in latent else _vary_numbers
    stoch, values = vary(latent, episode)
    groups, count = stoch.shape[:2]
    many = map_state(here, lambda v: v.expand(groups * count, *v.shape[1:]))
    states = dynamics.replace_latent(many, stoch.flatten(0, 1))
    decoded = observed.model.decode(states).unflatten(0, (groups, count))
    effect = (decoded - decoded.mean(1, keepdim=True)).square().mean((1, 2, 3, 4)).sqrt().numpy()
    order = np.argsort(-effect)[:MAX_GROUPS]
    videos = []
    for g in order:
        pictures = decoded[g].mul(255).round().byte().numpy()
        videos.append((f"group {g}, {values}: changes pixels by {effect[g]:.3f}", pictures))
    return videos, {"values": values, "effect": effect, "shown": order}


def _vary_numbers(here: State, episode: State) -> tuple[Tensor, str]:
    """Vary one number at a time, the others at their mean: (S,V,S)."""
    mean = episode["mean"]
    size = mean.shape[-1]
    moves = torch.linspace(-MAX_DEVIATION, MAX_DEVIATION, VALUES, device=mean.device)
    stoch = here["mean"].expand(size, VALUES, size).clone()
    each = torch.arange(size, device=mean.device)
    stoch[each, :, each] += moves * mean.std(0, correction=0)[:, None]
    return stoch, f"-{MAX_DEVIATION:g} to +{MAX_DEVIATION:g} std"


def _vary_classes(here: State, episode: State) -> tuple[Tensor, str]:
    """Set one group at a time to its most common classes, the others to their mode: (S,V,S,K)."""
    usual = episode["logits"].exp().mean(0)
    groups, classes = usual.shape
    count = min(VALUES, classes)
    best = torch.nn.functional.one_hot(here["logits"][0].argmax(-1), classes).float()
    stoch = best.expand(groups, count, groups, classes).clone()
    common = torch.nn.functional.one_hot(usual.topk(count, -1).indices, classes).float()
    each = torch.arange(groups, device=usual.device)
    stoch[each, :, each] = common
    return stoch, f"its {count} most common classes"


def interpolate_states(observed: ObservedEpisode) -> tuple[tuple[str, np.ndarray], dict[str, Any]]:
    """Decode a line in the latent from the posterior after the context to the most distant one."""
    feat = observed.model.feat(observed.posteriors)
    begin = observed.context - 1
    end = begin + int((feat[begin:] - feat[begin]).square().sum(-1).argmax())
    two = select_states(observed.posteriors, np.array([begin, end]))
    line = map_state(two, _interpolate)
    ends = observed.true_pictures([begin]), observed.true_pictures([end])
    pictures = np.concatenate([ends[0], observed.decode_pictures(line), ends[1]])
    label = (
        f"from step {begin} to step {end}: real, {BETWEEN} on a straight line in the latent, real"
    )
    return (label, pictures), {"from": begin, "to": end}


def _interpolate(two: Tensor) -> Tensor:
    """A straight line (BETWEEN,...) from the first to the second of two (2,...)."""
    weight = torch.linspace(0, 1, BETWEEN, device=two.device)
    return torch.lerp(two[:1], two[1:], weight.view(-1, *[1] * (two.dim() - 1)))

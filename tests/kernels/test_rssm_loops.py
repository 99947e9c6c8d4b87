"""The unrolled loops are the ones autograd goes through: values, and gradients by every input and
weight.
"""

import pytest
import torch

from worldmodel import build
from worldmodel.config import loading
from worldmodel.kernels import elementwise, rssm_loops
from worldmodel.kernels.planning_step import PackedStep, fixed_weights
from worldmodel.kernels.rssm_loops import KernelRollout
from worldmodel.model.dynamics import Rollout
from worldmodel.spaces import ActionSpace, ObservationSpace

B, T, A = 5, 7, 3
LATENTS = ["categorical", "gaussian", "deterministic"]
pytestmark = pytest.mark.skipif(
    elementwise.load_library() is None,
    reason="no C compiler here; autograd goes through the loops",
)


def rssm_of(latent):
    c = loading.parse(["debug", f"model.latent={latent}", "model.deter=40", "model.hidden=24"])
    torch.manual_seed(0)
    rssm = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(A)).dynamics
    for name, p in rssm.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 1.5)
    return rssm


def with_loss(rssm, outputs, seed=9):
    """Outputs and the gradients of a random weighted sum of them by every parameter."""
    g = torch.Generator().manual_seed(seed)
    total = sum((x.float() * torch.randn(x.shape, generator=g)).sum() for x in outputs)
    total.backward()
    found = {
        name: p.grad.float().clone() for name, p in rssm.named_parameters() if p.grad is not None
    }
    rssm.zero_grad()
    return [x.detach().float() for x in outputs], found


def close(got, want, most=2e-2):
    assert got.shape == want.shape
    assert (got - want).norm() <= most * want.norm() + 1e-6, (
        (got - want).norm() / want.norm()
    ).item()


def both_ways(monkeypatch, function):
    """What a function of nothing gives unrolled, and by autograd, from the same random numbers."""
    results = []
    for by_hand in (True, False):
        if not by_hand:
            monkeypatch.setattr(rssm_loops, "can_replace", lambda rssm, like: False)
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(function())
    return results


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("latent", LATENTS)
def test_filtering(monkeypatch, latent, started):
    rssm = rssm_of(latent)
    embed = torch.randn(B, T, rssm.post_embed.in_features).requires_grad_()
    action = torch.randn(B, T, A).requires_grad_()
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 0] = first[2, 4] = first[3, 6] = first[:, 5] = True
    start = {k: torch.randn(v.shape) for k, v in rssm.initial(B).items()} if started else {}

    def run():
        embed.grad = action.grad = None
        post, prior = rssm.observe(embed, action, first, start)
        leaves = [*post.values(), *prior.values()]
        values, grads = with_loss(rssm, leaves)
        return (
            values,
            {**grads, "embed": embed.grad.clone(), "action": action.grad.clone()},
            set(post),
        )

    (values, grads, names), (values_, grads_, names_) = both_ways(monkeypatch, run)
    assert names == names_ and grads.keys() == grads_.keys() and len(grads) > 12
    for got, want in zip(values, values_, strict=True):
        close(got, want)
    for name in grads:
        close(grads[name], grads_[name], 4e-2)
    assert (action.grad[2, 4] == 0).all() and (action.grad[2, 3] != 0).any()


@pytest.mark.parametrize("latent", LATENTS)
def test_walking(monkeypatch, latent):
    rssm = rssm_of(latent)
    start = {k: torch.randn(v.shape) for k, v in rssm.initial(B).items()}
    actions = torch.randn(T, B, A).requires_grad_()
    kinds = []

    def run():
        actions.grad = None
        rollout = rssm.start_rollout(start, T)
        kinds.append(type(rollout))
        feats = []
        for t in range(T):
            feats.append(rollout.features.clone())
            # A closed loop, as with an actor: what is seen decides, without a gradient.
            rollout.step(actions[t] + rollout.features[:, :A].float())
        assert (
            torch.equal(rollout.features_before(), torch.stack(feats))
            and not rollout.features_before().requires_grad
        )
        (arrived,), _ = with_loss(rssm, [rollout.features_after()])
        return arrived, actions.grad.clone()

    (arrived, grad), (arrived_, grad_) = both_ways(monkeypatch, run)
    assert kinds == [KernelRollout, Rollout]
    close(arrived, arrived_)
    close(grad, grad_, 4e-2)


@pytest.mark.parametrize(("latent", "whole"), [("categorical", False), ("deterministic", True)])
def test_a_rollout_without_gradients_takes_the_same_way(latent, whole, monkeypatch):
    """To the last bit step by step; where a step is one call it rounds less, and draws may come
    out otherwise.
    """
    if not whole:
        monkeypatch.setattr(PackedStep, "supports", lambda rssm: False)
    rssm = rssm_of(latent)
    start = {k: torch.randn(v.shape) for k, v in rssm.initial(B).items()}
    actions = torch.randn(T, B, A).requires_grad_()
    found = []
    for graph in (True, False):
        with torch.set_grad_enabled(graph), torch.autocast("cpu", torch.bfloat16):
            rollout = rssm.start_rollout(start, T, torch.Generator().manual_seed(2))
            for t in range(T):
                rollout.step(actions[t])
            found.append(rollout.features_after())
    assert found[0].requires_grad and not found[1].requires_grad
    close(found[1], found[0], 1e-2 if whole else 0.0)


def test_not_even_a_nan_is_carried_over_a_start():
    rssm = rssm_of("categorical")
    embed = torch.randn(B, T, rssm.post_embed.in_features)
    embed[:, 2] = float("nan")
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 3] = True
    with torch.autocast("cpu", torch.bfloat16):
        post, _ = rssm.observe(embed, torch.randn(B, T, A), first, {})
    assert post["logits"][:, 2].isnan().all() and post["logits"][:, 3:].isfinite().all()


@pytest.mark.parametrize("change", ["model.transition=ssm", "model.blocks=2"])
def test_other_transitions_stay_with_autograd(change):
    c = loading.parse(["debug", change])
    rssm = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(A)).dynamics
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(rssm.start_rollout(rssm.initial(2), 1), Rollout)


def test_walks_follow_the_weights_but_where_they_are_fixed():
    rssm = rssm_of("gaussian")

    def walked():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rollout = rssm.start_rollout(rssm.initial(B), 1, torch.Generator().manual_seed(2))
            rollout.step(torch.ones(B, A))
            return rollout.features_after()

    first = walked()
    with fixed_weights():
        assert torch.equal(first, walked())
        rssm.from_action.weight.data += 1
        assert torch.equal(first, walked())  # the promise broken: it is what makes planning quick
    assert not torch.equal(first, walked())

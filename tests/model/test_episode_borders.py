"""What a step of a batch may depend on: the steps before it in its own episode, and nothing else."""

import pytest
import torch

from test_model import KINDS, VECTOR, A, B, T, make, name_kind, random_batch

BORDER = 4  # where the second episode of row 1 begins, as random_batch has it


def make_inputs():
    batch = random_batch(image=False, vector=True)
    assert batch["is_first"][1].nonzero().flatten().tolist() == [0, BORDER]
    for key in ("vector", "prev_action"):
        batch[key].requires_grad_()
    return batch


def find_influences(batch, value):
    """Which rows (B,T) a number depends on: by their observations, and by their actions."""
    gradients = torch.autograd.grad(
        value, [batch["vector"], batch["prev_action"]], retain_graph=True
    )
    assert gradients[0].shape == (B, T, VECTOR) and gradients[1].shape == (B, T, A)
    return [gradient.abs().sum(-1) > 0 for gradient in gradients]


def allow(row, t, smooths=False):
    """The rows (B,T) whose observations, and those whose actions, step t of a row may depend on."""
    start = BORDER if row == 1 and t >= BORDER else 0
    seen = torch.zeros(B, T, dtype=torch.bool)
    end = BORDER if row == 1 and t < BORDER else T
    seen[row, start : end if smooths else t + 1] = True
    acted = seen.clone()
    acted[row, start] = False  # whatever led to a first observation does not count
    return seen, acted


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_no_loss_crosses_the_start_of_an_episode_or_looks_ahead(kind):
    """Every loss of the model, with what is imagined from other steps: overshooting, and the
    rewards and ends of `reward_only`.
    """
    _, model = make(
        *kind,
        "loss.objective={reconstruction: 1.0, reward_only: 1.0}",
        "loss.overshooting=3",
        image=None,
        vector=VECTOR,
    )
    model.free = 0.0
    batch = make_inputs()
    losses, *_ = model.losses(batch)
    assert {"vector", "overshoot", "imagined_reward", "imagined_cont"} < losses.keys()
    total = torch.stack(list(losses.values())).sum(0)
    for row, t in [(0, 1), (0, T - 1), (1, 2), (1, BORDER), (1, BORDER + 1), (1, T - 1)]:
        found = find_influences(batch, total[row, t])
        for influence, allowed in zip(found, allow(row, t, model.dynamics.smooths), strict=True):
            assert not (influence & ~allowed).any(), (row, t)
        seen, acted = found
        assert seen[row, t]
        if allow(row, t)[1][row, t]:
            assert acted[row, t] and seen[row, t - 1], "the step before leads here"


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_a_prior_knows_the_action_that_led_here_and_not_the_observation(kind):
    _, model = make(*kind, image=None, vector=VECTOR)
    batch = make_inputs()
    _, post, prior = model.observe(batch)
    for t in (2, BORDER, T - 1):
        value = sum(v[1, t].flatten() @ torch.randn(v[1, t].numel()) for v in prior.values())
        if t == BORDER:  # nothing leads to a first observation
            assert not value.requires_grad or not any(
                influence.any() for influence in find_influences(batch, value)
            )
            continue
        seen, acted = find_influences(batch, value)
        assert acted[1, t] and seen[1, t - 1]
        assert not seen[1, t] and not acted[1, t + 1 :].any() and not seen[1, t + 1 :].any()

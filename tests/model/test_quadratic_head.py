"""A quadratic reward of the latent: its equation, what it can learn, and its place in a model."""

import numpy as np
import pytest
import torch

from test_model import make, random_batch
from worldmodel.model.heads import QuadraticHead

SIZE = 4


def test_the_mean_is_the_equation():
    head = QuadraticHead(SIZE)
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_()
    feat = torch.randn(3, 2, SIZE)
    most, point, weight = (p.detach().double().numpy() for p in head.parameters())
    for b, t in np.ndindex(3, 2):
        apart = weight @ (feat[b, t].double().numpy() - point)
        assert head.mean(feat)[b, t].item() == pytest.approx(most - apart @ apart, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.mean(feat), head.mean(feat).float(), rtol=0, atol=0)


def test_it_finds_the_goal_and_the_weights_of_a_quadratic_reward():
    torch.manual_seed(0)
    head, goal, scale = QuadraticHead(SIZE), torch.randn(SIZE), torch.tensor([1.0, 0.5, 0.2, 0.0])
    feat = torch.randn(2000, SIZE)
    reward = 3.0 - (scale * (feat - goal).square()).sum(-1)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(1200):
        optimizer.zero_grad()
        head.loss(feat, reward).mean().backward()
        optimizer.step()
    found = head.weight.mT @ head.weight
    torch.testing.assert_close(found.detach(), scale.diag(), atol=0.02, rtol=0)
    torch.testing.assert_close(head.point.detach()[:3], goal[:3], atol=0.05, rtol=0)
    assert head.most.item() == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize("rows", [2, 9])
def test_the_number_of_rows_bounds_the_rank_of_the_cost(rows):
    model = make("model.reward_head=quadratic", f"model.reward_rows={rows}")[1]
    size = model.dynamics.feature_size
    cost = model.reward.read_cost()[:-1, :-1]
    assert torch.linalg.matrix_rank(cost) == min(rows, size) < size + 1


@pytest.mark.parametrize("dynamics", ["linear_gaussian", "rssm"])
def test_a_model_learns_by_it_and_plans_with_it(dynamics):
    model = make(f"model.dynamics={dynamics}", "model.reward_head=quadratic")[1]
    total, metrics, post, feat = model.loss(random_batch())
    (grad,) = torch.autograd.grad(total, [model.reward.point])
    assert grad.abs().sum() > 0 and metrics["loss/reward"].isfinite()
    reward, _ = model.predict_for_planning(feat)
    torch.testing.assert_close(reward, model.reward.mean(feat))

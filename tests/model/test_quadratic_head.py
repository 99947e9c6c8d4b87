"""Rewards by a squared distance in the latent, as a parabola and as a bell: their equations, what
they can learn, and their place in a model.
"""

import numpy as np
import pytest
import torch

from test_model import make, random_batch
from worldmodel.model.heads import BellHead, QuadraticHead

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


def test_the_mean_of_a_bell_is_its_equation_and_its_cost_the_squared_distance():
    head = BellHead(SIZE, rows=2)
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_()
    feat = 0.3 * torch.randn(3, 2, SIZE)
    point, weight = (p.detach().double().numpy() for p in (head.point, head.weight))
    floor, height = head.floor.item(), np.log1p(np.exp(head.raw_height.item()))
    form = head.read_cost().detach().double().numpy()
    for b, t in np.ndindex(3, 2):
        z = feat[b, t].double().numpy()
        gap, full = np.square(weight @ (z - point)).sum(), np.append(z, 1.0)
        assert full @ form @ full == pytest.approx(gap, rel=1e-4)
        assert head.mean(feat)[b, t].item() == pytest.approx(
            floor + height * np.exp(-gap), rel=1e-4
        )


def test_a_cost_of_some_rank_keeps_the_directions_in_which_the_distance_grows_most():
    head = QuadraticHead(SIZE)
    turn = torch.linalg.qr(torch.randn(2, SIZE, SIZE)).Q
    with torch.no_grad():
        head.weight.copy_(turn[0] @ torch.tensor([3.0, 0.1, 2.0, 0.2]).diag() @ turn[1])
        head.point.normal_()
        strong = turn[1][[0, 2]] * torch.tensor([[3.0], [2.0]])
        z = torch.randn(7, SIZE)
        full = torch.cat([z, torch.ones(7, 1)], 1)
        found = ((full @ head.read_cost(rank=2)) * full).sum(-1)
        wanted = ((z - head.point) @ strong.mT).square().sum(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [QuadraticHead, BellHead])
def test_a_bell_finds_the_goal_of_rewards_that_level_off_and_a_parabola_does_not(kind):
    torch.manual_seed(0)
    head, goal = kind(2), torch.tensor([1.5, -1.0])
    feat = 4 * torch.rand(2000, 2) - 2
    reward = 1 / (1 + 4 * (feat - goal).square().sum(-1))
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        head.loss(feat, reward).mean().backward()
        optimizer.step()
    miss = (head.point.detach() - goal).norm().item()
    assert miss < 0.05 if kind is BellHead else miss > 0.5


@pytest.mark.parametrize("kind", ["quadratic", "bell"])
@pytest.mark.parametrize(("rows", "rank"), [(0, 17), (2, 2), (20, 17)])
def test_the_number_of_rows_bounds_the_rank_of_the_cost(rows, rank, kind):
    model = make(f"model.reward_head={kind}", f"model.reward_rows={rows}")[1]
    size, head = model.dynamics.feature_size, model.reward
    assert head.weight.shape == (rows or size, size) and size == 17
    with torch.no_grad():
        head.weight.normal_()
        assert torch.linalg.matrix_rank(head.read_cost()[:-1, :-1]) == rank


@pytest.mark.parametrize("kind", ["quadratic", "bell"])
@pytest.mark.parametrize("dynamics", ["linear_gaussian", "rssm"])
def test_a_model_learns_by_it_and_plans_with_it(dynamics, kind):
    model = make(f"model.dynamics={dynamics}", f"model.reward_head={kind}")[1]
    total, metrics, post, feat = model.loss(random_batch())
    (grad,) = torch.autograd.grad(total, [model.reward.point])
    assert grad.abs().sum() > 0 and metrics["loss/reward"].isfinite()
    reward, _ = model.predict_for_planning(feat)
    torch.testing.assert_close(reward, model.reward.mean(feat))

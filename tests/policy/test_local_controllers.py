"""Local controllers: exact LQR, the KL bound that holds, and the multiplier that enforces it."""

import numpy as np
import pytest
import scipy.linalg
import torch

from worldmodel.policy.local_controllers import (
    Controllers,
    improve_controllers,
    make_controllers,
    measure_kl,
    predict_trajectories,
    solve_lqr,
)
from worldmodel.policy.local_models import LinearModels
from worldmodel.policy.quadratic_cost import QuadraticCost, make_distance_cost

COUNT, STEPS, SIZE, ACTIONS = 2, 7, 3, 2
WIDE = {"dtype": torch.float64}
WEIGHTS = torch.tensor([1.0, 0.5, 0.2], **WIDE)
TARGET = torch.tensor([0.3, 0.0, 1.0], **WIDE)
COST = make_distance_cost(WEIGHTS, TARGET, 0.1)
FREE = torch.full((COUNT,), 1e9, **WIDE)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def make_models(generator, steps=STEPS):
    draw = {"generator": generator, **WIDE}
    matrix = torch.eye(SIZE, **WIDE) + 0.2 * torch.randn(COUNT, steps, SIZE, SIZE, **draw)
    gain = 0.5 * torch.randn(COUNT, steps, SIZE, ACTIONS, **draw)
    offset = 0.1 * torch.randn(COUNT, steps, SIZE, **draw)
    return LinearModels(matrix, gain, offset, torch.zeros(COUNT, steps, SIZE, SIZE, **WIDE))


def make_start(generator, steps=STEPS):
    mean = torch.randn(COUNT, SIZE, generator=generator, **WIDE)
    return mean, 0.01 * torch.eye(SIZE, **WIDE).expand(COUNT, steps + 1, SIZE, SIZE)


def run(models, controllers, mean, generator=None):
    """Rollouts of the controllers' means in the models: states (C,T+1,n), actions (C,T,A)."""
    states, actions = [mean], []
    for t in range(models.matrix.shape[1]):
        feedback = controllers.gain[:, t] @ states[-1].unsqueeze(-1)
        actions.append(feedback.squeeze(-1) + controllers.offset[:, t])
        step = LinearModels(*(v[:, t] for v in vars(models).values()))
        states.append(step.predict(states[-1], actions[-1]))
    return torch.stack(states, 1), torch.stack(actions, 1)


def test_without_a_bound_the_actions_are_those_of_least_squares(generator):
    """All actions of a rollout at once are a linear least-squares problem."""
    models, (mean, _) = make_models(generator), make_start(generator)
    old = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 1.0)
    found = solve_lqr(models, COST, old, torch.full((COUNT,), 1e-9, **WIDE))
    states, actions = run(models, found, mean)

    def stack_residuals(flat):
        plan = flat.view(COUNT, STEPS, ACTIONS)
        rolled = [mean]
        for t in range(STEPS):
            step = LinearModels(*(v[:, t] for v in vars(models).values()))
            rolled.append(step.predict(rolled[-1], plan[:, t]))
        gaps = WEIGHTS.sqrt() * (torch.stack(rolled[1:], 1) - TARGET)
        return torch.cat([gaps.flatten(), COST.control**0.5 * flat])

    zeros = torch.zeros(COUNT * STEPS * ACTIONS, **WIDE)
    slopes = torch.autograd.functional.jacobian(stack_residuals, zeros)
    best = -torch.linalg.lstsq(slopes, stack_residuals(zeros).unsqueeze(-1)).solution
    torch.testing.assert_close(actions.flatten(), best.squeeze(-1), atol=1e-6, rtol=1e-6)
    wanted = stack_residuals(best.squeeze(-1)).square().sum()
    torch.testing.assert_close(COST.measure(states, actions).sum(), wanted)


def test_the_first_gain_of_a_long_horizon_is_that_of_scipys_riccati_equation(generator):
    models = make_models(generator, 1)
    long = LinearModels(*(v.expand(-1, 200, *v.shape[2:]) for v in vars(models).values()))
    old = make_controllers(COUNT, 200, SIZE, ACTIONS, 1.0)
    found = solve_lqr(long, COST, old, torch.full((COUNT,), 1e-10, **WIDE))
    for i in range(COUNT):
        a, b = models.matrix[i, 0].numpy(), models.gain[i, 0].numpy()
        q, r = 2 * np.diag(WEIGHTS), 2 * COST.control * np.eye(ACTIONS)
        p = scipy.linalg.solve_discrete_are(a, b, q, r)
        gain = -np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        np.testing.assert_allclose(found.gain[i, 0], gain, atol=1e-6)


def test_a_large_multiplier_keeps_the_old_controllers(generator):
    models = make_models(generator)
    draw = {"generator": generator, **WIDE}
    old = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 0.4)
    old = Controllers(
        0.1 * torch.randn(old.gain.shape, **draw), torch.randn(old.offset.shape, **draw), old.cov
    )
    found = solve_lqr(models, COST, old, torch.full((COUNT,), 1e12, **WIDE))
    for part, own in zip(vars(old).values(), vars(found).values(), strict=True):
        torch.testing.assert_close(own, part, atol=1e-8, rtol=0)


def test_the_kl_is_that_of_gaussians_at_the_states(generator):
    """Against torch.distributions, over many sampled states."""
    models, (mean, cov) = make_models(generator), make_start(generator)
    old = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 0.6)
    new = solve_lqr(models, COST, old, torch.ones(COUNT, **WIDE))
    path = predict_trajectories(models, new, mean, cov)
    noise = torch.randn(20_000, COUNT, STEPS, SIZE, generator=generator, **WIDE)
    states = path.mean[:, :-1] + 0.1 * noise
    kinds = [
        torch.distributions.MultivariateNormal(
            (c.gain @ states.unsqueeze(-1)).squeeze(-1) + c.offset, c.cov
        )
        for c in (new, old)
    ]
    sampled = torch.distributions.kl_divergence(*kinds).sum(-1).mean(0)
    torch.testing.assert_close(measure_kl(new, old, path), sampled, rtol=1e-2, atol=0)


@pytest.mark.parametrize("bound", [0.01, 1.0, 30.0])
def test_the_bound_holds_and_is_used_up(generator, bound):
    models, start = make_models(generator), make_start(generator)
    old = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 0.5)
    bounds = bound * torch.tensor([1.0, 2.0], **WIDE)
    new, path, _ = improve_controllers(models, COST, old, start, bounds)
    kl = measure_kl(new, old, path)
    assert (kl <= bounds).all() and (kl >= 0.9 * bounds).all(), kl


def test_a_looser_bound_costs_less_and_a_bound_that_does_not_matter_gives_the_optimum(generator):
    models, start = make_models(generator), make_start(generator)
    old = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 0.5)
    costs = [
        improve_controllers(models, COST, old, start, bound)[1].expect_cost(COST)
        for bound in (0.1 + 0 * FREE, 1.0 + 0 * FREE, 10.0 + 0 * FREE, FREE)
    ]
    for tight, loose in zip(costs, costs[1:], strict=False):
        assert (loose < tight).all()
    best = solve_lqr(models, COST, old, torch.full((COUNT,), 1e-9, **WIDE))
    wanted = predict_trajectories(models, best, *start).expect_cost(COST)
    torch.testing.assert_close(costs[-1], wanted, rtol=1e-3, atol=0)


def test_spread_and_cost_of_noisy_rollouts_are_those_of_samples(generator):
    """S' = (A + B K) S (A + B K)' + B C B' + Q, and E[cost] under a form with all entries."""
    draw = {"generator": generator, **WIDE}
    models = make_models(generator)
    root = 0.3 * torch.randn(COUNT, STEPS, SIZE, SIZE, **draw)
    models = LinearModels(models.matrix, models.gain, models.offset, root @ root.mT)
    controllers = make_controllers(COUNT, STEPS, SIZE, ACTIONS, 0.4)
    gain = 0.2 * torch.randn(controllers.gain.shape, **draw)
    controllers = Controllers(gain, controllers.offset, controllers.cov)
    mean, first = torch.randn(COUNT, SIZE, **draw), 0.3 * torch.eye(SIZE, **WIDE)
    path = predict_trajectories(models, controllers, mean, first.expand(COUNT, SIZE, SIZE))
    weight = torch.randn(SIZE + 1, SIZE + 1, **draw)
    cost = QuadraticCost(weight.mT @ weight, 0.2)

    many = 20_000
    states = [mean + 0.3**0.5 * torch.randn(many, COUNT, SIZE, **draw)]
    actions = []
    for t in range(STEPS):
        acted = (gain[:, t] @ states[-1].unsqueeze(-1)).squeeze(-1) + controllers.offset[:, t]
        actions.append(acted + 0.4 * torch.randn(many, COUNT, ACTIONS, **draw))
        step = LinearModels(*(v[:, t] for v in vars(models).values()))
        noise = (root[:, t] @ torch.randn(many, COUNT, SIZE, 1, **draw)).squeeze(-1)
        states.append(step.predict(states[-1], actions[-1]) + noise)
    rolled = torch.stack(states, 2)
    for i in range(COUNT):
        for t in range(STEPS + 1):
            size = path.cov[i, t].diagonal().mean()
            torch.testing.assert_close(
                rolled[:, i, t].T.cov(), path.cov[i, t], rtol=0, atol=0.05 * size.item()
            )
    sampled = cost.measure(rolled, torch.stack(actions, 2)).mean(0)
    torch.testing.assert_close(path.expect_cost(cost), sampled, rtol=0.03, atol=0)

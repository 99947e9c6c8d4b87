"""Linear models of time steps: least squares without a prior, the prior under infinite weight."""

import math

import numpy as np
import pytest
import torch

from worldmodel.model.dynamics.linear_gaussian import LinearModel
from worldmodel.policy.local_models import (
    LinearModels,
    Prior,
    fit_local_models,
    measure_spread,
    pool_model,
)

SIZE, ACTIONS, STEPS = 3, 2, 5


def make_rollouts(model, count, generator, noise=0.0):
    """Rollouts (count,T+1,n) and (count,T,A) of a model of each step, from random states."""
    draw = {"generator": generator, "dtype": torch.float64}
    states = [torch.randn(count, SIZE, **draw)]
    actions = torch.randn(count, STEPS, ACTIONS, **draw)
    for t in range(STEPS):
        a, b, c = model.matrix[t], model.gain[t], model.offset[t]
        ahead = states[-1] @ a.mT + actions[:, t] @ b.mT + c
        states.append(ahead + noise * torch.randn(count, SIZE, **draw))
    return torch.stack(states, 1), actions


def make_model(generator, *steps):
    draw = {"generator": generator, "dtype": torch.float64}
    shapes = (SIZE, SIZE), (SIZE, ACTIONS), (SIZE,)
    parts = [0.6 * torch.randn(*steps, *shape, **draw) for shape in shapes]
    root = torch.randn(*steps, SIZE, SIZE, **draw)
    return LinearModels(*parts, root @ root.mT)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def list_parts(model):
    return model.matrix, model.gain, model.offset, model.noise


def test_without_a_prior_each_step_is_its_own_least_squares(generator):
    states, actions = make_rollouts(make_model(generator, STEPS), 9, generator, noise=0.5)
    found = fit_local_models(states, actions)
    for t in range(STEPS):
        inputs = torch.cat([states[:, t], actions[:, t], torch.ones(9, 1)], 1).numpy()
        slopes, *_ = np.linalg.lstsq(inputs, states[:, t + 1].numpy(), rcond=None)
        rest = states[:, t + 1].numpy() - inputs @ slopes
        np.testing.assert_allclose(found.matrix[t].T, slopes[:SIZE], atol=1e-9)
        np.testing.assert_allclose(found.gain[t].T, slopes[SIZE:-1], atol=1e-9)
        np.testing.assert_allclose(found.offset[t], slopes[-1], atol=1e-9)
        np.testing.assert_allclose(found.noise[t], rest.T @ rest / 9, atol=1e-9)


def test_a_time_varying_linear_system_is_recovered(generator):
    truth = make_model(generator, STEPS)
    states, actions = make_rollouts(truth, 12, generator)
    found = fit_local_models(states, actions)
    for part, own in zip(list_parts(truth)[:3], list_parts(found)[:3], strict=True):
        torch.testing.assert_close(own, part)
    torch.testing.assert_close(found.noise, torch.zeros_like(found.noise))


def test_noise_is_recovered_from_many_rollouts(generator):
    states, actions = make_rollouts(make_model(generator, STEPS), 50_000, generator, noise=0.3)
    found = fit_local_models(states, actions)
    wanted = 0.09 * torch.eye(SIZE, dtype=torch.float64).expand(STEPS, SIZE, SIZE)
    torch.testing.assert_close(found.noise, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("steps", [(), (STEPS,)])
def test_under_infinite_weight_the_models_are_those_of_the_prior(generator, steps):
    states, actions = make_rollouts(make_model(generator, STEPS), 9, generator, noise=0.5)
    prior = make_model(generator, *steps)
    spread = measure_spread(states, actions)
    found = fit_local_models(states, actions, Prior(prior, spread, math.inf, math.inf))
    for part, own in zip(list_parts(prior), list_parts(found), strict=True):
        torch.testing.assert_close(own, part.expand_as(own))


def test_weights_of_zero_are_no_prior(generator):
    states, actions = make_rollouts(make_model(generator, STEPS), 9, generator, noise=0.5)
    prior = Prior(make_model(generator), measure_spread(states, actions), 0.0, 0.0)
    found, alone = fit_local_models(states, actions, prior), fit_local_models(states, actions)
    for part, own in zip(list_parts(alone), list_parts(found), strict=True):
        torch.testing.assert_close(own, part)


def test_the_posterior_is_that_of_the_rollouts_and_of_those_that_the_prior_counts_as(generator):
    """A mean weight k and a weight v are k further means and v further covariances."""
    states, actions = make_rollouts(make_model(generator, STEPS), 6, generator, noise=0.5)
    k, v, count = 2.0, 3.0, 6
    prior, spread = make_model(generator), torch.eye(SIZE + ACTIONS, dtype=torch.float64) * 0.7
    found = fit_local_models(states, actions, Prior(prior, spread, k, v))
    joint = torch.cat([states[:, 2], actions[:, 2], states[:, 3]], 1)
    mean, slopes = joint.mean(0), torch.cat([prior.matrix, prior.gain], 1)
    inputs = mean[: SIZE + ACTIONS]
    prior_mean = torch.cat([inputs, slopes @ inputs + prior.offset])
    root = torch.linalg.cholesky(spread)
    top = torch.cat([root, torch.zeros(SIZE + ACTIONS, SIZE)], 1)
    low = torch.cat([slopes @ root, torch.linalg.cholesky(prior.noise)], 1)
    prior_root = torch.cat([top, low])  # S0 is its square
    scatter = (joint - mean).T @ (joint - mean) + v * prior_root @ prior_root.T
    gap = mean - prior_mean
    cov = (scatter + count * k / (count + k) * torch.outer(gap, gap)) / (count + v)
    posterior = (count * mean + k * prior_mean) / (count + k)
    own = cov[-SIZE:, :-SIZE] @ torch.linalg.inv(cov[:-SIZE, :-SIZE])
    torch.testing.assert_close(torch.cat([found.matrix[2], found.gain[2]], 1), own)
    torch.testing.assert_close(found.offset[2], posterior[-SIZE:] - own @ posterior[:-SIZE])
    torch.testing.assert_close(found.noise[2], cov[-SIZE:, -SIZE:] - own @ cov[:-SIZE, -SIZE:])


def test_the_pooled_model_is_that_of_a_system_which_does_not_change(generator):
    one = make_model(generator)
    always = LinearModels(*(part.expand(STEPS, *part.shape) for part in list_parts(one)))
    found = pool_model(*make_rollouts(always, 4, generator))
    for part, own in zip(list_parts(one)[:3], list_parts(found)[:3], strict=True):
        torch.testing.assert_close(own, part)


def test_few_rollouts_suffice_where_the_dynamics_linear_gaussian_knows_the_slopes(generator):
    """A, B, c and Q of `linear_gaussian` as the prior: two rollouts of a system with the same
    slopes but another offset at each step.
    """
    torch.manual_seed(1)
    dynamics = LinearModel(SIZE, ACTIONS, 0.1, 0.7).double()
    parts = [dynamics.matrix, dynamics.gain, dynamics.offset, dynamics.noise]
    prior = LinearModels(*(part.detach() for part in parts))
    offsets = torch.randn(STEPS, SIZE, generator=generator, dtype=torch.float64)
    slopes = [part.expand(STEPS, *part.shape) for part in (prior.matrix, prior.gain)]
    truth = LinearModels(*slopes, offsets, prior.noise)
    states, actions = make_rollouts(truth, 2, generator)
    spread = measure_spread(states, actions)
    found = fit_local_models(states, actions, Prior(prior, spread, 0.0, 1.0))
    for part, own in zip(list_parts(truth)[:3], list_parts(found)[:3], strict=True):
        torch.testing.assert_close(own, part)
    alone = fit_local_models(states, actions)
    assert (alone.matrix - truth.matrix).abs().max() > 0.1


def test_slopes_of_steps_that_are_near_are_averaged(generator):
    """A system whose offset alone changes needs few rollouts if its slopes are fitted together."""
    one, offsets = make_model(generator), torch.randn(STEPS, SIZE, generator=generator).double()
    slopes = [part.expand(STEPS, *part.shape) for part in (one.matrix, one.gain)]
    truth = LinearModels(*slopes, offsets, one.noise)
    states, actions = make_rollouts(truth, 4, generator)
    found = fit_local_models(states, actions, reach=1)
    for part, own in zip(list_parts(truth)[:3], list_parts(found)[:3], strict=True):
        torch.testing.assert_close(own, part)
    assert (fit_local_models(states, actions).matrix - truth.matrix).abs().max() > 0.1


def test_axes_before_the_rollouts_are_fitted_one_by_one(generator):
    rollouts = [
        make_rollouts(make_model(generator, STEPS), 9, generator, noise=0.5) for _ in range(2)
    ]
    states, actions = (torch.stack(parts) for parts in zip(*rollouts, strict=True))
    prior = Prior(pool_model(states, actions), measure_spread(states, actions), 1.0, 2.0)
    found = fit_local_models(states, actions, prior)
    for i in range(2):
        alone = fit_local_models(states[i], actions[i], prior)
        for part, own in zip(list_parts(alone), list_parts(found), strict=True):
            torch.testing.assert_close(own[i], part)

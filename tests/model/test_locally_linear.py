"""Locally linear dynamics against the equations of E2C, written again with NumPy."""

import numpy as np
import pytest
import torch

from test_model import A, B, T, make, random_batch, without_noise
from worldmodel.config import loading
from worldmodel.spaces import map_state

KIND = "model.dynamics=locally_linear", "locally_linear.units=11"
SIZE = 5  # of the latent in test_model's settings


def make_dynamics(*overrides):
    model = make(*KIND, *overrides)[1].eval()
    with torch.no_grad():  # far from zero, so that no term of the equations is small
        model.dynamics.prior_net.net.out.weight.mul_(20.0)
        model.dynamics.prior_net.noise.normal_()
        model.dynamics.prior_net.first.normal_()
    return model, model.dynamics


def read_local_model(dynamics, z):
    """A (S,S), B (S,A) and o (S,) at z (S,) from the raw output of the network."""
    with torch.no_grad():
        raw = dynamics.prior_net.net(z[None])[0].double().numpy()
    v, r, offset = np.tanh(raw[:SIZE]), np.tanh(raw[SIZE : 2 * SIZE]), raw[2 * SIZE : 3 * SIZE]
    matrix = np.eye(SIZE) + np.outer(v / np.sqrt(SIZE), r / np.sqrt(SIZE))
    return matrix, raw[3 * SIZE :].reshape(SIZE, A), offset


def find_std(raw):
    return np.log1p(np.exp(raw.detach().double().numpy())) + 0.1  # model.min_std of the tests


@pytest.mark.parametrize("frames", [1, 2])
def test_the_prior_is_the_moved_gaussian_of_the_step_before(frames):
    model, dynamics = make_dynamics(f"locally_linear.frames={frames}")
    batch = random_batch()
    _, post, prior = model.observe(batch)
    for b in range(B):
        for t in range(T):
            found = [prior[k][b, t].detach().double().numpy() for k in ("mean", "std")]
            if batch["is_first"][b, t]:
                first = dynamics.prior_net.first
                want = [first[:SIZE].detach().double().numpy(), find_std(first[SIZE:])]
            else:
                z, mean, std = (post[k][b, t - 1].detach() for k in ("stoch", "mean", "std"))
                matrix, gain, offset = read_local_model(dynamics, z)
                action = batch["prev_action"][b, t].double().numpy()
                centre = matrix @ mean.double().numpy() + gain @ action + offset
                covariance = matrix @ np.diag(std.double().numpy() ** 2) @ matrix.T
                noise = find_std(dynamics.prior_net.noise) ** 2
                want = [centre, np.sqrt(np.diag(covariance) + noise)]
            np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5)
    for key, value in prior.items():
        torch.testing.assert_close(dynamics.predict_latent(post)[key], value)


def test_imagined_steps_are_draws_whose_moments_are_those_of_the_equations():
    _, dynamics = make_dynamics()
    torch.manual_seed(0)
    z, action = torch.randn(SIZE), torch.rand(A) * 2 - 1
    matrix, gain, offset = read_local_model(dynamics, z)
    state = {"stoch": z.expand(20_000, -1)}
    with torch.no_grad():
        found = dynamics.imagine_step(state, action.expand(20_000, -1), torch.Generator())
    mean = matrix @ z.double().numpy() + gain @ action.double().numpy() + offset
    std = find_std(dynamics.prior_net.noise)
    np.testing.assert_allclose(found["mean"][0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["stoch"].mean(0), mean, atol=0.05)
    np.testing.assert_allclose(found["stoch"].std(0), std, rtol=0.05)
    assert torch.equal(dynamics.predict_latent(found)["mean"], found["mean"])


def test_the_linearization_is_the_derivative_of_the_step_with_a_b_and_o_held():
    _, dynamics = make_dynamics()
    z, action = torch.randn(3, SIZE), torch.randn(3, A)
    matrix, gain, offset = dynamics.linearize(z, action)
    assert matrix.shape == (3, SIZE, SIZE) and gain.shape == (3, SIZE, A)
    exact = (matrix @ z[..., None] + gain @ action[..., None]).squeeze(-1) + offset
    torch.testing.assert_close(dynamics.predict_features(z, action), exact)
    for i in range(3):
        held = dynamics.prior_net(z[i])

        def step(z, action, held=held):
            return dynamics._step(z, action, *held)

        by_z, by_action = torch.autograd.functional.jacobian(step, (z[i], action[i]))
        torch.testing.assert_close(matrix[i], by_z)
        torch.testing.assert_close(gain[i], by_action)
        whole = torch.autograd.functional.jacobian(dynamics.predict_features, (z[i], action[i]))
        torch.testing.assert_close(gain[i], whole[1])  # the step is linear in the action
        want = read_local_model(dynamics, z[i])
        for found, wanted in zip((matrix[i], gain[i], offset[i]), want, strict=True):
            np.testing.assert_allclose(found.detach(), wanted, rtol=1e-4, atol=1e-5)
    change, push = torch.randn(3, SIZE), torch.randn(3, A)
    moved = (matrix @ change[..., None] + gain @ push[..., None]).squeeze(-1)
    torch.testing.assert_close(dynamics.apply_linearization(z, action, change, push), moved)


def test_the_only_eigenvalue_that_is_not_one_lies_between_zero_and_two():
    _, dynamics = make_dynamics()
    matrix = dynamics.linearize(10 * torch.randn(200, SIZE), torch.zeros(200, A))[0]
    found = torch.linalg.eigvals(matrix).real.sort(-1).values
    others = (found - 1).abs().sort(-1).values[:, :-1]
    assert others.max() < 1e-2 and found.min() > 0 and found.max() < 2
    assert (found.max(-1).values > 1.2).any() and (found.min(-1).values < 0.8).any()


def test_a_posterior_of_two_frames_sees_the_one_before_in_its_own_episode(monkeypatch):
    model, dynamics = make_dynamics("locally_linear.frames=2")
    without_noise(model, monkeypatch)
    batch = random_batch()
    embed, post, _ = model.observe(batch)
    for b in range(B):
        for t in range(T):
            before = embed[b, t if batch["is_first"][b, t] else t - 1]
            params = dynamics.post_net(torch.cat([before, embed[b, t]]))
            torch.testing.assert_close(post["mean"][b, t], params[:SIZE])
    torch.testing.assert_close(post["past"], embed)
    goal = dynamics.infer_latent(map_state(post, lambda v: v[:, :1]), embed)
    doubled = dynamics.post_net(torch.cat([embed, embed], -1))[..., :SIZE]
    torch.testing.assert_close(goal["mean"], doubled)
    assert not torch.allclose(post["mean"][0, 1:], goal["mean"][0, 1:], atol=1e-3)


def test_a_given_start_leads_to_the_first_step():
    """What a state carries: the frame before and the distribution that the step moves."""
    model, dynamics = make_dynamics("locally_linear.frames=2")
    batch = random_batch()
    embed, post, prior = model.observe(batch)
    first = torch.zeros(B, T - 2, dtype=torch.bool)
    first[1, 2] = True  # as in the whole sequence
    start = map_state(post, lambda v: v[:, 1])
    later, later_prior = dynamics.observe(embed[:, 2:], batch["prev_action"][:, 2:], first, start)
    torch.testing.assert_close(later["mean"], post["mean"][:, 2:])
    for key, value in later_prior.items():
        torch.testing.assert_close(value[:, 0], prior[key][:, 2])


def test_with_one_frame_a_posterior_depends_on_its_own_picture_alone():
    model, dynamics = make_dynamics()
    embed = torch.randn(B, T, model.encoder.size, requires_grad=True)
    batch = random_batch()
    post, _ = dynamics.observe(embed, batch["prev_action"], batch["is_first"], {})
    (grad,) = torch.autograd.grad(post["mean"][0, 3].sum(), embed)
    assert grad.abs().sum(-1).nonzero().tolist() == [[0, 3]] and "past" not in post


@pytest.mark.parametrize("frames", [1, 2])
def test_nothing_is_carried_into_a_first_step(frames):
    _, dynamics = make_dynamics(f"locally_linear.frames={frames}")
    embed = torch.randn(B, T, dynamics.embed)
    embed[:, 2] = float("nan")
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 3] = True
    post, prior = dynamics.observe(embed, torch.randn(B, T, A), first, {})
    assert post["mean"][:, 2].isnan().all()
    for state in (post, prior):
        assert all(v[:, 3:].isfinite().all() for v in state.values())
    start, action = dynamics.prior_net.first, torch.full((B, A), float("nan"))
    state = map_state(dynamics.initial(B), lambda v: v + float("nan"))
    step = dynamics.observe_step(state, embed[:, 0], action, first[:, 3], None)
    torch.testing.assert_close(step["prior_mean"], start[:SIZE].expand(B, -1))
    assert all(v.isfinite().all() for v in step.values())


def test_an_imagined_state_keeps_the_last_frame_that_was_seen():
    _, dynamics = make_dynamics("locally_linear.frames=2")
    action, seen, embed = torch.randn(B, A), *torch.randn(2, B, dynamics.embed)
    state = dynamics.observe_step(dynamics.initial(B), seen, action, torch.ones(B), None)
    state = dynamics.imagine_step(dynamics.imagine_step(state, action), action)
    found = dynamics.observe_step(state, embed, action, torch.zeros(B), None)
    params = dynamics.post_net(torch.cat([seen, embed], -1))
    torch.testing.assert_close(found["mean"], params[:, :SIZE])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.latent=categorical"], "model.latent: model.dynamics locally_linear moves a Gau"),
        (
            ["ensemble.size=3", "ensemble.of=dynamics"],
            "ensemble.of: dynamics needs model.dynamics",
        ),
        (["locally_linear.frames=3"], "locally_linear.frames: 3 is out of range"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(words, line):
    with pytest.raises(loading.ConfigError, match=line):
        loading.parse(["debug", "model.dynamics=locally_linear", *words])

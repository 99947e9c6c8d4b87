"""Linear-Gaussian dynamics against one large Gaussian over a whole sequence, with NumPy."""

import numpy as np
import pytest
import torch

from test_model import A, B, T, make, random_batch, without_noise
from worldmodel.config import loading
from worldmodel.spaces import map_state

KIND = "model.dynamics=linear_gaussian", "linear_gaussian.units=11"
SIZE = 5  # of the latent in test_model's settings


def make_dynamics(*overrides):
    model = make(*KIND, *overrides)[1].eval()
    dynamics = model.dynamics
    with torch.no_grad():  # far from where training starts, so that no term is small
        linear = dynamics.prior_net
        linear.change.normal_(std=0.3)
        for weight in (linear.gain, linear.offset, linear.raw_noise, linear.first):
            weight.normal_()
    return model, dynamics


def to_numpy(x):
    return x.detach().double().numpy()


def join_prior(dynamics, actions):
    """Mean (T*S,) and covariance (T*S,T*S) of an episode's latents after actions (T,A)."""
    linear = dynamics.prior_net
    matrix, gain, offset = map(to_numpy, (linear.matrix, linear.gain, linear.offset))
    noise, first = (
        np.diag((np.log1p(np.exp(to_numpy(raw))) + 0.1) ** 2)  # model.min_std of the tests
        for raw in (linear.raw_noise, linear.raw_first)
    )
    means, covs = [to_numpy(linear.first)], [first]
    for action in actions[1:]:
        means.append(matrix @ means[-1] + gain @ action + offset)
        covs.append(matrix @ covs[-1] @ matrix.T + noise)
    steps = len(actions)
    joint = np.zeros((steps, SIZE, steps, SIZE))
    for s in range(steps):
        block = covs[s]
        for t in range(s, steps):
            joint[t, :, s], joint[s, :, t] = block, block.T
            block = matrix @ block
    return np.concatenate(means), joint.reshape(steps * SIZE, steps * SIZE)


def join_posterior(mean, cov, potential, variance):
    """The joint Gaussian after potentials (T*S,) on it."""
    inverse = np.linalg.inv(cov)
    after = np.linalg.inv(inverse + np.diag(1 / variance))
    return after @ (inverse @ mean + potential / variance), after


def compute_joint_kl(mean, cov, other_mean, other_cov):
    inverse, shift = np.linalg.inv(other_cov), other_mean - mean
    parts = np.trace(inverse @ cov) + shift @ inverse @ shift - len(mean)
    return 0.5 * (parts + np.linalg.slogdet(other_cov)[1] - np.linalg.slogdet(cov)[1])


def list_episodes(is_first):
    """(row, first step, step after the last) of each episode in sequences (B,T)."""
    for b, row in enumerate(is_first.bool().tolist()):
        starts = [t for t in range(T) if t == 0 or row[t]]
        yield from ((b, s, e) for s, e in zip(starts, [*starts[1:], T], strict=True))


def test_posteriors_are_those_of_one_gaussian_over_the_episode():
    model, dynamics = make_dynamics()
    batch = random_batch()
    _, post, prior = model.observe(batch)
    kl = to_numpy(dynamics.kl(post, prior))
    episodes = list(list_episodes(batch["is_first"]))
    assert len(episodes) > B  # one at least begins inside a sequence
    for b, start, end in episodes:
        own = slice(start, end)
        mean, cov = join_prior(dynamics, to_numpy(batch["prev_action"][b, own]))
        potential, variance = (
            to_numpy(post[k][b, own]).reshape(-1) for k in ("potential_mean", "potential_var")
        )
        after, spread = join_posterior(mean, cov, potential, variance)
        blocks = spread.reshape(end - start, SIZE, end - start, SIZE)
        for t in range(end - start):
            found = post["mean"][b, start + t], post["cov"][b, start + t]
            want = after.reshape(-1, SIZE)[t], blocks[t, :, t]
            for mine, wanted in zip(found, want, strict=True):
                np.testing.assert_allclose(to_numpy(mine), wanted, rtol=2e-3, atol=2e-4)
        whole = compute_joint_kl(after, spread, mean, cov)
        np.testing.assert_allclose(kl[b, own].sum(), whole, rtol=2e-3)


def test_filtering_alone_sees_no_later_step():
    model, dynamics = make_dynamics()
    batch = random_batch()
    embed, post, _ = model.observe(batch)
    state = dynamics.initial(B)
    for t in range(T):
        first = batch["is_first"][:, t].bool() | (t == 0)
        state = dynamics.observe_step(state, embed[:, t], batch["prev_action"][:, t], first, None)
        for kind in ("mean", "cov"):
            torch.testing.assert_close(state[kind], state[f"filter_{kind}"])
            torch.testing.assert_close(
                state[kind], post[f"filter_{kind}"][:, t], rtol=1e-4, atol=1e-5
            )
    begins = batch["is_first"].bool()
    alone = dynamics.infer_states(embed, batch["prev_action"], begins, {})
    for kind in ("mean", "cov"):
        torch.testing.assert_close(alone[kind], post[f"filter_{kind}"])
    # In the middle of an episode the later steps say more.
    own = batch["is_first"][:, 1:].bool().logical_not()
    narrow, wide = (torch.linalg.det(post[k][:, :-1][own]) for k in ("cov", "filter_cov"))
    assert (narrow < wide).all()


@pytest.mark.parametrize("widths", ["shared", "picture"])
def test_means_are_linear_in_embeddings_if_all_potentials_have_one_width(widths):
    keys = f"linear_gaussian.widths={widths}", "linear_gaussian.layers=0"
    _, dynamics = make_dynamics(*keys)
    with torch.no_grad():
        for weight in dynamics.post_net.parameters():
            weight.normal_()
    one, two = torch.randn(2, B, T, next(dynamics.post_net.parameters()).shape[-1])
    actions = torch.randn(B, T, A)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True

    def find_means(embed):
        return dynamics.observe(embed, actions, is_first, {})[0]["mean"]

    with torch.no_grad():
        middle, ends = find_means((one + two) / 2), (find_means(one) + find_means(two)) / 2
    assert ((middle - ends).abs().max() < 1e-4) == (widths == "shared")
    if widths == "shared":
        assert dynamics.raw_width.shape == (SIZE,)


def test_a_given_start_leads_to_the_first_step():
    model, dynamics = make_dynamics()
    batch = random_batch()
    embed, post, prior = model.observe(batch)
    first = batch["is_first"][:, 2:].bool()
    start = map_state(post, lambda v: v[:, 1])
    later, later_prior = dynamics.observe(embed[:, 2:], batch["prev_action"][:, 2:], first, start)
    for key in ("mean", "cov"):
        torch.testing.assert_close(later[key], post[key][:, 2:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(later_prior[key], prior[key][:, 2:], rtol=1e-4, atol=1e-4)


def test_nothing_crosses_an_episodes_border():
    _, dynamics = make_dynamics()
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 3] = True
    for broken, whole in ((2, slice(3, T)), (5, slice(0, 3))):
        embed = torch.randn(B, T, dynamics.post_net.hidden[0].in_features)
        embed[:, broken] = float("nan")
        post, prior = dynamics.observe(embed, torch.randn(B, T, A), first, {})
        assert post["mean"][:, broken].isnan().all()
        for state in (post, prior):
            assert all(v[:, whole].isfinite().all() for v in state.values())


def test_samples_have_the_moments_of_the_posterior():
    model, dynamics = make_dynamics()
    rows = {k: v[:1].expand(4000, *v.shape[1:]) for k, v in random_batch().items()}
    with torch.no_grad():
        _, post, _ = model.observe(rows)
    stoch = post["stoch"][:, 3]
    np.testing.assert_allclose(stoch.mean(0), post["mean"][0, 3], atol=0.05)
    np.testing.assert_allclose(np.cov(stoch.T), post["cov"][0, 3], atol=0.06)


def test_imagined_steps_and_the_linearization_are_the_equation():
    _, dynamics = make_dynamics()
    z, action = torch.randn(4000, SIZE)[:1].expand(4000, -1), torch.randn(1, A).expand(4000, -1)
    matrix, gain, offset = dynamics.linearize(z, action)
    mean = (matrix @ z[..., None] + gain @ action[..., None]).squeeze(-1) + offset
    with torch.no_grad():
        found = dynamics.imagine_step({"stoch": z}, action, torch.Generator())
    torch.testing.assert_close(found["mean"], mean.detach())
    torch.testing.assert_close(dynamics.predict_features(z, action), mean)
    np.testing.assert_allclose(found["stoch"].mean(0), found["mean"][0], atol=0.08)
    np.testing.assert_allclose(
        found["stoch"].var(0), dynamics.prior_net.noise.diagonal().detach(), rtol=0.1
    )
    change, push = torch.randn(3, SIZE), torch.randn(3, A)
    moved = (matrix[:3] @ change[..., None] + gain[:3] @ push[..., None]).squeeze(-1)
    torch.testing.assert_close(dynamics.apply_linearization(z[:3], action, change, push), moved)


def test_the_kl_of_distributions_is_that_of_gaussians(monkeypatch):
    model, dynamics = make_dynamics()
    without_noise(model, monkeypatch)
    embed, post, prior = model.observe(random_batch())
    found, whole = dynamics.kl(dynamics.distribution(post), prior), dynamics.kl(post, prior)
    for b, t in ((0, 0), (1, 4), (2, 6)):
        own, other = ([to_numpy(x[k][b, t]) for k in ("mean", "cov")] for x in (post, prior))
        np.testing.assert_allclose(
            to_numpy(found[b, t]), compute_joint_kl(*own, *other), rtol=1e-3
        )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(dynamics.kl(post, prior), whole)
        torch.testing.assert_close(dynamics.kl(dynamics.distribution(post), prior), found)
    seen = dynamics.infer_latent(post, embed)  # the step's own observation, on its prediction
    torch.testing.assert_close(seen["mean"], post["filter_mean"])


def test_the_table_of_log_probabilities_is_that_of_gaussians():
    model, dynamics = make_dynamics()
    _, post, prior = model.observe(random_batch())
    table = to_numpy(dynamics.tabulate_log_probs(post, prior))
    assert table.shape == (B * T, B * T)
    z, mean, cov = (
        to_numpy(v).reshape(B * T, *v.shape[2:]) for v in (post["stoch"], *prior.values())
    )
    for i, j in ((0, 0), (3, 11), (20, 4)):
        apart = z[i] - mean[j]
        want = -0.5 * apart @ np.linalg.inv(cov[j]) @ apart
        want -= 0.5 * np.linalg.slogdet(2 * np.pi * cov[j])[1]
        assert table[i, j] == pytest.approx(want, rel=1e-3)


def test_noise_and_spread_are_those_that_training_begins_with():
    dynamics = make(*KIND, "linear_gaussian.noise=0.3")[1].dynamics
    std = dynamics.prior_net.noise.diagonal().sqrt()
    torch.testing.assert_close(std, torch.full((SIZE,), 0.3))
    wide = make(*KIND, "linear_gaussian.spread=5")[1].dynamics.post_net.out.weight
    usual = dynamics.post_net.out.weight
    torch.testing.assert_close(wide[:SIZE], 5 * usual[:SIZE])
    torch.testing.assert_close(wide[SIZE:], usual[SIZE:])


def test_a_step_whose_noise_is_below_its_least_is_refused():
    keys = ["model.min_std=0.2", "linear_gaussian.noise=0.1"]
    with pytest.raises(loading.ConfigError, match="linear_gaussian.noise: 0.1 is not above"):
        loading.parse(["debug", "model.latent=gaussian", *KIND, *keys])


def test_a_latent_of_classes_is_refused_in_one_line():
    with pytest.raises(loading.ConfigError, match="linear_gaussian moves a Gaussian"):
        loading.parse(["debug", "model.dynamics=linear_gaussian", "model.latent=categorical"])


def test_the_centre_of_distributions_is_the_gaussian_of_their_mixture():
    _, dynamics = make_dynamics()
    g = torch.Generator().manual_seed(0)
    mean, root = torch.randn(7, SIZE, generator=g), torch.randn(7, SIZE, SIZE, generator=g)
    cov = root @ root.mT
    found = dynamics.centre({"mean": mean, "cov": cov})
    torch.testing.assert_close(found["mean"], mean.mean(0))
    second = (cov + mean.unsqueeze(-1) @ mean.unsqueeze(-2)).mean(0)
    apart = second - found["mean"].unsqueeze(-1) @ found["mean"].unsqueeze(-2)
    torch.testing.assert_close(found["cov"], apart, rtol=1e-4, atol=1e-5)

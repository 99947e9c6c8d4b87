"""Planners must reach known optima, inside the box, reproducibly, for each problem of a batch on
its own.
"""

import numpy as np
import pytest
import torch

from plan_problems import Smooth
from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import states_fact
from worldmodel.evaluation.returns.drivers import ICEM_OVERRIDES
from worldmodel.policy.planners.proposals import Box, OneHot, SeededProposal, colour_noise
from worldmodel.spaces import ActionSpace

BATCH, HORIZON, SIZE = 3, 5, 2


PLANNERS = [*registry.PLANNERS, "icem"]
SAMPLING = [  # these take choices as well
    name
    for name in PLANNERS
    if not states_fact(registry.PLANNERS.get(name, ""), "needs_continuous")
]


def planner(name, **changes):
    """A planner by name; icem stands for cem with what its preset adds."""
    if name == "icem":
        added = {key.removeprefix("planner."): value for key, value in ICEM_OVERRIDES}
        name, changes = "cem", {"elites": 20, **added, **changes}
    args = [
        f"planner.{k}={v}"
        for k, v in {
            "name": name,
            "candidates": 400,
            "iterations": 12,
            "elites": 40,
            "temperature": 0.5,
            **({"iterations": 60} if name == "gradient" else {}),
            **changes,
        }.items()
    ]
    return build.make_planner(loading.parse(args).planner)


def plan(name, score, proposal, size=SIZE, seed=0, horizon=HORIZON, **changes):
    mean, std = proposal.start(BATCH, horizon, size)
    return planner(name, **changes)(
        Smooth(score, BATCH, size), mean, std, proposal, torch.Generator().manual_seed(seed)
    )


def quadratic(target):
    """-(distance to a target per batch entry)^2: (B,N,H,A) -> (B,N)."""
    return lambda candidates: -(candidates - target.unsqueeze(1)).square().sum((-2, -1))


def test_a_search_begins_with_equal_probabilities_in_each_group():
    mean, _ = OneHot(ActionSpace(5, groups=(2, 3))).start(BATCH, HORIZON, 5)
    expected = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]).expand(BATCH, HORIZON, 5)
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("name", PLANNERS)
def test_reaches_the_optimum_of_a_quadratic_inside_the_box(name):
    # Random shooting can't be sharp in ten dimensions: it gets two, and more draws.
    horizon, candidates = (1, 6000) if name == "shooting" else (HORIZON, 400)
    target = torch.linspace(-0.8, 0.8, BATCH * horizon * SIZE).view(BATCH, horizon, SIZE)
    found = plan(name, quadratic(target), Box(), horizon=horizon, candidates=candidates)
    torch.testing.assert_close(found, target, atol=0.06, rtol=0)


@pytest.mark.parametrize("name", PLANNERS)
def test_an_optimum_outside_the_box_gives_its_nearest_corner(name):
    target = torch.full((BATCH, HORIZON, SIZE), 3.0)
    target[1] = -3.0
    found = plan(name, quadratic(target), Box())
    assert (found.abs() <= 1).all()
    if name != "shooting":
        torch.testing.assert_close(found, target.sign(), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", PLANNERS)
def test_candidates_never_leave_an_uneven_box(name):
    seen = []

    def score(candidates):
        seen.append((candidates.min().item(), candidates.max().item()))
        return candidates.sum((-2, -1))

    found = plan(name, score, Box(-0.2, 0.7))
    assert (
        min(low for low, _ in seen) >= -0.2 - 1e-6 and max(high for _, high in seen) <= 0.7 + 1e-6
    )
    assert found.max() <= 0.7 + 1e-6


def double_integrator(candidates):
    """Drive a unit mass from rest at 1 to the origin; quadratic cost, bounded force."""
    position = torch.ones(candidates.shape[:2])
    speed = torch.zeros_like(position)
    cost = torch.zeros_like(position)
    for t in range(candidates.shape[2]):
        force = candidates[:, :, t, 0]
        speed = speed + 0.5 * force
        position = position + 0.5 * speed
        cost = cost + position.square() + 0.1 * speed.square() + 0.05 * force.square()
    return -cost


def exact_double_integrator(horizon):
    """The same bounded problem is a convex quadratic program: projected gradient to
    convergence. The gradient is linear in the forces: autograd finds all of it at nine places.
    """

    def find_gradient(force):
        force = force.view(1, 1, horizon, 1).requires_grad_()
        return torch.autograd.grad(double_integrator(force).sum(), force)[0].view(-1)

    rest = find_gradient(torch.zeros(horizon))
    slopes = torch.stack([find_gradient(one) - rest for one in torch.eye(horizon)])
    force = torch.zeros(horizon)
    for _ in range(4000):
        force = (force + 0.02 * (rest + force @ slopes)).clamp(-1, 1)
    return double_integrator(force.view(1, 1, horizon, 1)).item()


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "shooting"])
def test_solves_a_bounded_double_integrator(name):
    horizon = 8
    best = exact_double_integrator(horizon)
    found = plan(name, double_integrator, Box(), size=1, horizon=horizon)
    scores = double_integrator(found.unsqueeze(1)).squeeze(1)
    assert (scores >= best * 1.02).all() and (scores <= best + 1e-4).all(), (scores, best)


SPACE = ActionSpace(5, (2, 3))


@pytest.mark.parametrize("name", SAMPLING)
def test_discrete_plans_find_the_best_code(name):
    horizon = 3
    want = torch.randint(0, 2, (BATCH, horizon), generator=torch.Generator().manual_seed(1))
    target = SPACE.one_hot([want, want + 1])
    seen = []

    def score(candidates):
        seen.append(candidates)
        return (candidates * target.unsqueeze(1)).sum((-2, -1))

    found = plan(name, score, OneHot(SPACE), size=5, horizon=horizon)
    every = torch.cat([found.unsqueeze(1), *seen], 1)
    assert ((every == 0) | (every == 1)).all()
    assert (every[..., :2].sum(-1) == 1).all() and (every[..., 2:].sum(-1) == 1).all()
    wrong = (found != target).any(-1).sum()
    assert wrong == 0 if name != "shooting" else wrong <= 2


@pytest.mark.parametrize("name", PLANNERS)
def test_a_seed_fixes_the_plan_and_another_changes_it(name):
    target = torch.full((BATCH, HORIZON, SIZE), 0.9)
    first, same, other = (
        plan(name, quadratic(target), Box(), seed=s, iterations=2) for s in (4, 4, 5)
    )
    draws_nothing = name == "ilqr"
    assert torch.equal(first, same) and torch.equal(first, other) == draws_nothing


@pytest.mark.parametrize("name", PLANNERS)
def test_non_finite_scores_are_never_chosen(name):
    def score(candidates):
        total = candidates.sum((-2, -1))
        return torch.where(total > 0, torch.full_like(total, float("nan")), total)

    assert (plan(name, score, Box()).sum((-2, -1)) <= 0.2).all()


def test_the_search_starts_where_it_is_told():
    target = torch.full((BATCH, HORIZON, SIZE), 0.9)
    near = planner("cem", iterations=1)(
        quadratic(target),
        target,
        torch.full_like(target, 0.05),
        Box(),
        torch.Generator().manual_seed(0),
    )
    assert (near - target).abs().max() < 0.1


def test_mppi_temperature_moves_between_the_best_and_the_mean_of_the_elites():
    target = torch.full((BATCH, HORIZON, SIZE), 0.5)
    errors = []
    for temperature in (0.01, 1.0, 100.0):
        found = plan(
            "mppi", quadratic(target), Box(), iterations=1, temperature=temperature, elites=200
        )
        errors.append((found - target).norm().item())
    # Few draws around the start: the elites' mean lies nearer the optimum than the single best
    # one.
    assert len(set(np.round(errors, 4))) == 3 and errors[2] < errors[0]


def rounds(horizon=4, **changes):
    """The candidates of each round of a search for zero."""
    seen = []

    def score(candidates):
        seen.append(candidates.clone())
        return -candidates.square().sum((-2, -1))

    plan("cem", score, Box(), horizon=horizon, **changes)
    return seen


def test_kept_elites_stand_again_and_rounds_shrink():
    seen = rounds(candidates=100, iterations=4, elites=10, keep=0.3, decay=2.0)
    assert [c.shape[1] for c in seen] == [100, 50, 40, 40]
    for before, after in zip(seen, seen[1:], strict=False):
        best = before.square().sum((-2, -1)).topk(3, largest=False).indices
        torch.testing.assert_close(
            after[:, -3:], before.gather(1, best[..., None, None].expand(-1, -1, 4, SIZE))
        )
    assert all(c.shape[1] == 100 for c in rounds(candidates=100, iterations=3, elites=10))


def test_drafts_never_fill_a_shrunken_round():
    drafts = torch.full((BATCH, 30, HORIZON, SIZE), 0.25)
    drawn = SeededProposal(Box(), drafts).sample(
        torch.zeros(BATCH, HORIZON, SIZE), torch.ones(BATCH, HORIZON, SIZE), 20, None
    )
    assert (
        drawn.shape == (BATCH, 20, HORIZON, SIZE)
        and not (drawn[:, 0] == 0.25).any()
        and (drawn[:, 1:] == 0.25).all()
    )


@pytest.mark.parametrize("horizon", [1, 2, 7, 12])
@pytest.mark.parametrize("color", [0.5, 2.0, 4.0])
def test_coloured_noise_has_unit_variance_and_pushes_one_way_for_longer(horizon, color):
    white = torch.randn(20000, horizon, 1, generator=torch.Generator().manual_seed(0))
    noise = colour_noise(white, color)
    torch.testing.assert_close(noise.std(0), torch.ones(horizon, 1), atol=0.03, rtol=0)
    if horizon > 2:
        together = (noise[:, 1:] * noise[:, :-1]).mean()
        assert together > 0.15 * color and together > (white[:, 1:] * white[:, :-1]).mean() + 0.1


def test_a_box_draws_noise_of_the_colour_it_is_given():
    zero, one = torch.zeros(2, 12, 1), torch.ones(2, 12, 1)
    white, coloured = (
        Box(-9.0, 9.0, color=color).sample(zero, one, 500, torch.Generator().manual_seed(0))
        for color in (0.0, 2.0)
    )
    torch.testing.assert_close(coloured, colour_noise(white, 2.0))
    assert not torch.equal(white, coloured)
    _, std = Box().start(1, 3, 2)
    assert (std == 1.0).all()


def test_scores_of_the_wrong_shape_are_caught():
    with pytest.raises(AssertionError):
        plan("cem", lambda candidates: candidates.sum(-1), Box())

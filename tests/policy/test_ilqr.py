"""Iterative LQR: exact where problems are linear-quadratic, bounded, and it descends elsewhere."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from plan_problems import Problem
from worldmodel.policy.planners.bounded_quadratic import minimize_in_box
from worldmodel.policy.planners.ilqr import (
    ILQR,
    LEAST,
    Regularization,
    draw_plans,
    drop_non_finite,
    roll_out,
    solve_backwards,
)
from worldmodel.policy.planners.proposals import Box

B, N, A, H = 3, 4, 2, 9
WIDE = (-1e6, 1e6)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def draw_definite(size, seed, least=0.1):
    factor = draw(B, size, size, seed=seed)
    return factor @ factor.mT + least * torch.eye(size)


def square(matrix, vectors):
    return 0.5 * torch.einsum("...bi,bij,...bj->...b", vectors, matrix, vectors)


class LinearQuadratic(Problem):
    """x' = F x + G u, costs x'Qx/2 + u'Ru/2 + x'Su, and x'Px/2 at the end; or unlike at each t."""

    def __init__(self, varies=False, spread=1.0):
        super().__init__(spread * draw(B, N, seed=1), H)
        self.F, self.G = 0.6 * draw(B, N, N, seed=2), draw(B, N, A, seed=3)
        self.Q, self.R, self.P = (draw_definite(n, s) for n, s in ((N, 4), (A, 5), (N, 6)))
        self.S = 0.1 * draw(B, N, A, seed=7)
        self.scale = 1.0 + 0.3 * varies * (torch.arange(H) % 3).double()

    def advance(self, rows):
        state, action = rows[..., :N], rows[..., N:]
        after = torch.einsum("bij,...bj->...bi", self.F, state)
        return after + torch.einsum("bij,...bj->...bi", self.G, action)

    def measure(self, rows, last, time):
        state, action = rows[..., :N], rows[..., N:]
        cross = torch.einsum("...bi,bij,...bj->...b", state, self.S, action)
        cost = self.scale[time] * (square(self.Q, state) + square(self.R, action) + cross)
        return cost + torch.where(last, square(self.P, self.advance(rows)), 0.0)

    def matrices(self, b):
        return (m[b].numpy() for m in (self.F, self.G, self.Q, self.R, self.S, self.P))


def solve_riccati(problem, b):
    """Gains (H,A,N) and plan (H,A) of one problem, by the recursion of the textbook."""
    f, g, q, r, s, p = problem.matrices(b)
    gains = []
    for scale in problem.scale.numpy()[::-1]:
        gain = np.linalg.solve(scale * r + g.T @ p @ g, g.T @ p @ f + scale * s.T)
        p = scale * q + f.T @ p @ f - (f.T @ p @ g + scale * s) @ gain
        gains.append(gain)
    state, plan = problem.start[b].numpy(), []
    for gain in gains[::-1]:
        plan.append(-gain @ state)
        state = f @ state + g @ plan[-1]
    return np.stack(gains[::-1]), np.stack(plan)


def make(iterations=100, mu=0.0, restarts=0, reach=1.0):
    settings = {"iterations": iterations, "mu": mu, "control": 1e-3}
    settings |= {"restarts": restarts, "reach": reach}
    return ILQR(SimpleNamespace(**settings))


def improve(problem, limits=WIDE, plan=None, **keys):
    start = torch.zeros(problem.horizon, len(problem.start), A).double() if plan is None else plan
    return make(**keys).improve(problem, start, limits)


def total(problem, plan):
    return roll_out(problem, plan)[1].sum(0)


@pytest.mark.parametrize("varies", [False, True])
def test_one_step_solves_a_linear_quadratic_problem(varies):
    problem = LinearQuadratic(varies)
    found = improve(problem, iterations=1)
    for b in range(B):
        _, plan = solve_riccati(problem, b)
        np.testing.assert_allclose(found[:, b], plan, atol=1e-9)


@pytest.mark.parametrize("mu", [1e-3, 1.0, 100.0])
def test_regularisation_slows_it_down_and_leaves_the_solution(mu):
    problem = LinearQuadratic()
    first, last = (improve(problem, iterations=n, mu=mu) for n in (1, 100))
    for b in range(B):
        _, plan = solve_riccati(problem, b)
        np.testing.assert_allclose(last[:, b], plan, atol=1e-6)
    assert (total(problem, first) > total(problem, last) + 1e-9).all()


def solve_once(problem, limits=WIDE, mu=0.0):
    plan = torch.zeros(H, B, A).double()
    states, _ = roll_out(problem, plan)
    return solve_backwards(
        problem.linearize(states[:-1], plan),
        problem.expand_cost(states[:-1], plan),
        plan,
        limits,
        torch.full((B,), mu).double(),
        torch.ones(B).bool(),
    )


def test_gains_are_those_of_riccati_and_of_its_steady_state():
    problem = LinearQuadratic()
    policy = solve_once(problem)
    for b in range(B):
        np.testing.assert_allclose(-policy.gains[:, b], solve_riccati(problem, b)[0], atol=1e-9)
    for b in range(B):  # ended by the solution of the algebraic equation, every step is alike
        f, g, q, r, s, _ = problem.matrices(b)
        problem.P[b] = torch.from_numpy(scipy.linalg.solve_discrete_are(f, g, q, r, s=s))
    steady = solve_once(problem)
    for b in range(B):
        f, g, q, r, s, p = problem.matrices(b)
        gain = np.linalg.solve(r + g.T @ p @ g, g.T @ p @ f + s.T)
        np.testing.assert_allclose(-steady.gains[:, b], np.stack([gain] * H), atol=1e-7)
    assert not policy.fails.any() and (policy.gains[0] - steady.gains[0]).abs().max() < 0.1


def condense(problem, b):
    """The Hessian and gradient of the cost of one problem by its whole plan."""

    def cost(flat):
        plan = torch.zeros(H, B, A).double()
        plan[:, b] = flat.view(H, A)
        return total(problem, plan)[b]

    zero = torch.zeros(H * A).double()
    gradient = torch.autograd.functional.jacobian(cost, zero)
    return torch.autograd.functional.hessian(cost, zero).numpy(), gradient.numpy()


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_bounded_problems_end_at_the_optimum_of_their_quadratic_program(mu):
    problem, limits = LinearQuadratic(spread=3.0), (-0.4, 0.7)
    found = improve(problem, limits, mu=mu)
    assert (found >= limits[0]).all() and (found <= limits[1]).all()
    for b in range(B):
        hessian, gradient = condense(problem, b)
        factor = np.linalg.cholesky(hessian)
        wanted = scipy.optimize.lsq_linear(
            factor.T, -np.linalg.solve(factor, gradient), limits, method="bvls", tol=1e-14
        )
        plan = wanted.x.reshape(H, A)
        assert 0.1 < np.isin(plan, limits).mean() < 0.9  # some of each
        np.testing.assert_allclose(found[:, b], plan, atol=1e-6)


def test_actions_at_a_bound_have_no_gains():
    problem = LinearQuadratic(spread=3.0)
    limits = (-0.4, 0.7)
    policy = solve_once(problem, limits)
    bound = (policy.feedforward == limits[0]) | (policy.feedforward == limits[1])
    assert bound.any() and not bound.all()
    assert (policy.gains[bound] == 0).all() and (policy.gains[~bound].abs().amax(-1) > 0).all()


# -- quadratic programs in a box ------------------------------------------------------------------
def solve_by_trying(hessian, gradient, low, high):
    """The least of all points that are stationary with some entries at some bounds."""
    best, point = np.inf, None
    for sides in itertools.product((-1, 0, 1), repeat=len(gradient)):
        free = np.array(sides) == 0
        x = np.where(np.array(sides) < 0, low, high)
        if free.any():
            rest = gradient[free] + hessian[np.ix_(free, ~free)] @ x[~free]
            x[free] = np.linalg.solve(hessian[np.ix_(free, free)], -rest)
        if (x < low - 1e-12).any() or (x > high + 1e-12).any():
            continue
        value = 0.5 * x @ hessian @ x + gradient @ x
        if value < best:
            best, point = value, x
    return point


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_a_quadratic_program_ends_where_trying_every_bound_does(size, spread):
    count = 40
    factor = draw(count, size, size, seed=size)
    hessian = factor @ factor.mT + 0.05 * torch.eye(size)
    gradient, low = spread * draw(count, size, seed=9), -draw(count, size, seed=10).abs()
    high = draw(count, size, seed=11).abs()
    found = minimize_in_box(hessian, gradient, low, high, start=draw(count, size, seed=12))
    assert not found.fails.any()
    for i in range(count):
        wanted = solve_by_trying(*(m[i].numpy() for m in (hessian, gradient, low, high)))
        np.testing.assert_allclose(found.x[i], wanted, atol=1e-8)
        inside = (wanted > low[i].numpy() + 1e-9) & (wanted < high[i].numpy() - 1e-9)
        assert (found.free[i].numpy() | ~inside).all()
        right = draw(size, 3, seed=13).expand(count, -1, -1)
        solved = found.divide(right)[i].numpy()
        free = found.free[i].numpy()
        block = hessian[i].numpy()[np.ix_(free, free)]
        np.testing.assert_allclose(block @ solved[free], right[i].numpy()[free], atol=1e-8)
        assert (solved[~free] == 0).all()


def test_a_program_that_has_no_curvature_somewhere_is_told_apart():
    hessian = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))] * 2).double()
    hessian = torch.cat([hessian, hessian[:1]])
    hessian[4, 0, 1] = torch.nan  # above the diagonal, which no factorisation reads
    gradient = torch.tensor([[0.1, 0.1]] * 5).double()
    low, high = -torch.ones(5, 2).double(), torch.ones(5, 2).double()
    found = minimize_in_box(hessian, gradient, low, high, torch.zeros(5, 2).double())
    assert found.fails.tolist() == [False, True, False, True, True]
    torch.testing.assert_close(found.x[0], torch.tensor([-0.1, -0.1]).double())
    assert torch.isfinite(found.x[:3]).all()


# -- where problems are not quadratic -------------------------------------------------------------
def test_regularisation_grows_and_shrinks_by_the_published_schedule():
    mu = torch.tensor([1.0, 1.0, 0.0]).double()
    both = Regularization(mu)
    grows = torch.tensor([True, False, True])
    for _ in range(3):
        both.grow(grows)
    torch.testing.assert_close(
        both.mu, torch.tensor([1.6 ** (1 + 2 + 3), 1.0, LEAST * 1.6 ** (2 + 3)]).double()
    )
    both.shrink(grows)  # the factor is 1.6^3 / 1.6, at most 1 / 1.6
    torch.testing.assert_close(both.mu[0], torch.tensor(1.6 ** (6 - 1)).double())
    both.shrink(torch.tensor([False, True, True]))
    torch.testing.assert_close(both.mu[1], torch.tensor(1 / 1.6).double())
    for _ in range(12):
        both.shrink(torch.ones(3).bool())
    assert both.mu.tolist() == [0.0, 0.0, 0.0]


class Pendulum(Problem):
    """Swing up a pendulum whose motor cannot lift it at once; the angle is 0 when it stands."""

    def __init__(self, horizon=60):
        start = torch.tensor([[np.pi, 0.0], [np.pi - 0.3, 0.5], [1.0, 0.0]]).double()
        super().__init__(start, horizon)

    def advance(self, rows):
        angle, speed, torque = rows.unbind(-1)
        speed = speed + 0.05 * (9.81 * angle.sin() + 6.0 * torque - 0.1 * speed)
        return torch.stack([angle + 0.05 * speed, speed], -1)

    def measure(self, rows, last, time):
        angle, speed = self.advance(rows).unbind(-1)
        weight = torch.where(last, 20.0, 0.2)
        return weight * (1 - angle.cos() + 0.05 * speed.square()) + 1e-3 * rows[..., 2].square()


def find_projected_gradient(problem, plan):
    with torch.enable_grad():
        u = plan.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(total(problem, u).sum(), u)
    down = plan - gradient
    return down.clamp(-1, 1) - plan


def test_a_pendulum_is_swung_up_and_nothing_improves_the_plan_further():
    problem = Pendulum()
    plan = torch.zeros(60, 3, 1).double()
    plan[:5] = 0.1
    found = make(iterations=500, mu=1.0).improve(problem, plan, (-1.0, 1.0))
    states, costs = roll_out(problem, found)
    assert (found.abs() <= 1).all() and (found.abs() == 1).any()
    assert (states[-1, :, 0].cos() > 0.99).all() and (states[-1, :, 1].abs() < 0.5).all()
    assert find_projected_gradient(problem, found).abs().max() < 1e-3
    assert (costs.sum(0) < 0.7 * total(problem, plan)).all()
    assert 6.0 < 9.81  # the motor alone cannot hold it level


def test_each_round_lowers_the_cost_or_leaves_the_plan():
    problem, plan = Pendulum(), torch.full((60, 3, 1), 0.1).double()
    costs = torch.stack(
        [
            total(problem, make(iterations=n, mu=1.0).improve(problem, plan, (-1.0, 1.0)))
            for n in (1, 3, 9)
        ]
    )
    assert (costs[1:] <= costs[:-1]).all() and (costs[-1] < costs[0]).all()
    assert (costs[0] < total(problem, plan)).all()


def test_problems_of_a_batch_are_solved_one_by_one():
    problem, plan = Pendulum(30), torch.full((30, 3, 1), 0.1).double()
    together = make(iterations=10, mu=1.0).improve(problem, plan, (-1.0, 1.0))
    for b in range(3):
        alone = Pendulum(30)
        alone.start = problem.start[b : b + 1]
        found = make(iterations=10, mu=1.0).improve(alone, plan[:, :1], (-1.0, 1.0))
        torch.testing.assert_close(found[:, 0], together[:, b], atol=1e-6, rtol=0)


class Rough(Pendulum):
    """Costs that are infinite or have no derivative somewhere."""

    def measure(self, rows, last, time):
        cost = super().measure(rows, last, time)
        spike = (rows[..., 2] - 0.5).abs().sqrt()  # its derivative at 0.5 is infinite
        return torch.where(rows[..., 2] > 0.8, torch.inf, cost + 1e-3 * spike)


def test_infinite_costs_are_avoided_and_infinite_derivatives_survived():
    problem, plan = Rough(30), torch.full((30, 3, 1), 0.5).double()
    found = make(iterations=10, mu=1.0).improve(problem, plan, (-1.0, 1.0))
    assert torch.isfinite(found).all() and (found <= 0.8).all()
    assert (total(problem, found) < total(problem, plan)).all()


class Broken(LinearQuadratic):
    """A Hessian that no regularisation makes definite."""

    def expand_cost(self, states, actions):
        gradient, hessian = super().expand_cost(states, actions)
        hessian[:, 1, N:, N:] -= 1e12 * torch.eye(A)
        return gradient, hessian


def test_a_hopeless_problem_keeps_its_plan_and_leaves_the_others_alone():
    problem = Broken()
    found = improve(problem, iterations=5)
    assert (found[:, 1] == 0).all()
    for b in (0, 2):
        np.testing.assert_allclose(found[:, b], solve_riccati(problem, b)[1], atol=1e-9)


class Valleys(Problem):
    """One step, whose cost by the action has a shallow valley at 0 and deep ones beyond."""

    def advance(self, rows):
        return rows[..., :1]

    def measure(self, rows, last, time):
        action = rows[..., 1]
        return -torch.exp(-20 * action**2) - 2 * torch.exp(-20 * (action.abs() - 0.7) ** 2)


class Score:
    def __init__(self, problem):
        self.problem = problem

    def make_problem(self, horizon, control, copies=1):
        if copies == 1:
            return self.problem
        return type(self.problem)(self.problem.start.repeat(copies, 1), horizon)


def test_restarts_leave_a_valley_for_a_deeper_one_and_the_first_plan_is_kept_if_it_is_best():
    proposal = Box(-1.0, 1.0)
    score = Score(Valleys(torch.zeros(40, 1).double(), 1))
    mean = torch.full((40, 1, 1), 0.05)
    alone, among = (
        make(iterations=20, mu=0.1, restarts=n)(
            score, mean, mean, proposal, torch.Generator().manual_seed(0)
        )
        for n in (0, 7)
    )
    assert alone.abs().max() < 0.1
    assert (among.abs() > 0.6).float().mean() > 0.9
    best = torch.full((40, 1, 1), 0.7)
    kept = make(iterations=20, mu=0.1, restarts=7)(
        score, best, best, proposal, torch.Generator().manual_seed(0)
    )
    assert (kept.abs() - 0.7).abs().max() < 0.05


def test_half_the_random_plans_are_uniform_and_the_others_at_a_bound():
    generator = torch.Generator().manual_seed(0)
    plans = draw_plans(torch.zeros(50, 3, 2), 5, (-2.0, 1.0), generator)
    assert len(plans) == 5
    for number, plan in enumerate(plans):
        at_bounds = ((plan == -2.0) | (plan == 1.0)).all()
        assert at_bounds == (number >= 3)
        assert plan.min() < -1.9 and plan.max() > 0.9
        assert plan.mean() == pytest.approx(-0.5, abs=0.25)


def test_a_wider_reach_solves_without_bounds_and_clamps_at_last():
    problem, mean = LinearQuadratic(spread=5.0), torch.zeros(B, H, A).double()

    def find(reach):
        planner = make(iterations=20, mu=1e-5, reach=reach)
        return planner(Score(problem), mean, mean, Box(-1.0, 1.0))

    free = torch.stack([torch.tensor(solve_riccati(problem, b)[1]) for b in range(B)])
    assert free.abs().max() > 2, "the bounds matter"
    torch.testing.assert_close(find(1e6), free.clamp(-1, 1), atol=1e-6, rtol=0)
    assert (find(1.0) - free.clamp(-1, 1)).abs().max() > 0.1


class Abyss(Valleys):
    """The deepest valley lies beyond the bounds, at 1.8."""

    def measure(self, rows, last, time):
        return super().measure(rows, last, time) - 9 * torch.exp(-4 * (rows[..., 1] - 1.8) ** 2)


def test_restarts_with_a_wider_reach_are_compared_as_they_are_carried_out():
    """The plan at 1.8 costs least, but clamped to 1 it costs more than that at 0.7."""
    problem, mean = Abyss(torch.zeros(20, 1).double(), 1), torch.ones(20, 1, 1)
    at = {x: total(problem, torch.full((1, 20, 1), x).double())[0] for x in (0.7, 1.0, 1.8)}
    assert at[1.8] < at[0.7] < at[1.0]

    def find(restarts):
        planner = make(iterations=20, mu=0.1, restarts=restarts, reach=2.0)
        return planner(Score(problem), mean, mean, Box(), torch.Generator().manual_seed(0))

    assert torch.equal(find(0), mean), "the last plan ends at 1.8"
    torch.testing.assert_close(find(15).abs(), torch.full_like(mean, 0.7), atol=0.02, rtol=0)


def test_derivatives_that_are_not_finite_count_as_none():
    wild = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0])
    for found in drop_non_finite((wild, wild)):
        assert found.tolist() == [0.0, 0.0, 0.0, 2.0]

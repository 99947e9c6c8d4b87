"""The gradient planner: Adam's steps, each restart on its own, and models that pass gradients."""

import pytest
import torch

from plan_problems import Smooth
from runs import evaluate, seed_dir, train
from worldmodel import build
from worldmodel.config import loading
from worldmodel.config.yaml_io import ConfigError
from worldmodel.errors import UsageError
from worldmodel.kernels.packing import fixed_weights
from worldmodel.policy.planners.gradient import Adam, Squashing
from worldmodel.policy.planners.proposals import Box, SeededProposal
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

BATCH, HORIZON, SIZE = 3, 4, 2
BOXES = ("project", "squash")


def make_planner(**keys):
    keys = {"candidates": 20, "elites": 5, "iterations": 150, "rate": 0.05, **keys}
    return build.make_planner(
        loading.parse(
            ["planner.name=gradient", *(f"planner.{k}={v}" for k, v in keys.items())]
        ).planner
    )


def search(score, proposal=None, mean=None, seed=0, batch=BATCH, **keys):
    proposal = proposal or Box()
    start, std = proposal.start(batch, HORIZON, SIZE)
    generator = torch.Generator().manual_seed(seed)
    return make_planner(**keys)(score, start if mean is None else mean, std, proposal, generator)


def make_quadratic(seed=0, spread=1.0):
    """A concave quadratic of all actions of a plan together, and where it is greatest."""
    torch.manual_seed(seed)
    factor = torch.randn(BATCH, HORIZON * SIZE, HORIZON * SIZE)
    hessian = factor @ factor.mT / (HORIZON * SIZE) + 0.3 * torch.eye(HORIZON * SIZE)
    target = spread * (2 * torch.rand(BATCH, HORIZON * SIZE) - 1)

    def score(plans):
        gap = plans.flatten(2) - target.unsqueeze(1)
        return -0.5 * torch.einsum("bni,bij,bnj->bn", gap, hessian, gap)

    return Smooth(score), hessian, target


def maximise_in_box(hessian, target):
    """The same optimum by coordinate ascent, which converges for any box: (B,H,A)."""
    x = torch.zeros_like(target)
    for _ in range(3000):
        for i in range(x.shape[1]):
            slope = torch.einsum("bj,bj->b", hessian[:, i], target - x)
            x[:, i] = (x[:, i] + slope / hessian[:, i, i]).clamp(-1, 1)
    return x.view(-1, HORIZON, SIZE)


@pytest.mark.parametrize("box", BOXES)
def test_it_finds_the_optimum_of_a_quadratic_inside_the_box(box):
    score, _, target = make_quadratic(spread=0.8)
    found = search(score, box=box, iterations=400)
    torch.testing.assert_close(found, target.view_as(found), atol=0.01, rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_it_finds_the_optimum_on_the_border_of_the_box(box):
    """Where it is not the nearest point to the optimum without the box."""
    score, hessian, target = make_quadratic(spread=2.5)
    best = maximise_in_box(hessian, target)
    nearest = target.clamp(-1, 1).view_as(best)
    assert (
        (best - nearest).abs().max() > 0.1 and (best.abs() == 1).any() and (best.abs() < 1).any()
    )
    found = search(score, box=box, iterations=400)
    assert (found.abs() <= 1).all()
    lost = score(best.unsqueeze(1)) - score(found.unsqueeze(1))
    assert (lost > -1e-3).all() and (lost < 0.03).all(), lost
    torch.testing.assert_close(found, best, atol=0.05, rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_an_uneven_box_is_kept_to(box):
    low, high = -0.2, 0.7
    up, down = torch.full((BATCH, HORIZON, SIZE), 3.0), torch.full((BATCH, HORIZON, SIZE), -3.0)
    for target, end in ((up, high), (down, low)):
        score = Smooth(lambda p, t=target: -(p - t.unsqueeze(1)).square().sum((-2, -1)))
        found = search(score, Box(low, high), box=box)
        torch.testing.assert_close(found, torch.full_like(found, end), atol=0.01, rtol=0)
        assert (found >= low).all() and (found <= high).all()


def test_adam_takes_the_steps_of_torch():
    torch.manual_seed(0)
    gradients = torch.randn(7, 3, 2)
    ours, adam = torch.zeros(3, 2), Adam(0.03)
    theirs = torch.zeros(3, 2, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.03, maximize=True)
    for gradient in gradients:
        ours = ours + adam.step(gradient)
        theirs.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach())


def two_peaks(plans):
    """The mean over all actions of two peaks, of height 1 at -0.4 and 2 at 0.6: each action climbs
    the one on whose side it begins.
    """
    low = torch.exp(-((plans + 0.4) / 0.3).square())
    high = 2 * torch.exp(-((plans - 0.6) / 0.3).square())
    return (low + high).mean((-2, -1))


def test_rounds_of_cem_find_the_higher_of_two_peaks():
    def reach(**more):
        plans = search(Smooth(two_peaks), batch=50, candidates=100, elites=10, **more)
        return two_peaks(plans.unsqueeze(1)).squeeze(1)

    plain, helped = reach(), reach(warmup=4)
    assert (helped > 1.99).float().mean() > 0.9 and helped.mean() > 1.95
    assert (plain > 1.99).float().mean() < 0.5 and plain.mean() < 1.9


def test_the_first_plan_begins_at_the_mean_and_a_single_one_needs_no_draws():
    mean = torch.full((BATCH, HORIZON, SIZE), 0.3)
    seen = []

    def score(plans):
        seen.append(plans.detach().clone())
        return plans.sum((-2, -1))

    search(Smooth(score), mean=mean, iterations=1)
    assert torch.equal(seen[0][:, 0], mean) and not torch.equal(seen[0][:, 1], mean)
    torch.testing.assert_close(seen[1][:, 0], mean + 0.05)  # Adam's first step is its rate
    one = search(Smooth(score), mean=mean, candidates=1, elites=1, iterations=1)
    torch.testing.assert_close(one, mean + 0.05)


def test_every_draft_of_an_actor_climbs():
    drafts = torch.full((BATCH, 3, HORIZON, SIZE), 0.45)
    seen = []

    def score(plans):
        seen.append(plans.detach().clone())
        return plans.sum((-2, -1))

    search(Smooth(score), SeededProposal2(drafts), iterations=1, box="squash")
    torch.testing.assert_close(seen[0][:, -3:], drafts)
    assert (seen[1][:, -3:] > 0.45).all()


class SeededProposal2(SeededProposal):
    """With the start that the behavior takes from the box itself."""

    def __init__(self, drafts):
        super().__init__(Box(), drafts)
        self.start = self.inner.start


def test_plans_do_not_disturb_each_other():
    """One plan whose gradient is enormous, and one whose gradient is none at all."""

    def rough(plans):
        total = plans.sum((-2, -1))
        wild = torch.zeros_like(total)
        wild[:, 1] = 1e6 * plans[:, 1].square().sum((-2, -1))
        wild[:, 2] = (plans[:, 2] - 5).sqrt().sum((-2, -1))  # nan, with a gradient that is nan
        return total + wild

    ends = []
    for function in (rough, lambda plans: plans.sum((-2, -1))):
        seen = []

        def score(plans, function=function, seen=seen):
            seen.append(plans.detach().clone())
            return function(plans)

        found = search(Smooth(score), iterations=5)
        assert torch.isfinite(found).all()
        ends.append(seen[-1])
    torch.testing.assert_close(ends[0][:, 3:], ends[1][:, 3:])
    torch.testing.assert_close(ends[0][:, 2], ends[0][:, 2].clamp(-1, 1))


def test_each_problem_of_a_batch_is_solved_on_its_own():
    target = torch.linspace(-0.7, 0.7, BATCH).view(BATCH, 1, 1).expand(-1, HORIZON, SIZE)
    together = search(Smooth(lambda p: -(p - target.unsqueeze(1)).square().sum((-2, -1))))
    torch.testing.assert_close(together, target, atol=0.01, rtol=0)


# -- models ---------------------------------------------------------------------------------------
SPACE = ActionSpace(2)
MODELS = {
    "rssm, gaussian": ("model.latent=gaussian",),
    "rssm, categorical": ("model.latent=categorical",),
    "rssm, two-hot": ("model.latent=deterministic", "model.reward_head=twohot"),
    "ssm": ("model.transition=ssm",),
    "rssm, members": ("ensemble.size=2", "ensemble.of=dynamics"),
    "transformer": ("model.dynamics=transformer",),
    "locally linear": ("model.dynamics=locally_linear",),
    "linear-Gaussian": ("model.dynamics=linear_gaussian",),
    "mlp": ("model.dynamics=mlp", "env.obs=state", "loss.objective={}"),
    "mlp, members": (
        *("model.dynamics=mlp", "env.obs=state", "loss.objective={}"),
        *("ensemble.size=2", "ensemble.of=dynamics", "planner.particles=4"),
    ),
    "pixels, noise": (
        *("model.dynamics=pixels", "loss.objective={}", "pixels.latent=3", "env.size=[8, 8]"),
        *("pixels.channels=6", "pixels.kernels=2"),
    ),
}
# Those whose draws a gradient passes as they are; categorical ones pass straight through.
REPARAMETERISED = (
    *("rssm, gaussian", "locally linear", "linear-Gaussian"),
    *("mlp", "mlp, members", "pixels, noise"),
)


def make_score(*overrides, seed=0):
    """A plan score of states that differ, by a model that has learnt nothing but terminations."""
    c = loading.parse(["debug", "mlp.units=16", *overrides])
    torch.manual_seed(0)
    seen = {"vector": 3} if c.env.obs == "state" else {"image": (*c.env.size, 3)}
    model = build.make_model(c, ObservationSpace(seen), SPACE)
    model.ends.fill_(True)
    if c.model.reward_head != "known":
        model.reward.net.out.weight.data.normal_()
    policy = build.make_policy(c, model, SPACE)
    state = map_state(model.dynamics.initial(BATCH), lambda v: v + 0.1 * torch.randn_like(v))
    make = build.make_plan_score(c, policy, None)
    return make(model, state, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_gradients_pass_through_every_model_and_kernels_step_aside(name, bf16, fixed):
    """Also where the weights are packed already, by scoring without gradients before."""
    plans = torch.rand(BATCH, 70, HORIZON, 2) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        _, wanted = make_score(*MODELS[name]).score_with_gradient(plans)
        score = make_score(*MODELS[name])
        if fixed:
            with fixed_weights():
                make_score(*MODELS[name])(plans)
                score.generator.manual_seed(0)
                score(plans)
                score.generator.manual_seed(0)
                values, found = score.score_with_gradient(plans)
        else:
            values, found = score.score_with_gradient(plans)
    assert torch.isfinite(found).all() and torch.isfinite(values).all()
    assert (found.abs().sum(-1) > 0).float().mean() > 0.99  # at each step of each plan
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", REPARAMETERISED)
@torch.no_grad()
def test_noise_is_a_constant_of_the_gradient(name):
    """Reparameterised: with the same draws, finite differences agree."""
    score = make_score(*MODELS[name])
    plans = torch.rand(BATCH, 4, HORIZON, 2) * 2 - 1

    def measure(these):
        score.generator.manual_seed(3)
        return score(these)

    score.generator.manual_seed(3)
    values, gradient = score.score_with_gradient(plans)
    torch.testing.assert_close(values, measure(plans), rtol=1e-4, atol=1e-5)
    for index in ((0, 0, 0, 0), (1, 2, 3, 1), (2, 3, 1, 0)):
        more, less = plans.clone(), plans.clone()
        more[index] += 0.01
        less[index] -= 0.01
        slope = (measure(more) - measure(less))[index[:2]] / 0.02
        torch.testing.assert_close(gradient[index], slope, rtol=0.01, atol=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_search_leaves_the_parameters_alone(name):
    score = make_score(*MODELS[name])
    parameters = list(score.model.parameters())
    before = [p.requires_grad for p in parameters], [p.detach().clone() for p in parameters]
    assert all(before[0])
    with torch.no_grad():
        search(score, iterations=2)
    assert all(p.grad is None for p in parameters)
    assert before[0] == [p.requires_grad for p in parameters]
    assert all(torch.equal(a, b) for a, b in zip(before[1], parameters, strict=True))


@torch.no_grad()
def test_constant_rewards_have_a_gradient_of_zero():
    keys = ("model.reward_head=known", "model.cont_head=known", "env.task=cartpole")
    score = make_score(*MODELS["mlp"], *keys)
    plans = torch.rand(BATCH, 4, HORIZON, 2)
    values, gradient = score.score_with_gradient(plans)
    assert torch.equal(gradient, torch.zeros_like(plans)) and values.shape == (BATCH, 4)


@torch.no_grad()
def test_climbing_finds_what_an_untrained_model_likes_best():
    """More than as many random plans, and than the mean that it began with."""
    score = make_score("model.latent=deterministic")
    plans = torch.rand(BATCH, 20 * 60, HORIZON, 2) * 2 - 1
    found = search(score, iterations=60, rate=0.1)
    assert (score(found.unsqueeze(1)).squeeze(1) > score(plans).max(1).values).all()


# -- refusals and whole programs ------------------------------------------------------------------
def test_what_has_no_gradient_is_refused():
    with pytest.raises(ConfigError, match="simulator has none; take cem or mppi"):
        loading.parse(["debug", "planner.name=gradient", "model.dynamics=simulator"])
    c = loading.parse(["debug", "planner.name=gradient"])
    space = ActionSpace(3, (3,))
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), space)
    with pytest.raises(UsageError, match=r"planner\.name: gradient moves actions by small steps"):
        build.make_behavior(c, model, space, None)


SHORT = ("--run.frames", "60", "--log.eval", "30", "--env.time_limit", "15")
ASCENT = ("--planner.name", "gradient")
MLP = (
    *("--env.task", "pendulum", "--env.obs", "state", "--model.dynamics", "mlp"),
    *("--loss.objective", "{}"),
)


@pytest.mark.parametrize(
    "extra",
    [("--env.task", "pendulum"), (*MLP, "--planner.warmup", "1", "--planner.box", "squash")],
    ids=["rssm", "mlp"],
)
def test_an_agent_trains_and_acts_along_gradients(tmp_path, extra):
    train(tmp_path, *SHORT, *ASCENT, *extra)
    run = seed_dir(tmp_path, "pendulum")
    out, _ = evaluate(run, "compare", "--episodes", "1", "--budgets", "1", "--drivers", "gradient")
    assert "gradient, 16" in out


def test_compare_leaves_it_out_where_actions_are_choices(tmp_path):
    task = ("--env.task", "catcher", "--env.time_limit", "15")
    train(tmp_path, *task, "--run.frames", "40", "--log.eval", "0")
    run = seed_dir(tmp_path, "catcher")
    out, _ = evaluate(run, "compare", "--episodes", "1", "--budgets", "1")
    assert "left out: gradient; gradient moves actions by small steps" in out
    _, err = train(tmp_path / "other", *task, *ASCENT, expect=2)
    assert err.splitlines()[-1].startswith("planner.name: gradient moves actions")


def test_an_action_without_a_finite_gradient_stays():
    """At 0 the derivatives of the square roots are infinite, and that of 0/0 is no number."""

    def score(plans):
        first, second, third, fourth = plans.flatten(2).unbind(-1)
        broken = third.clamp(min=0).sqrt() - second.clamp(min=0).sqrt() + 0 * fourth.abs().sqrt()
        return broken + first

    proposal = Box()
    start, _ = proposal.start(BATCH, 2, SIZE)
    found = search(Smooth(score), mean=start, candidates=1, elites=1, iterations=1, box="project")
    assert found.flatten(1)[:, 1:].eq(0).all() and (found[:, 0, 0] > 0).all()


def test_a_squashed_plan_begins_a_thousandth_inside_its_box():
    way = Squashing(-1.0, 3.0)
    begun = way.leave(way.enter(torch.tensor([-1.0, 0.5, 3.0])))
    torch.testing.assert_close(begun, torch.tensor([-0.996, 0.5, 2.996]))

"""Plan scores as problems of control: the same number step by step, with its derivatives; and
agents that plan by iterative LQR.
"""

import json

import numpy as np
import pytest
import torch

from runs import evaluate, seed_dir, train
from worldmodel import build, envs, registry
from worldmodel.config import loading
from worldmodel.config.component_settings import states_fact
from worldmodel.config.schema import find_planner_lack
from worldmodel.config.yaml_io import ConfigError
from worldmodel.errors import UsageError
from worldmodel.policy.goals import Goal
from worldmodel.policy.planners import HasControlProblem
from worldmodel.policy.planners.ilqr import roll_out
from worldmodel.policy.planners.proposals import Box
from worldmodel.rollout.collector import convert_spaces
from worldmodel.spaces import ActionSpace, ObservationSpace, map_state

SPACE = ActionSpace(2)
BATCH, COUNT, HORIZON = 3, 4, 5
PRICE = 0.01
VECTORS = ("env.obs=state", "loss.objective={}")
MODELS = {
    "rssm": ("model.latent=deterministic",),
    "rnn": ("model.latent=deterministic", "model.transition=rnn"),
    "ssm": ("model.latent=deterministic", "model.transition=ssm"),
    "mlp": ("model.dynamics=mlp", "mlp.noise=none", "mlp.units=16", *VECTORS),
}
NOISY = {
    "gaussian": ("model.latent=gaussian",),
    "categorical": ("model.latent=categorical",),
    "members": ("ensemble.size=2", "ensemble.of=dynamics"),
    "locally_linear": ("model.dynamics=locally_linear",),
    "linear_gaussian": ("model.dynamics=linear_gaussian",),
    "mlp, members": (
        *("model.dynamics=mlp", "mlp.units=16", "ensemble.size=2", "ensemble.of=dynamics"),
        *VECTORS,
    ),
}
GOALS = [("belief", "end"), ("belief", "every"), ("kl", "every"), ("learnt", "end")]
SCORES = ["reward", "reward+value", *GOALS]


def make_score(name, *overrides, ends=True, discount=0.9):
    """A score of states that differ, by a model that has learnt nothing; a goal is (distance, at).

    Its heads are far from zero.
    """
    distance, at = ("belief", "end") if isinstance(name, str) else name
    kind = name if isinstance(name, str) else "goal_distance"
    more = ("goal.image=there.png",) if kind == "goal_distance" else ()
    if distance == "learnt":
        more += ("loss.objective={contrastive: 1.0}", "goal.distance=learnt")
    c = loading.parse(
        ["debug", f"planner.score={kind}", f"planner.discount={discount}", *more, *overrides]
    )
    torch.manual_seed(0)
    seen = {"vector": 3} if c.env.obs == "state" else {"image": (32, 32, 3)}
    model = build.make_model(c, ObservationSpace(seen), SPACE)
    model.ends.fill_(ends)
    for head in (model.reward, model.cont):
        if hasattr(head.net, "out"):
            head.net.out.weight.data.normal_()
    policy = build.make_policy(c, model, SPACE)
    state = map_state(model.dynamics.initial(BATCH), lambda v: v + 0.3 * torch.randn_like(v))
    there = {"image": torch.randint(256, (1, 1, 32, 32, 3), dtype=torch.uint8)}
    goal = Goal({"vector": torch.randn(1, 1, 3)} if "vector" in seen else there, distance, at)
    make = build.make_plan_score(c, policy, lambda: goal)
    return make(model, state, torch.Generator().manual_seed(0))


def measure(problem, plans):
    """What plans (B,H,A) cost."""
    return roll_out(problem, plans.transpose(0, 1).double())[1].sum(0)


def sample(*shape, seed=1):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


# A vector's kl has the variance of its step, and nothing there learns a distance.
COSTS = [
    (name, model)
    for name in SCORES
    for model in MODELS
    if model != "mlp" or name not in (("kl", "every"), ("learnt", "end"))
]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("name", "model"), COSTS, ids=str)
@torch.no_grad()
def test_costs_of_all_steps_are_minus_the_score_and_the_price_of_actions(name, model, ends):
    score = make_score(name, *MODELS[model], ends=ends)
    assert isinstance(score, HasControlProblem)
    plans = sample(BATCH, HORIZON, 2)
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = measure(score.make_problem(HORIZON, PRICE), plans)
        wanted = PRICE * plans.square().sum((1, 2)) - score(plans.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(found.float(), wanted, rtol=2e-4, atol=2e-4)
    assert wanted.std() > 1e-3 and found.dtype == torch.float64


@pytest.mark.parametrize("name", ["reward", ("belief", "every")], ids=str)
@torch.no_grad()
def test_disagreement_of_heads_costs_what_it_does_in_the_score(name):
    keys = (*MODELS["rssm"], "ensemble.size=3")
    plain, cautious = (
        make_score(name, *keys, f"planner.pessimism={p}").make_problem(HORIZON, PRICE)
        for p in (0.0, 5.0)
    )
    plans = sample(BATCH, HORIZON, 2)
    score = make_score(name, *keys, "planner.pessimism=5.0")
    wanted = PRICE * plans.square().sum((1, 2)) - score(plans.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(measure(cautious, plans).float(), wanted, rtol=2e-4, atol=2e-4)
    assert (measure(cautious, plans) > measure(plain, plans) + 0.01).all()


# No goal distance has an axis of members.
EXPANDED = [
    (name, model)
    for name in ("reward", "reward+value", ("belief", "every"))
    for model in (*MODELS, *NOISY)
    if "members" not in model or isinstance(name, str)
]


@pytest.mark.parametrize(("name", "model"), EXPANDED, ids=str)
@torch.no_grad()
def test_derivatives_are_those_of_the_steps(name, model):
    """Against finite differences of `step`, whose networks are in fp32."""
    problem = make_score(name, *{**MODELS, **NOISY}[model]).make_problem(HORIZON, PRICE)
    plans = sample(HORIZON, BATCH, 2).double()
    states, _ = roll_out(problem, plans)
    by_state, by_action = problem.linearize(states[:-1], plans)
    gradient, hessian = problem.expand_cost(states[:-1], plans)
    n = states.shape[-1]
    assert by_state.shape == (HORIZON, BATCH, n, n) and by_action.shape == (HORIZON, BATCH, n, 2)
    torch.testing.assert_close(hessian, hessian.mT)
    rows, h = torch.cat([states[:-1], plans], -1), 2e-2
    jacobian = torch.cat([by_state, by_action], -1)
    for t in (0, 2, HORIZON - 1):
        for seed in range(3):
            way = torch.randn(BATCH, n + 2, generator=torch.Generator().manual_seed(seed))
            way = way.double() / way.norm(dim=-1, keepdim=True)
            ends = [problem.step(*split(rows[t] + s * h * way, n), t) for s in (1, -1, 0)]
            change = (ends[0][0] - ends[1][0]) / (2 * h)
            if model != "locally_linear":  # which has an A and a B of its own
                moved = (jacobian[t] @ way.unsqueeze(-1)).squeeze(-1)
                torch.testing.assert_close(moved, change, rtol=0.02, atol=2e-3)
            slope = (ends[0][1] - ends[1][1]) / (2 * h)
            torch.testing.assert_close((gradient[t] * way).sum(-1), slope, rtol=0.02, atol=3e-3)
    if name == ("belief", "every"):
        assert (torch.linalg.eigvalsh(hessian) > -1e-5).all()  # Gauss-Newton
    else:
        first = torch.zeros(n).double()
        first[0] = h
        found = [problem.expand_cost(states[:-1] + s * first, plans)[0] for s in (1, -1)]
        wanted = (found[0] - found[1])[..., :n] / (2 * h)
        torch.testing.assert_close(hessian[..., :n, 0], wanted, rtol=0.05, atol=5e-3)


def split(rows, n):
    return rows[..., :n], rows[..., n:]


@torch.no_grad()
def test_gauss_newton_of_a_distance_is_exact_where_the_gap_is_linear():
    """The vector's own distance: its Hessian is 2 J'J / H, and twice the price of an action."""
    problem = make_score(("belief", "every"), *MODELS["mlp"]).make_problem(HORIZON, PRICE)
    plans = sample(HORIZON, BATCH, 2).double()
    states, _ = roll_out(problem, plans)
    jacobian = torch.cat(problem.linearize(states[:-1], plans), -1)[..., :-1, :]
    _, hessian = problem.expand_cost(states[:-1], plans)
    wanted = 2 / HORIZON * jacobian.mT @ jacobian
    wanted[..., -2:, -2:] += 2 * PRICE * torch.eye(2)
    torch.testing.assert_close(hessian, wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_linear_dynamics_and_a_quadratic_reward_are_solved_in_one_round():
    keys = ("model.dynamics=linear_gaussian", "model.reward_head=quadratic")
    score = make_score("reward", *keys, ends=False)
    score.model.reward.point.normal_()
    keys = ("planner.name=ilqr", "planner.mu=0", "planner.control=3")
    plans = [search(score, *keys, f"planner.iterations={n}") for n in (1, 20)]
    torch.testing.assert_close(*plans, atol=1e-4, rtol=0)
    assert (plans[0].abs() < 1).all() and plans[0].std() > 0.01


def search(score, *keys, seed=0):
    c = loading.parse(["debug", *keys])
    mean, std = Box().start(BATCH, HORIZON, 2)
    generator = torch.Generator().manual_seed(seed)
    return build.make_planner(c.planner)(score, mean, std, Box(), generator)


@pytest.mark.parametrize("model", [*MODELS, *NOISY])
@torch.no_grad()
def test_it_finds_better_plans_than_sampling_does(model):
    """In the mean rollout of an untrained model, where 1,000 candidates compete."""
    score = make_score("reward", *{**MODELS, **NOISY}[model])
    parameters = list(score.model.parameters())
    found = search(score, "planner.name=ilqr", "planner.iterations=30")
    assert (found.abs() <= 1).all() and found.dtype == torch.float32
    problem = score.make_problem(HORIZON, 1e-3)
    rivals = sample(1000, BATCH, HORIZON, 2)
    best = torch.stack([measure(problem, rival) for rival in rivals[:100]]).min(0).values
    assert (measure(problem, found) < best).all()
    assert all(p.grad is None and p.requires_grad for p in parameters)


@torch.no_grad()
def test_nothing_is_drawn_and_the_global_state_of_random_numbers_stays():
    plans = [
        search(score, "planner.name=ilqr", "planner.iterations=3", seed=s)
        for s, score in enumerate([make_score("reward")] * 2)
    ]
    assert torch.equal(*plans)
    make_score("reward")  # which seeds torch
    before = torch.get_rng_state()
    search(make_score("reward"), "planner.name=ilqr", "planner.iterations=3")
    make_score("reward")
    assert torch.equal(before, torch.get_rng_state())


# -- the true simulator ---------------------------------------------------------------------------
def make_true_score(task, seed=0):
    words = ("debug", "--model.dynamics", "simulator", "--env.obs", "state", "--env.task", task)
    c = loading.parse(list(words))
    env = envs.make_factory(c.env, c.distract, simulator=True)()
    obs, space = convert_spaces(env)
    model = build.make_model(c, obs, space, simulator=envs.make_simulator(c.env))
    seen = torch.from_numpy(env.reset(seed=seed)[0]["simulator"])[None]
    dynamics = model.dynamics
    nothing = torch.zeros(1, 1), torch.ones(1), None
    state = dynamics.observe_step(dynamics.initial(1), seen, *nothing)
    return build.make_plan_score(c, None, None)(model, state, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", ["pendulum", "cartpole_swingup", "cartpole"])
@torch.no_grad()
def test_the_simulator_as_a_problem_earns_what_its_plans_do(task):
    score, horizon = make_true_score(task), 15
    problem = score.make_problem(horizon, PRICE)
    plans = sample(1, horizon, 1)
    wanted = PRICE * plans.square().sum((1, 2)) - score(plans.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(measure(problem, plans).float(), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_differences_in_the_simulator_are_the_derivatives_of_its_equations():
    """The pendulum's own, where its angle crosses pi."""
    problem = make_true_score("pendulum").make_problem(3, PRICE)
    problem.start[0, :2] = torch.tensor([np.pi - 0.01, 0.6])
    plans = torch.full((3, 1, 1), 0.5).double()
    states, _ = roll_out(problem, plans)
    assert (states[1:, 0, 0] > np.pi).all() and states[-1, 0, 0] < np.pi + 0.3
    by_state, by_action = problem.linearize(states[:-1], plans)
    gradient, hessian = problem.expand_cost(states[:-1], plans)
    from worldmodel.envs.tasks import pendulum as task

    def step(rows):
        angle, speed, push = rows[..., 0], rows[..., 1], task.TORQUE * rows[..., 2]
        for _ in range(task.SUBSTEPS):
            turn = task.GRAVITY * angle.sin() + push - task.FRICTION * speed
            speed = speed + task.STEP_S / task.SUBSTEPS * turn
            angle = angle + task.STEP_S / task.SUBSTEPS * speed
        return torch.stack([angle, speed], -1)

    for t in range(3):
        row = torch.cat([states[t, 0, :2], plans[t, 0]])
        wanted = torch.autograd.functional.jacobian(step, row)
        torch.testing.assert_close(by_state[t, 0, :2, :2], wanted[:, :2], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(by_action[t, 0, :2, :], wanted[:, 2:], rtol=1e-3, atol=1e-4)
        _, second = torch.func.jacrev(step)(row), None

        def cost(r):
            return -(1 + step(r)[0].cos()) / 2 + PRICE * r[2] ** 2

        first = torch.func.jacrev(cost)(row)
        second = torch.func.jacrev(torch.func.jacrev(cost))(row)
        own = [0, 1, problem.start.shape[-1]]
        torch.testing.assert_close(gradient[t, 0, own], first, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(hessian[t, 0][own][:, own], second, rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_in_the_simulator_it_swings_a_pendulum_higher_than_cem_does():
    score, horizon = make_true_score("pendulum"), 30
    mean, std = Box().start(1, horizon, 1)
    earned = {}
    for keys in (("name=ilqr", "iterations=10"), ("name=cem", "candidates=200", "iterations=10")):
        c = loading.parse(["debug", *(f"planner.{k}" for k in keys)])
        generator = torch.Generator().manual_seed(0)
        plan = build.make_planner(c.planner)(score, mean, std, Box(), generator)
        earned[keys[0]] = score(plan.unsqueeze(1)).item()
    assert earned["name=ilqr"] > earned["name=cem"] + 1


# -- refusals and whole programs ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (("model.dynamics=transformer",), "which model.dynamics transformer does not offer"),
        (("planner.proposals=2",), "planner.proposals: ilqr improves a single plan"),
        (
            ("planner.pessimism=1", "ensemble.size=2", "ensemble.of=dynamics"),
            "planner.name: ilqr sees the mean of all members alone; set planner.pessimism 0",
        ),
        (
            ("v2_ensemble", "planner.propagation=ts1"),
            "ilqr sees the mean of all members alone; set planner.propagation tsinf, or take cem",
        ),
        (
            ("pets",),
            "ilqr sees the mean of all members alone; set planner.particles 0, or take cem",
        ),
        (
            ("v2_ensemble", "planner.propagation=ts1", "planner.particles=20"),
            "set planner.propagation tsinf and planner.particles 0, or take cem",
        ),
        (
            ("planner.particles=4",),
            "ilqr sees the mean step alone; set planner.particles 0, or take cem",
        ),
        (
            ("planner.particles=4", "planner.pessimism=1"),
            "the mean step alone; set planner.particles 0 and planner.pessimism 0, or take cem",
        ),
    ],
)
def test_what_it_cannot_plan_with_is_refused_in_a_line(keys, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        loading.parse(["debug", "planner.name=ilqr", *keys])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "keys",
    [
        ("v2_ensemble",),  # a particle for each member
        ("pets", "planner.particles=0"),
        ("planner.particles=1", "planner.propagation=ts1"),  # no members to change
        ("ensemble.size=5", "planner.pessimism=1"),  # of one-step heads
    ],
)
def test_what_is_the_mean_over_members_it_plans_with(keys):
    assert loading.parse(["debug", *keys, "planner.name=ilqr"]).planner.name == "ilqr"


def test_choices_and_scores_without_costs_of_steps_are_refused(monkeypatch):
    c = loading.parse(["debug", "planner.name=ilqr"])
    space = ActionSpace(3, (3,))
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), space)
    with pytest.raises(UsageError, match="ilqr moves actions by small steps"):
        build.make_behavior(c, model, space, None)
    monkeypatch.setitem(registry.PLAN_SCORES, "own", "elsewhere:Score")
    lack = find_planner_lack(c, "ilqr", "own")
    assert lack == "ilqr expands costs of single steps, which planner.score own does not have"
    for score, place in registry.PLAN_SCORES.items():
        others = ("own", "pixel_distance")
        assert states_fact(place, "is_control_problem") == (score not in others)


SHORT = ("--run.frames", "60", "--log.eval", "30", "--env.time_limit", "12")
PENDULUM = ("--env.task", "pendulum", "--planner.name", "ilqr")
RAW = ("--env.obs", "state", "--loss.objective", "{}")


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--model.dynamics", "mlp", *RAW),
        ("--model.dynamics", "simulator", "--env.obs", "state"),
    ],
    ids=["rssm", "mlp", "simulator"],
)
def test_an_agent_trains_and_plans(tmp_path, extra):
    train(tmp_path, *SHORT, *PENDULUM, *extra)
    run = seed_dir(tmp_path, "pendulum")
    out, _ = evaluate(run, "compare", "--episodes", "1", "--budgets", "1")
    found = json.loads((run / "eval" / "compare.json").read_text())["drivers"]
    assert found["ilqr"]["candidates"] is None and "ilqr" in out
    assert ("gradient, 16" in found) == ("simulator" not in extra)
    if "simulator" in extra:
        assert "left out: gradient; gradient follows a gradient, and model.dynamics" in out


def test_compare_runs_it_over_many_features_only_if_it_is_named(tmp_path):
    task = ("--env.task", "pendulum", "--env.time_limit", "4", "--model.deter", "128")
    train(tmp_path, *task, "--run.frames", "40", "--log.eval", "0")
    run = seed_dir(tmp_path, "pendulum")
    few = ("compare", "--episodes", "1", "--budgets", "1")
    out, _ = evaluate(run, *few)
    assert "left out: ilqr; with 134 features it is slow; --drivers ilqr runs it" in out
    out, _ = evaluate(run, *few, "--drivers", "ilqr")
    assert json.loads((run / "eval" / "compare.json").read_text())["drivers"].keys() == {"ilqr"}

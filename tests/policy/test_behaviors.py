"""Scores and behaviours on known worlds: termination counts, plans shift, noise is for collecting
only.
"""

import pytest
import torch

from worldmodel import build, registry
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.model.dynamics import Rollout
from worldmodel.policy.behaviors import BehaviorParts, Planning
from worldmodel.policy.behaviors.mpc import MPC, Settings
from worldmodel.policy.behaviors.random import Random
from worldmodel.policy.behaviors.random import Settings as HoldSettings
from worldmodel.policy.plan_scores import ScoreInputs
from worldmodel.policy.plan_scores.reward import Reward
from worldmodel.policy.plan_scores.reward_and_value import RewardAndValue
from worldmodel.policy.planners.cem import CEM
from worldmodel.policy.planners.cem import Settings as CEMSettings
from worldmodel.policy.planners.proposals import Box, OneHot, SeededProposal
from worldmodel.spaces import ActionSpace, ObservationSpace

SPACE = ActionSpace(2)


class LineWorld:
    """A model whose state is the sum of first actions; reward is the state, and it may end."""

    cont = 1.0
    members = 1

    @property
    def dynamics(self):
        return self

    def start_rollout(self, state, steps, generator):
        return Rollout(self, state, generator)

    def imagine_step(self, state, action, generator):
        return {"deter": state["deter"] + action[..., :1]}

    def features(self, state):
        return state["deter"]

    def predict_for_planning(self, feat):
        reward = feat[..., 0]
        return reward, torch.full_like(reward, self.cont)


def test_a_plan_is_worth_its_rewards_weighted_by_still_being_alive_on_arrival():
    world = LineWorld()
    world.cont = 0.5
    actions = torch.ones(1, 3, 4, 2)
    actions[:, 1] = 2.0
    found = Reward(world, {"deter": torch.zeros(1, 1)}, None, ScoreInputs(0.9))(actions)
    by_hand = sum(0.5**t * 0.9**t * (t + 1) for t in range(4))  # the first reward comes for sure
    torch.testing.assert_close(found, torch.tensor([[by_hand, 2 * by_hand, by_hand]]))


def test_every_environment_of_a_batch_is_scored_from_its_own_state():
    start = {"deter": torch.tensor([[0.0], [10.0]])}
    found = Reward(LineWorld(), start, None, ScoreInputs())(torch.zeros(2, 3, 4, 2))
    torch.testing.assert_close(found, torch.tensor([[0.0] * 3, [40.0] * 3]))


class Recorder:
    """A planner that plans a ramp and remembers where it was told to start."""

    def __init__(self):
        self.means = []

    def __call__(self, score_fn, mean, std, proposal, generator):
        self.means.append(mean.clone())
        ramp = torch.linspace(0.1, 0.5, mean.shape[1])
        return ramp[None, :, None].expand_as(mean).clone()


def cem(candidates, iterations, elites):
    return CEM(CEMSettings(candidates, iterations, elites, momentum=0.0, keep=0.0, decay=1.0))


def mpc(planner, space=SPACE, model=None, noise=0.3, horizon=5, replan=1, **changes):
    c = loading.parse(
        [f"planner.horizon={horizon}", *(f"planner.{k}={v}" for k, v in changes.items())]
    )
    proposal = OneHot(space) if space.discrete else Box()
    planning = Planning(planner, proposal, build.make_plan_score(c, None, None), c.planner)
    parts = BehaviorParts(model or LineWorld(), space, noise, None, planning, Settings(replan))
    return MPC(parts)


STATE = {"deter": torch.zeros(2, 1)}
NEITHER, SECOND = torch.tensor([False, False]), torch.tensor([False, True])


def test_the_next_search_starts_from_the_shifted_plan_unless_the_episode_is_new():
    planner = Recorder()
    behavior = mpc(planner)
    generator = torch.Generator().manual_seed(0)
    action, carry = behavior.act(STATE, behavior.init(2), NEITHER, "eval", generator)
    torch.testing.assert_close(action, torch.full((2, 2), 0.1))
    behavior.act(STATE, carry, SECOND, "eval", generator)
    shifted = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.0])
    torch.testing.assert_close(planner.means[1][0], shifted[:, None].expand(5, 2))
    assert not planner.means[1][1].any()


def test_without_warm_start_every_search_is_fresh():
    planner = Recorder()
    behavior = mpc(planner, warm_start=False)
    generator = torch.Generator().manual_seed(0)
    _, carry = behavior.act(STATE, behavior.init(2), NEITHER, "eval", generator)
    behavior.act(STATE, carry, NEITHER, "eval", generator)
    assert not planner.means[1].any()


def test_noise_is_added_while_collecting_only_and_stays_in_the_box():
    behavior = mpc(Recorder(), noise=2.0)
    generator = torch.Generator().manual_seed(0)
    many = {"deter": torch.zeros(500, 1)}
    first = torch.zeros(500, dtype=torch.bool)
    calm, _ = behavior.act(many, behavior.init(500), first, "eval", generator)
    noisy, _ = behavior.act(many, behavior.init(500), first, "train", generator)
    assert (calm == calm[0]).all() and noisy.std() > 0.5 and noisy.abs().max() <= 1


def test_discrete_noise_is_the_chance_of_another_action():
    space = ActionSpace(4, (4,), True)

    def planner(score_fn, mean, std, proposal, generator):
        return torch.eye(4)[0].expand_as(mean).clone()

    behavior = mpc(planner, space, noise=0.4)
    many, first = {"deter": torch.zeros(4000, 1)}, torch.zeros(4000, dtype=torch.bool)
    actions, _ = behavior.act(
        many, behavior.init(4000), first, "train", torch.Generator().manual_seed(0)
    )
    assert (actions.sum(-1) == 1).all()
    assert actions[:, 0].mean().item() == pytest.approx(1 - 0.4 * 3 / 4, abs=0.03)


def test_a_discrete_plan_can_be_left_when_the_optimum_moves():
    """The old plan's codes are certain; a warm start must not make them the only ones tried."""
    space = ActionSpace(3, (3,), True)
    want = {"code": 0}

    class Moving(LineWorld):
        def imagine_step(self, state, action, generator):
            return {"deter": action[..., want["code"]].unsqueeze(-1)}

    behavior = mpc(cem(100, 4, 10), space, Moving(), noise=0, horizon=12)
    generator = torch.Generator().manual_seed(0)
    state, first = {"deter": torch.zeros(1, 1)}, torch.tensor([False])
    action, carry = behavior.act(state, behavior.init(1), first, "eval", generator)
    assert action.argmax() == 0
    want["code"] = 2
    action, carry = behavior.act(state, carry, first, "eval", generator)
    assert action.argmax() == 2 and (carry["plan"][0, :-1].argmax(-1) == 2).float().mean() > 0.9


class Script:
    """A planner whose plans count upwards, so that each action says which plan it is from."""

    def __init__(self):
        self.calls = []

    def __call__(self, score_fn, mean, std, proposal, generator):
        self.calls.append(len(mean))
        steps = torch.arange(mean.shape[1]) / 100
        return (len(self.calls) / 10 + steps).view(1, -1, 1).expand(mean.shape).clone()


@pytest.mark.parametrize("replan", [1, 3, "plan"])
def test_a_plan_is_executed_for_as_many_steps_as_asked_for(replan):
    """Digits of an action: tenths are the number of the plan, hundredths its step."""
    planner, horizon = Script(), 4
    behavior = mpc(planner, SPACE, LineWorld(), noise=0, horizon=horizon, replan=replan)
    state, carry, taken = {"deter": torch.zeros(1, 1)}, behavior.init(1), []
    for t in range(7):
        action, carry = behavior.act(state, carry, torch.tensor([t == 0]), "eval", None)
        taken.append(round(float(action[0, 0]), 4))
    lasts = {1: 1, 3: 3, "plan": 4}[replan]
    expected = [round((1 + t // lasts) / 10 + t % lasts / 100, 4) for t in range(7)]
    assert taken == expected
    assert len(planner.calls) == -(-7 // lasts)


def test_each_environment_replans_when_its_own_plan_is_used_up_or_its_episode_starts():
    planner = Script()
    behavior = mpc(planner, SPACE, LineWorld(), noise=0, horizon=4, replan=3)
    state, carry = {"deter": torch.zeros(2, 1)}, behavior.init(2)
    firsts = [[True, True], [False, True], [False, False], [False, False], [False, False]]
    taken = []
    for is_first in firsts:
        action, carry = behavior.act(state, carry, torch.tensor(is_first), "eval", None)
        taken.append([round(float(a), 4) for a in action[:, 0]])
    assert planner.calls == [2, 1, 1, 1]
    assert taken == [[0.1, 0.1], [0.11, 0.2], [0.12, 0.21], [0.3, 0.22], [0.31, 0.4]]


@pytest.mark.parametrize("name", registry.BEHAVIORS)
@pytest.mark.parametrize("space", [SPACE, ActionSpace(5, (2, 3))], ids=["box", "discrete"])
def test_every_behaviour_acts_legally_for_a_batch_and_repeats_itself(name, space):
    c = loading.parse(
        [
            "tiny",
            f"behavior.name={name}",
            "ensemble.size=3",
            "critic.replay=0",
            "env.size=[32, 32]",
            "model.cnn=[4, 4]",
            "planner.candidates=20",
            "planner.elites=5",
            "model.unseen=[vector]",
        ]
    )
    torch.manual_seed(0)
    seen = ObservationSpace({"image": (32, 32, 3), "vector": (3,)})
    model = build.make_model(c, seen, space)
    if name == "guided" and space.discrete:
        with pytest.raises(UsageError, match="guided needs continuous actions"):
            build.make_policy(c, model, space)
        return
    behavior = build.make_behavior(c, model, space, build.make_policy(c, model, space))
    answers = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            action, carry = behavior.act(
                model.dynamics.initial(2), behavior.init(2), NEITHER, "train", generator
            )
        answers.append(action)
    assert (
        action.shape == (2, space.size)
        and torch.equal(*answers)
        and set(carry) == set(behavior.init(2))
    )
    if space.discrete:
        assert (action[:, :2].sum(-1) == 1).all() and (action[:, 2:].sum(-1) == 1).all()
    else:
        assert action.abs().max() <= 1


def test_a_random_action_is_kept_for_as_many_steps_as_asked_for():
    parts = BehaviorParts(LineWorld(), SPACE, 0.0, None, None, HoldSettings(hold=3))
    behavior, taken = Random(parts), []
    generator, carry = torch.Generator().manual_seed(0), behavior.init(2)
    for t in range(9):
        first = torch.tensor([t == 0, t in (0, 4)])
        action, carry = behavior.act({}, carry, first, "train", generator)
        taken.append(action)
    rows = torch.stack(taken, 1)
    same = (rows[:, 1:] == rows[:, :-1]).all(-1).tolist()
    assert same[0] == [t not in (3, 6) for t in range(1, 9)]
    assert same[1] == [t not in (3, 4, 7) for t in range(1, 9)], "a new episode draws anew"


def test_a_state_that_went_mad_is_forgotten_when_an_episode_starts():
    c = loading.parse(["tiny", "env.size=[32, 32]", "model.cnn=[4, 4]"])
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    mad = {k: torch.full_like(v, float("nan")) for k, v in model.dynamics.initial(2).items()}
    embed = torch.zeros(2, model.encoder.size)
    state = model.dynamics.observe_step(
        mad, embed, torch.zeros(2, 2), torch.tensor([True, False]), None
    )
    feat = model.dynamics.features(state)
    assert all(torch.isfinite(v[0]).all() for v in state.values())
    assert torch.isfinite(feat[0]).all() and torch.isnan(feat[1]).any()


@pytest.mark.parametrize(
    "keys, rates",
    [
        (["optim.warmup=4"], [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]),
        (["optim.decay=[1, 4]"], [0.01, 0.01, 0.0067, 0.0034, 0.0001, 0.0001]),
        (["optim.warmup=2", "optim.decay=[2, 4]"], [0.005, 0.01, 0.01, 0.00505, 1e-4, 1e-4]),
    ],
)
def test_learning_rates_rise_and_fall_by_the_number_of_the_update(keys, rates):
    from worldmodel.training.learner import Learner

    c = loading.parse(["tiny", "env.size=[32, 32]", "model.cnn=[4, 4]", "optim.lr=0.01", *keys])
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    learner = Learner(model, c.optim, torch.device("cpu"), "fp32")
    flags = {k: torch.zeros(2, 3, dtype=torch.bool) for k in ("is_first", "is_terminal")}
    batch = {
        "image": torch.zeros(2, 3, 32, 32, 3, dtype=torch.uint8),
        "prev_action": torch.zeros(2, 3, 2),
        "reward": torch.zeros(2, 3),
        **flags,
    }
    batch = {k: torch.cat([v, v], 1) for k, v in batch.items()}
    found = []
    for _ in range(6):
        learner.update(batch)
        found.append(learner.optimizers.each["model"].lr)
    assert found == pytest.approx(rates)


def test_a_planner_takes_the_actors_plan_where_its_own_search_would_not_find_it():
    """One narrow plan pays; the actor knows it."""
    drafts = torch.full((1, 3, 4, 2), 0.77)

    def score(candidates):
        return (candidates - 0.77).abs().amax((-1, -2)).lt(0.01).float()

    box = Box(init_std=1.0, min_std=0.05)
    generator = torch.Generator().manual_seed(0)
    mean, std = box.start(1, 4, 2)
    alone = cem(60, 2, 3)(score, mean, std, box, generator)
    seeded = cem(60, 2, 3)(score, mean, std, SeededProposal(box, drafts), generator)
    assert score(seeded.unsqueeze(1)).item() == 1 and score(alone.unsqueeze(1)).item() == 0
    drawn = SeededProposal(box, drafts).sample(mean, std, 60, generator)
    assert drawn.shape == (1, 60, 4, 2) and torch.equal(drawn[:, -3:], drafts)


@pytest.mark.parametrize(("proposals", "wanted"), [(3, 0.77), (0, 0.0)])
def test_as_many_plans_of_the_actor_as_asked_are_candidates(proposals, wanted):
    class Drafting:
        def propose_plans(self, model, state, count, horizon, generator):
            return torch.full((len(state["deter"]), count, horizon, 2), 0.77)

    def last(score_fn, mean, std, proposal, generator):
        return proposal.sample(mean, 0 * std, 4, generator)[:, -1]

    behavior = mpc(last, proposals=proposals)
    behavior.policy = Drafting()
    plan = behavior.plan(STATE, behavior.init(2), NEITHER, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plan, torch.full((2, 5, 2), wanted))


def test_the_critic_closes_a_plan_with_what_is_left_to_gain():
    """Reward 1 a step, the chance of going on 1/2, a value of 8 at the end: discounts by hand."""

    class Ending(LineWorld):
        def predict_for_planning(self, feat):
            ones = torch.ones(feat.shape[:2])
            return ones, 0.5 * ones

    start = {"deter": torch.zeros(1, 1)}
    inputs = ScoreInputs(0.9, value=lambda feat: 8 * torch.ones(feat.shape[:-1]))
    score = RewardAndValue(Ending(), start, None, inputs)
    wanted = 1 + 0.45 + 0.45**2 + 0.45**3 * 8
    assert score(torch.zeros(1, 2, 3, 1)).tolist()[0] == pytest.approx([wanted] * 2)


@pytest.mark.parametrize("greedy", [True, False])
def test_an_actor_evaluates_by_its_mode_or_by_a_draw_never_with_noise(greedy):
    c = loading.parse(
        [
            "debug",
            "behavior.name=actor_critic",
            "behavior.noise=5.0",
            f"actor.greedy={str(greedy).lower()}",
        ]
    )
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE)
    behavior = build.make_behavior(c, model, SPACE, policy)
    state = {k: v.expand(500, *v.shape[1:]) for k, v in model.dynamics.initial(1).items()}
    dist = policy.actor(model.dynamics.features(state))
    first = torch.zeros(500, dtype=torch.bool)
    action, _ = behavior.act(state, {}, first, "eval", torch.Generator().manual_seed(0))
    again, _ = behavior.act(state, {}, first, "eval", torch.Generator().manual_seed(0))
    assert torch.equal(action, again)
    if greedy:
        torch.testing.assert_close(action, dist.mode().clamp(-1, 1))
    else:
        drawn = dist.sample(torch.Generator().manual_seed(0)).clamp(-1, 1)
        torch.testing.assert_close(action, drawn)
        assert action.std() > 0.05


def test_a_model_that_saw_no_end_expects_none():
    c = loading.parse(["debug"])
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), ActionSpace(2))
    feat = torch.randn(3, 4, model.dynamics.feature_size)
    batch = {
        "is_terminal": torch.zeros(2, 5, dtype=torch.bool),
        "image": torch.zeros(2, 5, 32, 32, 3),
    }
    model.begin_update(batch, 0)
    reward, cont = model.predict_for_planning(feat)
    assert (cont == 1).all() and torch.equal(reward, model.predict(feat)[0])
    batch["is_terminal"][1, 2] = True
    model.begin_update(batch, 1)
    batch["is_terminal"][:] = False
    model.begin_update(batch, 2)
    assert (
        torch.equal(model.predict_for_planning(feat)[1], model.predict(feat)[1])
        and (model.predict_for_planning(feat)[1] < 1).all()
    )


@pytest.mark.parametrize(
    ("behavior", "count", "wanted"),
    [("actor_critic", 1, False), ("actor_critic", 2, True), ("mpc", 1, True)],
)
def test_a_lone_environment_without_plans_is_answered_in_fp32(
    behavior, count, wanted, monkeypatch
):
    c = loading.parse(["debug", f"behavior.name={behavior}", "run.precision=bf16"])
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE) if behavior == "actor_critic" else None
    agent, rough = build.make_agent(c, model, SPACE, torch.device("cpu"), policy), []
    encode = model.encode
    monkeypatch.setattr(
        model,
        "encode",
        lambda seen: rough.append(torch.is_autocast_enabled("cpu")) or encode(seen),
    )
    obs = {
        "image": torch.zeros(count, 32, 32, 3, dtype=torch.uint8),
        "is_first": torch.ones(count, dtype=torch.bool),
    }
    agent.act(obs, agent.init(count), "eval", torch.Generator().manual_seed(0))
    assert rough == [wanted]

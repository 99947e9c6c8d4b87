"""Guided policy search: who acts when, what is kept, how controllers improve, what is taught."""

import gymnasium
import numpy as np
import pytest
import torch
from worldmodel.envs.wrappers import FixedStarts

from worldmodel import build
from worldmodel.config import loading
from worldmodel.errors import UsageError
from worldmodel.policy import guided_policy
from worldmodel.policy.guided_policy import UNKNOWN, UNTRIED
from worldmodel.rollout.collector import take_starts_in_turn
from worldmodel.spaces import ActionSpace, ObservationSpace

SEEN = ObservationSpace({"image": (16, 16, 3), "vector": (2,)})
KEYS = [
    "tiny",
    "behavior.name=guided",
    "env.size=[16, 16]",
    "model.cnn=[4, 4]",
    "model.unseen=[vector]",
    "guided.conditions=2",
    "guided.rollouts=6",
    "guided.steps=8",
    "guided.hold=40",
    "guided.target=[0, 0]",
    "guided.weights=[1, 0.1]",
    "guided.control=0.01",
    "guided.adopt_after=0",
]
STARTS = torch.tensor([[1.0, 0.0], [-0.8, 0.3]])
EPISODE = 12


def make(*overrides):
    c = loading.parse([*KEYS, *overrides])
    torch.manual_seed(0)
    model = build.make_model(c, SEEN, ActionSpace(1))
    policy = build.make_policy(c, model, ActionSpace(1))
    return c, model, policy, build.make_behavior(c, model, ActionSpace(1), policy)


def push(state, action):
    """A mass on a line: position and speed after a push."""
    speed = state[:, 1] + 0.3 * action[:, 0]
    return torch.stack([state[:, 0] + 0.3 * speed, speed], 1)


def play_episode(policy, behavior, model, condition, generator):
    """Play an episode of a condition while `policy` watches; return its states (T+1,2)."""
    state, action, carry = STARTS[condition : condition + 1], torch.zeros(1, 1), behavior.init(1)
    states = [state]
    for t in range(EPISODE + 1):
        row = {
            "vector": state[0].numpy(),
            "prev_action": action[0].numpy(),
            "is_first": t == 0,
            "is_last": t == EPISODE,
        }
        action, carry = behavior.act(
            model.dynamics.initial(1),
            {**carry, "vector": state},
            torch.tensor([t == 0]),
            "train",
            generator,
        )
        policy.watch(model, [row], carry)
        state = push(state, action)
        states.append(state)
    return torch.cat(states)


def play_round(policy, behavior, model, generator, rollouts=6):
    for _ in range(rollouts):
        for condition in range(2):
            play_episode(policy, behavior, model, condition, generator)


def test_the_model_neither_encodes_nor_learns_what_it_does_not_see():
    c, model, policy, _ = make()
    assert list(model.observation) == ["image"] and list(model.unseen) == ["vector"]
    batch = {
        "image": torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8),
        "vector": torch.randn(2, 3, 2),
    }
    other = {**batch, "vector": torch.randn(2, 3, 2)}
    assert torch.equal(model.encode(batch), model.encode(other))
    assert not any("vector" in name for name in model.scales)
    stored = build.make_replay_spec(SEEN, ActionSpace(1)) | policy.list_columns()
    assert {"vector", "guide_step", "guide_condition", "guide_round"} <= set(stored)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["model.unseen=[speed]"], r"model.unseen: \[speed\] of the observations image, vector"),
        (["model.unseen=[image, vector]"], "name some of these, but not all"),
        (["guided.target=[0]", "guided.weights=[1]"], "guided.target: 1 numbers for vector of 2"),
    ],
)
def test_what_cannot_be_hidden_or_steered_to_is_refused(keys, message):
    with pytest.raises(UsageError, match=message):
        make(*keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["model.unseen=null"], "model.unseen: guided policy search has teachers"),
        (["guided.weights=[1, 2, 3]"], "guided.weights: 3 weights .* of 2 numbers"),
        (["guided.state=latent", "guided.match=state"], "guided.match: state needs states that"),
        (
            ["guided.state=latent", "guided.improvements=5"],
            "guided.improvements: fixed controllers",
        ),
        (["env.starts=3"], "guided.conditions: 2 controllers for env.starts 3"),
        (["env.time_limit=14", "env.repeat=2"], "guided.steps: .* 8 steps, but .* after 7 "),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys, message):
    with pytest.raises(loading.ConfigError, match=message):
        loading.parse([*KEYS, *keys])


def test_each_start_has_a_condition_of_its_own_and_the_first_rollout_no_noise():
    _, model, policy, behavior = make()
    generator = torch.Generator().manual_seed(0)
    calm = play_episode(policy, behavior, model, 1, generator)
    loud = play_episode(policy, behavior, model, 1, generator)
    play_episode(policy, behavior, model, 0, generator)
    torch.testing.assert_close(policy.starts.float(), STARTS.flip(0))
    assert policy.filled.tolist() == [[True, True] + [False] * 4, [True] + [False] * 5]
    # The first controllers do nothing: without noise the mass moves on at its speed.
    torch.testing.assert_close(calm[1], push(STARTS[1:], torch.zeros(1, 1))[0])
    assert (loud[1] - calm[1]).abs().max() > 1e-3
    torch.testing.assert_close(policy.new.rows["vector"][0, 0].float(), calm[:9])
    torch.testing.assert_close(policy.new.rows["vector"][0, 1].float(), loud[:9])


def test_rows_of_random_actions_and_the_rest_of_their_episode_have_no_teacher():
    _, model, policy, behavior = make()
    row = {"vector": np.zeros(2, np.float32), "is_first": True, "is_last": False}
    policy.watch(model, [row], {})
    assert row["guide_condition"] == UNKNOWN and not policy.known
    assert row["guide_step"] == row["guide_round"] == 0
    _, carry = behavior.act(
        model.dynamics.initial(1),
        {**behavior.init(1), "vector": torch.zeros(1, 2)},
        torch.tensor([False]),
        "train",
        torch.Generator().manual_seed(0),
    )
    policy.watch(model, [row], carry)
    assert row["guide_condition"] == UNKNOWN and not policy.filled.any()


def test_controllers_improve_within_rounds_and_hold_the_mass_at_the_target():
    _, model, policy, behavior = make()
    generator = torch.Generator().manual_seed(0)
    costs = []
    for _ in range(8):
        play_round(policy, behavior, model, generator)
        costs.append(policy.costs.clone())
    assert policy.round == 8 and not policy.filled.any()
    assert all((b <= a).all() for a, b in zip(costs, costs[1:], strict=False))
    assert (costs[0] < UNTRIED).all() and (costs[-1] < 0.7 * costs[0]).all()
    for condition in range(2):
        state = STARTS[condition : condition + 1]
        for t in range(40):
            number = torch.tensor([condition if policy.starts[0, 0] > 0 else 1 - condition])
            state = push(state, policy.teach(state, torch.tensor([t]), number).float())
        assert state.abs().max() < 0.05


def test_no_controller_moves_further_than_its_bound():
    """Along the states that the new controllers lead to, with the spread of the rollouts before.

    The rest of the bound goes to their covariance, which is not carried out.
    """
    keys = "guided.kl=0.02", "guided.kl_limits=[0.01, 0.02]", "guided.adopt_after=9"
    _, model, policy, behavior = make(*keys)
    play_round(policy, behavior, model, torch.Generator().manual_seed(0))
    turn, shift = policy.tried_gain - policy.base_gain, policy.tried_offset - policy.base_offset
    apart = policy.kept.rows["vector"] - policy.kept.rows["vector"].mean(1, keepdim=True)
    state, kl = policy.kept.rows["vector"][:, 0, 0], []
    for t in range(8):
        mean = (turn[:, t] @ state.unsqueeze(-1)).squeeze(-1) + shift[:, t]
        spread = (turn[:, None, t] @ apart[:, :, t].unsqueeze(-1)).squeeze(-1)
        square = mean.square().sum(-1) + spread.square().sum(-1).mean(1)
        kl.append(square / (2 * 0.2**2))
        action = (policy.tried_gain[:, t] @ state.unsqueeze(-1)).squeeze(-1)
        state = push(state, action + policy.tried_offset[:, t])
    found = torch.stack(kl).mean(0)
    assert (found <= 0.02).all() and (found > 0.8 * 0.02).all(), found


def test_what_turns_out_worse_is_given_up_and_its_bound_shrinks():
    _, model, policy, behavior = make()
    generator = torch.Generator().manual_seed(0)
    play_round(policy, behavior, model, generator)
    before, bounds = policy.base_gain.clone(), policy.bounds.clone()
    teacher = policy.teacher_gain.clone()
    policy.tried_gain.fill_(5.0)  # runs away
    policy.tried_offset.fill_(1.0)
    play_round(policy, behavior, model, generator)
    assert torch.equal(policy.base_gain, before) and torch.equal(policy.teacher_gain, teacher)
    torch.testing.assert_close(policy.bounds, 0.4 * bounds)


def test_the_actor_is_taught_the_actions_of_the_last_rounds_teachers():
    _, model, policy, _ = make("guided.rounds=1")
    policy.round.fill_(5)
    policy.bounds.copy_(torch.tensor([1.0, 2.0]))
    policy.teacher_gain.normal_()
    policy.teacher_offset.normal_()
    vector, feat = torch.randn(1, 4, 2), torch.randn(1, 4, model.dynamics.feature_size)
    batch = {
        "vector": vector,
        "guide_step": torch.tensor([[0, 3, 3, 2]], dtype=torch.int32),
        "guide_condition": torch.tensor([[1, 0, UNKNOWN, 1]], dtype=torch.int32),
        "guide_round": torch.tensor([[4, 5, 5, 3]], dtype=torch.int32),
    }
    losses, metrics = policy.losses(model, batch, {}, feat)
    wanted = []
    for place, (condition, step) in enumerate([(1, 0), (0, 3)]):
        gain, offset = policy.teacher_gain[condition, step], policy.teacher_offset[condition, step]
        action = (gain @ vector[0, place].double() + offset).clamp(-1, 1)
        own = policy.choose(feat).mode()[0, place]
        wanted.append((own - action).square().sum() / (2 * 0.2**2))
    torch.testing.assert_close(losses["imitation"].double(), torch.stack(wanted).mean())
    assert metrics["taught"] == 0.5 and metrics["kl_bound"] == 1.5


def test_the_nearest_state_says_which_teacher_is_matched_and_at_which_step():
    """Entries are measured by how much they vary, or the larger one alone would count."""
    _, _, policy, _ = make("guided.match=state")
    paths = torch.randn(policy.teacher_path.shape).double() * torch.tensor([1.0, 100.0])
    policy.teacher_path.copy_(paths)
    places = torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([[3, 90, 0], [7, 20, 8]])
    near = paths[places] + 1e-3 * torch.tensor([1.0, 100.0])
    condition, step = policy.find_nearest(near.float())
    assert torch.equal(condition, places[0]) and torch.equal(step, places[1])
    flat = paths.flatten(0, 1)
    state = torch.tensor([[0.5, -80.0]]).double()
    condition, step = policy.find_nearest(state)
    gaps = ((flat - state) / flat.std(0)).square().sum(1)
    assert int(condition) * policy.teacher_path.shape[1] + int(step) == int(gaps.argmin())


def test_the_actor_is_taught_by_the_nearest_step_whatever_the_rows_own():
    _, model, policy, _ = make("guided.match=state", "guided.rounds=1")
    policy.round.fill_(1)
    for kind in ("gain", "offset", "path"):
        getattr(policy, f"teacher_{kind}").normal_()
    vector, feat = torch.randn(1, 3, 2), torch.randn(1, 3, model.dynamics.feature_size)
    batch = {
        "vector": vector,
        "guide_step": torch.tensor([[0, 3, 5]], dtype=torch.int32),
        "guide_condition": torch.tensor([[1, 0, 1]], dtype=torch.int32),
        "guide_round": torch.tensor([[1, 1, 1]], dtype=torch.int32),
    }
    condition, step = policy.find_nearest(vector)
    wanted = policy.teach(vector, step, condition)
    assert not torch.equal(step, batch["guide_step"].long())
    losses, _ = policy.losses(model, batch, {}, feat)
    gap = (policy.choose(feat).mode() - wanted).square() / (2 * 0.2**2)
    torch.testing.assert_close(losses["imitation"].double(), gap.mean())


def test_the_path_of_a_teacher_is_its_episode_without_noise_and_stays_at_its_end():
    _, model, policy, behavior = make("guided.match=state")
    generator = torch.Generator().manual_seed(0)
    calm = [play_episode(policy, behavior, model, i, generator) for i in range(2)]
    play_round(policy, behavior, model, generator, rollouts=5)
    assert policy.round == 1
    for path, states in zip(policy.teacher_path.float(), calm, strict=True):
        torch.testing.assert_close(path[: EPISODE + 1], states[: EPISODE + 1])
        rest = path[EPISODE + 1 :]
        torch.testing.assert_close(rest, states[EPISODE].expand_as(rest))


def test_after_the_last_improvement_the_teachers_stay_and_collect():
    _, model, policy, behavior = make("guided.improvements=2")
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        play_round(policy, behavior, model, generator)
    kinds = [f"teacher_{kind}" for kind in ("gain", "offset", "hold_gain", "hold_offset", "costs")]
    before = [getattr(policy, kind).clone() for kind in kinds]
    policy.tried_offset.fill_(9.0)
    policy.hold_offset.fill_(9.0)
    state = STARTS[:1]
    for step in (torch.tensor([3]), torch.tensor([20])):
        calm, first = torch.tensor([True]), torch.tensor([0])
        acted = policy.explore(state, step, first, calm, generator)
        torch.testing.assert_close(acted, policy.teach(state, step, first))
    play_round(policy, behavior, model, generator)
    assert policy.round == 3 and not policy.filled.any()
    assert all(torch.equal(getattr(policy, k), v) for k, v in zip(kinds, before, strict=True))


@pytest.mark.parametrize(("rounds", "tries"), [(5, False), (6, True), (8, True)])
def test_in_the_last_rounds_bad_teachers_give_way_to_the_best_one(rounds, tries):
    """Of ten rounds the last three try what the seventh to the ninth improvement leave."""
    _, model, policy, behavior = make("guided.improvements=10", "guided.adopt_after=99")
    generator = torch.Generator().manual_seed(0)
    play_round(policy, behavior, model, generator)
    policy.round.fill_(rounds)
    policy.teacher_gain[1], policy.teacher_offset[1] = 0.5, -0.25
    policy.teacher_hold_gain[1] = 0.75
    policy.teacher_costs.copy_(torch.tensor([0.5 + 2.0, 0.4]))  # 2.0 is guided.adopt
    policy.episode_costs.fill_(1e9)
    policy._improve(model)
    assert (policy.tried_gain[0] == 0.5).all() == tries
    assert (policy.tried_offset[0] == -0.25).all() == tries
    assert (policy.hold_gain == 0.75).all() == tries
    assert not (policy.tried_gain[1] == 0.5).any()  # the best one's condition goes on


def test_without_a_last_improvement_teachers_are_never_replaced(monkeypatch):
    _, model, policy, behavior = make("guided.adopt_after=99")
    monkeypatch.setattr(policy, "_try_best_teacher", lambda: pytest.fail("replaced"))
    for _ in range(2):
        play_round(policy, behavior, model, torch.Generator().manual_seed(0))
    assert policy.round == 2 and not policy.has_fixed_teachers


def test_the_policy_acts_in_evaluation_unless_the_controllers_are_asked_for():
    generator = torch.Generator().manual_seed(0)
    _, model, policy, behavior = make()
    play_round(policy, behavior, model, generator)
    first, vector = torch.tensor([True]), STARTS[:1]
    state = model.dynamics.initial(1)
    own = policy.choose(model.dynamics.features(state)).mode()
    given = {**behavior.init(1), "vector": vector}
    action, _ = behavior.act(state, given, first, "eval", generator)
    torch.testing.assert_close(action, own.clamp(-1, 1))
    behavior.evaluates = "controllers"
    given = {**behavior.init(1), "vector": vector}
    action, carry = behavior.act(state, given, first, "eval", generator)
    taught = policy.teach(vector, torch.tensor([0]), carry["condition"].long())
    torch.testing.assert_close(action, taught.float())


class Seeded(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return seed, {}


def test_fixed_starts_are_taken_in_turn():
    env = FixedStarts(Seeded(), 3)
    seeds = take_starts_in_turn(lambda env, episode: 1000 + 7 * env + 13 * episode, 3)
    found = [[env.reset(seed=seeds(i, episode))[0] for episode in range(5)] for i in range(2)]
    assert found == [[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]]


def measure_steps(states):
    """What each step of an episode costs (T,), by its states."""
    states = states.double()
    actions = (states[1:, 1:] - states[:-1, 1:]) / 0.3
    return (torch.tensor([1.0, 0.1]) * states[1:].square()).sum(1) + 0.01 * actions[:, 0] ** 2


def test_controllers_are_judged_without_noise_and_teachers_by_all_whole_episodes():
    _, model, policy, behavior = make()
    generator = torch.Generator().manual_seed(0)
    costs = torch.zeros(2, 6, 2, dtype=torch.float64)  # of the first steps, of whole episodes
    for rollout in range(6):
        for i in range(2):
            each = measure_steps(play_episode(policy, behavior, model, i, generator))
            costs[i, rollout] = torch.stack([each[:8].sum(), each[:EPISODE].sum()])
    assert policy.round == 1
    torch.testing.assert_close(policy.costs, costs[:, 0, 0])
    torch.testing.assert_close(policy.teacher_costs, costs[:, :, 1].mean(1))
    assert not policy.episode_costs.any()  # the next round begins at nothing


def test_before_the_first_round_is_over_the_teachers_do_nothing():
    _, _, policy, _ = make()
    for step in (0, 7, 8, 100):
        taught = policy.teach(torch.ones(1, 2).double(), torch.tensor([step]), torch.tensor([1]))
        assert not taught.any()


def test_the_best_controllers_are_adopted_from_the_round_on_that_is_named(monkeypatch):
    _, model, policy, behavior = make("guided.adopt_after=1")
    adopted = []
    monkeypatch.setattr(policy, "_adopt_best", lambda: adopted.append(int(policy.round)))
    for _ in range(3):
        play_round(policy, behavior, model, torch.Generator().manual_seed(0))
    assert adopted == [1, 2]


def test_controllers_of_large_gains_stay_in_the_box():
    _, _, policy, _ = make()
    policy.teacher_offset.fill_(9.0)
    policy.tried_offset.fill_(-9.0)
    state, step, condition = torch.ones(1, 2), torch.tensor([0]), torch.tensor([1])
    assert policy.teach(state, step, condition).tolist() == [[1.0]]
    generator = torch.Generator().manual_seed(0)
    tried = policy.explore(state, step, condition, torch.tensor([False]), generator)
    assert tried.tolist() == [[-1.0]]


def test_the_hold_is_fitted_to_the_steps_nearest_to_the_target(monkeypatch):
    _, model, policy, behavior = make("guided.hold=5")
    fit, fitted = guided_policy.fit_local_models, []
    monkeypatch.setattr(
        guided_policy,
        "fit_local_models",
        lambda states, *rest: fitted.append(states) or fit(states, *rest),
    )
    play_round(policy, behavior, model, torch.Generator().manual_seed(0))
    pairs = torch.stack(
        [policy.kept.rows["vector"][:, :, :-1], policy.kept.rows["vector"][:, :, 1:]], -2
    )
    pairs = pairs.flatten(0, 2)
    nearest = pairs[pairs[:, 0].norm(dim=-1).argsort()[:5]]
    torch.testing.assert_close(fitted[-1], nearest)


def test_an_episode_that_ends_too_early_is_told_once(caplog):
    _, model, policy, behavior = make("guided.steps=20")
    for _ in range(3):
        play_episode(policy, behavior, model, 0, torch.Generator().manual_seed(0))
    (record,) = caplog.records
    assert "ended after 12 steps, before the 20 of guided.steps" in record.getMessage()
    assert not policy.filled.any()


def test_rollouts_of_vectors_keep_the_names_that_earlier_checkpoints_have():
    saved = {k: tuple(v.shape) for k, v in make()[2].state_dict().items()}
    for kind, lead in (("new", (2, 6)), ("kept", (2, 6)), ("open", (1,))):
        assert saved[f"{kind}_states"] == (*lead, 9, 2)
        assert saved[f"{kind}_actions"] == (*lead, 8, 1)


def test_a_rollout_that_began_before_an_improvement_is_not_kept(monkeypatch):
    """Other controllers acted in its first steps."""
    _, model, policy, behavior = make()
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(policy, "_improve", lambda model: None)
    acted = behavior.act

    def improve_midway(state, carry, is_first, mode, generator):
        if len(steps) == EPISODE // 2:
            policy.improve(model)
        steps.append(1)
        return acted(state, carry, is_first, mode, generator)

    steps: list[int] = []
    monkeypatch.setattr(behavior, "act", improve_midway)
    play_episode(policy, behavior, model, 0, generator)
    assert policy.round == 1 and not policy.filled.any()
    play_episode(policy, behavior, model, 0, generator)
    assert policy.filled.sum() == 1


def test_teachers_take_over_all_that_chosen_controllers_tried():
    _, _, policy, _ = make("guided.match=state")
    tried = {"gain": policy.tried_gain, "offset": policy.tried_offset, "path": policy.tried_path}
    hold = {"hold_gain": policy.hold_gain, "hold_offset": policy.hold_offset}
    for values in (*tried.values(), *hold.values(), policy.episode_costs):
        values.normal_()
    before = {k: getattr(policy, f"teacher_{k}").clone() for k in (*tried, *hold, "costs")}
    policy._teach_by(torch.tensor([False, True]))
    for name, old in before.items():
        now = getattr(policy, f"teacher_{name}")
        new = hold[name] if name in hold else tried.get(name, policy.episode_costs)[1]
        assert torch.equal(now[0], old[0]) and torch.equal(now[1], new), name


def test_controllers_far_behind_try_those_of_the_best():
    _, _, policy, _ = make("guided.adopt=2")
    for values in (policy.tried_gain, policy.tried_offset, policy.base_gain, policy.base_offset):
        values.normal_()
    before = policy.tried_gain.clone()
    policy.costs.copy_(torch.tensor([2.5, 1.0]))
    policy._adopt_best()
    assert torch.equal(policy.tried_gain, before)
    policy.costs.copy_(torch.tensor([3.5, 1.0]))
    policy._adopt_best()
    assert torch.equal(policy.tried_gain[0], policy.base_gain[1])
    assert torch.equal(policy.tried_offset[0], policy.base_offset[1])
    assert torch.equal(policy.tried_gain[1], before[1])


def test_what_costs_the_same_is_not_taken_over(monkeypatch):
    _, _, policy, _ = make()
    policy.tried_gain.normal_()
    before = policy.base_gain.clone()
    policy.costs.copy_(torch.tensor([1.0, 2.0]))
    costs = torch.tensor([1.0, 1.5]).double()
    monkeypatch.setattr(policy.states, "measure_round", lambda rollouts: costs)
    policy._judge_round()
    assert torch.equal(policy.base_gain[0], before[0])
    assert torch.equal(policy.base_gain[1], policy.tried_gain[1])


def test_imitation_logs_what_teachers_cost_and_leaves_the_model_alone():
    _, model, policy, _ = make()
    policy.teacher_costs.copy_(torch.tensor([1.0, 4.0]))
    batch = {"vector": torch.randn(1, 3, 2)}
    batch |= {k: torch.zeros(1, 3, dtype=torch.int32) for k in guided_policy.COLUMNS}
    feat = torch.randn(1, 3, model.dynamics.feature_size, requires_grad=True)
    found = []
    for played in (0, 1):
        policy.round.fill_(played)
        losses, metrics = policy.losses(model, batch, {}, feat)
        found.append(float(metrics["teacher_cost"]))
    assert found == [0.0, 2.5]
    losses["imitation"].backward()
    assert feat.grad is None and any(p.grad is not None for p in policy.actor.parameters())

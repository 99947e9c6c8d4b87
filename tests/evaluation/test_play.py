"""A play session is repeatable, and the simulator gets the same actions."""

import shutil

import numpy as np
import pytest
from PIL import Image
from worldmodel.envs.errors import EnvFailure
from worldmodel.envs.parallel.vector import SerialEnv

import worldmodel
from runs import seed_dir, train
from worldmodel import envs, registry
from worldmodel.config.component_settings import states_fact
from worldmodel.errors import RunError
from worldmodel.evaluation.commands.play import start_session
from worldmodel.evaluation.play.session import MAX_STEPS
from worldmodel.evaluation.quality.run_policies import make_behaviors
from worldmodel.replay.saved_episodes import SavedEpisodes

LENGTH = 15
POINTMASS = ("--env.task", "pointmass", "--env.time_limit", str(LENGTH), "--run.frames", "60")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Pictures that two actions change, episodes of a known length."""
    root = tmp_path_factory.mktemp("driven")
    train(root, *POINTMASS)
    return seed_dir(root, "pointmass")


@pytest.fixture(scope="module")
def actor_dir(tmp_path_factory):
    """Discrete actions, an actor and a critic."""
    root = tmp_path_factory.mktemp("acting")
    train(
        root,
        "--env.task",
        "catcher",
        "--behavior.name",
        "actor_critic",
        "--run.frames",
        "40",
        "--imag.starts",
        "8",
    )
    return seed_dir(root, "catcher")


def make_simulator(run, obs=None):
    e = run.config.env
    options = dict(size=e.size, repeat=e.repeat, time_limit=e.time_limit, obs=obs or e.obs)
    return SerialEnv(lambda: envs.make(e.task, **options))


def make_session(path, seed=0, simulated=True, directory=None):
    run = worldmodel.load(path)
    vector = make_simulator(run) if simulated else None
    notes = [] if simulated else ["no simulator"]
    return start_session(run, vector, directory or path / "eval", seed, 5, notes).session


def describe(moment):
    """All that a step shows, in a form that can be compared."""
    look, real = moment.prediction, moment.real
    pictures = {"imagined": look.picture, "real": real.picture}
    return {k: None if p is None else p.tobytes() for k, p in pictures.items()} | {
        "reward": look.reward,
        "cont": look.cont,
        "value": look.value,
        "spread": look.spread,
        "real_reward": real.reward,
        "over": real.over,
        "action": None if moment.action is None else moment.action.tolist(),
    }


def make_actions(count, size=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size)).tolist()


def drive(session, actions):
    return [describe(session.step("hand", action)) for action in actions]


def test_a_session_is_a_function_of_seed_and_actions(run_dir):
    actions = make_actions(6)
    first = drive(make_session(run_dir), actions)
    assert drive(make_session(run_dir), actions) == first
    other = drive(make_session(run_dir, seed=1), actions)
    assert other[0]["imagined"] != first[0]["imagined"] and other[0]["real"] != first[0]["real"]


# The others draw no pictures, or imagine nothing (tests/model/test_frame_stack.py).
SILENT = ("encodes_nothing", "imagines_nothing")
DRAWN = [
    k
    for k, v in registry.DYNAMICS.items()
    if states_fact(v, "moves_pixels") or not any(states_fact(v, fact) for fact in SILENT)
]
OWN = {"pixels": ("--loss.objective", "{}")}


@pytest.mark.parametrize("dynamics", sorted(set(DRAWN) - {"rssm"}))
def test_every_dynamics_is_driven_and_drives_itself(tmp_path, dynamics):
    train(tmp_path, *POINTMASS, "--model.dynamics", dynamics, *OWN.get(dynamics, ()))
    path, actions = seed_dir(tmp_path, "pointmass"), make_actions(6)
    session = make_session(path)
    first = drive(session, actions)
    assert drive(make_session(path, seed=1), actions)[0]["imagined"] != first[0]["imagined"]
    session.rewind(2)
    assert drive(session, actions[2:]) == first[2:]
    planned = [describe(session.step("mpc", None)) for _ in range(3)]
    session.rewind(6)
    assert [describe(session.step("mpc", None)) for _ in range(3)] == planned


def test_going_back_and_repeating_actions_repeats_the_rollout(run_dir):
    session, actions = make_session(run_dir), make_actions(8)
    first = drive(session, actions)
    assert describe(session.rewind(3)) == first[2] and len(session.history) == 9
    again = drive(session, actions[3:])
    assert again == first[3:]
    session.rewind(0)
    assert drive(session, actions) == first


def test_a_step_from_an_earlier_moment_drops_later_ones_and_meets_the_same_draws(run_dir):
    session, actions = make_session(run_dir), make_actions(8)
    first = drive(session, actions)
    session.rewind(3)
    other = drive(session, make_actions(4, seed=1))
    assert len(session.history) == 8 and session.at == 7
    assert all(
        a["real"] != b["real"] and a["imagined"] != b["imagined"]
        for a, b in zip(other, first[3:], strict=False)
    )
    session.rewind(3)
    assert drive(session, actions[3:]) == first[3:]


def test_simulator_and_model_get_the_same_actions(run_dir):
    """All commands since the last reset, after going back too, and the simulator's pictures."""
    session, done = make_session(run_dir), []
    envs = session.simulator.envs
    reset, step = envs.reset, envs.step
    envs.reset = lambda i, seed: done.append(seed) or reset(i, seed)
    envs.step = lambda i, action: done.append(action) or step(i, action)
    drive(session, make_actions(5))
    session.rewind(2)
    drive(session, make_actions(3, seed=1))
    last = max(i for i, command in enumerate(done) if isinstance(command, int))
    given = np.stack(done[last + 1 :])
    imagined = np.stack([m.action for m in session.history[1:]])
    assert np.array_equal(given, imagined) and len(given) == 5
    with make_simulator(worldmodel.load(run_dir)) as alone:
        steps = [alone.reset(0, session.start.seed)]
        steps += [alone.step(0, action) for action in imagined]
    for moment, step in zip(session.history, steps, strict=True):
        assert np.array_equal(moment.real.picture, step.obs["image"])
        assert moment.real.reward == (None if step.is_first else step.reward)


def test_imagination_continues_after_the_episode(run_dir):
    session = make_session(run_dir)
    rows = drive(session, make_actions(LENGTH + 3))
    assert [row["over"] for row in rows] == [""] * (LENGTH - 1) + ["at its time limit"] * 4
    assert [row["real_reward"] is None for row in rows] == [False] * LENGTH + [True] * 3
    assert (
        rows[-1]["real"] == rows[LENGTH - 1]["real"]
        and rows[-1]["imagined"] != rows[LENGTH - 1]["imagined"]
    )
    session.rewind(LENGTH - 2)
    assert drive(session, make_actions(1, seed=5))[0]["real_reward"] is not None


def test_the_simulator_is_restored_to_a_replay_step(run_dir):
    session = make_session(run_dir)
    saved = SavedEpisodes(run_dir)
    for number in range(saved.count):
        rows = saved.read_episode(number)
        step = len(rows["reward"]) // 2
        moment = session.start_from_replay(number, step)
        assert moment.real.takes_part and session.note == ""
        assert np.array_equal(moment.real.picture, rows["image"][step])
        found = session.step("hand", rows["prev_action"][step + 1].tolist())
        assert np.array_equal(found.real.picture, rows["image"][step + 1])
        assert found.real.reward == pytest.approx(float(rows["reward"][step + 1]))
    assert saved.count >= 3 and "episode 0" not in session.start.label


def test_replay_episodes_are_found_in_their_streams(tmp_path):
    train(tmp_path, *POINTMASS, "--env.num", "2")
    path = seed_dir(tmp_path, "pointmass")
    saved, session = SavedEpisodes(path), make_session(path)
    places = [saved.locate_episode(n) for n in range(saved.count)]
    assert {stream for stream, _ in places} == {0, 1} and places == sorted(
        places, key=lambda p: (p[0], -p[1])
    )
    for number in range(saved.count):
        assert session.start_from_replay(number, 3).real.takes_part
    with pytest.raises(ValueError, match="there is no episode"):
        saved.locate_episode(saved.count)


def test_a_simulator_that_does_not_reproduce_the_replay_is_noticed(run_dir):
    session = make_session(run_dir)
    reset = session.simulator.envs.reset
    session.simulator.envs.reset = lambda i, seed: reset(i, seed + 1)
    moment = session.start_from_replay(0, 4)
    assert not moment.real.takes_part and "did not reproduce this step" in session.note
    found = session.step("hand", [0.5, 0.5])
    assert found.real.picture is None and found.prediction.picture is not None


def test_every_driver_acts_and_planners_keep_their_plans(actor_dir):
    session = make_session(actor_dir)
    behaviors, left_out = make_behaviors(worldmodel.load(actor_dir))
    assert list(behaviors) == ["actor_critic", "mpc", "random"] and left_out == []
    assert list(session.rollouts.drivers) == list(behaviors)
    moments = [session.step(driver) for driver in ("actor_critic", "mpc", "mpc", "random")]
    assert [m.driver for m in moments] == ["actor_critic", "mpc", "mpc", "random"]
    assert all(
        m.action.sum() == 1 and set(m.action) <= {0, 1} and m.prediction.value is not None
        for m in moments
    )
    assert moments[1].carry["plan"].shape == moments[2].carry["plan"].shape
    session.rewind(0)
    assert [describe(session.step(d)) for d in ("actor_critic", "mpc", "mpc", "random")] == [
        describe(m) for m in moments
    ]


def test_discrete_actions_by_hand(actor_dir):
    session = make_session(actor_dir)
    assert session.step("hand", 2).action.tolist() == [0, 0, 1] and session.step(
        "hand", [0]
    ).action.tolist() == [
        1,
        0,
        0,
    ]
    for wrong in (3, -1, 0.5, [0, 1], None, "1", True, [[1]], float("nan")):
        with pytest.raises(ValueError, match="action"):
            session.step("hand", wrong)
    assert len(session.history) == 3


def test_wrong_actions_drivers_and_steps_change_nothing(run_dir):
    session = make_session(run_dir)
    drive(session, make_actions(2))
    for wrong in (1.0, [1.0], [1.0, 2.0, 3.0], [float("inf"), 0.0], None, {"a": 1}):
        with pytest.raises(ValueError, match="action"):
            session.step("hand", wrong)
    for wrong in ("nobody", "actor_critic"):
        with pytest.raises(ValueError, match="driver"):
            session.step(wrong)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="no step"):
            session.rewind(wrong)
    with pytest.raises(ValueError, match="no step 99"):
        session.start_from_replay(0, 99)
    with pytest.raises(ValueError, match="no episode 999"):
        session.start_from_replay(999, 0)
    assert (
        len(session.history) == 3
        and session.at == 2
        and session.step("hand", [9, -9]).action.tolist() == [1, -1]
    )


def test_the_spread_is_that_of_the_rollouts(run_dir):
    session = make_session(run_dir)
    moment = session.step("hand", [0.3, -0.3])
    model = session.rollouts.model
    feat = model.dynamics.features(moment.state)
    assert len(feat) == session.rollouts.count == 8
    pictures = model.decode(feat[None])["image"][0].clamp(0, 1).numpy()
    assert (
        moment.prediction.spread == pytest.approx(pictures.std(0).mean(), rel=0.05)
        and moment.prediction.spread > 0
    )
    assert np.abs(pictures[0] * 255 - moment.prediction.picture).max() < 3


def test_a_clip_has_both_sides_and_never_overwrites_one(run_dir, tmp_path):
    session = make_session(run_dir)
    drive(session, make_actions(6))
    first, second = session.save_clip(tmp_path, 0, 6), session.save_clip(tmp_path, 2, 4)
    assert first != second and first.exists() and second.exists()
    with Image.open(first) as video:
        assert video.n_frames == 7 and video.size == (2 * 192, 192)
    for wrong in ((0, 7), (3, 3), (4, 2), (-1, 2)):
        with pytest.raises(ValueError, match="a clip goes"):
            session.save_clip(tmp_path, *wrong)


def test_without_a_simulator_a_session_starts_from_the_replay(run_dir):
    session = make_session(run_dir, simulated=False)
    moment = session.step("hand", [0, 0])
    assert moment.real.picture is None and "replay" in session.start.label
    with pytest.raises(ValueError, match="no simulator"):
        session.start_episode()
    assert session.save_clip(run_dir / "eval", 0, 1).exists()


def test_without_a_simulator_and_a_replay_no_session_can_start(run_dir, tmp_path):
    lone = tmp_path / "lone"
    shutil.copytree(run_dir, lone, ignore=shutil.ignore_patterns("replay"))
    session = make_session(lone)
    assert session.replay.count == 0 and session.replay.problem
    with pytest.raises(ValueError, match="start a new episode"):
        session.start_from_replay(0, 0)
    with pytest.raises(RunError, match="no rollout can start") as caught:
        make_session(lone, simulated=False)
    assert caught.value.exit_code == 4


def test_a_session_continues_without_a_failed_simulator(run_dir):
    session = make_session(run_dir)
    drive(session, make_actions(2))

    def broken(i, action):
        raise EnvFailure("the budget is spent")

    session.simulator.envs.step = broken
    moment = session.step("hand", [0.1, 0.1])
    assert (
        moment.real.picture is None
        and "the budget is spent" in session.note
        and session.simulator is None
    )
    assert session.step("hand", [0.1, 0.1]).prediction.picture is not None


def test_a_model_that_cannot_draw_has_curves_only(tmp_path):
    short = ("--run.frames", "40", "--env.time_limit", "20")
    train(tmp_path, "--env.task", "pendulum", "--env.obs", "state", *short)
    path = seed_dir(tmp_path, "pendulum")
    run = worldmodel.load(path)
    with make_simulator(run, "both") as vector:
        answers = start_session(run, vector, tmp_path, 0, 5, [])
        moment = answers.session.step("hand", [0.5])
        assert (
            moment.prediction.picture is None
            and moment.prediction.spread > 0
            and moment.real.picture.shape == (32, 32, 3)
        )
        assert any("cannot draw" in note for note in answers.notes)
        with pytest.raises(ValueError, match="cannot draw"):
            answers.session.save_clip(tmp_path, 0, 1)


def test_a_session_has_a_maximum_length(run_dir, monkeypatch):
    from worldmodel.evaluation.play import session as module

    monkeypatch.setattr(module, "MAX_STEPS", 4)
    assert MAX_STEPS == 2000
    session = make_session(run_dir, simulated=False)
    drive(session, make_actions(3))
    with pytest.raises(ValueError, match="has 4 steps"):
        session.step("hand", [0, 0])
    session.rewind(1)
    session.step("hand", [0, 0])

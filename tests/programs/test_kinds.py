"""Every kind of observation, action and part goes through the whole program, and every kind of
agent through all programs that look at a trained one.
"""

import functools
import html
import json
import re
import shutil
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from worldmodel.envs.parallel.vector import SerialEnv

import worldmodel
from runs import ROOT, evaluate, mistaken, seed_dir, train
from worldmodel import DreamEnv, DreamVectorEnv, envs, registry
from worldmodel.errors import UsageError
from worldmodel.evaluation.commands.play import start_session
from worldmodel.evaluation.play.protocol import encode_picture
from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
from worldmodel.evaluation.quality.policies import BEHAVIOR_LABELS
from worldmodel.model.mean_image import to_pixels
from worldmodel.replay.saved_episodes import SavedEpisodes
from worldmodel.run_directory import RunDir
from worldmodel.spaces import map_state
from worldmodel.system.runtime import mix_seeds

SHORT = ("--run.frames", "60", "--log.eval", "30", "--env.time_limit", "15")


@pytest.mark.parametrize(
    "args",
    [
        ("--env.task", "catcher"),  # discrete actions, terminations
        ("--env.task", "catcher", "--planner.name", "mppi"),
        ("--env.task", "pointmass", "--env.obs", "both", "--planner.name", "shooting"),
        ("--env.task", "pendulum", "--env.obs", "state"),
        ("--env.task", "pendulum", "--model.transition", "ssm", "--loss.overshooting", "3"),
        ("--env.task", "pendulum", "--model.transition", "rnn", "--model.latent", "deterministic"),
        (
            "--env.task",
            "pendulum",
            "--model.latent",
            "categorical",
            "--model.reward_head",
            "twohot",
        ),
        ("--env.task", "pendulum", "--replay.store", "disk", "--env.num", "2"),
        ("--env.task", "dmc:cartpole_balance", "--env.render", "ray", "--env.repeat", "2"),
    ],
    ids=lambda args: "-".join(a.removeprefix("--") for a in args),
)
def test_trains_to_the_end(tmp_path, args):
    train(tmp_path, *SHORT, *args)
    run = seed_dir(tmp_path, args[1].replace(":", "_"))
    assert json.loads((run / "status.json").read_text()) == {
        "state": "done",
        "frames": pytest.approx(60, abs=1),
    }
    scores = [json.loads(x) for x in (run / "scores.jsonl").read_text().splitlines()]
    assert len(scores) >= 1 and all(x["eval/score"] is not None for x in scores)


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (("--env.task", "gym:NoSuchGame-v1"), 2, "NoSuchGame"),
        (("--env.task", "no_such_module:Thing"), 2, "no_such_module"),
        (("--env.task", "penduum"), 2, "pendulum"),
        (("--run.device", "cuda"), 2, "--run.device cpu"),
        (("--env.task", "dmc:cartpole_balance", "--env.camera", "7"), 2, "camera"),
    ],
)
def test_a_wrong_environment_or_device_is_one_line(tmp_path, args, code, wanted):
    _, err = train(tmp_path, *args, expect=code)
    lines = [line for line in err.splitlines() if not line.startswith("drawing with")]
    assert len(lines) == 1 and wanted in lines[0], err


# ---- every kind of agent, in every program that looks at a trained one

TINY = (
    *("--env.task", "pointmass", "--env.time_limit", "12", "--run.frames", "36"),
    *("--train.prefill", "14", "--log.eval", "18", "--run.precision", "fp32"),
)
MEMBERS = ("--ensemble.of", "dynamics", "--ensemble.size", "3")
MLP = (
    *("--env.obs", "state", "--model.dynamics", "mlp", "--loss.objective", "{}"),
    *("--loss.overshooting", "1", *MEMBERS),
)


@dataclass(frozen=True)
class Kind:
    """What trains it, who acts (as compare and play call it), and what it has."""

    words: tuple[str, ...]
    driver: str
    behavior: str
    imagines: bool = True
    draws: bool = False
    noisy: bool = True  # of models that draw: whether a step is a random draw
    has_policy: bool = False
    has_critic: bool = False


# Guided policy search with two starts, whose controllers have acted in whole episodes.
GUIDED = (
    *("--behavior.name", "guided", "--env.obs", "both", "--model.unseen", "[vector]"),
    *("--env.starts", "2", "--guided.conditions", "2", "--guided.rollouts", "1"),
    *("--guided.steps", "4", "--guided.hold", "5", "--guided.target", "[0, 0, 0, 0, 0, 0]"),
    *("--guided.weights", "[1, 1, 0, 0, 1, 1]", "--run.frames", "60"),
)
SOLAR = (
    *("--behavior.name", "guided", "--model.dynamics", "linear_gaussian"),
    *("--model.reward_head", "quadratic", "--guided.state", "latent", "--guided.conditions", "1"),
    *("--guided.rollouts", "1", "--guided.steps", "4", "--guided.hold", "5", "--run.frames", "60"),
)
POINTS = ("--model.encoder", "spatial", "--spatial.points", "4", "--loss.smooth", "0.5")
PIXELS = (
    *("--model.dynamics", "pixels", "--loss.objective", "{}", "--env.size", "[16, 16]"),
    *("--pixels.kernels", "2", "--pixels.channels", "8"),
)
AGENTS = {
    "plans over members of an mlp": Kind(MLP, "cem", "mpc"),
    "plans over members of an rssm": Kind(MEMBERS, "cem", "mpc", draws=True),
    "dyna with a model": Kind(
        (*MLP, "--behavior.name", "dyna"), "actor", "dyna", has_policy=True, has_critic=True
    ),
    "dyna without a model": Kind(
        (
            *("--behavior.name", "dyna", "--model.dynamics", "frame_stack"),
            *("--loss.objective", "{}", "--dyna.rollout_length", "0"),
        ),
        *("actor", "dyna"),
        imagines=False,
        has_policy=True,
        has_critic=True,
    ),
    "plan2explore": Kind(
        (
            *("--behavior.name", "plan2explore", "--ensemble.size", "3"),
            *("--loss.reward_free", "true", "--critic.replay", "0"),
            *("--imag.starts", "4", "--imag.horizon", "3"),
        ),
        *("actor", "plan2explore"),
        draws=True,
        has_policy=True,
        has_critic=True,
    ),
    "simulator": Kind(("--env.obs", "state", "--model.dynamics", "simulator"), "cem", "mpc"),
    "plans by ilqr over a locally linear model of two frames": Kind(
        (
            *("--model.dynamics", "locally_linear", "--locally_linear.frames", "2"),
            *("--planner.name", "ilqr", "--planner.restarts", "1"),
        ),
        *("ilqr", "mpc"),
        draws=True,
    ),
    "linear-Gaussian": Kind(("--model.dynamics", "linear_gaussian"), "cem", "mpc", draws=True),
    "moved pixels": Kind(PIXELS, "cem", "mpc", draws=True, noisy=False),
    "plans along the gradient of an rssm": Kind(
        ("--planner.name", "gradient"), "gradient", "mpc", draws=True
    ),
    "plans by ilqr over an rssm": Kind(
        ("--planner.name", "ilqr", "--model.deter", "8", "--model.stoch", "3"),
        *("ilqr", "mpc"),
        draws=True,
    ),
    "guided, without a model": Kind(
        (
            *(*GUIDED, "--model.dynamics", "frame_stack", "--loss.objective", "{}"),
            *("--guided.match", "state", "--guided.improvements", "2"),
        ),
        *("actor", "guided"),
        imagines=False,
        has_policy=True,
    ),
    "guided by controllers of a latent": Kind(
        SOLAR, "actor", "guided", draws=True, has_policy=True
    ),
    "guided, feature points of an rssm": Kind(
        (*GUIDED, *POINTS), "actor", "guided", draws=True, has_policy=True
    ),
}
MODEL_FREE = [name for name, kind in AGENTS.items() if not kind.imagines]
MODELS = [name for name, kind in AGENTS.items() if kind.imagines]
DRAWING = [name for name in MODELS if AGENTS[name].draws]
BLIND = [name for name in MODELS if not AGENTS[name].draws]
FEWEST = (
    *("--episodes", "3", "--starts", "1", "--plans", "4", "--follow", "2"),
    *("--length", "3", "--context", "2"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a kind, trained once for all tests."""

    @functools.cache
    def train_kind(name):
        root = tmp_path_factory.mktemp("kind")
        train(root, *TINY, *AGENTS[name].words)
        return seed_dir(root, "pointmass")

    return train_kind


@pytest.fixture(scope="module")
def measured(trained):
    """A run with the results of returns, compare and model; what compare and model said."""

    @functools.cache
    def measure_kind(name):
        run, kind = trained(name), AGENTS[name]
        evaluate(run, "--episodes", "2", "--envs", "1")
        few = ("--episodes", "2", "--budgets", "1", "--drivers", f"random;{kind.driver}")
        said = {"compare": evaluate(run, "compare", *few)[0]}
        if kind.imagines:
            said["model"] = evaluate(run, "model", *FEWEST)[0]
        return run, said

    return measure_kind


def read_result(run, name):
    return json.loads((run / "eval" / f"{name}.json").read_text())


def list_behaviors(kind):
    """The run's own first, as imagine and play list them."""
    return [kind.behavior, *(name for name in ("mpc", "random") if name != kind.behavior)]


def open_kind(run):
    return worldmodel.load(run, make_simulator=lambda c, path: envs.make_simulator(c.env))


@pytest.mark.parametrize("name", AGENTS)
def test_compare_finds_the_returns_that_eval_does(measured, name):
    run, said = measured(name)
    returns, found = read_result(run, "returns"), read_result(run, "compare")["drivers"]
    own = AGENTS[name].driver
    own = f"{own}, 16" if own in ("cem", "gradient") else own
    assert set(found) == {"random", own}
    assert found[own]["scores"] == returns["scores"] != found["random"]["scores"]
    (line,) = (line for line in said["compare"].splitlines() if line.startswith(own))
    assert line.removeprefix(own).split()[0] == f"{returns['eval/score']:.1f}"


@pytest.mark.parametrize(
    ("name", "driver", "reason"),
    [
        ("plans over members of an mlp", "actor", "train with behavior.name actor_critic"),
        ("simulator", "actor", "this run plans in the true simulator: it trains no actor"),
        ("simulator", "cem, critic", "this run plans in the true simulator: it trains no actor"),
        ("simulator", "gradient", "model.dynamics simulator has none"),
        ("dyna without a model", "cem", "'cem' is not one of random; actor"),
        ("guided, without a model", "ilqr", "'ilqr' is not one of random; actor"),
        ("guided, feature points of an rssm", "cem, critic", "has an actor alone and no critic"),
        ("moved pixels", "ilqr", "ilqr linearises the step, which model.dynamics pixels does not"),
        ("linear-Gaussian", "cem, actor", "train with behavior.name actor_critic"),
    ],
)
def test_compare_says_why_a_driver_is_missing(trained, monkeypatch, name, driver, reason):
    monkeypatch.syspath_prepend(ROOT)
    code, line = mistaken(trained(name), "compare", "--drivers", driver)
    assert code == 2 and reason in line and "\n" not in line


@pytest.mark.parametrize("name", MODEL_FREE)
@pytest.mark.parametrize("command", ["model", "imagine", "play"])
def test_an_agent_without_a_model_says_so_in_one_line(trained, monkeypatch, name, command):
    monkeypatch.syspath_prepend(ROOT)
    run = trained(name)
    code, line = mistaken(run, command)
    assert code == 2 and "\n" not in line
    assert line.startswith(f"{run} has no model to look at (model.dynamics frame_stack)")


@pytest.mark.parametrize("name", MODELS)
def test_the_model_of_every_kind_is_measured(measured, name):
    run, said = measured(name)
    kind, found = AGENTS[name], read_result(run, "model")
    assert ("mse" in found) == ("sensitivity" in found) == kind.draws
    assert ("left out: this model cannot draw" in said["model"]) != kind.draws
    plans = {"random", "planner"} | ({"actor"} if kind.has_policy else set())
    assert set(found["plans"]["by_kind"]) == plans
    assert set(found["policies"]["by_policy"]) >= plans
    gaps = [found["plans"]["by_kind"]["random"]["gap"], *found["reward"]["rmse"]["model"]]
    if name == "simulator":
        assert np.abs(gaps).max() < 1e-5 and np.abs(found["kl"]["model"]).max() < 1e-9
        assert found["plans"]["rank_pooled"] == 1
    else:
        assert np.abs(gaps).min() > 1e-4
    if kind.draws:  # of vectors it is a likelihood, which may be below 0
        kl = found["kl"]
        assert min(kl["closed_loop"], *kl["model"], *kl["copy"], *kl["mean"]) >= 0
    if not kind.draws:  # a state is the vector itself, or holds it
        r2 = [x for x in found["probe"]["posterior"] if x is not None]
        assert np.median(r2) > 0.9


@pytest.mark.parametrize("name", BLIND)
def test_imagine_refuses_a_model_of_no_pictures(trained, monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT)
    run = trained(name)
    dynamics = RunDir(run).load_config().model.dynamics
    code, line = mistaken(run, "imagine")
    assert code == 2 and "\n" not in line
    assert line.startswith(
        f"this model cannot draw: model.dynamics {dynamics} predicts no pictures; "
    )


def test_every_behavior_has_a_name_for_readers():
    assert {*BEHAVIOR_LABELS} == {*registry.BEHAVIORS}


@pytest.mark.parametrize("name", DRAWING)
def test_imagine_shows_the_futures_of_a_kind(trained, name):
    run, kind = trained(name), AGENTS[name]
    out, _ = evaluate(run, "imagine", "--length", "3", "--samples", "2", "--long", "3")
    rows = read_result(run, "futures")["futures"]
    names = [row["name"] for row in rows if row["kind"] == "policy"]
    assert names == [BEHAVIOR_LABELS[name] for name in list_behaviors(kind)]
    assert ("the actor cannot act: this run has no actor and no critic" in out) != kind.has_policy
    one, two = (row["reward"] for row in rows if row["kind"] == "sample")
    assert (one != two) == kind.noisy
    assert [x > 0 for x in read_result(run, "uncertainty")["std"]] == 3 * [kind.noisy]
    assert ("latents.png" in out) == ("pixels" not in kind.words)
    assert ("points.png" in out) == ("spatial" in kind.words)


def find_section(text, name):
    return re.search(f'<section id="{name}".*?</section>', text, re.DOTALL).group()


@pytest.mark.parametrize("name", AGENTS)
def test_the_report_has_the_curve_and_the_plots_that_its_dynamics_allows(measured, name):
    run, kind = measured(name)[0], AGENTS[name]
    evaluate(run, "report")
    text = html.unescape((run / "eval" / "report.html").read_text())
    scores = [json.loads(line)["eval/score"] for line in open(run / "scores.jsonl")]
    curve = find_section(text, "scores")
    assert f"evaluation, seed 0 ends at {scores[-1]:.3g}" in curve
    assert f"<td>{scores[-1]:.1f}</td>" in curve
    model, losses = find_section(text, "model"), find_section(text, "losses")
    shown = re.findall("<figcaption><b>(.*?)</b>", model)
    none = "This run trains no model, so there is none to look at."
    assert (none in model) != kind.imagines and bool(shown) == kind.imagines
    of_pictures = {"picture MSE, lower is better", "SSIM, higher is better"}
    assert (of_pictures <= {*shown}) == kind.draws
    assert ("reward error (RMSE), lower is better" in shown) == kind.imagines
    assert ("this model cannot draw: no picture errors" in model) == (
        kind.imagines and not kind.draws
    )
    assert kind.imagines or "imagin" not in losses
    best = max(read_result(run, "compare")["drivers"].values(), key=lambda r: r["eval/score"])
    drivers = find_section(text, "planners")
    assert f"<td>{best['eval/score']:.1f}</td>" in drivers and "random" in drivers
    videos = find_section(text, "videos")
    assert ("this run observes no pictures" in videos) == (
        ("--env.obs", "state") in pairwise(kind.words)
    )


@pytest.mark.parametrize("name", MODELS)
def test_play_steps_with_the_models_prediction(trained, tmp_path, name):
    """Each rollout moves as its own member predicts, whoever drives."""
    path, kind = trained(name), AGENTS[name]
    run = open_kind(path)
    c, dynamics = run.config, run.model.dynamics
    make = envs.make_factory(c.env, c.distract, simulator=name == "simulator")
    with SerialEnv(lambda: make(obs="both" if c.env.obs == "state" else c.env.obs), 1) as vector:
        answers = start_session(run, vector, tmp_path, 0, 3, [])
        session = answers.session
        assert list(session.rollouts.drivers) == list_behaviors(kind)
        lacks = [note for note in answers.notes if note.startswith("the actor cannot act: ")]
        assert bool(lacks) != kind.has_policy
        session.start_from_replay(0, 3)
        moves = [{"action": [0.5, -1.0]}] + [{"driver": d} for d in session.rollouts.drivers]
        for at, move in enumerate(moves):
            before, shown = session.history[at].state, answers.step({"at": at, **move})
            moment = session.history[at + 1]
            after, action = moment.state, torch.from_numpy(moment.action).expand(8, -1)
            if dynamics.members > 1:
                every = dynamics.predict_members(dynamics.features(before), action)
                wanted = every[before["member"].long(), torch.arange(8)]
                found = dynamics.mean_latent(dynamics.predict_latent(after))
            elif name == "moved pixels":  # a step, without a latent and without a draw
                imagined = map_state(
                    dynamics.imagine(before, action[:, None]), lambda leaf: leaf[:, 0]
                )
                wanted, found = map(dynamics.features, (imagined, after))
                picture = to_pixels(run.model.decode_observations(wanted)["image"][0])
                assert shown["imagined"] == encode_picture(picture.numpy())
            else:
                wanted = dynamics.predict_features(dynamics.features(before), action).float()
                found = dynamics.expected_features({**after, **dynamics.predict_latent(after)})
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
            reward, _ = run.model.predict_for_planning(dynamics.features(after))
            assert shown["now"]["reward"] == pytest.approx(float(reward[0]), abs=1e-5)
            assert moment.real.takes_part and shown["now"]["real"] > 0
            assert (shown["imagined"] is not None) == kind.draws
            if name == "simulator":
                assert shown["now"]["reward"] == pytest.approx(shown["now"]["real"], abs=1e-6)
            assert (shown["now"]["value"] is not None) == kind.has_critic


def imagine_starts(run, starts, seed, actions):
    """What the model's own rollouts earn (B,H), and their features (B,H,F): after these rows, by
    actions (B,H,A).
    """
    dynamics, generator = run.model.dynamics, torch.Generator().manual_seed(seed)
    state = run.agent.observe_starts([start.rows for start in starts], generator)
    with torch.no_grad():
        feat = dynamics.features(dynamics.imagine(state, torch.from_numpy(actions), generator))
        reward, _ = run.model.predict_for_planning(feat)
    return reward.numpy(), feat


def draw_actions(count, steps):
    return np.random.default_rng(0).uniform(-1, 1, (count, steps, 2)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_a_dream_pays_what_the_model_imagines(trained, name):
    run, actions = open_kind(trained(name)), draw_actions(1, 6)
    if not AGENTS[name].draws:
        with pytest.raises(ValueError, match="cannot draw; use obs='features'"):
            DreamEnv(run)
    env = DreamEnv(run, obs="features", context=3, ends="threshold")
    _, info = env.reset(seed=4)
    start = env.dream.sample_start(seeding.np_random(4)[0])
    assert start.info == info
    rewards = [env.step(action)[1] for action in actions[0]]
    assert np.std(rewards) > 0
    wanted, feat = imagine_starts(run, [start], start.seed, actions)
    np.testing.assert_allclose(rewards, wanted[0], atol=1e-5)
    if AGENTS[name].draws:
        env = DreamEnv(run, context=3, ends="threshold")
        env.reset(seed=4)
        seen = np.stack([env.step(action)[0] for action in actions[0]])
        drawn = to_pixels(run.model.decode_observations(feat)["image"])[0].numpy()
        assert np.abs(seen.astype(int) - drawn).max() <= 1 and len({x.tobytes() for x in seen}) > 1


@pytest.mark.parametrize("name", MODELS)
def test_dreams_side_by_side_pay_it_too_and_restart_alone(trained, name):
    run, actions = open_kind(trained(name)), draw_actions(3, 5)
    many = DreamVectorEnv(run, 3, obs="features", context=3, ends="threshold")
    many.reset(seed=4)
    starts = [many.dream.sample_start(seeding.np_random(4 + i)[0]) for i in range(3)]
    rewards = np.stack([many.step(a)[1] for a in actions.transpose(1, 0, 2)], 1)
    seed = mix_seeds(*(start.seed for start in starts))
    np.testing.assert_allclose(rewards, imagine_starts(run, starts, seed, actions)[0], atol=1e-5)
    before = many.dream.states
    many.reset(options={"reset_mask": np.array([False, True, False])})
    for key, leaf in many.dream.states.items():
        assert torch.equal(leaf[[0, 2]], before[key][[0, 2]])


@pytest.mark.parametrize("name", MODEL_FREE)
def test_an_agent_without_a_model_cannot_dream(trained, name):
    run = trained(name)
    for make in (DreamEnv, partial(DreamVectorEnv, num_envs=2)):
        for obs in ("pixels", "features"):
            with pytest.raises(UsageError, match=r"has no model \(model.dynamics frame_stack\)$"):
                make(run, obs=obs)


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_lets_no_state_know_what_is_seen_later(trained, name):
    run = open_kind(trained(name))
    episode = dict(SavedEpisodes(run.path).read_episode(0))
    states, _ = EvaluatedAgent(run.agent, 0).observe(episode)
    for key in run.model.observation:
        episode[key] = np.concatenate([episode[key][:6], episode[key][6:][::-1]])
    others, _ = EvaluatedAgent(run.agent, 0).observe(episode)
    for key, leaf in states.items():
        torch.testing.assert_close(others[key][:6], leaf[:6], rtol=0, atol=1e-6)
    assert any(not torch.allclose(others[key][6:], leaf[6:]) for key, leaf in states.items())


# ---- guided policy search, whose teachers may act too


@pytest.mark.parametrize("name", [name for name in AGENTS if AGENTS[name].behavior == "guided"])
def test_the_controllers_act_if_they_are_asked_for(measured, tmp_path, name):
    run = shutil.copytree(measured(name)[0], tmp_path / "run")
    policy = read_result(run, "returns")["scores"]
    teachers = ("--guided.evaluate", "controllers")
    evaluate(run, "--episodes", "2", "--envs", "1", *teachers)
    scores = read_result(run, "returns")["scores"]
    assert scores != policy
    few = ("--episodes", "2", "--budgets", "1", "--drivers", "actor")
    evaluate(run, "compare", *few, *teachers)
    assert read_result(run, "compare")["drivers"]["actor"]["scores"] == scores


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        (
            "guided, feature points of an rssm",
            ("--behavior.name", "mpc", "--planner.score", "reward+value"),
            "this run trained no critic: take planner.score reward",
        ),
        (
            "dyna without a model",
            ("--behavior.name", "guided", "--guided.steps", "4"),
            "model.unseen: guided policy search has teachers who see the true state",
        ),
    ],
)
def test_what_a_run_has_not_trained_cannot_act(trained, monkeypatch, name, words, reason):
    monkeypatch.syspath_prepend(ROOT)
    code, line = mistaken(trained(name), "returns", *words)
    assert code == 2 and reason in line and "\n" not in line

"""The ladder: a whole one on tiny settings, and each measurement where the answer is known."""

import contextlib
import dataclasses
import html
import io
import json
import os
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worldmodel.envs.tasks.noisy_room import NoisyRoom
from worldmodel.envs.tasks.pendulum import Pendulum

import forked
from worldmodel import envs
from worldmodel.command_line import ladder
from worldmodel.errors import RunError
from worldmodel.ladder import (
    colours,
    grid,
    learning_curves,
    material,
    measurements,
    page,
    references,
    remaining_time,
    statements,
    trainings,
)
from worldmodel.ladder.lessons import (
    catalog,
    caution,
    distribution_shift,
    error_growth,
    exploitation,
    replanning,
    returns,
    rollout_length,
    uncertainties,
)
from worldmodel.ladder.material import (
    Material,
    Recording,
    measure_uncertainties,
    observe_vectors,
    read_vectors,
    simulate_plans,
)
from worldmodel.ladder.measurements import Failures
from worldmodel.ladder.trainings import RUNGS, Study, list_trainings, make_ladder
from worldmodel.sweep.local_pool import LocalPool

TINY = [
    "--planner.candidates=6",
    "--planner.elites=2",
    "--planner.iterations=1",
    "--planner.horizon=4",
    "--train.pretrain=3",
    "--train.round=20",
    "--train.refit=1",
    "--log.final_episodes=1",
    "--log.every=30",
    "--env.time_limit=30",
    "--replay.batch=2",
    "--replay.length=6",
    "--imag.starts=4",
    "--imag.horizon=3",
    "--model.units=8",
    "--mlp.units=8",
    "--train.policy_batch=2",
]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A whole ladder, with its trainings in forked processes."""
    root = tmp_path_factory.mktemp("ladder")

    def train(self, cells):
        self.progress.logs.mkdir(parents=True, exist_ok=True)
        for cell in cells:
            forked.run("train", *cell.words)
            self.progress.record(cell, 0)

    words = ["--fast", "--frames", "60", "--root", str(root), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalPool, "train", train)
        patch.setattr(trainings, "FAST_RUNGS", ("v05", "v10", "v15", "v30"))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = ladder.main(words)
        study = Study(seeds=[0], fast=True, root=str(root), frames=60, words=tuple(TINY))
        cells = make_ladder(study, envs.check_name)
    runs = {label: [cell.run.path for cell in own] for label, own in cells.items()}
    material = Material(study, runs, envs)
    out = root / "ladder" / "pendulum-fast"
    said = said.getvalue()
    return SimpleNamespace(code=code, words=words, out=out, material=material, said=said)


def test_a_whole_ladder_makes_one_page_with_every_lesson(climbed):
    assert climbed.code == 0
    assert "13 trainings are left, 2 at a time: about" in climbed.said
    assert "[12/13]" in climbed.said and " (1 left, about " in climbed.said
    assert "lesson 9 of 9: Model-based against model-free" in climbed.said
    text = (climbed.out / "ladder.html").read_text()
    assert '<th scope="row">v05</th><td>Rung 0.5: a model of random data' in text
    for lesson in catalog.LESSONS:
        assert f'id="{lesson.name}"' in text and html.escape(lesson.lecture) in text
    count = len(catalog.LESSONS)
    assert text.count('<p class="said"><b>The lecture says</b> that ') == count
    assert text.count('<p class="said"><b>The measurement ') == count
    assert text.count("<details><summary>More figures and caveats</summary><ul") == count
    assert "details::details-content { content-visibility: visible; }" in text  # in print
    assert "missing" not in text.replace(".missing", "") and "nan" not in text.lower().replace(
        "finance", ""
    )
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "<script" not in text


def test_a_second_call_redoes_nothing(climbed, monkeypatch, capsys):
    def fail(*args):
        raise AssertionError("done before")

    monkeypatch.setattr(trainings, "FAST_RUNGS", ("v05", "v10", "v15", "v30"))
    monkeypatch.setattr(LocalPool, "train", fail)
    before = {f: f.stat().st_mtime_ns for f in climbed.out.glob("*.json")}
    assert len(before) == len(catalog.LESSONS)
    assert ladder.main(climbed.words) == 0
    assert "13 of 13 are done" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in climbed.out.glob("*.json")} == before


def test_a_measurement_of_other_runs_is_made_anew(tmp_path):
    file = tmp_path / "x.json"
    whole = {"format": measurements.FORMAT, "source": ["a"], "results": {"x": 1}}
    file.write_text(json.dumps(whole))
    assert measurements.read_measurement(file, ["a"]) == {"x": 1}
    assert measurements.read_measurement(file, ["b"]) is None
    file.write_text(json.dumps({**whole, "format": 1}))
    assert measurements.read_measurement(file, ["a"]) is None
    file.write_text("{")
    assert measurements.read_measurement(file, ["a"]) is None


def test_what_is_not_trained_is_said(climbed, tmp_path):
    empty = Material(climbed.material.study, {}, envs)
    said = measurements.measure_lesson(replanning.LESSON, empty, tmp_path, Failures())
    assert said == "It was not measured: the trainings of v10 and v15 are not done."
    pixels = Material(Study(obs="pixels"), {}, envs)
    said = measurements.measure_lesson(exploitation.LESSON, pixels, tmp_path, Failures())
    assert said.endswith("without --obs pixels.")


def test_a_lesson_that_fails_is_a_line_and_the_others_go_on(climbed, tmp_path, caplog):
    def divide(material):
        return 1 / 0

    failures = Failures()
    broken = dataclasses.replace(replanning.LESSON, measure=divide)
    said = measurements.measure_lesson(broken, climbed.material, tmp_path, failures)
    assert said == "It was not measured: ZeroDivisionError: division by zero."
    assert failures.exit_code == 1 and "in divide" in caplog.text
    sound = measurements.measure_lesson(replanning.LESSON, climbed.material, tmp_path, failures)
    assert "Replanning (v15) got" in sound.measured and "planning anew (v15)" in sound.summary

    def refuse(material):
        raise RunError("a checkpoint is damaged", 4)

    failures = Failures()
    said = measurements.measure_lesson(
        dataclasses.replace(broken, measure=refuse, name="x"), climbed.material, tmp_path, failures
    )
    assert said == "It was not measured: a checkpoint is damaged." and failures.exit_code == 4


def test_rungs_that_failed_are_lines_of_the_page(climbed, tmp_path):
    study = climbed.material.study
    some = Material(study, {k: v for k, v in climbed.material.runs.items() if k != "v15"}, envs)
    shown = measurements.measure_lesson(returns.LESSON, some, tmp_path, Failures())
    assert "The highest mean is that of" in shown.measured and "v15 " not in shown.measured
    absent = measurements.measure_lesson(replanning.LESSON, some, tmp_path, Failures())
    found = {returns.LESSON: shown, replanning.LESSON: absent}
    text = page.render_page(page.Page(study, "wm ladder", found, ["v15 seed0: failed <x>"]))
    assert "<li>v15 seed0: failed &lt;x&gt;</li>" in text
    wanted = (
        '<p class="said missing"><b>It was not measured</b>: the trainings of v15 are not done.'
    )
    assert wanted in text and text.count("<details>") == 1


def test_a_stop_of_the_trainings_measures_nothing(tmp_path, monkeypatch, capsys):
    """Ctrl-C lets the pool return early; what it has trained is kept."""

    def train(self, cells):
        self.progress.record(cells[0], 0)
        self.progress.record(cells[1], 75)
        self._stop()

    monkeypatch.setattr(LocalPool, "train", train)
    assert ladder.main(["--fast", "--root", str(tmp_path / "a b")]) == 75
    said = capsys.readouterr().out
    assert "stopping: the trainings save" in said and "lesson 1" not in said
    assert "stopped with 1 of 15 trainings done, and no lesson is measured" in said
    assert f"to go on: ./wm ladder --fast --root '{tmp_path}/a b'" in said
    assert not list(tmp_path.rglob("*.html"))


def test_a_stop_of_the_lessons_keeps_those_that_are_measured(climbed, monkeypatch, capsys):
    """The page shows them, and the same command goes on."""
    measure = measurements.measure_lesson

    def stop_at_the_third(lesson, *rest):
        if lesson is catalog.LESSONS[2]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return measure(lesson, *rest)

    monkeypatch.setattr(trainings, "FAST_RUNGS", ("v05", "v10", "v15", "v30"))
    monkeypatch.setattr(measurements, "measure_lesson", stop_at_the_third)
    before = signal.getsignal(signal.SIGINT)
    assert ladder.main(climbed.words) == 75 and signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().out
    assert "stopped with 2 of 9 lessons measured; to go on: ./wm ladder --fast" in said
    text = (climbed.out / "ladder.html").read_text()
    assert text.count("<b>The measurement ") == 2
    assert text.count("<b>It was not measured</b>: the command was stopped before.") == 7
    monkeypatch.undo()
    monkeypatch.setattr(trainings, "FAST_RUNGS", ("v05", "v10", "v15", "v30"))
    assert ladder.main(climbed.words) == 0
    assert (climbed.out / "ladder.html").read_text().count("<b>The measurement ") == 9


def test_seeds_are_trained_one_after_the_other():
    cells = {"a": ["a0", "a1", "a2"], "b": ["b0"], "c": ["c0", "c1"]}
    assert ladder.order_cells(cells) == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_the_time_left_is_in_proportion_to_what_was_done(tmp_path, monkeypatch, capsys):
    class Cell:
        title = "a training"

        def __init__(self, config):
            self.config = config

    cells = [Cell(1.0), Cell(1.0), Cell(6.0)]
    progress = remaining_time.LadderProgress(cells, tmp_path)
    monkeypatch.setattr(remaining_time, "estimate_seconds", lambda config: config)
    monkeypatch.setattr(remaining_time.time, "monotonic", lambda: progress.began + 20.0)
    monkeypatch.setattr("worldmodel.sweep.progress.read_result", lambda cell: None)
    progress.codes[cells[0]], progress.before = 0, {cells[0]}  # from another call
    progress.record(cells[1], 0)
    assert capsys.readouterr().out == "[2/3] a training: done (1 left, about 2:00)\n"
    del progress.codes[cells[1]]
    progress.record(cells[1], 75)  # nothing is known of a training that was stopped
    assert capsys.readouterr().out == "[2/3] a training: stopped\n"


def test_longer_trainings_are_expected_to_take_longer():
    cells = make_ladder(Study(seeds=[0]), lambda task: None)
    cost = {k: remaining_time.estimate_seconds(own[0].config) for k, own in cells.items()}
    assert cost["v05"] < cost["v10"] < cost["v15"] < cost["v2_ensemble"] < cost["v4"]
    assert cost["v30"] < cost["rollout_5"] < cost["rollout_15"] < cost["rollout_50"]
    assert cost["random_150_of_1"] < cost["random_150_of_5"]


def test_every_training_is_a_sound_configuration_with_a_directory_of_its_own():
    two = [0, 1]
    studies = (
        Study(seeds=two),
        Study(obs="pixels", seeds=two),
        Study(fast=True, seeds=[0]),
        Study(task="rope", seeds=[0]),
    )
    ladders = [make_ladder(study, lambda task: None) for study in studies]
    for study, made in zip(studies, ladders, strict=True):
        cells = [c for own in made.values() for c in own]
        assert len({c.run.path for c in cells}) == len(cells)
        assert {t.label for t in list_trainings(study)} >= set(study.rungs)
    state, pixels, *_ = ladders
    assert all(c.config.env.obs == "pixels" for own in pixels.values() for c in own)
    assert [state[rung][0].config.run.frames for rung in RUNGS] == [2400] * len(RUNGS)
    once = state["random_600_of_5"][0].config
    assert (once.run.frames, once.train.prefill, once.ensemble.size) == (600, 600, 5)


@pytest.mark.parametrize(
    "words, code, wanted",
    [
        (["--seeds", "x"], 2, "--seeds"),
        (["pendulun"], 2, "pendulun"),
        (["--frames", "10"], 2, "train.prefill"),
    ],
)
def test_a_mistake_is_a_line_and_begins_nothing(words, code, wanted, tmp_path, capsys):
    assert ladder.main([*words, "--root", str(tmp_path)]) == code
    assert wanted in capsys.readouterr().err and not list(tmp_path.iterdir())


class ModelAsTruth:
    """A simulator that steps as a run's own model, and pays `bonus` more than it expects."""

    def __init__(self, run, bonus):
        self.run, self.bonus = run, bonus

    @torch.no_grad()
    def step(self, states, actions, seed):
        model = self.run.model
        state = observe_vectors(self.run, states.astype(np.float32))
        after = model.dynamics.imagine_step(state, torch.from_numpy(np.stack(actions)))
        feat = model.dynamics.features(after)
        reward, _ = model.predict_for_planning(feat.unsqueeze(0))
        vectors = model.dynamics.restore(feat).numpy()
        return vectors, reward[0].numpy() + self.bonus, np.zeros(len(states), bool)


@pytest.mark.parametrize("bonus", [0.0, -0.25])
def test_a_perfect_model_has_no_gap_and_a_bonus_is_found(climbed, bonus):
    run = climbed.material.open("v15")
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    truth = ModelAsTruth(run, bonus)
    chosen = exploitation.imagine_plans(run, vectors, {"planner.particles": 3})
    for plans, imagined in (chosen, exploitation.imagine_random_plans(run, vectors, 4)):
        assert plans.shape == (7, 4, 1) and np.abs(plans).max() <= 1
        real = simulate_plans(truth, run.action_space, vectors, plans).sum(1)
        np.testing.assert_allclose(imagined - real, -4 * bonus, atol=1e-4)


def test_rewards_after_an_end_do_not_count():
    class Ends:
        def step(self, states, actions, seed):
            after = states + np.array(actions)
            return after, after[:, 0], after[:, 0] >= 2

    space = SimpleNamespace(discrete=False)
    plans = np.array([[[1.0], [1.0], [1.0]], [[0.5], [0.5], [0.5]]])
    rewards = simulate_plans(Ends(), space, np.zeros((2, 1)), plans)
    np.testing.assert_allclose(rewards, [[1, 2, 0], [0.5, 1, 1.5]])


def test_a_plan_that_earns_less_pessimistically_keeps_its_mean(climbed):
    """The penalty chooses plans; what is reported as imagined is their mean return."""
    run = climbed.material.open("random_150_of_5")
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    keys = {"planner.particles": 5, "planner.pessimism": 1e6}
    _, imagined = exploitation.imagine_plans(run, vectors, keys)
    assert (np.abs(imagined) < 50).all()


def make_recording(vector):
    """Episodes (E,T+1,n) that go on all the time, with random actions."""
    count, steps = vector.shape[0], vector.shape[1] - 1
    action = np.random.default_rng(1).uniform(-1, 1, (count, steps, 1)).astype(np.float32)
    alive = np.ones((count, steps), bool)
    return Recording(vector, vector, action, np.zeros((count, steps)), alive)


@torch.no_grad()
def test_the_error_of_a_drifting_world_grows_linearly_and_a_perfect_model_has_none(climbed):
    run = climbed.material.open("v15")
    first = np.random.default_rng(0).normal(size=(6, 1, 3)).astype(np.float32)
    empty = make_recording(np.repeat(first, 13, 1))
    state = observe_vectors(run, first[:, 0])
    dynamics = run.model.dynamics
    states = dynamics.imagine(state, torch.from_numpy(empty.action))
    path = dynamics.restore(dynamics.features(states)).numpy()
    own = Recording(np.concatenate([first, path], 1), *list(vars(empty).values())[1:])
    assert error_growth.measure_growth(run, own, 12).max() < 1e-4
    drift = 0.05 * np.arange(1, 13, dtype=np.float32)[:, None]
    moved = Recording(np.concatenate([first, path + drift], 1), *list(vars(empty).values())[1:])
    error = error_growth.measure_growth(run, moved, 12)
    assert error_growth.measure_slope(error, 1, 12) == pytest.approx(1.0, abs=1e-3)


def test_growth_of_known_errors_is_described_up_to_where_they_saturate():
    x = np.arange(1, 51)
    linear = 0.01 * x
    assert error_growth.find_saturation(linear) is None
    assert list(error_growth.measure_slopes(linear)) == list(
        zip(error_growth.EDGES, error_growth.EDGES[1:], strict=False)
    )
    said = error_growth.describe({"error": linear.tolist()})
    assert "0.01 standard deviations after one step and 0.5 after 50" in said
    assert ": never faster than T^2" in said and "hardly grows" not in said
    assert "stays within epsilon T^2, as the lecture says" in said
    square = np.minimum(0.01 * x**2, 1.0)  # the sum grows as T^3, up to step 10
    assert error_growth.find_saturation(square) == 10
    assert list(error_growth.measure_slopes(square)) == [(1, 5), (5, 10)]
    said = error_growth.describe({"error": square.tolist()})
    assert (
        "T^2.5 over steps 1 to 5 and T^2.8 over steps 5 to 10: faster than T^2 all along" in said
    )
    assert "From about step 10 on the error of a state hardly grows any more: it lies be" in said
    assert "between 1 and 1, 1 on average" in said
    assert "is above epsilon T^2 from step 2 on. The bound supposes that each step adds at" in said
    assert "At least one of the two fails here" in said


def test_an_error_that_oscillates_is_saturated_where_it_reaches_its_mean():
    x = np.arange(1, 51)
    error = np.where(x < 15, 0.01 * x**2, 2.0 + 0.5 * np.sin(x))
    error[-1] = 3.0  # the highest of all, which says nothing of where growth ends
    assert error_growth.find_saturation(error) == 14
    assert list(error_growth.measure_slopes(error))[-1] == (10, 14)
    said = error_growth.describe({"error": error.tolist()})
    assert "From about step 14 on" in said and "it lies between 1.5 and 3, 2 on average" in said


def test_growth_is_called_faster_only_between_the_steps_where_it_is():
    slopes = {(1, 5): 1.7, (5, 10): 2.8, (10, 15): 3.3, (15, 20): 2.04}
    assert error_growth._describe_change(slopes) == ": faster than T^2 from 5 to 15 alone"
    slopes[20, 30] = 2.1
    apart = ": faster than T^2 from 5 to 15 and from 20 to 30 alone"
    assert error_growth._describe_change(slopes) == apart


def test_starts_leave_room_for_the_steps_that_follow():
    recording = make_recording(np.zeros((2, 6, 3), np.float32))
    recording.alive[1, 3:] = False
    starts = recording.choose_starts(100, 3)
    assert starts.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert len(recording.choose_starts(2, 3)) == 2


def test_an_agents_episodes_are_recorded_as_they_happened(climbed):
    run = climbed.material.open("v15")
    recording = climbed.material.record(run, 2, 40)
    assert recording.alive.shape == (2, 30) and recording.alive.all()  # env.time_limit
    assert recording.simulator.shape == (2, 31, 2) and recording.vector.shape == (2, 31, 3)
    angle, speed = recording.simulator[..., 0], recording.simulator[..., 1]
    np.testing.assert_allclose(recording.vector[..., 0], np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(recording.vector[..., 2], speed / 8, atol=1e-5)
    # The simulator repeats them from a step in the middle.
    simulator = climbed.material.make_simulator(run)
    plans = recording.action[:, 7:12]
    earned = simulate_plans(simulator, run.action_space, recording.simulator[:, 7], plans)
    np.testing.assert_allclose(earned, recording.reward[:, 7:12], atol=1e-4)


def test_vectors_of_planned_episodes_alone_can_be_read(climbed):
    path = climbed.material.runs["v15"][0]  # 30 steps at random, then 30 that were planned
    every, planned = read_vectors(path), read_vectors(path, 30)
    assert len(every) == 62 and len(planned) == 31
    np.testing.assert_array_equal(every[31:], planned)


def test_distances_and_visits_by_hand():
    data = np.array([[0.0, 0.0], [3.0, 4.0]])
    found = distribution_shift.measure_distances(np.array([[0.0, 1.0], [3.0, 0.0]]), data)
    np.testing.assert_allclose(found, [1.0, 3.0])
    points = grid.make_grid()
    assert (
        points[0, 0, 1] > 0 > points[0, 0, 0]
    )  # the first row is the top, its first cell is left
    seen = grid.count_visits(points[0, 0] + np.array([[0.0, 0.01], [0.3, 0.0]]), points[0])
    assert seen[0] == 1 and seen.sum() == 2


@torch.no_grad()
def test_uncertainties_of_members_that_are_known(climbed):
    """Members that differ by a constant disagree by its std; noise of a known size is found."""
    run = climbed.material.open("room")
    kept = {k: v.clone() for k, v in run.model.state_dict().items()}
    dynamics = run.model.dynamics
    for parameter in dynamics.net.parameters():
        parameter.zero_()
    shift = torch.arange(5.0).view(5, 1, 1)
    dynamics.net.out.bias[..., :2] = shift
    points = np.zeros((60, 2), np.float32)
    entropy, disagreement = measure_uncertainties(run, points)
    quiet = dynamics.step_std * shift.std(correction=0)
    np.testing.assert_allclose(disagreement, quiet.mean().item(), rtol=1e-4)
    dynamics.net.out.bias[..., 2:] = -2.0  # a smaller variance of each
    calm, same = measure_uncertainties(run, points)
    state = observe_vectors(run, points[:1])
    log_var = dynamics.imagine_step({**state, "member": torch.zeros(1).long()}, torch.zeros(1, 2))
    wanted = 0.5 * log_var["log_var"].sum().item()
    assert calm.mean() == pytest.approx(wanted, abs=0.1) and entropy.mean() > calm.mean() + 0.5
    np.testing.assert_allclose(same, disagreement, rtol=1e-4)
    run.model.load_state_dict(kept)


def test_the_room_is_probed_by_its_simulator(climbed):
    simulator = climbed.material.make_simulator(climbed.material.open("room"))
    points = np.array([[-0.6, -0.6], [-0.6, 0.6], [0.28, 0.0], [0.6, -0.6]], np.float32)
    free, noise = grid.probe_room(simulator, points)
    assert free.tolist() == [True, True, False, True]  # the third is in the wall
    assert (noise > uncertainties.NOISY).tolist() == [True, False, False, False]


def test_disputed_cells_are_those_of_the_highest_disagreement_that_can_be_stood_on():
    free = np.array([True] * 8 + [False])
    found = caution.find_disputed(np.array([1.0, 8, 3, 4, 5, 6, 7, 2, 99]), free)
    assert found.nonzero()[0].tolist() == [1, 6]


def test_differences_are_clear_beyond_two_standard_errors():
    assert statements.judge([2.0], [1.0]) == 1 and statements.judge([1.0], [2.0]) == -1
    assert statements.judge([2.0], [1.95]) == 0 and statements.judge([2.0, 2.2], [1.0]) == 1
    assert statements.judge([2.0, 2.1], [1.0, 1.1]) == 1
    assert statements.judge([0.0, 4.0], [1.0, 1.1]) == 0
    order = {"a to b": 1, "b to c": -1, "c to d": 1, "d to e": 0}
    assert statements.describe_steps(order) == (
        "rises from a to b and c to d; it shows no clear change from d to e; it falls from b to c"
    )


def test_a_finding_agrees_only_where_all_of_its_claims_do():
    kinds = statements.Verdict
    assert statements.combine_verdicts([kinds.AGREES, kinds.AGREES]) is kinds.AGREES
    for other in (kinds.PARTLY, kinds.UNCLEAR, kinds.DISAGREES, kinds.UNMEASURED):
        assert statements.combine_verdicts([kinds.AGREES, other]) is kinds.PARTLY
        assert statements.combine_verdicts([other, other]) is other
    mixed = [kinds.UNMEASURED, kinds.UNCLEAR, kinds.DISAGREES]
    assert statements.combine_verdicts(mixed) is kinds.DISAGREES
    assert statements.combine_verdicts(mixed[:2]) is kinds.UNCLEAR
    assert statements.combine_verdicts([]) is kinds.UNMEASURED


def test_a_finding_says_first_what_agrees():
    kinds, claim = statements.Verdict, statements.Claim
    claims = [
        claim(kinds.UNCLEAR, "c"),
        claim(kinds.AGREES, "a"),
        claim(kinds.DISAGREES, "d"),
        claim(kinds.AGREES, "b"),
    ]
    said = statements.state_finding(claims, "plans ", " (1 seed)")
    assert said == "The measurement agrees in part: plans a, and b, but c, and d (1 seed)."
    wrong = [claims[0], claims[2], claims[2]]
    assert statements.state_finding(wrong) == "The measurement disagrees: c, d, and d."


def test_numbers_and_lists_are_written_plainly():
    assert [statements.describe_signed(x) for x in (-0.004, 0.004, 1.25, -2.0)] == [
        "0.00",
        "0.00",
        "+1.25",
        "-2.00",
    ]
    assert statements.join_words(["a"]) == "a" and statements.join_words("abc") == "a, b and c"
    assert statements.describe_count(1, "step") == "1 step"
    assert statements.describe_count(2400, "step") == "2,400 steps"
    assert statements.describe_mean([110.5, 125.9]) == "118.2 (110.5 to 125.9)"


def test_a_curve_is_averaged_by_episode_over_all_seeds():
    curve = {"frames": [[50.0, 120.0], [60.0, 130.0, 200.0]], "scores": [[1.0, 5.0], [3, 7, 9]]}
    rows = learning_curves.average_episodes(curve)
    assert rows.tolist() == [[55.0, 2.0, 1.0, 3.0], [125.0, 6.0, 5.0, 7.0]]
    assert learning_curves.average_episodes({"frames": [[]], "scores": [[]]}).shape == (0, 4)
    unknown = {**curve, "minutes": [[1.0, 2.0], None]}
    assert learning_curves.average_episodes(unknown, "minutes").shape == (0, 4)
    assert learning_curves.count_steps(curve, 6.0) == 125.0
    assert learning_curves.count_steps(curve, 6.5) is None


def test_the_random_steps_of_curves_are_named_where_they_differ():
    curves = {"v05": {"prefill": [1200]}, "v10": {"prefill": [600]}, "v15": {"prefill": [600]}}
    said = learning_curves.describe_prefill(curves)
    assert said == "the first 600 steps (of v05 1,200) are random actions"
    del curves["v05"]
    assert learning_curves.describe_prefill(curves) == "the first 600 steps are random actions"
    assert learning_curves.describe_prefill({"v10": {"prefill": []}}) == ""


def test_updates_and_random_steps_are_read_from_a_training(climbed):
    curve = learning_curves.read_curves(climbed.material.runs["v15"])
    assert curve["prefill"] == [30] and curve["updates"] == [4]  # 3 before, 1 for its round


def test_the_time_of_an_action_is_measured_once(climbed, monkeypatch):
    first = climbed.material.measure_action_time("v15")
    assert first > 0

    def fail(*args):
        raise AssertionError("measured before")

    monkeypatch.setattr(material, "measure_action_time", fail)
    assert climbed.material.measure_action_time("v15") == first


def test_imagined_steps_of_an_update_are_counted():
    cells = make_ladder(Study(seeds=[0]), lambda task: None)
    counts = {
        label: rollout_length.count_imagined(cells[label][0].config)
        for label in ("v30", "rollout_5", "rollout_15", "rollout_50")
    }
    assert counts == {"v30": 64, "rollout_5": 60, "rollout_15": 120, "rollout_50": 400}
    config = cells["v30"][0].config
    few = dataclasses.replace(config, imag=dataclasses.replace(config.imag, starts=10))
    assert rollout_length.count_imagined(few) == 10


def test_the_processor_time_of_a_training_is_read_from_its_log(climbed):
    curve = learning_curves.read_curves(climbed.material.runs["v15"])
    assert curve["seeds"] == [0] and 0 < curve["spent"][0] < 2
    assert len(curve["minutes"][0]) == len(curve["frames"][0])
    assert curve["minutes"][0] == sorted(curve["minutes"][0])


def test_times_are_compared_over_the_seeds_that_all_have():
    curves = {
        "a": {"seeds": [0, 1, 2], "spent": [9.0, 1.0, 2.0]},
        "b": {"seeds": [2, 1], "spent": [4.0, 3.0]},
    }
    assert learning_curves.list_shared_seeds(*curves.values()) == [1, 2]
    assert learning_curves.match_seeds(curves)["b"] == {"seeds": [1, 2], "spent": [3.0, 4.0]}
    assert learning_curves.compare_spent(curves) == {"a": 1.5, "b": 3.5}
    curves["b"]["spent"] = [None, 3.0]
    assert learning_curves.compare_spent(curves) is None
    apart = {**curves, "c": {"seeds": [7], "spent": [1.0]}}
    assert learning_curves.compare_spent(apart) is None


def test_references_are_the_expert_and_a_spinning_pendulum(climbed):
    found = climbed.material.measure_references("v15")  # 30 steps of 150
    run = climbed.material.open("v15")
    assert 0 < found["spinning"] < 30 and 0 < found["expert"] < 30
    room = climbed.material.measure_references("room")
    assert list(room) == ["expert"]

    class NoExpert:
        make_factory = staticmethod(envs.make_factory)

        def load_expert(self, task):
            raise envs.EnvSettingsError(f"no expert for {task}")

    assert references.measure_references(NoExpert(), run.config) == {}


def test_returns_near_that_of_spinning_are_no_success():
    levels = {"spinning": 70.0}
    low, high = 70.0 / references.SPINS, 70.0 * references.SPINS
    assert references.only_spin(levels, [low + 0.1, high - 0.1])
    assert not references.only_spin(levels, [70.0, high + 0.1])
    assert not references.only_spin(levels, [low - 0.1, 70.0])
    assert not references.only_spin({}, [70.0])


def test_the_page_says_what_its_words_mean_and_when_it_is_short():
    def describe(study, found=catalog.LESSONS):
        text = page.render_page(page.Page(study, "wm ladder", dict.fromkeys(found, "x"), []))
        return html.unescape(text)

    short, whole = describe(Study(seeds=[0], fast=True)), describe(Study())
    assert "This run is short, with 1,200 steps for each rung. It probably stops before" in short
    assert "policies (v20 and v30) have learnt" in short and "This run is short" not in whole
    assert "This run is short" not in describe(Study(fast=True, frames=2400))
    assert "two standard errors" not in short and "two standard errors" in whole
    for text in (short, whole):
        assert "With one seed, clear means only more than 5 % apart" in text
        assert "tests the predicted outcome, not the explanation" in text
        assert (
            'the task of "Noise is not ignorance" and "What caution does to exploration"' in text
        )
        assert "<td>150 steps of pendulum and 60 steps of noisy_room</td>" in text
    steps = {"pendulum": Pendulum.episode_steps, "noisy_room": NoisyRoom.episode_steps}
    assert steps == page.EPISODES
    changed = describe(Study(words=("--env.time_limit=30",)))
    assert "<td>150 steps" not in changed and "whirling" in changed
    other = describe(Study(task="rope", obs="pixels"))
    assert "whirling" not in other and "<td>150 steps" not in other and "the task of" not in other


def test_lines_of_one_plot_have_different_dashes():
    for labels in (["v30", "rollout_5", "rollout_15", "rollout_50"], ["v15", "v30", "model_free"]):
        assert len({colours.choose_style(label).split()[1] for label in labels}) == len(labels)


def test_every_training_of_the_curves_has_a_colour_of_its_own():
    labels = [*RUNGS, trainings.MODEL_FREE, *(f"rollout_{n}" for n in (5, 15, 50))]
    assert list(colours.COLOURS) == labels
    assert len(set(colours.COLOURS.values())) == len(labels)
    sheet = colours.make_stylesheet()
    assert all(f".{colours.choose_style(label).split()[0]} " in sheet for label in labels)
    assert colours.choose_style("caution_0") == "c0 d0"

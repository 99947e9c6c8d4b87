"""Measures of a saved model, on models of which every number is known."""

import numpy as np
import pytest
import torch
from worldmodel.envs.parallel.vector import SerialEnv

from tiny_world import (
    PLAN,
    SPACE,
    Blind,
    Frozen,
    Grid,
    Perfect,
    Restless,
    Rosy,
    Shuffled,
    quality_of,
)
from worldmodel.evaluation.quality.action_sensitivity import measure_sensitivity
from worldmodel.evaluation.quality.held_out_episodes import collect_episodes
from worldmodel.evaluation.quality.image_metrics import psnr, squared_error, ssim
from worldmodel.evaluation.quality.prediction_metrics import (
    brier_score,
    compute_calibration_error,
    compute_reliability,
    pearson,
    rank_values,
    spearman,
)
from worldmodel.evaluation.quality.simulator import Simulator
from worldmodel.evaluation.quality.state_probe import measure_by_horizon
from worldmodel.evaluation.results import to_plain
from worldmodel.rollout.collector import Rollout, make_episode_seeds


def naive_ssim(x, y):
    """Window by window, pixel by pixel, of pictures (H,W,C)."""
    height, width, channels = x.shape
    size = min(11, height if height % 2 else height - 1, width if width % 2 else width - 1)
    weight = np.array(
        [
            [
                np.exp(-((i - size // 2) ** 2 + (j - size // 2) ** 2) / (2 * 1.5**2))
                for j in range(size)
            ]
            for i in range(size)
        ]
    )
    weight /= weight.sum()
    found = []
    for c in range(channels):
        for i in range(height - size + 1):
            for j in range(width - size + 1):
                a, b = (p[i : i + size, j : j + size, c] for p in (x, y))
                ma, mb = (weight * a).sum(), (weight * b).sum()
                va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
                both = (weight * (a - ma) * (b - mb)).sum()
                light = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
                found.append(light * (2 * both + 9e-4) / (va + vb + 9e-4))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(13, 17, 3), (8, 9, 1), (12, 11, 2)])
def test_ssim_is_the_naive_one(shape):
    rng = np.random.default_rng(0)
    x = rng.random((4, *shape))
    y = np.clip(x + rng.normal(0, 0.2, x.shape), 0, 1)
    found = ssim(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(
        found, [naive_ssim(a, b) for a, b in zip(x, y, strict=True)], rtol=1e-9
    )
    assert (ssim(torch.from_numpy(x).float(), torch.from_numpy(x).float()) == 1).all()


def test_psnr_by_hand_and_its_ceiling():
    x = torch.zeros(2, 4, 4, 3)
    y = torch.stack([torch.full((4, 4, 3), 0.1), torch.zeros(4, 4, 3)])
    torch.testing.assert_close(
        psnr(squared_error(x, y)), torch.tensor([20.0, 58.92]), atol=0.01, rtol=0
    )


def test_correlations_by_hand():
    assert rank_values(np.array([3, 1, 3, 9])).tolist() == [2.5, 1, 2.5, 4]
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert pearson([1, 2, 3], [1, 1, 4]) == pytest.approx(0.8660254)
    assert pearson([7, 7, 7], [1, 2, 3]) == 0  # says nothing
    assert np.isnan(pearson([1, 2, 3], [5, 5, 5])) and np.isnan(pearson([1, 2], [1, 2]))


def test_calibration_by_hand():
    said, was = np.array([0.95, 0.95, 0.95, 0.95, 0.3, 0.3]), np.array([1, 1, 1, 0, 0, 0])
    table = compute_reliability(said, was)
    assert table["count"] == [0, 0, 0, 2, 0, 0, 0, 0, 0, 4]
    assert (
        table["predicted"][9] == pytest.approx(0.95)
        and table["happened"][9] == 0.75
        and table["happened"][0] is None
    )
    assert compute_calibration_error(table) == pytest.approx((4 * 0.2 + 2 * 0.3) / 6)
    assert brier_score(said, was) == pytest.approx((3 * 0.05**2 + 0.95**2 + 2 * 0.3**2) / 6)
    assert sum(compute_reliability(np.array([0.0, 1.0]), np.array([0, 1]))["count"]) == 2


@pytest.fixture(scope="module")
def perfect():
    return quality_of(Perfect()).results


def test_the_episodes_contain_what_is_measured(perfect):
    assert perfect["continuation"]["ends_seen"] > 0 and len(perfect["windows"]) == 8
    assert (perfect["windows"] >= 3).all()


def test_a_perfect_model_scores_perfectly(perfect):
    assert (perfect["mse"]["model"] == 0).all() and (perfect["ssim"]["model"] == 1).all()
    assert (perfect["psnr"]["model"] > 58).all()
    for guess, error in perfect["mse"].items():  # in one order, always
        np.testing.assert_allclose(perfect["psnr"][guess], psnr(torch.from_numpy(error)))
    assert (perfect["kl"]["model"] == 0).all() and perfect["kl"]["closed_loop"] == 0
    assert (perfect["reward"]["rmse"]["model"] == 0).all()
    np.testing.assert_allclose(perfect["reward"]["correlation"]["model"], 1)
    assert (perfect["continuation"]["calibration_error_by_horizon"] == 0).all()
    assert (perfect["continuation"]["brier"]["model"] == 0).all() and perfect["continuation"][
        "calibration_error"
    ] == 0
    np.testing.assert_allclose(perfect["sensitivity"]["agreement"], 1)
    np.testing.assert_allclose(perfect["sensitivity"]["gain"], 1)
    assert (np.abs(perfect["sensitivity"]["shuffled"]) < perfect["sensitivity"]["chance"]).all()
    assert (perfect["probe"]["open_loop"] > 0.999).all() and (
        perfect["probe"]["posterior"] > 0.999
    ).all()


def test_a_perfect_model_predicts_the_returns_of_plans(perfect):
    plans = perfect["plans"]
    assert plans["rank_within"] == pytest.approx(1) and plans["exploitation"] == 0
    assert plans["imagined"] == plans["real"]
    kinds = plans["by_kind"]
    assert kinds["planner"]["real"] > kinds["random"]["real"] and kinds["random"]["gap"] == 0
    assert len(plans["real"]) == 5 * 9


def test_baselines_are_worse_than_a_perfect_model(perfect):
    for kind in ("copy", "mean"):
        assert (perfect["mse"][kind] > 0).all() and (perfect["ssim"][kind] < 1).all()
        assert (perfect["reward"]["rmse"][kind] > 0).all()
        assert (perfect["kl"][kind] > 0).all() and (
            perfect["continuation"]["brier"][kind] > 0
        ).any()
    alike = perfect["reward"]["correlation"]["copy"]
    assert (alike < 1).all() and alike[-1] < alike[0]
    assert perfect["probe"]["copy"][-1].mean() < perfect["probe"]["copy"][0].mean() < 1


def test_a_frozen_model_equals_the_copy_baseline(perfect):
    frozen = quality_of(Frozen()).results
    for kind in ("mse", "psnr", "ssim"):
        assert (frozen[kind]["model"] == frozen[kind]["copy"]).all()
        assert (frozen[kind]["copy"] == perfect[kind]["copy"]).all()
    assert (frozen["kl"]["model"] == frozen["kl"]["copy"]).all()
    assert (frozen["reward"]["rmse"]["model"] == frozen["reward"]["rmse"]["copy"]).all()
    np.testing.assert_array_equal(*frozen["reward"]["correlation"].values())
    assert (
        frozen["continuation"]["brier"]["model"] == frozen["continuation"]["brier"]["copy"]
    ).all()
    assert (frozen["probe"]["open_loop"] == frozen["probe"]["copy"]).all()
    assert (frozen["sensitivity"]["agreement"] == 0).all() and (
        frozen["sensitivity"]["gain"] == 0
    ).all()


def test_a_model_with_shuffled_actions_is_not_sensitive_to_them(perfect):
    found = quality_of(Shuffled()).results
    s = found["sensitivity"]
    assert (np.abs(s["agreement"]) < 0.25).all() and (np.abs(s["gain"]) < 0.15).all()
    assert abs(found["plans"]["rank_within"]) < 0.3
    assert (found["mse"]["model"] > found["mse"]["copy"]).any()


def beyond(wall):
    """The grid, paying for nothing but steps that end beyond a wall: so its returns count them."""

    class Beyond(Grid):
        def step(self, action):
            seen, _, *ends = super().step(action)
            return seen, float(self.where[0] >= wall), *ends

    return Beyond


@pytest.mark.parametrize("wall", [None, 6])
def test_inflated_rewards_show_as_exploitation(wall):
    """Plan by plan the gap is half the steps that the simulator counts where rewards are a half
    too good.
    """
    found = quality_of(Rosy(wall)).results["plans"]
    steps = quality_of(Rosy(wall), kind=beyond(wall or 0)).results["plans"]
    assert steps["kind"] == found["kind"] and max(steps["real"]) == PLAN
    gaps, wanted, own = (np.array(x) for x in (found["imagined"], steps["real"], found["kind"]))
    np.testing.assert_array_equal(gaps - found["real"], wanted / 2)
    kinds = found["by_kind"]
    for kind in ("random", "planner"):
        assert kinds[kind]["gap"] == pytest.approx(wanted[own == kind].mean() / 2)
    assert found["exploitation"] == kinds["planner"]["gap"] > kinds["random"]["gap"] > 0.5
    assert wall or found["exploitation"] == 0.5 * PLAN  # it ends nothing that pays at every step


def test_missing_results_have_a_line():
    blind = quality_of(Blind())
    assert (
        "mse" not in blind.results
        and "sensitivity" not in blind.results
        and "plans" in blind.results
    )
    assert sum("cannot draw" in line for line in blind.left_out) == 1
    less = quality_of(Perfect(), own=False)
    assert any("no planner" in line for line in less.left_out) and np.isnan(
        less.results["plans"]["exploitation"]
    )
    alone = quality_of(Perfect(), real=False)
    assert any("no simulator" in line for line in alone.left_out) and "plans" not in alone.results
    few = quality_of(Perfect(), episodes=2, real=False)
    assert (
        any("fewer than 3 episodes" in line for line in few.left_out)
        and "probe" not in few.results
    )


def test_an_environment_that_does_not_reproduce_is_reported():
    found = quality_of(Perfect(), kind=Restless)
    assert any("reached other states" in line for line in found.left_out)
    assert len(found.results.get("plans", {"start": []})["start"]) < 5 * 9


def test_a_simulated_plan_ends_by_termination_or_time_limit():
    """Steps after an end count and earn nothing; of steps after a time limit nothing is known."""
    towards, stay = np.full((1, 2), -1, np.float32), np.zeros((1, 2), np.float32)
    with SerialEnv(Grid, 1) as envs:
        rollout = Rollout(envs, SPACE, make_episode_seeds(1))
        simulator = Simulator(envs, rollout.to_env)
        [ended] = collect_episodes(rollout, lambda rows: towards, 1, lambda done: None)
        [limited] = collect_episodes(rollout, lambda rows: stay, 1, lambda done: None)
        assert (
            ended.columns["is_terminal"][-1]
            and len(limited) == 31
            and not limited.columns["is_terminal"].any()
        )
        last = simulator.simulate_plan(ended, len(ended) - 3, np.repeat(towards, 4, 0))
        assert (
            last.seen.tolist() == [True, True, False, False]
            and last.counted.all()
            and (last.reward[2:] == 0).all()
        )
        assert np.array_equal(last.pictures[:2], ended.columns["image"][-2:])
        assert np.array_equal(last.reward[:2], ended.columns["reward"][-2:])
        last = simulator.simulate_plan(limited, 28, np.repeat(stay, 4, 0))
        assert last.seen.tolist() == [True, True, False, False] == last.counted.tolist()
        assert simulator.simulate_plan(limited, 30, stay) is None  # over already


def test_a_probe_is_tested_on_held_out_episodes():
    rng = np.random.default_rng(0)
    # Unrelated, yet more than rows
    feats, states = ([rng.normal(size=(12, n)) for _ in range(6)] for n in (40, 2))
    tables = [
        {"feat": f[None, 1:], "feat_copy": f[None, :1], "state": s[None, 1:]}
        for f, s in zip(feats, states, strict=True)
    ]
    found = measure_by_horizon(feats, states, tables)
    assert (found["posterior"] < 0.3).all() and found["open_loop"].mean() < 0.3
    assert found["open_loop"].shape == (11, 2) == found["copy"].shape


def test_sensitivity_needs_two_pairs_and_leaves_out_what_was_not_reached():
    rng = np.random.default_rng(0)
    truth, seen = rng.random((2, 4, 3, 2, 2, 3)), np.ones((2, 4, 3), bool)
    with pytest.raises(ValueError, match="at least 2"):
        measure_sensitivity(truth[:, :3], truth[:, :3], seen[:, :3])
    wrong = truth.copy()
    wrong[0, 1, 2] = 9.0  # there the simulator had ended
    seen[0, 1, 2] = False
    assert measure_sensitivity(wrong, truth, seen)["agreement"] == pytest.approx([1, 1, 1])
    assert measure_sensitivity(1 - truth, truth, seen)["agreement"] == pytest.approx([-1, -1, -1])


@pytest.mark.parametrize("plans", [4, 8])
def test_the_chance_level_of_shuffled_plans(plans):
    """Differences that all point one way or the other: `shuffled` spreads about 0 as far as
    `chance` says.
    """
    rng, found, seen = np.random.default_rng(0), [], np.ones((6, plans, 1), bool)
    for _ in range(400):
        truth = rng.choice([-1.0, 1.0], (6, plans, 1, 1)) * np.array([1.0, -1.0])
        truth[:, ::2] = 0  # so that pairs differ by as much
        result = measure_sensitivity(truth, truth, seen)
        found.append(result["shuffled"][0])
    assert result["chance"][0] == pytest.approx((6 if plans == 4 else 24) ** -0.5)
    assert (
        np.std(found) == pytest.approx(result["chance"][0], rel=0.1) and abs(np.mean(found)) < 0.06
    )


def test_json_has_no_non_finite_numbers():
    assert to_plain({"a": np.array([1.0, np.nan]), "b": [np.int64(3), float("inf")]}) == {
        "a": [1.0, None],
        "b": [3, None],
    }

"""What an evaluation says of its episodes, by hand."""

import numpy as np
import pytest

from worldmodel.rollout.evaluation_episodes import Evaluation
from worldmodel.rollout.statistics import (
    bootstrap_interval,
    compute_profile,
    estimate_aggregates,
    format_interval,
    resample_runs,
    warn_few_values,
)


def test_scores_lengths_and_successes_are_summarised_with_intervals_of_their_own():
    result = Evaluation([1.0, 3.0, 8.0], [10, 20, 60], [], [True, None, False])
    found = result.summarize(seed=4)
    low, high = bootstrap_interval(np.array([1.0, 3.0, 8.0]), 4)
    least, most = bootstrap_interval(np.array([1.0, 0.0]), 4)
    assert found == {
        "eval/score": 4.0,
        "eval/score_std": pytest.approx(np.sqrt((9 + 1 + 16) / 3)),
        "eval/score_low": low,
        "eval/score_high": high,
        "eval/length": 30.0,
        "eval/episodes": 3,
        "eval/success": 0.5,
        "eval/success_low": least,
        "eval/success_high": most,
    }
    assert 1.0 <= low < 4.0 < high <= 8.0 and (least, most) == (0.0, 1.0)
    unknown = Evaluation([1.0], [1], [], [None]).summarize()
    assert not any(key.startswith("eval/success") for key in unknown)


def test_intervals_over_fewer_than_five_come_with_a_warning():
    assert warn_few_values("runs", 5) == [] and "runs" in warn_few_values("runs", 4)[0]
    assert "no intervals" in warn_few_values("runs", 1)[0]
    assert format_interval(1.0, 2.0, 5) == "95 % interval 1.0 to 2.0"
    assert format_interval(1.0, 2.0, 4).endswith("unreliable with so few")
    assert format_interval(1.0, 2.0, 1) == "no interval of one"


def test_intervals_are_of_a_documented_number_of_draws_and_seed():
    strata, levels = [np.array([1.0, 2.0, 5.0]), np.array([0.0, 4.0])], np.array([0.5, 3.0])
    assert compute_profile(strata, levels)["share"].tolist() == [0.8, 0.4]
    many = [np.random.default_rng(0).normal(size=400)]
    places = np.linspace(-1, 1, 50)
    profile, again, more = (compute_profile(many, places, *n) for n in ((), (0, 2000), (0, 4000)))
    assert all(np.array_equal(profile[key], again[key]) for key in ("share", "low", "high"))
    assert not np.array_equal(profile["low"], more["low"])
    assert bootstrap_interval(many[0]) == bootstrap_interval(many[0], 0, 10_000)
    assert bootstrap_interval(many[0]) != bootstrap_interval(many[0], 0, 20_000)
    drawn = resample_runs(strata)
    assert [x.shape for x in drawn] == [(10_000, 3), (10_000, 2)]
    assert np.array_equal(drawn[0], resample_runs(strata, 0)[0])
    assert estimate_aggregates(strata) == estimate_aggregates(strata, 0, 10_000)
    episodes = Evaluation([float(x) for x in many[0]], [1] * 400, [])
    assert episodes.estimate_iqm() == episodes.estimate_iqm(0) != episodes.estimate_iqm(1)

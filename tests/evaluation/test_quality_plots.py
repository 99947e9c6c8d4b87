"""Plots and text of a model's quality: clipped curves are noted, ticks are whole numbers, one start
has no interval.
"""

import numpy as np
import pytest

from worldmodel.evaluation.imagination import long_rollouts
from worldmodel.evaluation.plotting.style import load_pyplot
from worldmodel.evaluation.quality import quality_plots, summary_text


@pytest.fixture
def axes():
    figure, axes = load_pyplot().subplots()
    yield axes
    load_pyplot().close(figure)


def whole(axes):
    return all(tick == int(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("lowest", [-0.1, -0.775, -1.4])
def test_low_values_are_shown_and_clipped_values_are_noted(axes, lowest):
    quality_plots._plot_curves(axes, "sensitivity", {"model": [lowest, 0.2, None, 0.4]}, low=-0.3)
    bottom = axes.get_ylim()[0]
    assert bottom == quality_plots.MIN_SHOWN if lowest < -1 else bottom < min(lowest, -0.29)
    said = [text.get_text() for text in axes.texts]
    assert said == (["goes down to -1.4"] if lowest < -1 else [])


@pytest.mark.parametrize("steps", [2, 5, 8, 50])
def test_ticks_are_whole_steps(axes, steps):
    quality_plots._plot_curves(axes, "mse", {"model": np.linspace(0, 1, steps)})
    assert whole(axes)
    axes.clear()
    curves = {"model": np.linspace(1, 2, steps), "copy": np.linspace(2, 3, steps)}
    long_rollouts._plot_errors(axes, "latent KL", curves, {"trained": {"sequence": 3}}, None)
    assert whole(axes) and axes.get_legend().get_texts()[0].get_text() == "samples, on average"


def gap(count, low, high):
    numbers = {
        f"{word}{end}": x
        for word in ("imagined", "real", "gap")
        for end, x in (("", 1.0), ("_low", low), ("_high", high))
    }
    return {
        "steps": 9,
        "starts": count,
        "rank": 0.5,
        "by_policy": {"actor": numbers, "random": numbers},
        **numbers,
    }


def test_one_start_has_no_interval_and_few_starts_have_a_warning(axes):
    one, few, many = (
        summary_text._describe_policies(x)
        for x in (gap(1, None, None), gap(4, 0.5, 1.5), gap(5, 0.5, 1.5))
    )
    assert "from one start (--starts): no intervals" in one[-1] and not any(
        " to " in line for line in one
    )
    assert (
        "from 4 starts (--starts): intervals over so few are unreliable" in few[-1]
        and len(many) == len(few) - 1
    )
    assert "imagined minus real 1 (0.5 to 1.5)" in many[0]
    assert summary_text.format_policies({"policies": gap(5, 0.5, 1.5)})[0] == (
        "actor",
        *["1 (0.5 to 1.5)"] * 3,
    )
    assert summary_text.format_policies({"policies": gap(1, None, None)})[1] == (
        "random",
        "1",
        "1",
        "1",
    )
    assert summary_text.format_policies({}) == []
    other = load_pyplot().figure().add_subplot()
    quality_plots._plot_policy_returns(axes, other, gap(1, None, None))
    assert len(other.containers) == 2 and all(bar.errorbar is None for bar in other.containers)
    load_pyplot().close(other.figure)


@pytest.mark.parametrize(
    ("own", "steps"),
    [
        ([1, 1, 1, 1, 1], 5),
        ([1, 1, 5, 1, 1], 5),
        ([1, 5, 5, 5, 1], 1),
        ([5, 5, 5, 5, 5], 0),
        ([1, 2, 2, None, 5], 5),
    ],
)
def test_the_horizon_up_to_which_a_model_beats_both_baselines(own, steps):
    curve = {"model": own, "copy": [2.0] * 5, "mean": [3.0, 3.0, 3.0, None, 3.0]}
    assert summary_text.count_useful_steps(curve) == steps
    assert ("from the first step" in summary_text._describe_useful_horizon("x", steps, 5)) == (
        steps == 0
    )

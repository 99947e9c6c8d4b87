"""What lessons say of made-up measurements, on both sides of each threshold."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from worldmodel.ladder.lessons import (
    catalog,
    caution,
    distribution_shift,
    error_growth,
    exploitation,
    model_free,
    replanning,
    returns,
    rollout_length,
    uncertainties,
)
from worldmodel.ladder.statements import Verdict

LEVELS = {"expert": 125.4, "spinning": 76.0}
KEPT = Path(__file__).parents[2] / "docs" / "results" / "ladder" / "lessons.jsonl"
MOST_WORDS = 40  # of a sentence of any branch
AGREES, PARTLY, UNCLEAR, DISAGREES, UNMEASURED = Verdict


def make_curve(*final, spent=1.0, seeds=None, scores=None, step=100.0):
    """A curve whose closing returns are known; `scores` are those of episodes of all seeds."""
    seeds = list(range(len(final))) if seeds is None else seeds
    scores = [0.0] if scores is None else scores
    frames = [step * (i + 1) for i in range(len(scores))]
    return {
        "seeds": seeds,
        "final": list(final),
        "spent": [spent] * len(final),
        "frames": [frames] * len(final),
        "minutes": [[spent * (i + 1) for i in range(len(scores))]] * len(final),
        "scores": [scores] * len(final),
        "prefill": [100] * len(final),
        "updates": [50] * len(final),
    }


def summarize(lesson, results):
    """The verdict of a lesson's sentence and its figures; it has to be one short sentence."""
    said = lesson.summarize(results)
    assert said.endswith(".") and ". " not in said and "\n" not in said and "nan" not in said
    assert len(said.split()) <= MOST_WORDS, said
    lead, _, figures = said.partition(": ")
    return Verdict(lead), figures[:-1]


HIGH, LOW = make_curve(124.0, 125.0, 126.0), make_curve(76.0, 77.0, 78.0)
VAGUE = make_curve(20.0, 120.0, 125.0)


def describe_returns(curves, action=None, levels=LEVELS):
    action = action or dict.fromkeys(curves, 1.0)
    return returns.describe({"curves": curves, "action_ms": action, "references": levels})


def test_the_order_of_the_rungs_is_judged_up_to_v15_alone():
    said = describe_returns({"v05": make_curve(60.0, 61.0), "v10": LOW, "v15": HIGH})
    assert "rises from v05 to v10 and v10 to v15. Up to v15 that is as the lecture says" in said
    said = describe_returns({"v10": LOW, "v15": HIGH, "v2_ensemble": HIGH})
    assert "it shows no clear change from v15 to v2_ensemble. Up to v15 that is as the" in said
    said = describe_returns({"v10": HIGH, "v15": LOW})
    assert "falls from v10 to v15. Up to v15 that is not what the lecture says" in said
    assert "Up to v15" not in describe_returns({"v15": LOW, "v2_ensemble": HIGH})
    assert "Along" not in describe_returns({"v15": LOW})


def test_policies_are_compared_with_replanning():
    said = describe_returns({"v15": LOW, "v20": HIGH})
    assert "v20 (125.0) ended clearly above v15 (77.0): returns rise on, as the lecture" in said
    said = describe_returns({"v15": HIGH, "v20": VAGUE, "v25": LOW, "v30": HIGH})
    assert "v20 (88.3) and v30 (125.0) ended within the spread of the seeds of v15 (125.0)" in said
    assert "v25 (77.0) ended clearly below v15 (125.0); 2 of 3 of these means are lower" in said
    assert "beyond v15 returns do not rise as the lecture says" in said
    assert "all of these means are lower" in describe_returns({"v15": HIGH, "v20": LOW})
    assert "Of the policies" not in describe_returns({"v20": HIGH})
    assert "Of the policies" not in describe_returns({"v15": HIGH})


def test_rungs_are_compared_over_the_seeds_that_both_have():
    """Seed 0 alone would let v2_ensemble fall."""
    curves = {"v15": make_curve(120.0, 10.0, 11.0), "v2_ensemble": make_curve(100.0)}
    assert "falls from v15 to v2_ensemble" in describe_returns(curves)
    curves["v2_ensemble"] = make_curve(100.0, seeds=[7])
    assert "no clear change from v15 to v2_ensemble" in describe_returns(curves)


def test_the_highest_return_names_what_is_no_worse():
    said = describe_returns({"v10": LOW, "v15": HIGH, "v2_ensemble": make_curve(124, 125, 125)})
    assert "that of v15, 125.0 (124.0 to 126.0); there is no clear difference from v2_ens" in said
    assert "125.0 (124.0 to 126.0), clearly above the rest." in describe_returns(
        {"v10": LOW, "v15": HIGH}
    )
    assert "that of v15, 125.0 (124.0 to 126.0)." in describe_returns({"v15": HIGH})


def test_single_seeds_are_named():
    assert "one seed" not in describe_returns({"v10": LOW, "v15": HIGH})
    said = describe_returns({"v10": LOW, "v4": make_curve(76.0)})
    assert "v4 has one seed, so that differences from others may be chance." in said
    both = {"v10": make_curve(76.0), "v4": make_curve(76.0)}
    assert "v10 and v4 have one seed" in describe_returns(both)


def test_rungs_that_only_spin_are_named_where_spinning_is_known():
    said = describe_returns({"v10": LOW, "v15": HIGH})
    assert "v10 does not get beyond a spinning pendulum (76.0); the expert gets 125.4" in said
    assert "v10 and v4 do not get" in describe_returns({"v10": LOW, "v15": HIGH, "v4": LOW})
    most = returns.SPINS * 76.0
    assert "v10 does not" in describe_returns({"v10": make_curve(most - 0.1)})
    assert "All get beyond a spinning" in describe_returns({"v10": make_curve(most + 0.1)})
    assert "spinning" not in describe_returns({"v10": LOW}, levels={})


@pytest.mark.parametrize(
    "plan, act, spent, verdict, turn",
    [
        (5.0, 1.0, 2.0, ", as the lecture says", "costs more than its actions save"),
        (5.0, 1.0, 0.5, ", as the lecture says", "a policy is cheaper on the whole too"),
        (1.0, 1.5, 1.0, "not what the lecture says", "neither is cheaper on the whole"),
    ],
)
def test_the_price_of_an_action_is_told_from_that_of_a_training(plan, act, spent, verdict, turn):
    curves = {"v15": HIGH, "v20": make_curve(125.0, spent=spent)}
    said = describe_returns(curves, {"v15": plan, "v20": act})
    assert f"takes {plan:.2g} ms of processor time where it is planned anew (v15)" in said
    assert verdict in said.rpartition("An action")[2] and turn in said
    assert "whole plans" not in said
    both = {"v10": LOW, **curves}
    said = describe_returns(both, {"v10": 0.25, "v15": plan, "v20": act})
    assert "Where whole plans are executed (v10) it takes 0.25 ms, since all steps of a" in said
    unknown = {**curves, "v20": {**curves["v20"], "spent": [None]}}
    assert "Whole trainings" not in describe_returns(unknown, {"v15": plan, "v20": act})
    assert "An action" not in describe_returns({"v15": HIGH})


def sum_up_returns(curves, action=None):
    action = action or dict.fromkeys(curves, 1.0)
    results = {"curves": curves, "action_ms": action, "references": LEVELS}
    return summarize(returns, results)


def test_the_sentence_of_the_rungs_tells_v15_from_what_lies_beyond():
    best = make_curve(134.0, 135.0, 136.0)
    rise = {"v05": make_curve(60.0, 61.0, 62.0), "v10": LOW, "v15": HIGH}
    dear = {"v15": 5.03, "v20": 0.5}
    assert sum_up_returns({**rise, "v20": best, "v30": best}, dear) == (
        AGREES,
        "returns rise from 61.0 (v05) to 125.0 (v15), v20 and v30 clearly beat v15 (135.0), and "
        "replanned actions take at least 10.0 times a policy's time",
    )
    assert sum_up_returns({**rise, "v20": HIGH, "v30": VAGUE}, dear) == (
        PARTLY,
        "returns rise from 61.0 (v05) to 125.0 (v15), and replanned actions take at least 10.0 "
        "times a policy's time, but v20 and v30 do not clearly beat v15 (88.3 to 125.0)",
    )
    _, said = sum_up_returns({**rise, "v2_ensemble": HIGH, "v20": LOW, "v25": LOW})
    assert "v20 and v25 clearly fall below v15 (77.0)" in said  # the ensemble does not
    _, said = sum_up_returns({**rise, "v20": best, "v25": LOW, "v30": best})
    assert "but of v20 to v30 only v20 and v30 clearly beat v15 (135.0)" in said
    assert "v20 does not clearly beat v15 (125.0)" in sum_up_returns({**rise, "v20": HIGH})[1]
    alike = {**rise, "v2_ensemble": HIGH, "v20": HIGH, "v30": VAGUE}
    said = sum_up_returns(alike)[1]
    assert "v2_ensemble to v30 do not clearly beat v15 (88.3 to 125.0)" in said


def test_the_sentence_of_the_rungs_names_returns_that_do_not_rise():
    alike = {"v2_ensemble": HIGH, "v20": HIGH}
    up_and_down = {"v05": LOW, "v10": HIGH, "v15": LOW}
    verdict, said = sum_up_returns({**up_and_down, **alike}, {"v15": 1.0, "v20": 2.0})
    assert verdict is PARTLY
    assert "up to v15 returns do not rise at each step (v05 77.0, v10 125.0, v15 77.0)" in said
    flat = {"v05": VAGUE, "v10": VAGUE, "v15": HIGH}
    verdict, said = sum_up_returns({**flat, **alike}, {"v15": 1.0, "v2_ensemble": 3.0, "v20": 2.0})
    assert verdict is UNCLEAR and "up to v15 returns do not clearly rise (v05 88.3, v10" in said
    assert said.endswith("replanned actions take 1 to 3 ms, a policy's 2 ms")
    fall = {"v05": HIGH, "v10": HIGH, "v15": LOW}
    lost = {"v2_ensemble": make_curve(1.0, 2.0, 3.0), "v20": LOW}
    verdict, said = sum_up_returns({**fall, **lost}, {"v15": 1.0, "v20": 2.0})
    assert verdict is DISAGREES and "returns do not rise (v05 125.0, v10 125.0, v15 77.0)" in said
    assert "v2_ensemble clearly falls below v15 (2.0)" in said
    assert "replanned actions take 1 ms, a policy's 2 ms" in said


def test_the_sentence_of_the_rungs_says_what_cannot_be_compared():
    apart = make_curve(1.0, seeds=[9])
    for curves in ({"v15": HIGH}, {"v10": apart, "v15": HIGH, "v2_ensemble": apart}):
        verdict, said = sum_up_returns(curves, {"v15": 1.0})
        assert verdict is UNMEASURED and said.startswith(
            "no two rungs up to v15 can be compared, "
        )
        assert "no rung beyond v15 can be compared with it, and no replanned action" in said
    one = {"v10": make_curve(77.0), "v15": make_curve(125.0)}
    verdict, said = sum_up_returns(one)
    assert verdict is PARTLY and said.startswith(
        "returns rise from 77.0 (v10) to 125.0 (v15), but"
    )
    assert said.endswith("with a policy's, over 1 seed")


def describe_shift(once, again, curves=None, levels=LEVELS):
    """Distances and errors are (median, median)."""
    rungs = {
        name: {k: [0.9 * x, x, 1.1 * x] for k, x in zip(("distance", "error"), own, strict=True)}
        for name, own in (("v05", once), ("v10", again))
    }
    curves = curves or {"v05": make_curve(60.0, 61.0, 62.0), "v10": LOW}
    return distribution_shift.describe({"rungs": rungs, "curves": curves, "references": levels})


def test_plans_leave_the_data_by_distance_and_by_error():
    said = describe_shift((2.0, 0.5), (0.1, 0.05))
    assert "20 times as far as after refits (v10, 0.1)" in said
    assert "0.5, 10 times that after refits (0.05): as the lecture says" in said
    assert "1.00 over both, and 1.00 within v05 and 1.00 within v10" in said
    assert "with refits the pendulum still only spins, as spinning alone returns 76.0" in said
    assert "only half of what" in describe_shift((2.0, 0.05), (0.1, 0.05))
    assert "which is not what" in describe_shift((0.1, 0.05), (0.1, 0.05))
    high = {"v05": LOW, "v10": HIGH}
    assert "still only spins" not in describe_shift((2.0, 0.5), (0.1, 0.05), high)
    assert "still only spins" not in describe_shift((2.0, 0.5), (0.1, 0.05), levels={})


def sum_up_shift(once, again, curves=None, levels=LEVELS):
    rungs = {
        name: {k: [x] for k, x in zip(("distance", "error"), own, strict=True)}
        for name, own in (("v05", once), ("v10", again))
    }
    curves = curves or {"v05": make_curve(60.0, 61.0, 62.0), "v10": LOW}
    results = {"rungs": rungs, "curves": curves, "references": levels}
    return summarize(distribution_shift, results)


def test_the_sentence_of_leaving_the_data_judges_refits_by_model_and_by_return():
    assert sum_up_shift((2.0, 0.5), (0.1, 0.05)) == (
        AGREES,
        "with random data alone (v05), plans leave it 20 times as far as after refits (v10) and "
        "meet 10 times the error, and refits raise returns (61.0 to 77.0, 3 seeds)",
    )
    half, said = sum_up_shift((2.0, 0.05), (0.1, 0.05))
    assert half is PARTLY and said.startswith("refits raise returns (61.0 to 77.0, 3 seeds), but")
    flat, fall = {"v05": HIGH, "v10": VAGUE}, {"v05": HIGH, "v10": LOW}
    verdict, said = sum_up_shift((1.0, 1.0), (1.0, 1.0), flat)
    assert verdict is UNCLEAR and "refits do not clearly raise returns (125.0 to 88.3, 3" in said
    assert sum_up_shift((0.5, 1.0), (1.0, 1.0), flat)[0] is DISAGREES
    verdict, said = sum_up_shift((2.0, 2.0), (1.0, 1.0), fall)
    assert verdict is PARTLY and said.endswith("but refits lower returns (125.0 to 77.0, 3 seeds)")
    apart = {"v05": HIGH, "v10": make_curve(1.0, seeds=[9])}
    verdict, said = sum_up_shift((2.0, 2.0), (1.0, 1.0), apart)
    assert verdict is PARTLY and said.endswith("but their returns have no seed in common")
    spins = {"v05": make_curve(70.0), "v10": make_curve(80.0)}  # a clear rise, and both only spin
    verdict, said = sum_up_shift((2.0, 2.0), (1.0, 1.0), spins)
    near = ", but returns stay near those of spinning, 76.0 (70.0 to 80.0, 1 seed)"
    assert verdict is PARTLY and said.endswith(near)
    said = describe_shift((2.0, 2.0), (1.0, 1.0), spins)
    assert "both near that of spinning alone (76.0): a difference between them shows no" in said
    assert said.endswith("no success.")
    assert sum_up_shift((2.0, 2.0), (1.0, 1.0), spins, levels={})[0] is AGREES
    rise = {"v05": make_curve(20.0), "v10": make_curve(80.0)}
    assert sum_up_shift((2.0, 2.0), (1.0, 1.0), rise)[0] is AGREES
    assert "no seed in common" in describe_shift((2.0, 2.0), (1.0, 1.0), apart)


def test_errors_near_the_data_are_compared_where_both_rungs_have_states():
    def describe(once, again, count=distribution_shift.FEW):
        rungs = {
            name: {"distance": [0.1] * count + [9.0], "error": [error] * count + [5.0]}
            for name, error in (("v05", once), ("v10", again))
        }
        return distribution_shift.describe_near(rungs)

    said = describe(0.01, 0.1)
    assert (
        "below 0.3 the median error is 0.01 for v05 and 0.1 for v10: the model of random" in said
    )
    assert describe(0.1, 0.1).endswith("is 0.1 for v05 and 0.1 for v10.")
    assert describe(0.01, 0.1, distribution_shift.FEW - 1) == ""
    assert distribution_shift.describe_data({"v05": 1200, "v10": 1200}) == " (1,200 steps each)"
    unequal = distribution_shift.describe_data({"v05": 1200, "v10": 600})
    assert unequal == " (1,200 steps of v05 and 600 steps of v10)"


def make_replanning(whole, anew, ms=(1.0, 9.0)):
    """The results of the lesson; `ms` is the time of an action of whole plans and of others."""
    return {
        "curves": {"v10": whole, "v15": anew},
        "action_ms": dict(zip(("v10", "v15"), ms, strict=True)),
        "horizon": 15,
        "references": LEVELS,
    }


def test_replanning_is_judged_over_shared_seeds_and_by_processor_time():
    def describe(whole, anew, ms=(1.0, 9.0)):
        return replanning.describe(make_replanning(whole, anew, ms))

    dear = make_curve(124.0, 125.0, 126.0, spent=2.0)
    said = describe(LOW, dear)
    assert "as the lecture says (3 seeds)" in said
    assert "9 ms of processor time with replanning and 1 ms with whole plans" in said
    assert "9.0 times as much, as the lecture says. The whole training, with its up" in said
    assert "took 2.0 times the processor time" in said
    assert "not measured here but under error against rollout length" in said
    assert "the opposite of what the lecture says" in describe(HIGH, LOW)
    assert "no clear difference over 3 seeds" in describe(HIGH, VAGUE)
    assert "1.0 times as much, which is not what" in describe(LOW, dear, (1.0, 1.0))
    assert "as the lecture says (1 seed)" in describe(make_curve(77.0), dear)
    unknown = {**dear, "spent": [None] * 3}
    assert "The whole training" not in describe(LOW, unknown)


def test_the_sentence_of_replanning_judges_its_return_and_its_price():
    def sum_up(whole, anew, ms=(1.0, 9.0)):
        return summarize(replanning, make_replanning(whole, anew, ms))

    dear, cheap = (make_curve(124.0, 125.0, 126.0, spent=x) for x in (2.0, 0.5))
    assert sum_up(LOW, dear) == (
        AGREES,
        "planning anew (v15) returns clearly more than whole plans (v10), 125.0 against 77.0 over "
        "3 seeds, and an action takes 9.0 times the processor time, the whole training 2.0 times",
    )
    verdict, said = sum_up(LOW, cheap, (2.0, 1.0))
    assert verdict is PARTLY
    price = "an action takes 0.5 times the processor time, the whole training 0.5 times"
    assert said.endswith(f", but {price}")
    assert sum_up(LOW, cheap)[0] is AGREES  # the lecture speaks of planning
    verdict, said = sum_up(HIGH, VAGUE, (1.0, 1.0))
    assert verdict is UNCLEAR and "returns not clearly more than whole plans (v10), 88.3" in said
    assert ", and an action takes 1.0 times the processor time" in said
    verdict, said = sum_up(dear, LOW, (9.0, 1.0))
    assert verdict is DISAGREES and "returns clearly less than whole plans (v10), 77.0" in said
    verdict, said = sum_up(LOW, {**dear, "spent": [None] * 3})
    assert verdict is AGREES and said.endswith("an action takes 9.0 times the processor time")
    assert "over 1 seed, and" in sum_up(make_curve(77.0), make_curve(125.0, spent=2.0))[1]
    apart = make_curve(1.0, seeds=[9])
    assert sum_up(HIGH, apart) == (UNMEASURED, "the trainings have no seed in common")
    said = replanning.describe(make_replanning(HIGH, apart))
    assert said == "Returns cannot be compared: the trainings have no seed in common."


def make_place(one, mean=None, sampled=None, careful=None, random=(0.0, 0.0), error=0.1):
    """What the search adds to the gap of random plans, by amount of data."""
    added = {
        exploitation.ONE: one,
        exploitation.ENSEMBLE: mean or one,
        exploitation.SAMPLED: sampled or one,
        exploitation.PESSIMISM: careful or one,
    }
    real = [6.0, 6.0]
    place = {
        name: {
            "imagined": [6.0 + x + r for x, r in zip(own, random, strict=True)],
            "real": real,
            "added": list(own),
            "error": [error] * 2,
        }
        for name, own in added.items()
    }
    own = {"imagined": [6.0 + r for r in random], "real": real, "added": [], "error": []}
    return {**place, exploitation.RANDOM: own}


def describe_gaps(seen, visited):
    return exploitation.describe(
        {"sizes": [150, 2400], "horizon": 15, "places": {"random": seen, "plans": visited}}
    )


def test_the_search_exploits_errors_where_it_clearly_adds_to_the_gap():
    said = describe_gaps(make_place((-0.1, 0.001)), make_place((0.9, 2.2)))
    assert "-0.10 and 0.00 from states of random actions, which is not what" in said
    assert "+0.90 and +2.20 from states that plans lead to, as the lecture says." in said
    said = describe_gaps(make_place((0.19, 0.21)), make_place((0.1, 0.1)))
    assert "+0.19 and +0.21 from states of random actions, as the lecture says with 2,400" in said


def test_where_all_gaps_are_negative_nobody_is_fooled():
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), random=(-3.0, 0.0)))
    assert "With 150 frames every gap from states that plans lead to is negative" in said
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), random=(-0.9, 0.0)))
    assert "negative" not in said


def test_ensembles_are_compared_with_one_model_by_amount_of_data():
    less, more, alike = (0.5, 1.5), (1.5, 2.5), (1.1, 2.1)
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), less, alike, (0.2, 1.2)))
    assert "adds less with 150 and 2,400 frames for the mean over members" in said
    assert "about as much with 150 and 2,400 frames for members drawn anew" in said
    assert (
        "for pessimism: as the lecture says. Clear is a difference of two of its own standard"
        in said
    )
    assert "By the means, pessimism lets it add the least of the three each time" in said
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), (1.5, 1.5), more, (1.6, 1.0)))
    assert "less with 2,400 frames, more with 150 frames for the mean over members" in said
    assert (
        "as the lecture says only in part. " in said
        and "add the least with 2,400 frames alone" in said
    )
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), more, alike, more))
    assert ": which is not what the lecture says. " in said and "pessimism never lets" in said


def test_the_table_of_gaps_has_the_random_plans_of_each_method():
    """So that searched minus random is what the plots show."""
    place = make_place((1.0, 2.0), (0.5, 1.5), random=(-3.0, -0.5))
    place[exploitation.ENSEMBLE]["imagined"] = [6.0 - 1.0, 6.0 + 1.0]
    results = {"sizes": [150, 2400], "places": {"random": place, "plans": place}}
    table = exploitation.tabulate_gaps(results, "plans")
    rows = {
        name: re.findall("<td>(.*?)</td>", row)
        for name, row in re.findall('<th scope="row">(.*?)</th>(.*?)</tr>', table)
    }
    assert rows["one model"] == ["-2.00", "-3.00", "+1.00", "+1.50", "-0.50", "+2.00"]
    assert rows["TS-inf"] == ["-1.00", "-1.50", "+0.50", "+1.00", "-0.50", "+1.50"]
    assert list(rows) == ["one model", "TS-inf", "TS-1", "pessimism"]


def test_growth_of_the_gap_is_shared_between_search_and_bias():
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), random=(-3.0, 0.0)))
    assert "from -2.00 to +2.00, and that of random plans from -3.00 to 0.00: 75% of the" in said
    said = describe_gaps(make_place((0, 0)), make_place((1.0, 2.0), random=(0.0, -0.5)))
    assert "from +1.00 to +1.50, and that of random plans does not: the growth is the" in said
    assert "grows" not in describe_gaps(make_place((0, 0)), make_place((2.0, 1.0)))


def sum_up_gaps(seen, visited):
    places = {"random": seen, "plans": visited}
    return summarize(exploitation, {"sizes": [150, 2400], "horizon": 15, "places": places})


def test_the_sentence_of_exploitation_judges_search_and_ensembles():
    near, less, least, more = make_place((1.0, 1.5)), (0.5, 1.5), (0.2, 1.2), (1.5, 2.5)
    assert sum_up_gaps(near, make_place((1.0, 2.0), less, (1.1, 2.1), least)) == (
        AGREES,
        "searching adds up to +2.00 to the gap where plans lead (+1.50 near data), and "
        "ensembles lower what searching adds, pessimistic ones most",
    )
    # The search is not clear near the data, pessimism not always least, the mean not always less.
    for seen, mean, careful, said in (
        (
            make_place((1.0, 0.1)),
            less,
            least,
            "ensembles lower what searching adds, pessimistic ones most, but s",
        ),
        (
            near,
            less,
            (0.6, 1.2),
            "but plain ensembles lower it at both data sizes, pessimism does at both data sizes, "
            "not always most",
        ),
        (
            near,
            (0.5, 2.0),
            least,
            "ensembles lower it with 150 frames, pessimism does at both data sizes",
        ),
        (
            near,
            (1.0, 2.0),
            (1.0, 1.2),
            "plain ensembles do not clearly lower it, pessimism does with 2,400 frames",
        ),
        (near, (0.5, 2.0), more, "ensembles lower it with 150 frames, pessimism does not"),
        (near, more, more, "but neither plain nor pessimistic ensembles clearly lower this"),
    ):
        found = sum_up_gaps(seen, make_place((1.0, 2.0), mean, (1.1, 2.1), careful))
        assert found[0] is PARTLY and said in found[1]
    # No plan promised more than it returned, which alone does not let it agree.
    visited = make_place((1.0, 2.0), less, (1.0, 2.0), least, random=(-3.0, 0.0))
    found, said = sum_up_gaps(near, visited)
    assert found is PARTLY and said.endswith("but models of 150 frames underestimate returns")
    # Also where something else differs, and with every size the lecture is wrong.
    visited = make_place((1.0, 2.0), more, random=(-3.0, 0.0))
    found, said = sum_up_gaps(near, visited)
    assert found is PARTLY and said.endswith(", and models of 150 frames underestimate returns")
    visited = make_place((0.0, 0.0), random=(-3.0, -3.0))
    found, said = sum_up_gaps(none := make_place((0.0, 0.0)), visited)
    assert found is DISAGREES and said.endswith(
        "models of 150 and 2,400 frames underestimate returns"
    )
    assert sum_up_gaps(none, none) == (
        UNCLEAR,
        "searching adds up to 0.00 to the gap where plans lead (0.00 near data), and neither "
        "plain nor pessimistic ensembles clearly lower this",
    )
    assert sum_up_gaps(none, make_place((-1.0, -2.0), (0.0, -1.0)))[0] is DISAGREES
    assert sum_up_gaps(none, make_place((0.0, 0.0), more))[0] is DISAGREES
    # Pessimism is clearly less than one model, but another ensemble is lower by the mean.
    lower = make_place((0.0, 0.0), (0.0, 0.0), (-2.0, -2.0), (-1.0, -1.0))
    assert sum_up_gaps(none, lower)[0] is PARTLY


def test_the_sentence_of_error_growth_compares_the_sum_with_the_bound():
    assert summarize(error_growth, {"error": [0.1, 0.2, 0.3]}) == (
        AGREES,
        "with the first step's error (0.1 standard deviations) as epsilon, the sum stays within "
        "epsilon T^2 for all 3 steps (1 seed)",
    )
    assert summarize(error_growth, {"error": [0.1, 0.2, 0.7]}) == (
        DISAGREES,
        "with the first step's error (0.1 standard deviations) as epsilon, the sum exceeds epsilon "
        "T^2 from step 3 on, which does not refute the bound but shows an unmet assumption (1 "
        "seed)",
    )


def make_room(values, disagreement, kinds=("vq", "vn", "uq", "un")):
    """One row of cells, one of each kind, and a wall."""
    return {
        "free": [[True] * len(kinds) + [False]],
        "noisy": [[kind[1] == "n" for kind in kinds] + [True]],
        "visits": [[2 * (kind[0] == "v") for kind in kinds] + [9]],
        "entropy": [[*values, 99.0]],
        "disagreement": [[*disagreement, 99.0]],
    }


def test_entropy_is_judged_where_it_was_visited_and_disagreement_where_not():
    said = uncertainties.describe(make_room([-14, -5, -13, -13], [0.1, 0.2, 0.312, 0.312]))
    assert "visited 50% of the room" in said
    assert "-5.0 nats in the noisy part and -14.0 in the quiet one, as the lecture says" in said
    assert "In the unvisited part it is -13.0, clearly lower" in said
    assert (
        "is 0.31 in the unvisited part: 3.1 times that of the visited quiet part (0.1), as" in said
    )
    assert "1.6 times that of the visited noisy part (0.2), as the lecture says" in said
    said = uncertainties.describe(make_room([-14, -5, -6.5, -6.5], [0.1, 0.2, 0.29, 0.29]))
    assert "-6.5, about as high as in the noisy one: entropy alone does not tell" in said
    assert "2.9 times that of the visited quiet part (0.1), as the lecture says" in said
    assert "1.4 times that of the visited noisy part (0.2), less than the 1.5 times that" in said
    said = uncertainties.describe(make_room([-5, -5.5, 0, 0], [0.1, 0.2, 0.1, 0.1]))
    assert "hardly what the lecture says" in said and "is 0.0, clearly higher" in said
    assert "0.5 times that of the visited noisy part (0.2), the opposite" in said
    assert "quiet one, the opposite" in uncertainties.describe(make_room([-5, -9, 0, 0], [1] * 4))


def test_rooms_without_one_of_the_parts_are_described():
    said = uncertainties.describe(make_room([1, 2], [1, 2], ("vq", "vn")))
    assert "visited 100%" in said and "disagreement has nothing unknown" in said
    said = uncertainties.describe(make_room([1, 2], [1, 2], ("vq", "un")))
    assert "Entropy cannot be compared" in said and "2 times that of the visited quiet" in said
    assert "nothing known" in uncertainties.describe(make_room([1, 2], [1, 2], ("uq", "un")))
    drawn = uncertainties.draw(make_room([1, 2], [1, 2], ("vq", "un")))
    assert "visited, quiet" in drawn and "unvisited, noisy" in drawn
    assert "visited, noisy<" not in drawn.replace("unvisited, noisy<", "")


@pytest.mark.parametrize(
    "entropy, disagreement, wanted, said",
    [
        ([-14, -5, 0, 0], [0.1, 0.2, 0.4, 0.4], AGREES, "is 4 times that in quiet and 2 times"),
        (
            [-14, -5, 0, 0],
            [0.3, 0.2, 0.4, 0.4],
            PARTLY,
            ", but disagreement in unvisited parts is",
        ),
        (
            [-14, -5, 0, 0],
            [0.3, 0.2, 0.4, 0.4],
            PARTLY,
            "is only 1.3 times that in quiet and 2 times that in noisy visited parts",
        ),
        (
            [-5, -14, 0, 0],
            [0.1, 0.2, 0.4, 0.4],
            PARTLY,
            "but where visited, entropy is -14.0 nats in",
        ),
        (
            [-5, -5.5, 0, 0],
            [0.2, 0.2, 0.2, 0.2],
            UNCLEAR,
            "is -5.5 nats in noisy and -5.0 in quiet",
        ),
        (
            [-5, -5.5, 0, 0],
            [0.1, 0.2, 0.1, 0.1],
            DISAGREES,
            "is only 1 times that in quiet and 0.5 times that in noisy visited parts",
        ),
        ([-5, -14, 0, 0], [0.2, 0.2, 0.2, 0.2], DISAGREES, "is only 1 times"),
        ([-5, -14, 0, 0], [0.1, 0.2, 0.2, 0.2], PARTLY, "is 2 times that in quiet and only 1 t"),
    ],
)
def test_the_sentence_of_uncertainties_judges_both_kinds(entropy, disagreement, wanted, said):
    found, figures = summarize(uncertainties, make_room(entropy, disagreement))
    assert found is wanted and said in figures and figures.endswith(" (1 seed)")


def test_the_sentence_of_uncertainties_says_which_part_is_lacking():
    found, said = summarize(uncertainties, make_room([1, 4], [1, 2], ("vq", "vn")))
    assert found is PARTLY and "disagreement cannot be compared as every part was" in said
    found, said = summarize(uncertainties, make_room([1, 2], [1, 2], ("vq", "un")))
    assert found is PARTLY and "a quiet or noisy part was not visited (1 seed)" in said
    found, said = summarize(uncertainties, make_room([1, 2], [1, 2], ("uq", "un")))
    assert found is UNMEASURED and "as no part was visited" in said


CAUTIOUS = {
    "pessimism": [-10.0, 0.0, 1000.0],
    "final": [[5.0], [4.0], [1.0]],
    "coverage": [[0.75], [0.6], [0.5]],
    "doubt": [[0.3], [0.2], [0.1]],
    "unsure": [[0.4], [0.3], [0.05]],
    "steps": 1200,
    "references": {"expert": 30.0},
}


def keep_cautions(some):
    """The made-up results of some settings alone."""
    return {k: v[some] if isinstance(v, list) else v for k, v in CAUTIOUS.items()}


def test_caution_is_judged_against_none_in_three_respects():
    said = caution.describe(CAUTIOUS)
    assert "With a pessimism of 1000 against 0 (1 seed), plans met less disagreement (0.1" in said
    assert "visited fewer disputed cells (5% against 30%) and got less return (1.0 ag" in said
    assert "Of all cells, plans visited 50% against 60%." in said
    assert "x times the variance of its return over the members" in said
    assert ": as the lecture says." in said
    assert "The highest return, 5.0, is that of a pessimism of -10" in said
    assert "A negative pessimism (-10) is optimism" in said
    wide = caution.describe({**CAUTIOUS, "unsure": [[0.5], [0.6], [0.75]]})
    assert "more disputed cells (75% against 60%)" in wide
    assert "as the lecture says of disagreement and the return, but not of the disputed" in wide
    same = caution.describe({**CAUTIOUS, "final": [[1.0], [1.0], [1.0]]})
    assert "as much return" in same and "but not of the return" in same
    up = [[0.1], [0.2], [0.3]]
    assert "which is not what the" in caution.describe(
        {**CAUTIOUS, "final": up, "unsure": up, "doubt": up}
    )
    assert "optimism" not in caution.describe(keep_cautions(slice(1, 3)))
    one = keep_cautions(slice(1, 2))
    assert caution.describe(one) == "No training with more pessimism than 0 is done."


def test_the_sentence_of_caution_judges_three_claims():
    assert summarize(caution, CAUTIOUS) == (
        AGREES,
        "with pessimism 1000 against 0 (1 seed), plans met less disagreement (0.1 against 0.2), "
        "visited fewer disputed cells (5% against 30%), and got less return (1.0 against "
        "4.0)",
    )
    whole = {**CAUTIOUS, "coverage": [[0.5], [0.6], [0.75]]}  # of all cells: no claim of lectures
    assert summarize(caution, whole) == summarize(caution, CAUTIOUS)
    wide = {**CAUTIOUS, "unsure": [[0.5], [0.6], [0.75]]}
    found, said = summarize(caution, wide)
    assert found is PARTLY and said.endswith("visited more disputed cells (75% against 60%)")
    same = {key: [[1.0]] * 3 for key in ("final", "unsure", "doubt")}
    found, said = summarize(caution, {**CAUTIOUS, **same})
    assert (
        found is UNCLEAR and "plans met about as much disagreement (1 against 1), visited" in said
    )
    more = {key: [[1.0], [1.0], [2.0]] for key in ("final", "unsure", "doubt")}
    found, said = summarize(caution, {**CAUTIOUS, **more})
    assert found is DISAGREES and said.endswith("and got more return (2.0 against 1.0)")
    one = keep_cautions(slice(1, 2))
    absent = (UNMEASURED, "no training with more pessimism than 0 is done")
    assert summarize(caution, one) == absent


def test_the_axis_of_caution_has_its_settings_as_ticks():
    drawn = caution.draw(CAUTIOUS)
    assert (
        ">-10</text>" in drawn
        and ">1000</text>" in drawn
        and ">0.5</text>" not in (drawn.split("</figure>")[0])
    )
    assert "(negative: optimism)" in drawn and "expert 30.0" in drawn
    assert "optimism" not in caution.draw(keep_cautions(slice(1, 3)))
    assert "expert" not in caution.draw({**CAUTIOUS, "references": {}})


def describe_lengths(**finals):
    curves = {name[1:]: curve for name, curve in finals.items()}
    imagined = {length: 64 * int(length) for length in curves}
    return rollout_length.describe({"curves": curves, "imagined": imagined, "references": LEVELS})


def test_each_rollout_length_is_compared_over_the_seeds_it_shares():
    alone = make_curve(50.0)
    said = describe_lengths(n1=HIGH, n5=LOW, n50=alone)
    assert (
        "5 steps got 77.0 (76.0 to 78.0) and 1 got 125.0 (124.0 to 126.0) over 3 seeds: " in said
    )
    assert "50 steps got 50.0 and 1 got 124.0 over 1 seed: clearly worse" in said
    assert "Every longer length does worse, as the lecture says." in said
    assert "are 1, 5 and 50 over 1 seed that all have: a steady fall with length" in said
    said = describe_lengths(n1=HIGH, n5=LOW, n15=HIGH)
    assert "Only some longer lengths do worse, which is half" in said
    assert "the lengths are 1, 15 and 5 over 3 seeds that all have: not a steady fall" in said
    assert "the opposite of what" in describe_lengths(n1=LOW, n5=HIGH)
    assert "That does not show what the lecture says" in describe_lengths(n1=HIGH, n5=VAGUE)
    assert describe_lengths(n1=HIGH) == "Only rollouts of 1 step are trained."
    apart = make_curve(1.0, seeds=[9])
    assert "No length has a seed in common" in describe_lengths(n1=HIGH, n5=apart)
    spins = describe_lengths(n1=make_curve(80.0), n5=make_curve(70.0))
    assert "All are about the return of spinning (76.0), so that this cannot show which" in spins
    assert "not equal: 64 and 320 for lengths of 1 and 5" in spins
    assert rollout_length.describe_imagined({"1": 60, "5": 60}) == (
        "All have 60 imagined steps in an update."
    )


def test_the_sentence_of_rollouts_groups_lengths_by_verdict():
    def sum_up(**finals):
        curves = {name[1:]: curve for name, curve in finals.items()}
        return summarize(rollout_length, {"curves": curves, "references": LEVELS})

    alone, apart = make_curve(50.0), make_curve(1.0, seeds=[9])
    assert sum_up(n1=HIGH, n5=LOW, n50=alone) == (
        AGREES,
        "compared with 1 step, rollouts of 5 and 50 returned clearly less (77.0 and 50.0 against "
        "125.0 and 124.0), over 1 to 3 seeds",
    )
    assert sum_up(n1=HIGH, n5=LOW, n50=apart)[1].startswith(
        "compared with 1 step, rollouts of 5 r"
    )
    better = make_curve(224.0, 225.0, 226.0)
    found, said = sum_up(n1=HIGH, n5=LOW, n15=HIGH, n50=better)
    assert (
        found is PARTLY
        and "5 returned clearly less (77.0 against 125.0), but 15 returned no less (125" in said
    )
    assert said.endswith("and 50 returned clearly more (225.0 against 125.0), over 3 seeds")
    found, said = sum_up(n1=HIGH, n5=VAGUE)
    assert (
        found is UNCLEAR
        and "5 returned less, but not clearly (88.3 against 125.0), over 3" in said
    )
    assert sum_up(n1=HIGH, n5=VAGUE, n15=better)[0] is DISAGREES
    # A clear difference of two that only spin says nothing.
    found, said = sum_up(n1=make_curve(80.0), n5=make_curve(70.0))
    assert found is UNCLEAR
    assert said.endswith(
        "5 returned clearly less (70.0 against 80.0), over 1 seed, all near spinning (76.0)"
    )
    assert sum_up(n1=make_curve(80.0), n5=make_curve(40.0))[0] is AGREES
    assert sum_up(n1=HIGH) == (UNMEASURED, "only rollouts of 1 step are trained")
    assert sum_up(n1=HIGH, n5=apart)[0] is UNMEASURED


def describe_free(plans, dyna, free, levels=LEVELS):
    curves = {"v15": plans, "v30": dyna, "model_free": free}
    return model_free.describe({"curves": curves, "references": levels})


def test_steps_to_a_level_are_counted_by_episode():
    level = model_free.SHARE * 125.4
    fast, slow = ([0.0, level, 125.0, 125.0], [0.0, 0.0, level - 0.1, level])
    quick, late = (make_curve(124.0, 125.0, 126.0, scores=x) for x in (fast, slow))
    said = describe_free(quick, late, late)
    assert (
        "first at 100.3 (80% of the expert's return): v15 200, v30 400 and model_free 400" in said
    )
    assert "model_free needs 2.0 times as many steps as v15; v30 needs as many steps as" in said
    assert "as the lecture says of v15 alone" in said
    assert "v30, as the lecture says." in describe_free(quick, quick, late)
    said = describe_free(late, late, quick)
    assert "v15 needs more steps than model_free" in said and ", which is not what the" in said
    never = make_curve(1.0, 2.0, 3.0, scores=[0.0, 1.0])
    said = describe_free(quick, never, never)
    assert "model_free over 200" in said and "model_free needs more steps than v15, as the" in said
    assert "Neither v30 nor model_free gets there. model_free needs" in said
    assert "gets there. So nothing is decided." in describe_free(never, never, never)
    said = describe_free(quick, never, late)  # `never` ends after 200 steps, `late` needs 400
    assert (
        "v30 is not compared, as its 200 steps are too few. model_free needs 2.0 times as" in said
    )
    assert "v30 needs more steps than model_free" in describe_free(quick, never, quick)
    assert "(80% of the highest return)" in describe_free(quick, late, late, {})


def sum_up_free(plans, dyna, free, levels=LEVELS):
    curves = {"v15": plans, "v30": dyna, "model_free": free}
    return summarize(model_free, {"curves": curves, "references": levels})


def test_the_sentence_of_model_free_learning_judges_steps_and_ends():
    def make(scores, end):
        return make_curve(end - 1, end, end + 1, scores=scores)

    level, low, high = model_free.SHARE * 125.4, 105.0, 115.0
    early, late, never = [0.0, level, 125.0, 125.0], [0.0, 0.0, 0.0, level], [0.0, 1.0]
    quick = make(early, low)
    assert sum_up_free(quick, quick, make(late, high)) == (
        AGREES,
        "the first return of 100.3 takes planning (v15) 200 steps, Dyna (v30) 200 and SAC without a "
        "model 400, and the model-free end is clearly higher (115.0 against 105.0), over 3 seeds",
    )
    found, said = sum_up_free(quick, make(late, low), make(late, low))
    assert found is PARTLY and "2 times the steps leave the model-free end open (105.0 ag" in said
    found, said = sum_up_free(make(late, high), make(late, low), make(early, low))
    assert found is DISAGREES and said.endswith(
        "model-free end open (105.0 against 115.0), over 3 seeds"
    )
    found, said = sum_up_free(make(early, 125.0), quick, make(late, 125.0))
    assert found is PARTLY
    assert said.endswith(", but ends near the expert's 125.4 show no winner, over 3 seeds")
    found, said = sum_up_free(make(never, low), make(never, low), make(never, low))
    assert found is UNCLEAR and said.startswith("no agent reaches a return of 100.3, and 2 times")
    found, said = sum_up_free(make(late, low), make(late, low), make(late, high))
    assert found is PARTLY and said.startswith("the model-free end is clearly higher (115.0")
    found, said = sum_up_free(make(never, low), quick, make(late, high))  # 200 steps are too few
    assert found is PARTLY and "takes planning (v15) over 200 steps, Dyna (v30) 200" in said
    assert "the first return of 100.0 takes" in sum_up_free(quick, quick, quick, {})[1]
    apart = make_curve(1.0, seeds=[9])
    assert sum_up_free(quick, quick, apart) == (UNMEASURED, "the trainings have no seed in common")


def test_a_higher_end_is_not_judged_at_the_ceiling():
    least = model_free.CEILING * 125.4
    at, below = (make_curve(x - 0.5, x, x + 0.5) for x in (least + 1, least - 1))
    assert "v15 and model_free are both at the expert's return (125.4)" in describe_free(
        at, LOW, at
    )
    said = describe_free(below, LOW, below)
    assert (
        "no clear difference between model_free and v15. The lecture speaks of many more" in said
    )
    assert "ends clearly above v15, as the lecture says" in describe_free(LOW, LOW, below)
    assert "ends clearly below v30. The lecture speaks of many" in describe_free(LOW, below, LOW)
    assert "at the expert's return" not in describe_free(at, LOW, at, {})
    assert "no seed in common" in describe_free(at, LOW, make_curve(1.0, seeds=[9]))


def test_every_lesson_draws_its_made_up_numbers():
    """A figure for each plot, with no number missing."""
    curves = {"v10": LOW, "v15": HIGH}
    whole = {"curves": curves, "action_ms": {"v10": 1.0, "v15": 2.0}, "references": LEVELS}
    place = make_place((1.0, 2.0))
    gaps = {
        "sizes": [150, 2400],
        "horizon": 15,
        "starts": 9,
        "places": {"random": place, "plans": make_place((-1.0, 3.0))},
    }
    growth = {"error": np.linspace(0.1, 1, 50).tolist(), "starts": 9}
    for drawn, figures in (
        (returns.draw(whole), 3),
        (replanning.draw(make_replanning(LOW, HIGH)), 2),
        (exploitation.draw(gaps), 2),
        (error_growth.draw(growth), 1),
        (uncertainties.draw(make_room([1, 2, 3, 4], [1, 2, 3, 4])), 3),
        (caution.draw(CAUTIOUS), 4),
        (rollout_length.draw({"curves": {"1": HIGH, "5": LOW}, "references": {}}), 2),
        (
            model_free.draw(
                {"curves": {"v15": HIGH, "v30": LOW, "model_free": HIGH}, "references": LEVELS}
            ),
            2,
        ),
    ):
        assert drawn.count("<figure") == figures and "nan" not in drawn
    left, right = exploitation.draw(gaps).split("</figure>")[:2]
    ticks = [
        [line.split(">")[-1] for line in figure.split("</text>") if 'text-anchor="end"' in line]
        for figure in (left, right)
    ]
    assert ticks[0] == ticks[1] and len(ticks[0]) > 2  # one vertical axis for both


def test_the_results_in_the_documents_give_the_sentences_kept_beside_them():
    kept = [json.loads(line) for line in KEPT.read_text().splitlines() if line]
    assert [row["lesson"] for row in kept] == [lesson.name for lesson in catalog.LESSONS]
    for row, lesson in zip(kept, catalog.LESSONS, strict=True):
        summarize(lesson, row["results"])
        assert lesson.summarize(row["results"]) == row["summary"]
        assert lesson.describe(row["results"]).replace("\n", " ") == row["measured"]


@pytest.mark.parametrize("lesson", catalog.LESSONS, ids=lambda lesson: lesson.name)
def test_what_a_lecture_says_is_one_short_sentence(lesson):
    said = f"The lecture says {lesson.lecture}"
    assert said.startswith("The lecture says that ") and said.endswith(".")
    assert ". " not in said and ";" not in said and len(said.split()) <= 36

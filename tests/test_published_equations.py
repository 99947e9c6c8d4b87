"""The losses and gradients of one update equal the published equations, written again in NumPy
without looking at worldmodel/ (tests/support/published.py).

`PYTHONPATH=. python tests/support/differential.py` prints the table that docs/results/ keeps.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import published
from differential import CASES, Comparison, compare_plans, make_rows

TABLE = Path(__file__).parents[1] / "docs" / "results" / "differential" / "terms.jsonl"
# Both sides compute in float64, and finite differences lose half of its digits.
LARGEST = {"term": 1e-9, "gradient": 1e-5}
KEPT = [json.loads(line) for line in TABLE.read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_every_term_and_gradient_is_the_published_one(name):
    comparison = Comparison(CASES[name])
    rows = make_rows(name, comparison)
    far = [row for row in rows if not row["relative"] <= LARGEST[row["kind"]]]
    assert not far
    losses = {row["name"] for row in rows if row["kind"] == "term"}
    assert losses >= set(comparison.model.scales), "a loss of the model was not compared"
    if comparison.policy is not None:
        replayed = {"critic_replay"} if comparison.config.critic.replay else set()
        assert losses >= {"actor", "critic", "entropy", "return"} | replayed
    kept = [row for row in KEPT if row["case"] == name and row["kind"] != "plan"]
    assert [row["name"] for row in kept] == [row["name"] for row in rows]
    np.testing.assert_allclose(
        [row["published"] for row in kept], [row["published"] for row in rows], 1e-4, 1e-6
    )


def test_the_plan_of_cem_is_the_published_one():
    difference, size = compare_plans()
    assert difference < 1e-9 and size > 0.1


def test_finite_differences_respect_stopped_gradients():
    """The derivative of x sg(x) is x, not 2x."""
    stop = published.Stop()
    totals = []
    for x in (3.0, 3.0 + 1e-6, 3.0 - 1e-6):
        stop.rewind()
        totals.append(x * stop(x))
    assert (totals[1] - totals[2]) / 2e-6 == pytest.approx(3.0)

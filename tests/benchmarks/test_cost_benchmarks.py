"""The benchmarks of ensembles and of the classics, shortened."""

import pytest

from benchmarks import classics, ensembles
from worldmodel.config import loading

BOTH = {
    "ensemble": (ensembles, "mlp", "mlp.equal_steps"),
    "classics": (classics, "linear_gaussian", "ilqr"),
}


@pytest.mark.parametrize("group", BOTH)
def test_every_case_is_a_configuration_and_differs_from_its_baseline(group):
    cases = BOTH[group][0]
    for case, baseline in [*cases.UPDATES.values(), *cases.PLANS.values()]:
        both = [loading.to_plain(loading.parse(list(words))) for words in (case, baseline)]
        assert both[0] != both[1]


@pytest.mark.parametrize("group", BOTH)
def test_it_times_updates_and_plans_beside_their_baselines(group, monkeypatch):
    cases, update, plan = BOTH[group]
    monkeypatch.setattr(cases, "UPDATES", {"one": cases.UPDATES[update]})
    monkeypatch.setattr(cases, "PLANS", {"one": cases.PLANS[plan]})
    found = cases.measure_updates(1) | cases.measure_plans(1)
    assert set(found) == {f"{group}.update.one", f"{group}.plan.one"}
    assert all(entry["value"] > 0 and entry["baseline"] > 0 for entry in found.values())

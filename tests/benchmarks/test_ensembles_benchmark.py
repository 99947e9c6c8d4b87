"""The benchmark of ensembles, shortened."""

from benchmarks import ensembles
from worldmodel.config import loading


def test_every_case_is_a_configuration_and_differs_from_its_baseline():
    for case, baseline in [*ensembles.UPDATES.values(), *ensembles.PLANS.values()]:
        both = [loading.to_plain(loading.parse(list(words))) for words in (case, baseline)]
        assert both[0] != both[1]


def test_it_times_updates_and_plans_beside_their_baselines(monkeypatch):
    monkeypatch.setattr(ensembles, "UPDATES", {"mlp": ensembles.UPDATES["mlp"]})
    monkeypatch.setattr(ensembles, "PLANS", {"mlp": ensembles.PLANS["mlp.equal_steps"]})
    found = ensembles.measure_updates(1) | ensembles.measure_plans(1)
    assert set(found) == {"ensemble.update.mlp", "ensemble.plan.mlp"}
    assert all(entry["value"] > 0 and entry["baseline"] > 0 for entry in found.values())

"""A run with discrete actions and a deterministic latent, seen through every command of eval.py."""

import json

import pytest

from runs import evaluate, seed_dir, train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("discrete")
    task = ("--env.task", "catcher", "--env.time_limit", "30")
    train(root, *task, "--model.latent", "deterministic", "--run.frames", "40")
    return seed_dir(root, "catcher")


def test_rollouts_of_a_deterministic_latent_are_equal(run_dir):
    evaluate(run_dir, "imagine", "--length", "4", "--samples", "3", "--long", "5")
    read = {
        name: json.loads((run_dir / "eval" / f"{name}.json").read_text())
        for name in ("imagine", "futures", "long", "latents", "uncertainty")
    }
    assert max(read["uncertainty"]["std"]) == 0 and read["uncertainty"]["correlation_pooled"] in (
        0,
        None,
    )
    assert read["long"]["mse"]["model"] == pytest.approx(read["long"]["mse"]["single"], rel=1e-4)
    futures = read["futures"]["futures"]
    samples = [f["reward"] for f in futures if f["kind"] == "sample"]
    assert samples[0] == samples[1] == samples[2]
    assert [f["name"] for f in futures if f["kind"] == "action"] == [
        "choice 0",
        "choice 1",
        "choice 2",
    ]
    assert (
        len(read["latents"]["traversal"]["effect"]) == 6 and len(read["imagine"]["image_mse"]) == 4
    )


def test_choices_are_driven_in_every_way(run_dir):
    out, _ = evaluate(
        run_dir,
        "compare",
        "--episodes",
        "2",
        "--budgets",
        "1",
        "--drivers",
        "random;shooting;cem;mppi",
    )
    found = json.loads((run_dir / "eval" / "compare.json").read_text())["drivers"]
    assert found.keys() == {"random", "shooting, 16", "cem, 16", "mppi, 16"}
    for x in found.values():
        assert (
            len(x["scores"]) == 2
            and x["eval/score_low"] <= x["eval/score"] <= x["eval/score_high"]
        )
        assert f"{x['eval/score_low']:.1f} to {x['eval/score_high']:.1f}" in out
    assert "2 episodes per driver (--episodes): intervals over so few are unreliable" in out

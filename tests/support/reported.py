"""Run directories written by hand, for tests of the report."""

import functools
import json

from tiny_world import Perfect, quality_of
from worldmodel.config import loading as configs
from worldmodel.evaluation.results import to_plain

RETURNS = {
    "run": "r",
    "task": "pointmass",
    "name": "debug",
    "frames": 60,
    "seed": 0,
    "eval/episodes": 2,
    "eval/score": 2.0,
    "eval/score_low": 1.0,
    "eval/score_high": 3.0,
    "eval/iqm": 2.0,
    "eval/iqm_low": 1.0,
    "eval/iqm_high": 3.0,
    "scores": [1.0, 3.0],
    "places": {"best": 1, "median": 0, "worst": 0},
}
ESTIMATE = {"value": 2.0, "low": 1.0, "high": 3.0}
SEEDS = {
    "seed": 0,
    "runs": [RETURNS, RETURNS],
    "tasks": {
        "pointmass": {
            "debug": {
                "runs": [[1.0, 3.0]],
                "mean": ESTIMATE,
                "median": ESTIMATE,
                "iqm": {"value": 2.25, "low": 1.25, "high": 3.25},
            }
        }
    },
}
WAY = {"eval/score": 2.0, "eval/score_low": 1.0, "eval/score_high": 3.0, "scores": [1.0, 3.0]}
COMPARE = {
    "drivers": {
        "random": {**WAY, "way": "random", "candidates": None, "ms_per_action": 0.5},
        "cem, 8": {**WAY, "way": "cem", "candidates": 8, "ms_per_action": 4.0},
        "cem, 32": {**WAY, "way": "cem", "candidates": 32, "ms_per_action": 16.0},
    }
}
PROBE = {"r2": [0.5, None]}


@functools.cache
def _model():
    quality = quality_of(Perfect())
    return json.dumps(
        to_plain(
            {
                "frames": 60,
                "source": "fresh",
                "episodes": 6,
                "steps": 99,
                "left_out": quality.left_out,
                **quality.results,
            }
        )
    )


def make_results():
    """The result files of eval.py by name."""
    return {
        "returns.json": RETURNS,
        "seeds.json": SEEDS,
        "compare.json": COMPARE,
        "probe.json": PROBE,
        "model.json": json.loads(_model()),
    }


def write_run(path, *words, scores=(), metrics=(), **files):
    """Write a run of the preset debug; `files` are results in eval/, named without .json."""
    (path / "eval").mkdir(parents=True)
    (path / "config.yaml").write_text(configs.to_yaml(configs.parse(["debug", *words])))
    for name, lines in (("scores", scores), ("metrics", metrics)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in files.items():
        (path / "eval" / f"{name}.json").write_text(json.dumps(content))
    return path


def score(frames, value):
    return {
        "frames": frames,
        "eval/score": value,
        "eval/score_low": value - 1,
        "eval/score_high": value + 1,
    }

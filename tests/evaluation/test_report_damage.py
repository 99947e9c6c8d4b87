"""A damaged file of a run costs one line of the report, or one line and exit code 4."""

import copy
import json
import math
import random
import re

import pytest

from faulty import NoStart
from reported import RETURNS, make_results, score, write_run
from runs import mistaken
from test_report import check
from worldmodel.evaluation.report.page import render_page, write_report
from worldmodel.evaluation.report.reported_run import read_run
from worldmodel.evaluation.returns.evaluation_rollout import make_first_available, summarize_error
from worldmodel.system.files import read_json

NO_PLACE = re.compile(r'\b(?:d|x|y|cx|cy|width|height)="[^"]*(?:nan|inf)')
ODD = (
    math.inf,
    -math.inf,
    math.nan,
    1e308,
    10**400,
    "text",
    "\udc80",
    None,
    True,
    [],
    {},
    [[1.0]],
)
SCORES = [score(f, f / 10) for f in (20, 40, 60)]


def leaves(value, place=()):
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*place, key)
        yield from leaves(item, (*place, key))


def changed(value, place, to):
    value = copy.deepcopy(value)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = to
    return value


@pytest.mark.parametrize("name", sorted(make_results()))
def test_an_odd_value_costs_its_own_section_only(tmp_path, name):
    path = write_run(tmp_path / "seed0", "--env.task", "pointmass", scores=SCORES)
    seed, content = read_run(path), make_results()[name]
    (path / "eval" / name).write_text(json.dumps(content))
    whole, before = render_page([seed])
    assert not any(name in line for line in before)
    choice, told = random.Random(0), 0
    places = list(leaves(content))
    for place in choice.sample(places, min(25, len(places))):
        odd = choice.choice(ODD)
        (path / "eval" / name).write_text(json.dumps(changed(content, place, odd)))
        text, missing = render_page([seed])
        if any(f"{name} cannot be read" in line for line in missing):
            told += 1
            assert set(missing) - set(before) == {
                line for line in missing if f"{name} cannot be read" in line
            }
        assert "Learning curve" in text and not NO_PLACE.search(text)
    assert told > 0


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_numbers_in_logs_are_left_out(tmp_path, value):
    lines = [
        {"frames": f, "train/loss/image": 1.0 / f, "episode/score": 1.0, "time/minutes": 2.5}
        for f in (10, 20, 30)
    ]
    path = write_run(tmp_path / "seed0", scores=SCORES, metrics=lines)
    whole, before = render_page([read_run(path)])
    for name, key in (
        ("metrics", "train/loss/image"),
        ("scores", "eval/score_low"),
        ("metrics", "frames"),
    ):
        good = (path / f"{name}.jsonl").read_text()
        added = {"frames": 50, "eval/score": 1.0, key: value}
        (path / f"{name}.jsonl").write_text(good + json.dumps(added) + "\n")
        made, missing = write_report([path], path / "eval" / "report.html")
        text = made.read_text()
        check(text)
        assert "loss/image" in text and "2 minutes of training" in text
        lost = [line for line in missing if f"{name}.jsonl is damaged: 1 of its values is" in line]
        assert len(lost) == (value is not None)
        (path / f"{name}.jsonl").write_text(good)


def test_binary_logs_and_directories_in_their_place(tmp_path):
    path = write_run(tmp_path / "seed0", scores=SCORES)
    (path / "metrics.jsonl").write_bytes(bytes(range(256)) * 40)
    assert "Learning curve" in render_page([read_run(path)])[0]
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").mkdir()
    text, missing = render_page([read_run(path)])
    assert any(
        "metrics.jsonl cannot be read (it is not a regular file)" in line for line in missing
    )
    assert "Learning curve" in text


def test_a_damaged_picture_has_a_line(tmp_path):
    path = write_run(tmp_path / "seed0")
    (path / "eval" / "long.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture at all")
    (path / "eval" / "best.gif").write_bytes(b"")
    text, _ = render_page([read_run(path)])
    assert (
        "long.png is no picture" in text
        and "best.gif is no picture" in text
        and "<img" not in text
    )


def test_json_is_read_within_limits(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [1e999, -Infinity, NaN, 1, 2.5, ' + "9" * 400 + "]}")
    assert read_json(file, 1000) == {"a": [None, None, None, 1, 2.5, None]}
    for text in ("[" * 100_000, '"' + "a" * 1000 + '"', "{", ""):
        file.write_text(text)
        with pytest.raises((OSError, ValueError)):
            read_json(file, 1000 if len(text) < 10_000 else 1 << 20)
    (tmp_path / "link.json").symlink_to(file)
    with pytest.raises(OSError):
        read_json(tmp_path / "link.json", 1000)


@pytest.mark.parametrize(
    "content",
    [
        {k: RETURNS[k] for k in ("task", "name", "frames", "scores")},
        {**RETURNS, "scores": ["1", "3"]},
        {**RETURNS, "scores": "13"},
        {**RETURNS, "scores": []},
        {**RETURNS, "eval/score": math.inf},
        {**RETURNS, "eval/iqm": "2"},
        {**RETURNS, "eval/success": 0.5},
        {**RETURNS, "frames": None},
        {**RETURNS, "name": 3},
        {**RETURNS, "places": {"best": 2}},
        {**RETURNS, "places": [0]},
        [RETURNS],
    ],
)
def test_damaged_saved_returns_are_refused(tmp_path, content):
    path = write_run(tmp_path / "seed0", returns=content)
    for runs in ((path,), (write_run(tmp_path / "seed1", returns=RETURNS), path)):
        code, line = mistaken(*runs, "returns", "--from", "saved")
        assert code == 4 and "damaged or of another version" in line and "\n" not in line


def test_sound_saved_returns_are_read(tmp_path, capsys):
    from worldmodel.evaluation.commands.returns import load_returns

    assert load_returns(write_run(tmp_path / "seed0", returns=RETURNS)) == RETURNS


@pytest.mark.parametrize("count", [1, 2])
def test_an_environment_that_does_not_start_has_a_one_line_reason(count):
    from worldmodel.envs.parallel.vector import make_vector

    made, why = make_first_available(lambda kind: make_vector(NoStart, count), ["pixels"])
    assert made is None and why == "env worker 0 did not start: AttributeError: boom of two lines"
    assert (
        summarize_error(
            RuntimeError("Traceback (most recent call last):\n  File\nKeyError: 'x'\n")
        )
        == "KeyError: 'x'"
    )

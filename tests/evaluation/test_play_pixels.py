"""Clicked pixels in a play session: the planner moves them, and the page shows where they are."""

import json

import numpy as np
import pytest
import torch
from worldmodel.envs.parallel.vector import SerialEnv

import browser
import forked
import worldmodel
from runs import seed_dir, train
from worldmodel import envs
from worldmodel.errors import UsageError
from worldmodel.evaluation.commands.play import start_session

SIZE = 16
KEYS = ("--model.dynamics", "pixels", "--loss.objective", "{}", "--env.task", "pushing")
KEYS += ("--pixels.channels", "4", "--pixels.kernels", "2", "--env.size", f"[{SIZE}, {SIZE}]")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("clicked")
    train(root, *KEYS, "--env.time_limit", "30", "--behavior.name", "random")
    return seed_dir(root, "pushing")


@pytest.fixture
def protocol(run_dir):
    return start(run_dir)


def start(run_dir, simulated=True):
    run = worldmodel.load(run_dir)
    e = run.config.env
    make = lambda: envs.make(e.task, size=e.size, repeat=e.repeat, time_limit=e.time_limit)  # noqa: E731
    vector = SerialEnv(make) if simulated else None
    return start_session(run, vector, run_dir / "eval", 0, 5, [])


def click(protocol, at, pixels, goals):
    return protocol.aim({"at": at, "pixels": pixels, "goals": goals})


def read_map(found):
    raw = np.frombuffer(__import__("base64").b64decode(found["expected"]["rgb"]), np.uint8)
    return raw.reshape(SIZE, SIZE)


def test_a_clicked_pixel_is_where_it_was_clicked_and_then_moves(protocol):
    told = protocol.state({})
    assert told["aims"] and [d["name"] for d in told["drivers"]][-2:] == [
        "pixel",
        "pixel_imagined",
    ]
    protocol.step({"at": 0, "driver": "hand", "action": [1, 0]})
    found = click(protocol, 1, [[4, 9]], [[12, 3]])
    assert found["aim"] == {"pixels": [[4, 9]], "goals": [[12, 3]]}
    assert np.argwhere(read_map(found)).tolist() == [[4, 9]] and read_map(found)[4, 9] == 255
    session = protocol.session
    here = session.history[1]
    torch.testing.assert_close(here.state["first"], here.state["picture"])
    after = protocol.step({"at": 1, "driver": "hand", "action": [0, -1]})
    assert read_map(after).max() == 255 and (read_map(after) > 0).sum() > 1
    expected = session.aim.advance(here.state, here.memory, np.float32([0, -1]), 0)
    torch.testing.assert_close(session.history[2].memory["now"], expected["now"])


def test_the_planner_sees_real_pictures_or_imagined_ones(protocol):
    click(protocol, 0, [[4, 9]], [[12, 3]])
    session, dynamics = protocol.session, protocol.session.rollouts.model.dynamics
    moment = session.step("pixel")
    picture = torch.from_numpy(moment.real.picture).flatten() / 255 - 0.5
    torch.testing.assert_close(moment.state["picture"][0], picture)
    imagined = dynamics.imagine_step(
        session.history[0].state, torch.from_numpy(moment.action)[None].expand(8, -1)
    )
    shown = (imagined["picture"][0].view(SIZE, SIZE, 3) + 0.5).clamp(0, 1) * 255
    assert np.abs(shown.numpy() - moment.prediction.picture).max() < 3, "what was predicted"
    session.rewind(0)
    blind = session.step("pixel_imagined")
    assert np.array_equal(blind.action, moment.action)
    assert not torch.allclose(blind.state["picture"], moment.state["picture"])


def test_going_back_repeats_the_same_plans(protocol):
    click(protocol, 0, [[4, 9], [8, 8]], [[12, 3], [1, 1]])
    session = protocol.session
    first = [session.step("pixel").action.tolist() for _ in range(3)]
    kept = session.history[3].memory["now"]
    session.rewind(1)
    assert [session.step("pixel").action.tolist() for _ in range(2)] == first[1:]
    torch.testing.assert_close(session.history[3].memory["now"], kept)
    saved = protocol.clip({"first": 0, "last": 3})
    assert json.loads(open(saved["path"].replace(".gif", ".json")).read())["steps"][3]["driver"]


def test_goals_are_forgotten_when_they_are_cleared_or_an_episode_starts(protocol):
    click(protocol, 0, [[4, 9]], [[12, 3]])
    protocol.step({"at": 0, "driver": "pixel"})
    found = click(protocol, 0, [], [])
    assert found["expected"] is None and found["aim"]["pixels"] == []
    with pytest.raises(UsageError, match="click a pixel"):
        protocol.step({"at": 0, "driver": "pixel"})
    click(protocol, 0, [[4, 9]], [[12, 3]])
    assert protocol.start({})["expected"] is None
    with pytest.raises(UsageError, match="click a pixel"):
        protocol.step({"at": 0, "driver": "pixel_imagined"})


@pytest.mark.parametrize(
    "pixels, goals, words",
    [
        ([[4, 16]], [[1, 1]], r"there is no pixel \[4, 16\] in a picture of 16x16"),
        ([[4, 1]], [], "a goal for each"),
        ([[4, -1]], [[1, 1]], "pixels: give pixels as"),
        ("everywhere", [[1, 1]], "pixels: give pixels as"),
        ([[1, 1]] * 5, [[1, 1]] * 5, "up to 4 pixels"),
    ],
)
def test_what_cannot_be_aimed_at_is_one_line(protocol, pixels, goals, words):
    with pytest.raises(UsageError, match=words):
        click(protocol, 0, pixels, goals)


def test_models_that_move_no_pixels_offer_no_aim(tmp_path):
    train(tmp_path, "--env.task", "pushing", "--env.time_limit", "12")
    told = start(seed_dir(tmp_path, "pushing"))
    assert not told.state({})["aims"] and "expected" not in told.state({})
    assert told.state({})["point_colours"] == [] and told.state({})["real_points"] is None
    with pytest.raises(UsageError, match="does not move pixels"):
        click(told, 0, [[4, 1]], [[1, 1]])


def test_without_a_simulator_only_imagination_is_offered(run_dir):
    told = start(run_dir, simulated=False)
    assert [d["name"] for d in told.state({})["drivers"]][-1] == "pixel_imagined"
    click(told, 0, [[4, 9]], [[12, 3]])
    assert told.step({"at": 0, "driver": "pixel_imagined"})["expected"]


@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no chromium here")
def test_clicks_on_the_page_aim_and_show_where_the_pixel_is(run_dir, tmp_path):
    said = tmp_path / "said"
    server = forked.start("eval", [run_dir, "play", "--no-browser"], said)
    chromium = browser.Browser(tmp_path / "profile")
    try:
        browser.open_play_page(chromium, server, said)
        press = (
            "((row, column) => {{ const c = $('imagined'), b = c.getBoundingClientRect(); "
            "c.dispatchEvent(new MouseEvent('click', {{clientX: b.left + (column + .5) * b.width / 16, "
            "clientY: b.top + (row + .5) * b.height / 16}})); }})({}, {})"
        )
        chromium.run(press.format(4, 9))
        assert "click where it is to go" in chromium.run("$('status').textContent")
        chromium.run(press.format(12, 3))
        chromium.wait("!busy && clicked.goals.length === 1")
        assert chromium.run("JSON.stringify(clicked)") == '{"pixels":[[4,9]],"goals":[[12,3]]}'
        assert chromium.run("$('driver').value") == "pixel"
        assert "4, 9 to 12, 3" in chromium.run("$('aim-about').textContent")
        at = "[...$('imagined').getContext('2d').getImageData(3, 12, 1, 1).data].join()"
        assert chromium.run(at) == "80,255,120,255"
        chromium.run("$('next').click()")
        chromium.wait("!busy && at === 1")
        assert chromium.run("steps[1].driver") == "pixel"
        assert "the driver acts on this" in chromium.run("$('real-caption').textContent")
        chromium.run("$('aim-clear').click()")
        chromium.wait("!busy && clicked.goals.length === 0")
        assert chromium.errors() == []
    finally:
        chromium.close()
        server.terminate()

"""Feature points in a play session: where they are in its pictures, and on the page."""

import base64

import numpy as np
import pytest
from worldmodel.envs.parallel.vector import SerialEnv

import browser
import forked
import worldmodel
from runs import seed_dir, train
from worldmodel import envs
from worldmodel.evaluation.commands.play import start_session
from worldmodel.evaluation.imagination.feature_points import choose_colours
from worldmodel.evaluation.play.protocol import encode_points

POINTS = 5
KEYS = ("--env.task", "pushing", "--env.time_limit", "30", "--behavior.name", "random")
KEYS += (
    "--model.encoder",
    "spatial",
    "--spatial.points",
    str(POINTS),
    "--spatial.channels",
    "[4]",
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("pointed")
    train(root, *KEYS)
    return seed_dir(root, "pushing")


def start(run_dir, simulated=True):
    run = worldmodel.load(run_dir)
    e = run.config.env
    make = lambda: envs.make(e.task, size=e.size, repeat=e.repeat, time_limit=e.time_limit)  # noqa: E731
    return start_session(run, SerialEnv(make) if simulated else None, run_dir / "eval", 0, 5, [])


def find_in_picture(protocol, found, side):
    """The points of a picture as the page gets it, as shares of its sides."""
    shown = found[side]
    raw = np.frombuffer(bytearray(base64.b64decode(shown["rgb"])), np.uint8)
    picture = raw.reshape(1, shown["height"], shown["width"], 3)
    agent = protocol.session.rollouts.agent
    return (agent.find_points({"image": picture})["image"][0] + 1) / 2


def test_each_picture_has_the_points_that_the_encoder_finds_in_it(run_dir):
    protocol = start(run_dir)
    told = protocol.state({})
    assert told["point_colours"] == choose_colours(POINTS)
    steps = [told, *(protocol.step({"at": t, "action": [1, -1]}) for t in range(3))]
    for found in steps:
        for side in ("imagined", "real"):
            wanted = find_in_picture(protocol, found, side)
            np.testing.assert_allclose(found[f"{side}_points"], wanted, atol=1e-3)
        assert found["imagined_points"] != found["real_points"]
    assert len({str(found["real_points"]) for found in steps}) == 4, "they follow the picture"
    again = protocol.moment({"at": 1})
    for side in ("imagined", "real"):
        assert again[f"{side}_points"] == steps[1][f"{side}_points"]


def test_a_side_without_a_picture_has_no_points(run_dir):
    alone = start(run_dir, simulated=False).state({})
    assert alone["real_points"] is None and len(alone["imagined_points"]) == POINTS
    blind = start(run_dir)
    blind.session.rollouts.can_draw = False
    found = blind.start({})
    assert found["imagined_points"] is None and len(found["real_points"]) == POINTS


def test_points_that_are_no_numbers_have_no_place():
    assert encode_points(np.array([[0.25, 1.0], [np.nan, 0.5]])) == [[0.25, 1.0], None]


@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no chromium here")
def test_dots_lie_on_the_pictures_of_the_page_until_they_are_switched_off(run_dir, tmp_path):
    said = tmp_path / "said"
    server = forked.start("eval", [run_dir, "play", "--no-browser"], said)
    chromium = browser.Browser(tmp_path / "profile")
    places = """(side => { const box = $(side).getBoundingClientRect();
        return [...$(side + '-dots').children].map(dot => dot.getBoundingClientRect()).map(dot =>
        [(dot.x + dot.width / 2 - box.x) / box.width, (dot.y + dot.height / 2 - box.y) / box.height]); })"""
    try:
        browser.open_play_page(chromium, server, said)
        for step in range(3):
            for side in ("imagined", "real"):
                wanted = chromium.run(f"points.{side}")
                assert len(wanted) == POINTS
                np.testing.assert_allclose(chromium.run(f"{places}('{side}')"), wanted, atol=5e-3)
            chromium.run("$('next').click()")
            chromium.wait(f"!busy && at === {step + 1}")
        colours = "[...$('real-dots').children].map(dot => getComputedStyle(dot).backgroundColor)"
        assert chromium.run(colours) == [f"rgb{colour}" for colour in choose_colours(POINTS)]
        seen = "['imagined-dots', 'real-dots'].map(id => $(id).offsetHeight > 0)"
        assert chromium.run("$('points').checked") and chromium.run(seen) == [True, True]
        chromium.run("$('points').focus()")
        chromium.key(" ", "Space", " ")
        assert chromium.run("!running && !$('points').checked")
        assert chromium.run(seen) == [False, False]
        chromium.run("$('next').click()")
        chromium.wait("!busy && at === 4")
        assert chromium.run(seen) == [False, False], "a step does not show them again"
        chromium.run("$('points').click()")
        assert chromium.run(seen) == [True, True]
        assert chromium.errors() == []
    finally:
        chromium.close()
        server.terminate()

"""The page in a browser: keys drive, frames change, curves grow, and going back branches off."""

import json

import numpy as np
import pytest
from PIL import Image

import browser
import forked
from runs import seed_dir, train

pytestmark = pytest.mark.skipif(
    browser.PROGRAM is None, reason="there is no chromium here (apt-get install chromium)"
)

PIXELS = (
    "(id => [...document.getElementById(id).getContext('2d').getImageData(0, 0, 32, "
    "32).data].join())"
)
STEPS = "Number(document.querySelector('.trace canvas').dataset.steps)"
INK = """[...document.querySelector('.trace canvas').getContext('2d').getImageData(50, 0, 300, 80).data]
    .filter(x => x).length"""
HIDDEN = (
    "document.getElementById('no-imagined').offsetHeight + "
    "document.getElementById('no-real').offsetHeight"
)
WORDS = "p, button:enabled, label, h1, h2, figcaption, summary, output, li, dd"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("paged")
    train(root, "--env.task", "pointmass", "--env.time_limit", "40", "--run.frames", "80")
    return seed_dir(root, "pointmass")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    chromium = browser.Browser(tmp_path_factory.mktemp("chromium") / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def page(run_dir, chromium, tmp_path):
    """A new session, shown in a browser that has shown others."""
    said = tmp_path / "said"
    server = forked.start("eval", [run_dir, "play", "--no-browser"], said)
    chromium.events.clear()
    browser.open_play_page(chromium, server, said)
    yield chromium
    server.terminate()
    assert forked.ended(server, said.read_text) == 0, said.read_text()


def test_keys_drive_frames_change_and_curves_grow(page, run_dir):
    before = {side: page.run(f"{PIXELS}('{side}')") for side in ("imagined", "real")}
    ink = page.run(INK)
    assert page.run(STEPS) == 1
    assert page.run(HIDDEN) == 0
    page.key("ArrowRight", up=False)
    page.key(" ", "Space", " ")
    page.wait(f"{STEPS} > 12")
    page.key(" ", "Space", " ")
    page.key("ArrowRight")
    page.wait("document.getElementById('run').textContent === 'Run' && !busy")
    count = page.run(STEPS)
    assert page.run(
        "steps.slice(2, 12).every(s => s.action[0] === 1 && s.action[1] === 0 && s.driver === "
        "'hand')"
    )
    assert all(page.run(f"{PIXELS}('{side}')") != picture for side, picture in before.items())
    assert page.run(INK) > ink and page.run("steps[5].real !== null && steps[5].reward !== null")

    page.run("look(4)")
    page.wait("at === 4 && !busy")
    assert page.run(STEPS) == count
    page.key("ArrowLeft", up=False)
    page.key(".", "Period", ".")
    page.wait("at === 5 && !busy")
    assert page.run(STEPS) == 6 and page.run(
        "steps[5].action[0] === -1 && steps[5].real !== null && ghost.length > 3"
    )
    page.key("c", "KeyC", "c")
    page.wait("document.getElementById('status').textContent.startsWith('saved')")
    (clip,) = (run_dir / "eval").glob("play-*.gif")
    said = json.loads(clip.with_suffix(".json").read_text())
    assert [s["at"] for s in said["steps"]] == list(range(6)) and said["steps"][5]["action"] == [
        -1,
        0,
    ]
    assert page.errors() == []


@pytest.mark.parametrize("driver", ["hand", "mpc"])
def test_whatever_is_asked_while_it_runs_is_done(page, driver):
    page.run(f"$('driver').value = '{driver}'; $('fps').value = '60'")

    def running(steps):
        page.run("say(''); void (running || run())")
        page.wait(f"running && steps.length > {steps}")

    for _ in range(3):
        running(4)
        page.key("c", "KeyC", "c")
        page.wait("$('status').textContent.startsWith('saved')", seconds=20)
        running(8)
        page.run("window.was = at; $('back').click()")
        page.wait("!running && !busy && at === was - 1", seconds=20)
        running(8)
        page.run("$('history').value = 3; $('history').dispatchEvent(new Event('input'))")
        page.wait("!running && !busy && at === 3", seconds=20)
        running(4)
        page.run("$('replay-episode').value = 1; $('replay').requestSubmit()")
        page.wait("!running && !busy && $('start').textContent.includes('episode 1')", seconds=20)
        running(4)
        page.key("n", "KeyN", "n")
        page.wait("!running && !busy && steps.length === 1", seconds=20)
    page.run("for (let i = 0; i < 5; i++) $('next').click()")
    page.wait("!busy && at === 5", seconds=20)
    page.run("for (let i = 0; i < 3; i++) $('back').click()")
    page.wait("!busy && at === 2", seconds=20)
    assert page.errors() == []


def test_what_the_page_says_of_keys_and_numbers(page):
    assert "the driver does not see it" in page.run("$('real-caption').textContent")
    assert page.run("$('points-switch').hidden && $('points-about').hidden")
    page.key("ArrowRight")
    assert (
        "press space to run" in page.run("$('status').textContent")
        and page.run("$('driver').value") == "hand"
    )
    for odd in ("2.5", ""):
        page.run(f"$('replay-episode').value = '{odd}'; $('replay').requestSubmit()")
        assert page.run("$('status').textContent") == "episode and step are whole numbers"
    page.run(
        "$('replay-episode').focus(); $('replay-episode').value = '0'; $('replay').requestSubmit()"
    )
    page.wait("!busy && $('start').textContent.includes('episode 0')")
    assert page.run("document.activeElement === document.body")


def test_a_screenshot_has_two_pictures_and_a_curve_in_every_trace(page, tmp_path):
    page.run("void run()")
    page.wait(f"{STEPS} > 8")
    page.run("pause()")
    page.wait("!busy")
    page.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as taken:
        shown = np.asarray(taken.convert("RGB"))
    places = page.run("""[document.getElementById('imagined'), document.getElementById('real'),
        ...document.querySelectorAll('.trace canvas')].map(x => x.getBoundingClientRect())
        .map(r => [r.x, r.y + scrollY, r.width, r.height].map(Math.round))""")
    assert len(places) >= 5
    for x, y, width, height in places:
        part = shown[y : y + height, x : x + width].reshape(-1, 3)
        assert len(part) > 1000 and len(np.unique(part, axis=0)) > 3


def test_it_can_be_used_by_keyboard_alone_and_says_what_things_are(page):
    seen = []
    for _ in range(40):
        page.key("Tab", text=None)
        seen.append(page.run("document.activeElement.id || document.activeElement.textContent"))
        outlined = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.run(f"document.activeElement === document.body || {outlined} !== 'none'")
    assert {
        "run",
        "next",
        "fps",
        "driver",
        "a0",
        "a1",
        "episode",
        "clip",
        "replay-episode",
    } <= set(seen)
    unnamed = """[...document.querySelectorAll('button, select, input, canvas')].filter(x =>
        !(x.labels && x.labels.length) && !x.getAttribute('aria-label') && !x.textContent.trim()).map(x => x.id)"""
    assert page.run(unnamed) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_nothing_is_cut_off_on_a_phone(page, scheme):
    page.looks_like(360, 740, scheme)
    contrast = """(() => {
      const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
        .reduce((s, x, i) => s + x * [.2126, .7152, .0722][i], 0);
      const under = x => { for (; x; x = x.parentElement) { const c = getComputedStyle(x).backgroundColor;
        if (!/, 0\\)$/.test(c)) return light(c); } return 1; };
      return Math.min(...[...document.querySelectorAll('WORDS')]
        .filter(x => x.textContent.trim()).map(x => { const a = light(getComputedStyle(x).color), b = under(x);
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })); })()"""
    assert page.run(contrast.replace("WORDS", WORDS)) >= 4.5
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert (
        page.run(
            "Math.min(...[...document.querySelectorAll('button')].map(b => b.offsetHeight || 44))"
        )
        >= 44
    )

"""Make the README's four moving pictures from a saved run: python docs/make_pictures.py RUN [OUT].

The last of them drives the play page in a headless Chromium and is left out where there is none.
"""

import base64
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import browser  # noqa: E402 (a tool of the tests)
import worldmodel  # noqa: E402
from worldmodel import envs  # noqa: E402

WIDTH = 480  # of three pictures; the play page is wider, since it holds text
MARGIN, TITLE = 8, 22
GREEN, ORANGE, INK = (90, 200, 120), (230, 120, 60), (60, 66, 74)
CONTEXT, HORIZON = 5, 25


def main(argv):
    run = worldmodel.load(argv[0])
    out = Path(argv[1] if len(argv) > 1 else ROOT / "docs" / "gallery")
    save_webp(out / "readme_agent.webp", film_agent(run), fps=25)
    save_webp(out / "readme_imagination.webp", film_imagination(run), fps=6)
    save_webp(out / "readme_futures.webp", film_futures(run), fps=6)
    if browser.PROGRAM:
        save_webp(out / "readme_play.webp", film_play(run.path), fps=5)


def film_agent(run, steps=70):
    """The same start twice: random actions, and the trained agent."""
    pushes = np.random.default_rng(0).uniform(-1, 1, (steps, run.action_space.size))
    by_chance = play_actions(run, pushes.astype(np.float32))
    by_agent = play_actions(run, follow_agent(run, steps)[1])
    titles = "random actions", "trained agent"
    return [
        tile([(titles[0], a), (titles[1], b)], 2) for a, b in zip(by_chance, by_agent, strict=True)
    ]


def film_imagination(run):
    """A few frames seen, then the same pushes for both: simulator, model, difference."""
    carry, actions = follow_agent(run, CONTEXT)
    truth, model = rollout_both(run, carry, actions, push_by_turns(run))
    difference = (128 + (model.astype(int) - truth) // 2).clip(0, 255).astype(np.uint8)
    frames = []
    for t, row in enumerate(zip(truth, model, difference, strict=True)):
        name = (
            "model: sees the frame" if t < CONTEXT else f"model: imagines step {t - CONTEXT + 1}"
        )
        titled = list(zip(("simulator", name, "difference"), row, strict=True))
        frames.append(tile(titled, 3, bar=GREEN if t < CONTEXT else ORANGE))
    return frames


def film_futures(run):
    """One start state, six futures: held actions, changing ones, and one plan with two samples."""
    carry, _ = follow_agent(run, CONTEXT)
    shape = HORIZON, run.action_space.size
    random = np.random.default_rng(0).uniform(-1, 1, shape)
    plans = {
        "no push": 0.0,
        "push left": -0.5,
        "push right": 0.5,
        "push by turns": push_by_turns(run),
    }
    plans |= {"random actions": random, "same actions, new sample": random}
    films = {k: run.imagine(carry, np.broadcast_to(v, shape).copy()) for k, v in plans.items()}
    return [tile([(k, film[t]) for k, film in films.items()], 3) for t in range(HORIZON)]


def push_by_turns(run):
    """Two steps to one side, four to the other, four back, and so on: (HORIZON,A)."""
    side = np.where((np.arange(HORIZON) + 2) // 4 % 2, 1.0, -1.0)
    return np.repeat(side[:, None], run.action_space.size, 1).astype(np.float32)


def follow_agent(run, steps):
    """The trained agent in a new episode: its carry, and its actions (steps,A)."""
    env = envs.make_factory(run.config.env, run.config.distract)()
    obs, _ = env.reset(seed=0)
    carry, actions = None, []
    for _ in range(steps):
        action, carry = run.act(obs, carry)
        actions.append(action)
        obs, *_ = env.step(action)
    env.close()
    return carry, np.stack(actions)


def play_actions(run, actions, size=WIDTH // 2 - MARGIN):
    """Frames of an episode that these actions make: (T+1,H,W,3), drawn at any size."""
    env = envs.make_factory(run.config.env, run.config.distract)(size=(size, size))
    frames = [env.reset(seed=0)[0], *(env.step(action)[0] for action in actions)]
    env.close()
    return np.stack(frames)


def rollout_both(run, carry, before, after):
    """The same actions in simulator and model, from the frame that `carry` has seen last."""
    truth = play_actions(run, np.concatenate([before[:-1], after]), run.config.env.size[0])
    model = np.concatenate([truth[: len(before)], run.imagine(carry, after)])
    return truth, model


def film_play(run_path):
    """The play page while keys are pressed: the actor, pushes by hand, back, and another way."""
    command = [sys.executable, str(ROOT / "eval.py"), str(run_path), "play", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(
            found[1] for line in server.stdout if (found := re.search(r"open (http\S+)", line))
        )
        with tempfile.TemporaryDirectory() as home:
            page = browser.Browser(Path(home), 940, 1000)
            try:
                return drive_page(page, address)
            finally:
                page.close()
    finally:
        server.terminate()
        server.wait(60)


def drive_page(page, address):
    page.open(address)
    page.wait("!document.getElementById('run').disabled")
    page.run("document.documentElement.style.cssText = 'font-size: 20px; scrollbar-width: none'")
    top = page.run("document.querySelector('main').getBoundingClientRect().top")
    part = {"x": 0, "y": top - 8, "width": 940, "height": 536, "scale": 1}
    film = []

    def shoot(text, times=1):
        page.wait("!busy")
        png = page.command("Page.captureScreenshot", format="png", clip=part)["data"]
        film.extend([add_caption(png, text)] * times)

    def press(count, key, code, text, driver=None, held=None):
        if driver:
            page.run(f"$('driver').value = '{driver}'")
        if held:
            page.key(held, up=False)
        for _ in range(count):
            page.key(key, code, key)
            shoot(text)
        if held:
            page.command("Input.dispatchKeyEvent", type="keyUp", key=held, code=held)

    step, back = (".", "Period"), (",", "Comma")
    shoot("a new episode: the model has seen one frame", 6)
    press(10, *step, "the actor acts on what the model imagines", driver="actor_critic")
    press(8, *step, "right arrow key: pushed by hand until the pole falls", held="ArrowRight")
    press(8, *back, "comma key: back in time")
    press(
        20, *step, "the actor goes on from there; the old curves stay, grey", driver="actor_critic"
    )
    shoot("the actor goes on from there; the old curves stay, grey", 8)
    return film


def add_caption(png, text):
    """A screenshot below a bar that says which key is pressed."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    sheet = Image.new("RGB", (picture.width, picture.height + 44), INK)
    sheet.paste(picture, (0, 44))
    ImageDraw.Draw(sheet).text((20, 22), text, "white", ImageFont.load_default(24), anchor="lm")
    return np.asarray(sheet)


def tile(titled, columns, bar=None):
    """Titled pictures, as large as fits into WIDTH; `bar` colours a line above them."""
    size = WIDTH // columns - MARGIN
    rows = -(-len(titled) // columns)
    sheet = Image.new("RGB", (WIDTH, rows * (size + TITLE + MARGIN) + 4), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    if bar:
        pen.rectangle((0, 0, WIDTH, 3), fill=bar)
    for i, (title, picture) in enumerate(titled):
        x, y = (
            (i % columns) * (size + MARGIN) + MARGIN // 2,
            i // columns * (size + TITLE + MARGIN) + 4,
        )
        pen.text((x + size / 2, y + TITLE / 2), title, INK, font, anchor="mm")
        sheet.paste(
            Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST), (x, y + TITLE)
        )
    return np.asarray(sheet)


def save_webp(path, frames, fps):
    first, *others = (Image.fromarray(frame) for frame in frames)
    duration = round(1000 / fps)
    first.save(
        path, save_all=True, append_images=others, duration=duration, loop=0, quality=80, method=4
    )
    print(f"{path}, {len(frames)} frames, {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    started = time.monotonic()
    main(sys.argv[1:])
    print(f"{time.monotonic() - started:.0f} s")

"""What a finished training leaves behind: scores, a curve, two videos, and what to try next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from worldmodel.config.schema import learns_model, plans_in_simulator
from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.plotting import media
from worldmodel.evaluation.plotting.learning_curve import plot_learning_curve
from worldmodel.evaluation.returns.evaluation_rollout import (
    make_evaluation_rollout,
    record_episode,
)
from worldmodel.rollout.statistics import format_interval
from worldmodel.system.console import PROGRAM, say
from worldmodel.training.evaluation_media import CONTEXT, LENGTH

log = logging.getLogger(__name__)


def save_picture(name: str, write: Callable[[], Path]) -> None:
    """Say where a picture is, if it has a name; a disk that refuses costs the picture, never the
    run.
    """
    try:
        path = write()
        if name:
            say(f"  {name:<11}{path}")
    except OSError as error:
        log.warning(
            "a picture cannot be written (%s); the run is whole without it",
            error.strerror or error,
        )


def save_imagined_rollout(t, envs) -> None:
    """Imagine the start of an episode onwards, as a video and as a strip of pictures."""
    rollout, player = make_evaluation_rollout(t, envs, t.config.run.seed)
    rows = record_episode(rollout, player, CONTEXT + LENGTH)
    if len(rows) <= CONTEXT:
        return
    pictures = imagine_open_loop(t.agent, rows, CONTEXT, player.generator)
    save_picture(
        "imagined",
        lambda: media.save_gif(t.run.videos / "imagined.gif", pictures.make_video(), fps=10),
    )
    save_picture("", lambda: media.save_png(t.run.videos / "imagined.png", pictures.make_strip()))


def evaluate_finished_run(t, envs, stop) -> bool:
    """The closing evaluation, its pictures, and the lines that say where they are; False where a
    stop cut it short.

    All of it is rank 0's; the others follow its evaluation.
    """
    if t.due.log:
        t.log()
    result = t.evaluate(envs, stop, t.config.log.final_episodes)
    if result is None:
        return False
    if not t.world.main:
        return True
    s = result.summarize()
    count = len(result.scores)
    ends = format_interval(s["eval/score_low"], s["eval/score_high"], count)
    say(
        f"final score {s['eval/score']:.1f} ({ends}) over {count} episode{'s' * (count != 1)} "
        f"it has not seen"
    )
    say(f"  {'checkpoint':<11}{t.run.checkpoints}")
    title = f"{t.config.env.task}, {t.config.run.name}"
    save_picture(
        "curve",
        lambda: plot_learning_curve(
            t.run.path, t.run.path / "curve.png", title, bool(t.config.env.patience)
        ),
    )
    if result.video:
        save_picture("agent", lambda: media.save_gif(t.run.videos / "agent.gif", result.video))
    if t.model.can_draw and result.video:
        save_imagined_rollout(t, envs)
    say(f"try next ({PROGRAM} eval latest is short for the newest run):")
    evaluate = f"  {PROGRAM} eval {t.run.path}"
    say(f"{evaluate} --episodes 50  # returns over more episodes, with videos")
    has_model = learns_model(t.config)
    if has_model and t.model.can_draw and result.video:
        say(f"{evaluate} imagine        # imagined rollouts beside the truth")
    if has_model:
        say(f"{evaluate} model          # how good the world model is, by every measure")
    if has_model or plans_in_simulator(t.config):
        say(
            f"{evaluate} compare        # its actor and every planner, return against thinking "
            f"time: minutes"
        )
    if has_model:
        say(f"{evaluate} play           # drive the model yourself, the simulator beside it")
    say(f"{evaluate} report         # everything about this run on one page")
    if t.config.env.task != "pendulum":
        say(f"  {PROGRAM} train pendulum                   # another task: swing up and balance")
    return True

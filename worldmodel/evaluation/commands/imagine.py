"""`eval.py RUN imagine`: imagined rollouts as pictures, videos and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel import build
from worldmodel.config.component_settings import states_fact
from worldmodel.evaluation.imagination import (
    feature_points,
    futures,
    latent_traversal,
    long_rollouts,
    uncertainty,
)
from worldmodel.evaluation.imagination.episode_source import observe_episode
from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode
from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.plotting import grids, media
from worldmodel.evaluation.quality.run_policies import make_behaviors
from worldmodel.evaluation.results import write_result
from worldmodel.registry import DYNAMICS
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say

FPS = 10
STILLS = 12  # pictures in a row


@dataclass(frozen=True)
class ImagineOptions:
    """The episode's source and seed, steps of rollouts, number of samples.

    `long` is the length of the longest rollouts, or None for half of the episode.
    """

    source: str
    seed: int
    context: int
    length: int
    long: int | None
    samples: int


# It returns a line about the result and the files that it wrote.
Visualization = Callable[[Run, ObservedEpisode, ImagineOptions, Path], tuple[str, list[Path]]]


def visualize_imagination(run: Run, make: Callable[..., Any], options: ImagineOptions) -> None:
    """Make all visualizations, one after the other; each writes its own files."""
    build.check_goal(run.config, run.model)
    target = run.path / "eval"
    target.mkdir(exist_ok=True)  # fails early: there is nothing but files to show
    observed = observe_episode(run, make, options.source, options.seed, options.context)
    parts: dict[str, Visualization] = {
        "beside the truth": compare_with_truth,
        "many futures": show_futures,
        "long rollouts": show_long_rollouts,
        "latents": show_latents,
        "disagreement": show_disagreement,
    }
    if states_fact(DYNAMICS[run.config.model.dynamics], "encodes_nothing"):
        del parts["latents"]
    if run.config.model.encoder == "spatial":
        parts["feature points"] = show_points
    bar, lines = Progress(len(parts), "imagining"), []
    paths: list[Path] = []
    for number, (name, work) in enumerate(parts.items()):
        bar.update(number, name)
        line, files = work(run, observed, options, target)
        lines.append(line)
        paths += files
    bar.update(len(parts))
    bar.close()
    say("\n".join([*lines, *(f"  {path}" for path in paths)]))
    if not any(path.suffix == ".mp4" for path in paths):
        say(media.NO_MP4)


def write_numbers(
    target: Path, run: Run, observed: ObservedEpisode, values: dict[str, Any]
) -> Path:
    """Write a file of numbers and what they were measured on."""
    about = {
        "run": str(run.path),
        "frames": run.frames,
        "source": observed.source,
        "context": observed.context,
    }
    return write_result(target, {**about, **values})


def limit_length(observed: ObservedEpisode, options: ImagineOptions) -> int:
    return min(options.length, len(observed.episode) - observed.context)


def compare_with_truth(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """The context frames, then the open-loop prediction beside truth and error."""
    context = observed.context
    result = imagine_open_loop(
        run.agent,
        observed.rows(context + limit_length(observed, options)),
        context,
        run.generator,
    )
    still = result.truth[context - 1 : context]
    own, frozen = result.measure_mse()[context:], result.measure_mse(still)[context:]
    values = {
        "image_mse": own,
        "image_mse_copy_last": frozen,
        "reward": result.reward,
        "predicted_reward": result.predicted_reward,
    }
    made = [write_numbers(target / "imagine.json", run, observed, values)]
    made += media.save_video(target / "imagine", result.make_video(), FPS)
    made.append(
        media.save_png(target / "imagine.png", media.enlarge(result.make_strip(STILLS), 384))
    )
    line = (
        f"open loop over {len(own)} steps: picture MSE {own.mean():.5f}, last seen frame "
        f"{frozen.mean():.5f}; lower is better"
    )
    return line, made


def show_futures(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """Futures from one state: other random draws, other actions, other policies."""
    length = limit_length(observed, options)
    behaviors, left_out = make_behaviors(run)
    found = futures.imagine_futures(observed, behaviors, length, options.samples)
    real = observed.true_pictures(slice(observed.context, observed.context + length))
    shown = [("truth", real), *((f.label, f.pictures) for f in found)]
    named = [("truth", real), *((f.name, f.pictures) for f in found)]
    rows = [
        {"kind": f.kind, "name": f.name, "reward": f.reward, "continuation": f.cont} for f in found
    ]
    made = [
        write_numbers(
            target / "futures.json", run, observed, {"left_out": left_out, "futures": rows}
        )
    ]
    made += media.save_video(target / "futures", grids.tile_videos(named, 6), FPS)
    made.append(media.save_png(target / "futures.png", grids.stack_strips(shown, STILLS, 48)))
    counts = (
        f"{sum(f.kind == kind for f in found)} {kinds}"
        for kind, kinds in (("sample", "samples"), ("action", "actions"), ("policy", "policies"))
    )
    return "\n".join([f"futures from one state: {', '.join(counts)}", *left_out]), made


def show_long_rollouts(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """Long rollouts and their useful horizon."""
    found = long_rollouts.measure_long_rollouts(
        observed,
        run.config,
        long_rollouts.choose_length(observed, options.long),
        options.samples,
    )
    title = (
        f"{run.config.env.task}: rollouts of up to {found['length']} steps "
        f"from {found['dreams']} starts"
    )
    made = [
        write_numbers(target / "long.json", run, observed, found),
        long_rollouts.plot_long_rollouts(observed, found, target / "long.png", title),
    ]
    return long_rollouts.describe_rollouts(found), made


def show_latents(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """What each latent group draws, and an interpolation between two states."""
    line, ends = latent_traversal.interpolate_states(observed)
    videos, found = latent_traversal.traverse_groups(observed)
    picture = grids.stack_strips([line, *videos], latent_traversal.BETWEEN + 2, 64)
    made = [
        write_numbers(
            target / "latents.json", run, observed, {"interpolation": ends, "traversal": found}
        ),
        media.save_png(target / "latents.png", picture),
    ]
    effect = found["effect"]
    text = (
        f"{len(effect)} latent groups; the strongest, {int(effect.argmax())}, changes pixels by "
        f"{effect.max():.3f}"
    )
    return f"{text} (RMS), the median one by {sorted(effect)[len(effect) // 2]:.3f}", made


def show_disagreement(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """The disagreement of rollouts of the same actions."""
    found = uncertainty.measure_disagreement(
        observed, limit_length(observed, options), options.samples
    )
    values = uncertainty.summarize_disagreement(found)
    title = (
        f"{options.samples} rollouts of the same actions: std and error should be bright at the "
        f"same places"
    )
    made = [
        write_numbers(
            target / "uncertainty.json", run, observed, {"samples": options.samples, **values}
        ),
        uncertainty.plot_disagreement(found, target / "uncertainty.png", title),
    ]
    made += media.save_video(
        target / "uncertainty", grids.tile_videos(uncertainty.make_tiles(found), 3), FPS
    )
    pooled = values["correlation_pooled"]
    ends = f"{values['std'][0]:.4f} at step 1, {values['std'][-1]:.4f} at the last"
    return (
        f"standard deviation of {options.samples} rollouts: {ends}; its correlation with their "
        f"error is {pooled:.2f}, 1 is best"
    ), made


def show_points(
    run: Run, observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """The encoder's feature points over the episode's pictures."""
    columns = observed.episode.columns
    points = observed.model.agent.find_points(columns)
    rows = [(name, feature_points.draw_points(columns[name], p)) for name, p in points.items()]
    values = {"points": {name: p.tolist() for name, p in points.items()}}
    made = [
        write_numbers(target / "points.json", run, observed, values),
        media.save_png(target / "points.png", grids.stack_strips(rows, STILLS // 2)),
    ]
    spread = max(float(p.std(0).max()) for p in points.values())
    return (
        f"feature points: the one that moves most has a standard deviation of {spread:.2f}",
        made,
    )

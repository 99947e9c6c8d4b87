"""`eval.py RUN imagine`: everything there is to see of a model's dreams, as pictures, videos and
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel import build
from worldmodel.evaluation.imagination import (
    futures,
    latent_traversal,
    uncertainty,
    useful_horizon,
)
from worldmodel.evaluation.imagination.observed_episode import ObservedEpisode, observe_episode
from worldmodel.evaluation.imagination.open_loop import imagine_open_loop
from worldmodel.evaluation.plotting import grids, media
from worldmodel.evaluation.results import write_result
from worldmodel.saved_run import Run
from worldmodel.system.console import Progress, say

FPS = 10
STILLS = 12  # pictures in a row


@dataclass(frozen=True)
class ImagineOptions:
    """Where the episode comes from, and how far and how often to dream; `long` None as far as
    makes sense.
    """

    source: str
    seed: int
    context: int
    length: int
    long: int | None
    samples: int


# A line on what came out, and what was made
Visualization = Callable[[ObservedEpisode, ImagineOptions, Path], tuple[str, list[Path]]]


def visualize_imagination(run: Run, make: Callable[..., Any], options: ImagineOptions) -> None:
    """All parts, one after the other; each writes its own files."""
    build.check_goal(run.config, run.model)
    target = run.path / "eval"
    observed = observe_episode(run, make, options.source, options.seed, options.context)
    parts: dict[str, Visualization] = {
        "beside the truth": compare_with_truth,
        "many futures": show_futures,
        "long dreams": show_long_rollouts,
        "latents": show_latents,
        "where dreams part": show_disagreement,
    }
    bar, lines = Progress(len(parts), "dreaming"), []
    made: list[Path] = []
    for number, (name, work) in enumerate(parts.items()):
        bar.update(number, name)
        line, files = work(observed, options, target)
        lines.append(line)
        made += files
    bar.update(len(parts))
    bar.close()
    say("\n".join([*lines, *(f"  {path}" for path in made)]))
    if not any(path.suffix == ".mp4" for path in made):
        say(media.NO_MP4)


def write_numbers(target: Path, observed: ObservedEpisode, values: dict[str, Any]) -> Path:
    """A file of numbers, with what they were measured on."""
    about = {
        "run": str(observed.run.path),
        "frames": observed.run.frames,
        "source": observed.source,
        "context": observed.context,
    }
    return write_result(target, {**about, **values})


def limit_length(observed: ObservedEpisode, options: ImagineOptions) -> int:
    return min(options.length, len(observed.episode) - observed.context)


def compare_with_truth(
    observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """Context frames, then the model's open-loop future beside the truth and the error."""
    context = observed.context
    result = imagine_open_loop(
        observed.run.agent,
        observed.rows(context + limit_length(observed, options)),
        context,
        observed.run.generator,
    )
    still = result.truth[context - 1 : context]
    own, frozen = result.measure_mse()[context:], result.measure_mse(still)[context:]
    values = {
        "image_mse": own,
        "image_mse_copy_last": frozen,
        "reward": result.reward,
        "predicted_reward": result.predicted_reward,
    }
    made = [write_numbers(target / "imagine.json", observed, values)]
    made += media.save_video(target / "imagine", result.make_video(), FPS)
    made.append(
        media.save_png(target / "imagine.png", media.enlarge(result.make_strip(STILLS), 384))
    )
    line = (
        f"open loop over {len(own)} steps: picture MSE {own.mean():.5f}, copying the last seen "
        f"frame gives "
        f"{frozen.mean():.5f}; lower is better"
    )
    return line, made


def show_futures(
    observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """From one state: other luck, other actions, other drivers."""
    length = limit_length(observed, options)
    found, left_out = futures.imagine_futures(observed, length, options.samples)
    real = observed.true_pictures(slice(observed.context, observed.context + length))
    shown = [("what happened", real), *((f.label, f.pictures) for f in found)]
    named = [("what happened", real), *((f.name, f.pictures) for f in found)]
    rows = [
        {"kind": f.kind, "name": f.name, "reward": f.reward, "continuation": f.cont} for f in found
    ]
    made = [
        write_numbers(target / "futures.json", observed, {"left_out": left_out, "futures": rows})
    ]
    made += media.save_video(target / "futures", grids.tile_videos(named, 6), FPS)
    made.append(media.save_png(target / "futures.png", grids.stack_strips(shown, STILLS, 48)))
    counts = (
        f"{sum(f.kind == kind for f in found)} by {kind}" for kind in ("luck", "action", "policy")
    )
    return "\n".join([f"futures from one state: {', '.join(counts)}", *left_out]), made


def show_long_rollouts(
    observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """Until they break."""
    found = useful_horizon.measure_long_rollouts(
        observed, useful_horizon.choose_length(observed, options.long), options.samples
    )
    title = (
        f"{observed.run.config.env.task}: dreams of up to {found['length']} steps, from "
        f"{found['dreams']} moments"
    )
    made = [
        write_numbers(target / "long.json", observed, found),
        useful_horizon.plot_long_rollouts(observed, found, target / "long.png", title),
    ]
    return useful_horizon.describe_rollouts(found), made


def show_latents(
    observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """What groups draw, and a line between two beliefs."""
    line, ends = latent_traversal.interpolate_states(observed)
    videos, found = latent_traversal.traverse_groups(observed)
    picture = grids.stack_strips([line, *videos], latent_traversal.BETWEEN + 2, 64)
    made = [
        write_numbers(
            target / "latents.json", observed, {"interpolation": ends, "traversal": found}
        ),
        media.save_png(target / "latents.png", picture),
    ]
    effect = found["effect"]
    words = (
        f"{len(effect)} latent groups; the strongest, {int(effect.argmax())}, changes pixels by "
        f"{effect.max():.3f}"
    )
    return f"{words} (RMS), the median one by {sorted(effect)[len(effect) // 2]:.3f}", made


def show_disagreement(
    observed: ObservedEpisode, options: ImagineOptions, target: Path
) -> tuple[str, list[Path]]:
    """Uncertainty over draws of luck."""
    found = uncertainty.measure_disagreement(
        observed, limit_length(observed, options), options.samples
    )
    values = uncertainty.summarize_disagreement(found)
    title = (
        f"{options.samples} dreams of the same actions: bright where they part; good is bright "
        f"where they err"
    )
    made = [
        write_numbers(
            target / "uncertainty.json", observed, {"samples": options.samples, **values}
        ),
        uncertainty.plot_disagreement(found, target / "uncertainty.png", title),
    ]
    made += media.save_video(
        target / "uncertainty", grids.tile_videos(uncertainty.make_tiles(found), 3), FPS
    )
    pooled = values["correlation_pooled"]
    ends = f"{values['std'][0]:.4f} at step 1, {values['std'][-1]:.4f} at the last"
    return (
        f"spread of {options.samples} dreams: {ends}; correlation with their error {pooled:.2f}, "
        f"1 is uncertain "
        "just where it is wrong"
    ), made

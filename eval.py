"""Open a saved run: python eval.py RUN [returns|imagine] [--episodes N] [--seed S] [--render NAME] [--device NAME]."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import envs
from worldmodel.console import Progress, say


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="eval.py", description="Evaluate a saved run.")
    parser.add_argument("run", help="a run directory, runs/<task>/<name>/seed<k>")
    parser.add_argument("what", nargs="?", default="returns", choices=["returns", "imagine"])
    parser.add_argument("--episodes", type=positive, default=10, help="episodes for returns (10)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the episodes (0)")
    parser.add_argument("--render", choices=["auto", "gl", "fast", "ray"], help="another renderer than the run's")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--context", type=positive, default=5, help="frames seen before imagining (5)")
    parser.add_argument("--length", type=positive, default=50, help="steps imagined (50)")
    args = parser.parse_args(argv)

    from worldmodel.guard import guarded  # torch is imported from here on

    return guarded(lambda: evaluate(args))


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def evaluate(args: argparse.Namespace) -> int:
    from envs.vector import Reset, make_vector
    from worldmodel import runtime
    from worldmodel.api import Run

    run = Run.open(args.run, args.device)
    runtime.tune(run.config.run.threads)
    e = run.config.env
    make = partial(envs.make, e.task, size=tuple(e.size), repeat=e.repeat, time_limit=e.time_limit, obs=e.obs,
                   render=args.render or e.render, camera=e.camera)  # fmt: skip
    target = run.path / "eval"
    target.mkdir(exist_ok=True)
    with make_vector(make, 1, timeout_s=e.timeout, restart_budget=e.restarts) as vector:
        say(f"{e.task}, {run.path}, trained on {run.frames} frames")
        command = {"returns": returns, "imagine": imagine}[args.what]
        command(run, vector, Reset, args, target)
    return 0


def returns(run, vector, reset, args: argparse.Namespace, target: Path) -> None:
    """Scores with an interval, and a video of the first episode."""
    from worldmodel.evaluation import media
    from worldmodel.evaluation.play_back import playing
    from worldmodel.evaluation.returns import run_episodes

    rollout, player = playing(run, vector, reset, args.seed)
    bar = Progress(args.episodes, "episodes")

    def draw(done: int) -> bool:
        bar.update(done)
        return False

    result = run_episodes(rollout, player, args.episodes, draw)
    bar.close()
    summary = result.summary(args.seed)
    lines = {"run": str(run.path), "frames": run.frames, "seed": args.seed, **summary, "scores": result.scores}
    (target / "returns.json").write_text(json.dumps(lines, indent=1) + "\n")
    say(f"return {summary['eval/score']:.1f}, 95 % interval {summary['eval/score_low']:.1f} to "
        f"{summary['eval/score_high']:.1f}, {args.episodes} episodes; higher is better")  # fmt: skip
    made = [target / "returns.json"]
    if result.video:
        made.append(media.save_gif(target / "agent.gif", result.video))
    say("\n".join(f"  {path}" for path in made))


def imagine(run, vector, reset, args: argparse.Namespace, target: Path) -> None:
    """Context frames, then the model's open-loop future beside the truth and the error."""
    from worldmodel.evaluation import media
    from worldmodel.evaluation.imagine import dream
    from worldmodel.evaluation.play_back import playing, record

    rollout, player = playing(run, vector, reset, args.seed)
    rows = record(rollout, player, args.context + args.length)
    if len(rows) < args.context + 2:
        raise ValueError(f"--context: the episode ended after {len(rows)} steps; give fewer than {len(rows) - 1}")
    result = dream(run.agent, rows, args.context, run.generator)
    still = result.truth[args.context - 1 : args.context]
    own, frozen = result.mse()[args.context :], result.mse(still)[args.context :]
    lines = {
        "run": str(run.path),
        "context": args.context,
        "image_mse": own.tolist(),
        "image_mse_copy_last": frozen.tolist(),
        "reward": result.reward.tolist(),
        "predicted_reward": result.predicted_reward.tolist(),
    }
    (target / "imagine.json").write_text(json.dumps(lines, indent=1) + "\n")
    say(f"open loop over {len(own)} steps: picture MSE {own.mean():.5f}, copying the last seen frame gives "
        f"{frozen.mean():.5f}; lower is better")  # fmt: skip
    made = [
        target / "imagine.json",
        media.save_gif(target / "imagine.gif", result.video(), fps=10),
        media.save_png(target / "imagine.png", media.enlarge(result.strip(), 384)),
    ]
    say("\n".join(f"  {path}" for path in made))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

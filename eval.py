"""Open a saved run: python eval.py RUN [returns|imagine|compare|probe|model|play|report] [--section.key x]."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import envs
from worldmodel.config import split_arguments
from worldmodel.console import Progress, say

DESCRIPTION = """Evaluate a saved run. --planner.KEY VALUE, --behavior.KEY VALUE and --goal.KEY VALUE drive it in
another way than it was trained with, as in --behavior.name mpc --planner.score goal_distance --goal.image there.png."""


def main(argv: list[str]) -> int:
    args, parser, dotted = parsed(argv)
    _, args.changes, problems = split_arguments(dotted)
    if problems:
        parser.error(problems[0])

    from worldmodel.guard import guarded  # torch is imported from here on

    return guarded(lambda: evaluate(args))


WHAT = ("returns", "imagine", "compare", "probe", "model", "play", "report")


def parsed(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser, list[str]]:
    """The arguments, what to complain by, and the words of --section.key value."""
    usage = f"eval.py RUN [{'|'.join(WHAT)}] [options]\n       eval.py RUN [RUN ...] report"
    parser = argparse.ArgumentParser(prog="eval.py", description=DESCRIPTION, usage=usage)
    parser.add_argument("words", nargs="+", metavar="RUN [what]", help="a run directory, runs/<task>/<name>/seed<k>, "
                        "and what to do with it (returns); report takes the directories of several seeds")  # fmt: skip
    parser.add_argument("--episodes", type=positive, default=10, help="episodes, for all but imagine (10)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the episodes (0)")
    parser.add_argument("--render", choices=["auto", "gl", "fast", "ray"], help="another renderer than the run's")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--context", type=positive, default=5, help="frames seen before imagining (5)")
    parser.add_argument("--length", type=positive, default=50, help="steps imagined (50)")
    parser.add_argument("--from", dest="source", choices=["fresh", "replay"], default="fresh",
                        help="model: episodes played now, or the last ones of the run's replay (fresh)")  # fmt: skip
    parser.add_argument("--starts", type=positive, default=8, help="model: states from which plans are tried (8)")
    parser.add_argument("--plans", type=positive, default=8, help="model: random plans tried from each (8)")
    parser.add_argument("--port", type=port, default=0, help="play: where to serve; 0 takes any that is free (0)")
    parser.add_argument("--no-browser", action="store_true", help="play: open no browser, only say the address")
    own, dotted = split_dotted(argv)
    args = parser.parse_intermixed_args(own)
    words = args.words
    args.what = words.pop() if len(words) > 1 and words[-1] in WHAT else "returns"
    if len(words) > 1 and args.what != "report":
        parser.error(f"argument what: invalid choice: {words[-1]!r} (choose from {', '.join(WHAT)}); only report takes "
                     "several runs")  # fmt: skip
    args.runs, args.run = words, words[0]
    return args, parser, dotted


def split_dotted(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of --section.key value, which argparse does not know, apart from the rest."""
    own: list[str] = []
    dotted: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("--") and "." in word.partition("=")[0]:
            dotted += [word] if "=" in word else [word, *[w for w in [next(words, None)] if w is not None]]
        else:
            own.append(word)
    return own, dotted


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: they go from 0 to 65535")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def evaluate(args: argparse.Namespace) -> int:
    if args.what == "report":
        return report(args)
    from envs.vector import Reset, make_vector
    from worldmodel import runtime
    from worldmodel.api import Run

    run = Run.open(args.run, args.device).driven(args.changes)
    runtime.tune(run.config.run.threads)
    e, d = run.config.env, run.config.distract

    def environments(obs: str):
        make = partial(envs.make, e.task, size=tuple(e.size), repeat=e.repeat, time_limit=e.time_limit, obs=obs,
                       render=args.render or e.render, camera=e.camera, strength=d.strength, kind=d.kind,
                       held_out=True)  # fmt: skip
        return make_vector(make, 1, timeout_s=e.timeout, restart_budget=e.restarts)

    target = run.path / "eval"
    target.mkdir(exist_ok=True)
    about = f"{e.task}, {run.path}, trained on {run.frames} frames"
    if args.what in ("model", "play"):
        say(about)
        {"model": model, "play": play}[args.what](run, environments, Reset, args, target)
        return 0
    with environments("both" if args.what == "probe" and e.obs == "pixels" else e.obs) as vector:
        say(about)
        command = {"returns": returns, "imagine": imagine, "compare": compare, "probe": probe}[args.what]
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


def compare(run, vector, reset, args: argparse.Namespace, target: Path) -> None:
    """The same model driven by its actor, by planners and by both: returns and milliseconds per action."""
    from worldmodel.evaluation import compare as ways
    from worldmodel.evaluation.play_back import playing
    from worldmodel.evaluation.returns import run_episodes

    def play(changes) -> dict:
        rollout, player = playing(run.driven([*changes, *args.changes]), vector, reset, args.seed)
        timed = ways.Timed(player)
        result = run_episodes(rollout, timed, args.episodes)
        return {**result.summary(args.seed), "scores": result.scores, "ms_per_action": timed.milliseconds}

    named = ways.drivers(run.config.planner.candidates, run.policy is not None)
    bar = Progress(len(named), "compare")
    results = {}
    for name, changes in named.items():
        bar.update(len(results), name)
        results[name] = play(changes)
    bar.close()
    about = {"run": str(run.path), "frames": run.frames, "seed": args.seed, "planner": vars(run.config.planner)}
    (target / "compare.json").write_text(json.dumps({**about, "drivers": results}, indent=1) + "\n")
    say(ways.table(results))
    if run.policy is None:
        say("this run trained no actor and no critic; with behavior.name actor_critic there are more ways to be driven")
    say(f"  {target / 'compare.json'}")


def probe(run, vector, reset, args: argparse.Namespace, target: Path) -> None:
    """How well a linear map reads the simulator's true state off the latent, on episodes it was not fitted on."""
    from worldmodel.evaluation.play_back import playing
    from worldmodel.evaluation.state_probe import gather, held_out_r2

    if args.episodes < 3:
        raise ValueError("--episodes: every third episode is held out; give at least 3")
    rollout, player = playing(run, vector, reset, args.seed)
    found = held_out_r2(*gather(rollout, player, args.episodes)).tolist()
    r2 = [None if x != x else x for x in found]
    lines = {"run": str(run.path), "frames": run.frames, "seed": args.seed, "episodes": args.episodes, "r2": r2}
    (target / "probe.json").write_text(json.dumps(lines, indent=1) + "\n")
    shown = ", ".join("never changes" if x is None else f"{x:.3f}" for x in r2)
    say(f"R^2 of a linear read-out of the true state, by coordinate: {shown}; 1 is all of it, 0 nothing")
    say(f"  {target / 'probe.json'}")


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


def model(run, environments, reset, args: argparse.Namespace, target: Path) -> None:
    """Every number of the world model's quality on held-out episodes, and a page of plots."""
    from worldmodel.evaluation.measured import Wanted, measured
    from worldmodel.evaluation.model_quality import plain
    from worldmodel.evaluation.quality_page import page
    from worldmodel.evaluation.quality_text import report

    if args.plans < 4:
        raise ValueError("--plans: two pairs of random plans are compared from every state; give at least 4")
    wanted = Wanted(args.source, args.episodes, args.seed, args.context, args.length, args.starts, args.plans)
    source, episodes, quality = measured(run, environments, reset, wanted)
    found = plain(quality.results)
    about = {"run": str(run.path), "frames": run.frames, "seed": args.seed, "source": source,
             "episodes": len(episodes), "steps": sum(map(len, episodes))}  # fmt: skip
    lines = {**about, "context": args.context, "left_out": quality.left_out, **found}
    (target / "model.json").write_text(json.dumps(lines, indent=1, allow_nan=False) + "\n")
    title = f"{run.config.env.task}, {run.frames} frames: {len(episodes)} {source} episodes"
    say(report(found, quality.left_out))
    say(f"  {target / 'model.json'}\n  {page(found, target / 'model.png', title)}")
    say("what each number is: docs/evaluation.md")


def play(run, environments, reset, args: argparse.Namespace, target: Path) -> None:
    """A page on this machine from which a dream is driven, the simulator beside it."""
    from worldmodel.evaluation.play.live import play as serve

    serve(run, environments, reset, target, seed=args.seed, context=args.context, port=args.port,
          browse=not args.no_browser)  # fmt: skip


def report(args: argparse.Namespace) -> int:
    """Everything there is to see of one or more seeds of a run, on one page."""
    from worldmodel.evaluation.report.page import write

    made, lacking = write([Path(path) for path in args.runs], Path(args.run) / "eval" / "report.html")
    say(f"  {made}")
    for line in lacking:
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

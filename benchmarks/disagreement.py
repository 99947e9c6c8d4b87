"""Whether an ensemble disagrees where the model errs.

python benchmarks/disagreement.py RUN DATA [--members 2,5,10] [--episodes 20] [--length 15]

The episodes are the last of the run DATA, which RUN was not trained on. From several steps of each
the model imagines what the real actions lead to. The error at a step is the distance between the
mean latent that was imagined and the posterior that saw the step. The disagreement is the sum, up
to that step, of what the first K members disagree about. Both are compared by their rank
correlation over all rollouts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodel.errors import UsageError
from worldmodel.programs.eval_options import parse_positive

CONTEXT = 6  # rows that the model sees before the first rollout


def measure(args: argparse.Namespace) -> int:
    import torch

    from worldmodel.evaluation.quality.evaluated_agent import EvaluatedAgent
    from worldmodel.evaluation.quality.held_out_episodes import load_other_episodes
    from worldmodel.evaluation.quality.open_loop_error import choose_starts
    from worldmodel.evaluation.quality.prediction_metrics import spearman
    from worldmodel.model.ensembles import measure_disagreement
    from worldmodel.saved_run import Run
    from worldmodel.spaces import select_states

    run = Run.open(args.run)
    most = run.config.ensemble.size
    for k in args.members:
        if not 2 <= k <= most:
            raise UsageError(f"--members: {k} is not from 2 to the {most} of {args.run}")
    agent, model = EvaluatedAgent(run.agent, 0), run.agent.model
    spaces = run.observation_space, run.action_space
    errors, spreads = [], {k: [] for k in args.members}
    for episode in load_other_episodes(args.data, *spaces, args.episodes):
        starts = choose_starts(episode, CONTEXT, args.length)
        starts = starts[starts < len(episode) - args.length]
        if not len(starts):
            continue
        post, _ = agent.observe(episode.columns)
        steps = starts[:, None] + 1 + np.arange(args.length)
        actions = torch.from_numpy(episode.columns["prev_action"][steps])
        begin, real = select_states(post, starts), select_states(post, steps)
        rollout = agent.imagine(begin, actions)
        gap = model.dynamics.mean_latent(rollout) - model.dynamics.mean_latent(real)
        errors.append(gap.norm(dim=-1).numpy())
        with torch.no_grad():
            feat = model.dynamics.features(rollout)
            first = model.dynamics.features(begin).unsqueeze(1)
            members = model.predict_members(torch.cat([first, feat[:, :-1]], 1), actions)
        for k, found in spreads.items():
            found.append(measure_disagreement(members[:k]).numpy().cumsum(1))
    if not errors:
        raise UsageError(f"{args.data}: no episode has {CONTEXT + args.length} rows (--length)")
    error = np.concatenate(errors)
    for k, found in spreads.items():
        spread = np.concatenate(found)
        by_step = [spearman(spread[:, t], error[:, t]) for t in range(args.length)]
        line = {"run": str(args.run), "data": str(args.data), "frames": run.frames, "members": k}
        line |= {"rollouts": len(error), "mean": round(float(np.mean(by_step)), 3)}
        print(json.dumps({**line, "rank_correlation": [round(x, 3) for x in by_step]}))
    return 0


def parse_counts(text: str) -> list[int]:
    return [parse_positive(x) for x in text.split(",")]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/disagreement.py", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run with ensemble.size above 1")
    parser.add_argument("data", type=Path, metavar="DATA", help="the run of the episodes")
    parser.add_argument("--members", type=parse_counts, default=[2, 5, 10])
    parser.add_argument("--episodes", type=parse_positive, default=20)
    parser.add_argument("--length", type=parse_positive, default=15)
    args = parser.parse_args(argv)

    from worldmodel.programs.exit_codes import run_command

    return run_command(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""PETS beside mbrl-lib on its continuous cartpole: seconds of an action, returns by trial.

beside_mbrl.py PYTHON CHECKOUT [--rounds N] [--trials N] [--seed N]

CHECKOUT is a copy of facebookresearch/mbrl-lib, and PYTHON the interpreter of an environment of
its own that can import it (torch, gymnasium 0.26, hydra-core 1.3, numpy below 2). Its settings are
those of its notebook pets_example: 5 members of 3 x 200, 20 particles, horizon 15, CEM 500 x 5.

Both programs choose actions in turns, one thread each, so that both meet the same load; medians
count, and ratios to mbrl-lib. bf16 is left out where the processor does not multiply it natively.
With --trials mbrl-lib trains for so many trials of 200 steps after 200 random steps, and their
returns are printed; ours are those of `train.py pets`. Lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTH, MEMBERS = 200, 5
# Without them the C library returns large arrays to the system after each use.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "OMP_NUM_THREADS": "1",
}


def make_our_action(precision: str, seed: int) -> Callable[[], object]:
    """A function that chooses an action by the preset `pets`, of an untrained model."""
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.compute import make_plan_function
    from worldmodel import build
    from worldmodel.config import loading
    from worldmodel.spaces import ActionSpace, ObservationSpace

    c, space = loading.parse(["pets"]), ActionSpace(1)
    torch.manual_seed(seed)
    model = build.make_model(c, ObservationSpace({"vector": 4}), space).requires_grad_(False)
    return make_plan_function(c, model, space, precision)


class MbrlPets:
    """mbrl-lib's PETS as in its notebook."""

    def __init__(self, checkout: str, seed: int):
        sys.path.insert(0, checkout)
        import mbrl.env.cartpole_continuous as cartpole
        import numpy as np
        import omegaconf
        import torch
        from mbrl import models, planning
        from mbrl.env import reward_fns, termination_fns
        from mbrl.util import common

        self.planning, self.common = planning, common
        torch.manual_seed(seed)
        np.random.seed(seed)
        self.env = cartpole.CartPoleEnv()
        self.env.reset(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        network = {
            "_target_": "mbrl.models.GaussianMLP", "device": "cpu", "num_layers": 3,
            "_recursive_": False,
            "ensemble_size": MEMBERS, "hid_size": 200, "in_size": "???", "out_size": "???",
            "deterministic": False, "propagation_method": "fixed_model",
            "activation_fn_cfg": {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.01},
        }  # fmt: skip
        optimizer = {
            "_target_": "mbrl.planning.CEMOptimizer", "num_iterations": 5, "elite_ratio": 0.1,
            "population_size": 500, "alpha": 0.1, "device": "cpu", "lower_bound": "???",
            "upper_bound": "???", "return_mean_elites": True, "clipped_normal": False,
        }  # fmt: skip
        agent = {
            "_target_": "mbrl.planning.TrajectoryOptimizerAgent", "planning_horizon": 15,
            "_recursive_": False,
            "replan_freq": 1, "verbose": False, "action_lb": "???", "action_ub": "???",
            "optimizer_cfg": optimizer,
        }  # fmt: skip
        algorithm = {"learned_rewards": False, "target_is_delta": True, "normalize": True}
        sizes = {"trial_length": LENGTH, "num_steps": 50 * LENGTH, "model_batch_size": 32}
        settings = omegaconf.OmegaConf.create(
            {"dynamics_model": network, "algorithm": algorithm, "overrides": sizes}
        )
        shapes = self.env.observation_space.shape, self.env.action_space.shape
        self.model = common.create_one_dim_tr_model(settings, *shapes)
        self.replay = common.create_replay_buffer(
            settings, *shapes, rng=np.random.default_rng(seed)
        )
        imagined = models.ModelEnv(
            self.env, self.model, termination_fns.cartpole, reward_fns.cartpole, generator
        )
        self.agent = planning.create_trajectory_optim_agent_for_model(
            imagined, omegaconf.OmegaConf.create(agent), num_particles=20
        )
        self.trainer = models.ModelTrainer(self.model, optim_lr=1e-3, weight_decay=5e-5)
        self.explore()
        self.seen, _ = self.env.reset()

    def explore(self) -> None:
        self.common.rollout_agent_trajectories(
            self.env, LENGTH, self.planning.RandomAgent(self.env), {},
            replay_buffer=self.replay, trial_length=LENGTH,
        )  # fmt: skip
        self.model.update_normalizer(self.replay.get_all())

    def act(self) -> object:
        return self.agent.act(self.seen)

    def play_trial(self) -> float:
        """Fit the model to all data, play a trial, and return its return."""
        self.model.update_normalizer(self.replay.get_all())
        data, held_out = self.common.get_basic_buffer_iterators(
            self.replay, batch_size=32, val_ratio=0.05, ensemble_size=MEMBERS,
            shuffle_each_epoch=True, bootstrap_permutes=False,
        )  # fmt: skip
        self.trainer.train(data, dataset_val=held_out, num_epochs=50, patience=50, silent=True)
        seen, _ = self.env.reset()
        self.agent.reset()
        total = 0.0
        for _ in range(LENGTH):
            seen, reward, over, *_ = self.common.step_env_and_add_to_buffer(
                self.env, seen, self.agent, {}, self.replay
            )
            total += float(reward)
            if over:
                break
        return total


class Worker:
    """A process of one of the two programs, which answers a line for each line that it gets."""

    def __init__(self, python: str, *words: str):
        self.process = subprocess.Popen(
            [python, __file__, "--worker", *words], env={**os.environ, **ALLOCATOR}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, word: str) -> float:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{self.process.args} ended; what it wrote stands above")
        return float(answer)

    def close(self) -> None:
        self.process.communicate()


def serve(name: str, checkout: str, seed: int) -> None:
    """Answer each line `act` with the seconds of an action, and `trial` with a trial's return."""
    import torch

    torch.set_num_threads(1)
    mbrl = MbrlPets(checkout, seed) if name == "mbrl" else None
    act = mbrl.act if mbrl else make_our_action(name, seed)
    for line in sys.stdin:
        if line.strip() == "trial":
            assert mbrl
            answer = mbrl.play_trial()
        else:
            began = time.perf_counter()
            act()
            answer = time.perf_counter() - began
        print(answer, flush=True)


def list_our_precisions() -> list[str]:
    """fp32, and bf16 where the processor multiplies it natively."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.compute import pick_best_precision

    return sorted({"fp32", pick_best_precision()})


def measure(args: argparse.Namespace) -> None:
    python = {name: sys.executable for name in list_our_precisions()} | {"mbrl": args.python}
    workers = {name: Worker(python[name], name, args.checkout, str(args.seed)) for name in python}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(args.rounds + 1):
        for name, worker in workers.items():
            times[name] += [worker.ask("act")][: turn > 0]  # the first warms up
    for name, taken in times.items():
        print(json.dumps(describe(name, taken, times["mbrl"])), flush=True)
    for trial in range(args.trials):
        found = workers["mbrl"].ask("trial")
        print(json.dumps({"program": "mbrl", "trial": trial + 1, "return": found}), flush=True)
    for worker in workers.values():
        worker.close()


def describe(name: str, taken: list[float], baseline: list[float]) -> dict[str, Any]:
    return {
        "program": name,
        "seconds_per_action": median(taken),
        "least": min(taken),
        "most": max(taken),
        "times_as_fast": median(baseline) / median(taken),
    }


def main(argv: list[str]) -> int:
    if argv[:1] == ["--worker"]:
        name, checkout, seed = argv[1:]
        serve(name, checkout, int(seed))
        return 0
    parser = argparse.ArgumentParser(
        prog="benchmarks/beside_mbrl.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("python", help="an interpreter that can import mbrl-lib's dependencies")
    parser.add_argument("checkout", help="folder of mbrl-lib")
    parser.add_argument("--rounds", type=int, default=8, help="actions of each program (8)")
    parser.add_argument("--trials", type=int, default=0, help="trials of mbrl-lib's training (0)")
    parser.add_argument("--seed", type=int, default=0, help="seed (0)")
    measure(parser.parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A new component is one file, one line in a registry and its keys in defaults.yaml: copies of the
tree get an objective, a planner, a plan score, a replay sampler and a dynamics that way, train
with them, and pass the contract tests, which nobody told of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from runs import ROOT, seed_dir

COPIED = ("worldmodel", "envs", "configs", "tests", "train.py", "pyproject.toml")


@dataclass(frozen=True)
class Component:
    """What a newcomer writes: a line of a registry's table, a file, and keys of defaults.yaml."""

    table: str
    name: str
    place: str
    code: str
    section: str
    keys: str

    @property
    def file(self):
        return self.place.partition(":")[0].replace(".", "/") + ".py"


OBJECTIVE = Component(
    "OBJECTIVES",
    "brightness",
    "worldmodel.model.objectives.brightness:Brightness",
    '''"""Predict how bright a picture is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from worldmodel.config.ranges import Positive
from worldmodel.model.objectives import Context, ModelSpec, Objective
from worldmodel.spaces import Losses, Metrics


@dataclass(frozen=True)
class Settings:
    power: Positive


class Brightness(Objective):
    """Squared error of the mean of the embedding, to a power."""

    loss_names = ["brightness"]

    def __init__(self, settings: Settings, spec: ModelSpec):
        super().__init__()
        self.settings = settings
        self.read = nn.Linear(spec.feat, 1)

    def forward(self, ctx: Context) -> tuple[Losses, Metrics]:
        error = self.read(ctx.feat).float().squeeze(-1) - ctx.embed.float().mean(-1).detach()
        return {"brightness": error.abs() ** self.settings.power}, {}
''',
    "brightness",
    "  power: 2.0                # exponent of the error",
)
PLANNER = Component(
    "PLANNERS",
    "ascent",
    "worldmodel.policy.planners.ascent:Ascent",
    '''"""The cross-entropy method, improved by the score's gradient where the score has one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worldmodel.config.ranges import Count, Positive
from worldmodel.policy.planners import HasGradient, compute_scores, select_candidates
from worldmodel.policy.planners.cem import CEM


@dataclass(frozen=True)
class Settings:
    section = "planner"

    ascents: Count
    ascent_rate: Positive


class Ascent(CEM):
    """Climb from the plan that the search has found."""

    def __call__(self, score_fn, mean, std, proposal, generator=None):
        settings = self.settings
        plan = super().__call__(score_fn, mean, std, proposal, generator)
        if not isinstance(score_fn, HasGradient):
            return plan
        for _ in range(settings.ascents):
            _, gradient = score_fn.score_with_gradient(plan.unsqueeze(1))
            step = settings.ascent_rate * gradient.squeeze(1).nan_to_num()
            both = torch.stack([plan, proposal.finish(plan + step)], 1)
            best = compute_scores(score_fn, both).argmax(1, keepdim=True)
            plan = select_candidates(both, best).squeeze(1)
        return plan
''',
    "planner",
    "  ascents: 2                # ascent: steps along the gradient\n"
    "  ascent_rate: 0.1          # ascent: length of a step per unit of gradient",
)
SCORE = Component(
    "PLAN_SCORES",
    "thrift",
    "worldmodel.policy.plan_scores.thrift:Thrift",
    '''"""Predicted rewards minus the price of large actions."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.ranges import Weight
from worldmodel.policy.plan_scores.reward import Reward


@dataclass(frozen=True)
class Settings:
    price: Weight


class Thrift(Reward):
    """Each squared action costs its price."""

    def __call__(self, candidates):
        cost = candidates.square().sum((-1, -2))
        return super().__call__(candidates) - self.inputs.settings.price * cost
''',
    "thrift",
    "  price: 0.5                # of a squared action",
)
SAMPLER = Component(
    "SAMPLERS",
    "window",
    "worldmodel.replay.samplers.window:Window",
    '''"""The newest rows only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldmodel.config.ranges import Count
from worldmodel.replay.samplers import Sampler
from worldmodel.replay.segments import StartIndex


@dataclass(frozen=True)
class Settings:
    section = "replay"

    window: Count


class Window(Sampler):
    """Uniform over the starts of the last steps."""

    def __call__(
        self, index: StartIndex, batch: int, generator: np.random.Generator
    ) -> np.ndarray:
        rows = index.rows()
        newest = np.flatnonzero(rows > rows.max() - self.settings.window)
        return generator.choice(newest, batch)
''',
    "replay",
    "  window: 50                # window: steps that may be drawn",
)
DYNAMICS = Component(
    "DYNAMICS",
    "markov",
    "worldmodel.model.dynamics.markov:Markov",
    '''"""A Markov chain of latents: each follows from the last one and the action alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worldmodel.config.ranges import Count
from worldmodel.model.dynamics import Dynamics
from worldmodel.model.networks import MLP
from worldmodel.spaces import join_states


@dataclass(frozen=True)
class Settings:
    width: Count


class Markov(Dynamics):
    """A state holds stoch (...,S[,K]) and prior, the parameters that were predicted for it."""

    def __init__(self, settings: Settings, make_latent, *, actions: int, embed: int):
        super().__init__()
        self.latent = make_latent()
        self.feature_size, count = self.latent.size, self.latent.num_params
        self.prior_net = MLP(self.feature_size + actions, count, 1, settings.width, exact=False)
        self.post_net = MLP(embed, count, 1, settings.width, exact=False)

    def initial(self, batch):
        zeros = self.post_net.out.weight.new_zeros
        return {
            "stoch": zeros(batch, *self.latent.shape),
            "prior": zeros(batch, self.latent.num_params),
        }

    def observe(self, embed, prev_action, is_first, start):
        params = self.post_net(embed)
        stoch = self.latent.sample(params).float()
        first = (start or self.initial(len(embed)))["stoch"].unsqueeze(1)
        before = torch.cat([first, stoch[:, :-1]], 1)
        prior = self._predict(before, prev_action, is_first)
        post = {"stoch": stoch, "prior": prior.float(), **self.latent.dist(params)}
        return post, self.latent.dist(prior)

    def observe_step(self, state, embed, prev_action, is_first, generator):
        prior = self._predict(state["stoch"], prev_action, is_first).float()
        stoch = self.latent.sample(self.post_net(embed), generator).float()
        return {"stoch": stoch, "prior": prior}

    def imagine_step(self, state, action, generator=None):
        prior = self._predict(state["stoch"], action).float()
        return {"stoch": self.latent.sample(prior, generator).float(), "prior": prior}

    def imagine(self, state, actions, generator=None):
        steps = []
        for action in actions.unbind(1):
            state = self.imagine_step(state, action, generator)
            steps.append(state)
        return join_states(steps, lambda leaves: torch.stack(leaves, 1))

    def features(self, state):
        return self.join_features(self.latent.flat(state["stoch"]))

    def expected_features(self, state):
        return self.latent.compute_mean(state)

    def predict_latent(self, state):
        return self.latent.dist(state["prior"])

    def infer_latent(self, state, embed):
        return self.latent.dist(self.post_net(embed))

    def replace_latent(self, state, stoch):
        return {**state, "stoch": stoch}

    def _predict(self, stoch, action, is_first=None):
        inputs = torch.cat([self.latent.flat(stoch), action], -1)
        if is_first is not None:
            inputs = torch.where(is_first.bool().unsqueeze(-1), 0.0, inputs)
        return self.prior_net(inputs)
''',
    "markov",
    "  width: 32                 # units of both networks",
)
ADDED = [OBJECTIVE, PLANNER, SCORE, SAMPLER, DYNAMICS]


def add(tree, component):
    """Write the file, the line and the keys, and nothing else."""
    file = tree / component.file
    assert not file.exists()
    file.write_text(component.code)
    registry = tree / "worldmodel" / "registry.py"
    line = f'    "{component.name}": "{component.place}",\n'
    opening = f"\n{component.table} = {{\n"
    text = registry.read_text()
    assert text.count(opening) == 1
    registry.write_text(text.replace(opening, opening + line))
    defaults = tree / "configs" / "defaults.yaml"
    text = defaults.read_text()
    if re.search(rf"^{component.section}:", text, re.M):
        text = re.sub(rf"^({component.section}:.*\n)", rf"\1{component.keys}\n", text, flags=re.M)
    else:
        text += f"\n{component.section}:\n{component.keys}\n"
    defaults.write_text(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    made = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, made / name)
    for component in ADDED:
        add(made, component)
    return made


def python(tree, *words, expect=0):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    env |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tree, env=env, capture_output=True, text=True
    )
    assert done.returncode == expect, done.stdout[-9000:] + done.stderr[-3000:]
    return done


def changed(tree):
    """Files of the tree that differ from the real one, and by how many lines."""
    found = {}
    for path in (p for name in COPIED for p in [tree / name, *(tree / name).rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            real = ROOT / path.relative_to(tree)
            old, new = (f.read_bytes() if f.exists() else b"" for f in (real, path))
            if old != new:
                lines = new.count(b"\n") - old.count(b"\n")
                found[path.relative_to(tree).as_posix()] = lines
    return found


def test_a_component_touches_three_files(tree):
    found = changed(tree)
    assert found.pop("worldmodel/registry.py") == len(ADDED)
    assert found.pop("configs/defaults.yaml") > 0
    assert found.keys() == {component.file for component in ADDED}


def test_what_is_wrong_with_new_keys_is_said_as_with_old_ones(tree):
    done = python(
        tree,
        "train.py",
        "debug",
        *("--brightness.powr", "2", "--planner.ascents", "0", "--planner.name", "ascend"),
        *("--replay.window", "0", "--replay.sampler", "windo"),
        *("--planner.score", "thrif", "--loss.objective", "{brightnes: 1}", "--thrift.price=-1"),
        expect=2,
    )
    for wanted in (
        "unknown key 'brightness.powr' (did you mean brightness.power?)",
        "planner.ascents: 0 is out of range, it must be at least 1",
        "(did you mean ascent?)",
        "(did you mean thrift?)",
        "(did you mean brightness?)",
        "(did you mean window?)",
        "replay.window: 0 is out of range, it must be at least 1",
        "thrift.price: -1.0 is out of range",
    ):
        assert done.stderr.count(wanted) == 1, (wanted, done.stderr)
    names = "worldmodel.model.objectives.brightness", "torch"
    code = f"import sys; from worldmodel.command_line import train; train.main(['nope']); print([n in sys.modules for n in {names}])"
    assert python(tree, "-c", code).stdout.split("\n")[-2] == "[False, False]"


def test_a_run_trains_plans_and_resumes_with_them(tree, tmp_path):
    words = ["debug", "--run.root", str(tmp_path), "--loss.objective", "{brightness: 1.0}"]
    words += ["--planner.name", "ascent", "--planner.score", "thrift"]
    words += ["--replay.sampler", "window", "--model.dynamics", "markov"]
    words += ["--env.task", "pendulum", "--env.time_limit", "15"]
    words += ["--log.every", "4", "--log.final_episodes", "1", "--run.frames"]
    # Both in one process: importing torch takes longer than all of it.
    code = "import sys; from worldmodel.command_line import train\n"
    code += "sys.exit(train.main([*sys.argv[1:], '36']) or train.main([*sys.argv[1:], '40']))"
    said = python(tree, "-c", code, *words).stdout
    run = seed_dir(tmp_path, "pendulum")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [x["train/loss/brightness"] for x in lines if x.get("train/loss/brightness")]
    assert losses and all(loss > 0 for loss in losses)
    assert said.count("training pendulum") == said.count("resuming pendulum") == 1
    assert json.loads((run / "status.json").read_text()) == {"state": "done", "frames": 40}


@pytest.mark.slow
def test_the_contract_tests_enrol_them(tree):
    files = ["model/test_objectives.py", "policy/test_planners.py", "policy/test_plan_scores.py"]
    files += ["replay/test_samplers.py", "model/test_model.py"]
    rules = ["test_style.py", "config/test_loading.py"]
    named = " or ".join(component.name for component in ADDED)
    subject = "import or key or component or schema or swallows"
    chosen = f"({named}) and not resumes or (test_style or test_loading) and ({subject})"
    paths = [f"tests/{f}" for f in files + rules]
    said = python(tree, "-m", "pytest", "-v", *paths, "-k", chosen).stdout
    passed = [line.split("::")[0] for line in said.splitlines() if " PASSED" in line]
    assert sum(path.removeprefix("tests/") in files for path in passed) >= 15
    assert all(path in passed for path in paths) and "failed" not in said

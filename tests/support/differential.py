"""One update's losses and gradients, by worldmodel/ and by tests/support/published.py, on the same
weights, batch and noise.

`PYTHONPATH=. python tests/support/differential.py` prints a line of JSON for each.
"""

import json
from dataclasses import dataclass, field

import numpy as np
import torch

import published
from double import in_double, measure_difference, read_arrays
from worldmodel import build
from worldmodel.config import loading
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

# Sizes differ from one another, so that no two axes can be swapped.
B, T, PICTURE, VECTOR, HORIZON = 3, 5, (8, 12, 3), 2, 4
TINY = [
    "model.deter=8",
    "model.hidden=6",
    "model.cnn=[2, 3]",
    "model.layers=1",
    "model.units=7",
    "env.size=[8, 12]",
    f"replay.length={T}",
    "replay.start=cold",
    f"imag.horizon={HORIZON}",
    "run.precision=fp32",
]
CATEGORICAL = ["model.stoch=4", "model.classes=3"]
BOX, CHOICES = ActionSpace(2), ActionSpace(5, (3, 2))
WIDE = (-0.3, 0.5, 0.4)  # averages of both percentiles, and of 1, before the update
NARROW = (-0.02, 0.02, 0.4)


@dataclass(frozen=True)
class Case:
    """A preset, settings that differ from it, and what they are in the published equations."""

    preset: str
    settings: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)
    space: ActionSpace = BOX
    start: bool = False  # whether the sequences start from given states
    ranges: tuple[float, float, float] = WIDE


def choose(unimix):
    return lambda read: published.Choices(read, CHOICES.groups, unimix)


CASES = {
    "planet": Case("planet"),
    "planet, below its free nats": Case("planet", ("loss.free=12",), {"free": 12.0}),
    "planet, overshooting": Case(
        "planet", ("loss.overshooting=3", "loss.free=0.1"), {"furthest": 3, "free": 0.1}
    ),
    "dreamer1": Case("dreamer1"),
    "dreamer1, entropy": Case(
        "dreamer1", ("actor.entropy=0.1", "loss.free=0.5"), {"entropy": 0.1, "free": 0.5}
    ),
    "dreamer2": Case("dreamer2"),
    "dreamer2, below its free nats": Case("dreamer2", ("loss.free=9",), {"free": 9.0}),
    "dreamer2, reinforce": Case("dreamer2", ("actor.gradient=reinforce",), {"rho": 1.0}),
    "dreamer2, discrete mix": Case(
        "dreamer2",
        ("actor.gradient=mix", "actor.mix=0.3", "actor.entropy=1e-2"),
        {"rho": 0.3, "eta": 1e-2, "make_dist": choose(0.0)},
        space=CHOICES,
    ),
    "dreamer3": Case("dreamer3"),
    "dreamer3, stored starts": Case("dreamer3", start=True),
    "dreamer3, some starts": Case("dreamer3", ("imag.starts=7",)),
    "dreamer3, discrete": Case("dreamer3", (), {"make_dist": choose(0.01)}, space=CHOICES),
    "dreamer3, narrow returns": Case("dreamer3", ranges=NARROW),
    "dreamer3, blocks": Case("dreamer3", ("model.blocks=2",)),
}


class Comparison:
    """The weights, batch and noise of a case, and both implementations of its update."""

    def __init__(self, case: Case, seed: int = 0):
        self.case, self.rng = case, np.random.default_rng(seed)
        gaussian = case.preset in ("planet", "dreamer1")
        sizes = ["model.stoch=3"] if gaussian else CATEGORICAL
        self.config = loading.parse([case.preset, *TINY, *sizes, *case.settings])
        self.stoch = (3,) if gaussian else (4, 3)
        with in_double():
            observation = ObservationSpace({"image": PICTURE, "vector": VECTOR})
            self.model = build.make_model(self.config, observation, case.space)
            self.policy = build.make_policy(self.config, self.model, case.space)
            self.learner = Learner(
                self.model, self.config.optim, torch.device("cpu"), "fp32", self.policy
            )
        self.parts = [self.model, *([self.policy] if self.policy is not None else [])]
        self._set_weights()
        self.batch = self._make_batch()
        self.noise, self.draws = self._make_noise("randn" if gaussian else "rand")

    def parameters(self):
        return {k: v for part in self.parts for k, v in part.named_parameters()}

    @torch.no_grad()
    def _set_weights(self):
        centres = {"reward": 1.0, "critic": 0.3, "slow": -0.7}
        for name, weight in self.parameters().items():
            drawn = self.rng.normal(0, 0.4, weight.shape) + ("norm" in name)
            if name.startswith(("dynamics.post_out", "dynamics.prior_net.out")):
                drawn = 2 * drawn  # some nats apart
            if len(drawn) == len(published.BINS):  # two-hot: most probable around a number
                drawn = 0.2 * drawn
                if drawn.ndim == 1:
                    centre = centres[name.split(".")[0]]
                    drawn = drawn - (published.symlog(published.BINS) - centre) ** 2
            weight.copy_(torch.from_numpy(drawn))
        if self.policy is not None:
            low, high, seen = self.case.ranges
            self.policy.scale.range.fill_(high - low)
            self.policy.scale.seen.fill_(seen)
        self.weights = read_arrays(self.parameters())

    def _make_batch(self):
        """Row 0 is cut short, row 1 terminates, both with another episode behind."""
        flags = {k: np.zeros((B, T), bool) for k in ("is_first", "is_last", "is_terminal")}
        flags["is_first"][:, 0] = True
        for row, last in ((0, 3), (1, 2)):
            flags["is_last"][row, last] = True
            flags["is_first"][row, last + 1] = True
        flags["is_terminal"][1, 2] = True
        if self.case.start:
            flags["is_first"][0, 0] = False
        return flags | {
            "image": self.rng.integers(0, 256, (B, T, *PICTURE), np.uint8),
            "vector": self.rng.normal(0, 2, (B, T, VECTOR)),
            "prev_action": self.rng.uniform(-1, 1, (B, T, self.case.space.size)),
            "reward": self.rng.normal(0, 2, (B, T)),
        }

    def _start(self):
        """The state before the batch."""
        size = self.config.model.deter
        rng = np.random.default_rng(5)
        deter, stoch = rng.normal(0, 0.5, (B, size)), rng.normal(0, 0.5, (B, *self.stoch))
        return (deter, stoch) if self.case.start else (0 * deter, 0 * stoch)

    def _make_noise(self, kind):
        """Arrays by name for the published equations, and the same as the draws of an update."""

        def draw(kind, *shape):
            return self.rng.normal(size=shape) if kind == "randn" else self.rng.random(shape)

        groups = self.stoch[:1]
        noise = {"posterior": draw(kind, T, B, *groups)}
        draws = [(kind, x) for x in noise["posterior"]]
        noise["overshoot"] = {}
        for d in range(1, self.config.loss.overshooting + 1):
            if self.config.loss.overshooting > 1:
                noise["overshoot"][d] = draw(kind, B, T - d, *groups)
                draws.append((kind, noise["overshoot"][d].reshape(-1, *groups)))
        if self.policy is None:
            return noise, draws
        noise["starts"] = np.arange(B * T)
        if self.config.imag.starts:
            order = self.rng.permutation(B * T)
            noise["starts"] = order[: self.config.imag.starts]
            draws.append(("randperm", order))
        count, space = len(noise["starts"]), self.case.space
        noise["prior"] = draw(kind, HORIZON, count, *groups)
        dist = "discrete" if space.discrete else self.config.actor.dist
        own = "randn" if dist in ("tanh", "bounded") else "rand"
        shape = (len(space.groups), count) if space.discrete else (count, space.size)
        noise["action"] = draw(own, HORIZON, *shape)
        for action, latent in zip(noise["action"], noise["prior"], strict=True):
            draws += [(own, x) for x in (action if space.discrete else action[None])]
            draws.append((kind, latent))
        if dist == "tanh":
            noise["entropy"] = draw("randn", HORIZON, count, space.size)
            draws.append(("randn_like", noise["entropy"]))
        return noise, draws

    def make_tensors(self):
        batch = {k: torch.from_numpy(v) for k, v in self.batch.items()}
        if self.case.start:
            deter, stoch = map(torch.from_numpy, self._start())
            batch |= {"start_deter": deter, "start_stoch": stoch}
        return batch

    def run_project(self):
        """The project's terms by name, states included, and the gradients by weight."""
        batch = self.make_tensors()
        with in_double(self.draws[:T]):
            _, post, prior = self.model.observe(batch)
        found = {f"posterior {k}": v for k, v in post.items()}
        found |= {f"prior {k}": v for k, v in prior.items()}
        with in_double(self.draws[: T + len(self.noise["overshoot"])]):
            found |= self.model.losses(batch)[0]
        with in_double(self.draws):
            total, metrics = self.learner.loss(batch)
            total.backward()
        found = {k.removeprefix("loss/"): v for k, v in metrics.items()} | found
        gradients = {k: v.grad for k, v in self.parameters().items() if v.requires_grad}
        return read_arrays(found), read_arrays(gradients)

    def run_published(self, weights, stop):
        """The published terms by name, states included, and the total that is minimised."""
        arguments = [self.batch, self._start(), self.noise, stop]
        if self.policy is not None:
            arguments.insert(0, self.weights)  # as they are before the update
        options = dict(self.case.options)
        if self.case.preset == "dreamer3":
            options["ranges"] = self.case.ranges
        equations = getattr(published, self.case.preset)
        states, terms, total = equations(weights, *arguments, **options)
        return states, terms, total

    def compare_terms(self):
        """Each term by name: (the project's value, the published one, their difference)."""
        found, self.gradients = self.run_project()
        self.stop = published.Stop()
        states, wanted, _ = self.run_published(self.weights, self.stop)
        wanted = self._name_states(states) | wanted
        if "kl" in wanted:  # a plain KL: the gradients of dyn and rep add up to its own
            kl = wanted.pop("kl")
            wanted |= {"dyn": kl, "rep": kl}
        table = {}
        for name, value in wanted.items():
            own = found[name]
            if np.ndim(value) == 0:
                own = own.mean()
            table[name] = (
                float(own.mean()), float(np.mean(value)), measure_difference(own, value)
            )  # fmt: skip
        return table

    def _name_states(self, states):
        deter, stoch, post, prior = (np.array([s[i] for s in states]) for i in range(4))
        named = {"posterior deter": deter, "posterior stoch": stoch}
        for kind, dists in (("posterior", post), ("prior", prior)):
            for key in dists[0]:
                values = np.array([dist[key] for dist in dists])
                logs = key == "probs"
                named[f"{kind} {'logits' if logs else key}"] = np.log(values) if logs else values
        return {k: v.swapaxes(0, 1) for k, v in named.items()}

    def compare_gradients(self):
        """For each network the total's derivative as all its weights move in one random direction:
        (the project's, the published one by finite differences). Call after `compare_terms`.
        """
        rng, table, networks = np.random.default_rng(1), {}, {}
        for name in self.gradients:
            networks.setdefault(name_network(name), []).append(name)
        for network, names in networks.items():
            way = {name: rng.normal(size=self.gradients[name].shape) for name in names}
            own = sum((self.gradients[name] * way[name]).sum() for name in names)
            table[network] = float(own), self._differ(way)
        return table

    def _differ(self, way, step=2e-5):
        totals = []
        for side in (step, -step):
            moved = {
                name: self.weights[name] + side * direction for name, direction in way.items()
            }
            self.stop.rewind()
            totals.append(self.run_published({**self.weights, **moved}, self.stop)[2])
        return float(totals[0] - totals[1]) / (2 * step)


def compare_plans(seed=0, candidates=20, rounds=3, elites=5):
    """The largest difference between the two implementations' CEM plans, and the plans' size."""
    case = Case(
        "planet",
        (
            f"planner.candidates={candidates}",
            f"planner.iterations={rounds}",
            f"planner.elites={elites}",
            f"planner.horizon={HORIZON}",
            "planner.min_std=1e-6",
        ),
    )
    comparison = Comparison(case, seed)
    rng = np.random.default_rng(seed + 1)
    size = comparison.config.model.deter
    state = {"deter": rng.normal(0, 0.5, (B, size)), "stoch": rng.normal(size=(B, 3))}
    drawn = rng.normal(size=(rounds, B, candidates, HORIZON, BOX.size))
    steps = rng.normal(size=(rounds, HORIZON, B, candidates, 3))
    draws = []
    for one_round, latents in zip(drawn, steps, strict=True):
        draws.append(("randn", one_round))
        draws += [("randn", x.reshape(-1, 3)) for x in latents]
    with in_double(draws), torch.no_grad():
        behavior = build.make_behavior(comparison.config, comparison.model, BOX, None)
        given = {k: torch.from_numpy(v) for k, v in state.items()}
        first = torch.ones(B, dtype=torch.bool)
        found = behavior.plan(given, behavior.init(B), first, torch.Generator())
    wanted = []
    for b in range(B):
        noise = {"candidates": drawn[:, b], "prior": steps[:, :, b]}
        own = state["deter"][b], state["stoch"][b]
        latent = published.GaussianLatent()
        wanted.append(published.plan_with_cem(comparison.weights, latent, *own, noise, elites))
    return measure_difference(found.numpy(), np.array(wanted)), np.abs(wanted).mean()


def make_rows(name, comparison):
    """What a case compares, each as a row of the table."""
    rows = []

    def add(kind, part, own, wanted, relative):
        rows.append(
            {
                "case": name,
                "kind": kind,
                "name": part,
                "worldmodel": float(f"{own:.7g}"),
                "published": float(f"{wanted:.7g}"),
                "relative": float(f"{relative:.1g}"),
            }
        )

    for part, row in comparison.compare_terms().items():
        add("term", part, *row)
    gradients = comparison.compare_gradients()
    largest = max(abs(wanted) for _, wanted in gradients.values())
    for part, (own, wanted) in gradients.items():
        relative = abs(own - wanted) / max(abs(wanted), 1e-3 * largest)
        add("gradient", part, own, wanted, relative)
    return rows


def name_network(weight):
    """`reward` of reward.net.out.weight; what has several networks is named by two or more."""
    parts = weight.removeprefix("objectives.reconstruction.").split(".")
    depth = {"encoder": 3, "dynamics": 2, "decoders": 2}.get(parts[0], 1)
    return ".".join(parts[:depth])


def main():
    torch.set_num_threads(1)
    for name, case in CASES.items():
        for row in make_rows(name, Comparison(case)):
            print(json.dumps(row))
    difference, _ = compare_plans()
    print(json.dumps({"case": "planet", "kind": "plan", "relative": float(f"{difference:.1g}")}))


if __name__ == "__main__":
    main()

"""Updates that never wait for the device, and what records them; on a CPU, with a recorder that
runs steps again.
"""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blocks import batch_of
from worldmodel import build
from worldmodel.config import loading
from worldmodel.kernels import elementwise
from worldmodel.kernels.cuda_graph import GraphedStep
from worldmodel.spaces import ActionSpace, ObservationSpace
from worldmodel.training.learner import Learner

SPACE = ActionSpace(3, (3,), True)
WAITS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "equal",
    "masked_select",
    "unique",
    "_unique2",
    "lift_fresh",
}
OBJECTIVES = "{contrastive: 1.0, inverse: 0.1, barlow: 0.01, prototypes: 1.0, bootstrap: 1.0}"


# Rates that fp32 holds without a rounding, since tensors hold them in fp32.
EXACT = ["optim.warmup=8", *(f"optim.{k}={2**-9}" for k in ("lr", "actor_lr", "critic_lr"))]


class NoWaiting(TorchDispatchMode):
    """Refuses what would ask the device for an answer, or bring it a number that is made on the
    CPU.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        chosen = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else []
        if name in WAITS or any(a is not None and a.dtype == torch.bool for a in chosen):
            raise RuntimeError(f"{func.name()} waits for the device")
        return func(*args, **kwargs or {})


class Again:
    """A recorder without a GPU: a graph is the step run once more, its results put where they were
    the first time.
    """

    def __init__(self):
        self.captures = self.replays = 0

    def run_aside(self, step):
        return step()

    def capture(self, step):
        self.captures += 1
        results = {}

        def replay():
            self.replays += 1
            with NoWaiting():
                found = step()
            results.update(
                {k: v if k not in results else results[k].copy_(v) for k, v in found.items()}
            )

        return replay, results


def learner_of(recorder, *overrides):
    c = loading.parse(
        [
            "debug",
            "run.precision=fp32",
            "behavior.name=actor_critic",
            "imag.horizon=3",
            "imag.starts=8",
            "prototypes.count=12",
            "prototypes.freeze=6",
            "run.frames=9000",
            *overrides,
            *EXACT,
        ]
    )
    torch.manual_seed(0)
    model = build.make_model(c, ObservationSpace({"image": (32, 32, 3)}), SPACE)
    policy = build.make_policy(c, model, SPACE)
    starts = build.STARTS[c.replay.start](c.replay)
    return Learner(
        model,
        c.optim,
        torch.device("cpu"),
        "fp32",
        policy,
        starts,
        recorder=recorder,
        by_row=build.make_sampler(c.replay).needs_losses,
    )


def trained(recorder, *overrides, updates=14, spoil=(), spare=()):
    """Everything a learner holds after some updates, the metrics of each, and the learner."""
    learner, shown = learner_of(recorder, *overrides), []
    if not elementwise.load_library():
        pytest.skip("steps are fused by a library that was not built here")
    for i in range(updates):
        batch = batch_of(i, SPACE, batch=4)[0]
        for name, (shape, kind) in learner.starts.spec(learner.model.dynamics.initial(1)).items():
            generator = torch.Generator().manual_seed(i)
            batch[name] = torch.randint(0, 2, (4, 8, *shape), generator=generator).to(
                getattr(torch, kind)
            )
        if i in spoil:
            batch["reward"][0, 3] = float("nan")
        if i in spare:
            learner.model.probe.decoder.decoders.image.project.weight.data.fill_(float("inf"))
        shown.append({k: float(v) for k, v in learner.update(batch).items()})
        if learner.row_losses is not None:
            shown[-1] |= {f"row {i}": float(v) for i, v in enumerate(learner.row_losses.flatten())}
    held = {
        **learner.model.state_dict(),
        **learner.policy.state_dict(),
        **learner.optimizers.state_dict(),
    }
    return held, shown, learner


FORMS = {
    "plain": [],
    "objectives": [f"loss.objective={OBJECTIVES}", "augment.shift=2"],
    "bottleneck": ["loss.objective={bottleneck: 1.0}"],
    "linearised": [
        "model.dynamics=locally_linear",
        "loss.objective={decorrelation: 1.0, straightening: 1.0, curvature: 1.0, "
        "transition_contrastive: 1.0}",
    ],
    "curvature of an RSSM": ["loss.objective={curvature: 1.0}"],
    "dreamer1": ["dreamer1", "model.latent=gaussian"],
    "dreamer2": ["dreamer2", "imag.every=2", "critic.every=3"],
    "dreamer3": ["dreamer3", "loss.pictures=0.5"],
    "burnin": ["replay.start=burnin", "replay.burnin=3"],
    "losses by row": ["replay.sampler=prioritized"],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_update_waits_for_the_device_and_a_graph_gives_the_same_numbers(form, monkeypatch):
    monkeypatch.setattr(elementwise, "accepts", lambda x: False)  # a GPU has no C functions
    held, shown, _ = trained(None, *form, spoil=(9,))
    recorder = Again()
    same, likewise, learner = trained(recorder, *form, spoil=(9,))
    assert recorder.replays >= 4 and learner.step.recorder is recorder
    assert learner.skip_count == 1 and held.keys() == same.keys()
    for name, value in held.items():
        torch.testing.assert_close(same[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    for before, after in zip(shown, likewise, strict=True):
        assert after == pytest.approx(before, rel=0, abs=0, nan_ok=True)


def test_a_probe_that_breaks_stops_only_itself_in_a_graph_too():
    held, _, _ = trained(None, "loss.objective={inverse: 1.0}", spare=(9,))
    same, _, learner = trained(Again(), "loss.objective={inverse: 1.0}", spare=(9,))
    assert learner.skip_count == 0
    for name, value in held.items():
        torch.testing.assert_close(same[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_row_of_bad_updates_is_noticed_by_the_end_of_the_row():
    from worldmodel.training.learner import Diverged

    with pytest.raises(Diverged):
        trained(Again(), updates=60, spoil=range(5, 60))


def test_a_step_that_cannot_be_captured_runs_as_it_is_after_one_line(caplog):
    class Refusing(Again):
        def capture(self, step):
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    held, _, _ = trained(None)
    with caplog.at_level(logging.WARNING):
        same, _, _ = trained(Refusing())
    assert [r.message for r in caplog.records] == [
        "updates run without a CUDA graph, slower: operation not permitted when stream is "
        "capturing"
    ]
    assert all(torch.equal(same[k], v) for k, v in held.items())


def test_each_kind_of_update_has_its_graph_and_reads_one_copy_of_the_batch():
    seen = []

    def step(batch):
        seen.append(batch["x"].data_ptr())
        return {"sum": batch["x"].sum()}

    recorder = Again()
    captured = GraphedStep(step, recorder)
    for i in range(12):
        assert captured(i % 2, {"x": torch.full((3,), float(i))})["sum"] == 3 * i
    assert recorder.captures == 2 and len(set(seen)) == 1
    captured(0, {"x": torch.zeros(5)})
    assert len(set(seen)) == 2
    captured.forget_graphs()  # what the graphs read is no longer there
    for i in range(5):
        assert captured(0, {"x": torch.full((3,), float(i))})["sum"] == 3 * i
    assert recorder.captures == 3


def test_a_wait_would_be_noticed():
    with NoWaiting():
        x = torch.zeros(3)
        for ask in (
            lambda: x.sum().item(),
            lambda: bool(x[0] > 0),
            lambda: x[x > 0],
            lambda: x + torch.tensor(1.0),
        ):
            with pytest.raises(RuntimeError, match="waits for the device"):
                ask()

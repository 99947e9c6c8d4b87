"""Ranks learn like one process with all their rows, skip updates together and refuse to differ."""

import numpy as np
import pytest
import torch

from ranks import environment, learners
from worldmodel.config import loading
from worldmodel.distributed import ALONE, Launch, World, format_rank_prefix, join_ranks
from worldmodel.errors import RunError
from worldmodel.model.kl import apply_free_nats
from worldmodel.run_directory import RunDir
from worldmodel.system import runtime
from worldmodel.system.stop_request import Stop

ACTOR = ["behavior.name=actor_critic", "imag.horizon=4", "loss.overshooting=1"]
FORMS = {
    "planner": [
        "loss.overshooting=3",
        "loss.free=1.5",
        "model.backdrop=5",
        "loss.pictures=0.5",
        "optim.warmup=12",
        "optim.clip=5",
    ],
    "dreamer3": [
        *ACTOR,
        "model.latent=categorical",
        "loss.free_on=element",
        "optim.name=laprop",
        "optim.clip_by=adaptive",
        "optim.clip=0.3",
        "optim.lr=1e-3",
        "actor.gradient=reinforce",
        "imag.every=2",
    ],
    "dreamer2": [
        *ACTOR,
        "actor.dist=truncated",
        "actor.gradient=mix",
        "replay.start=burnin",
        "replay.burnin=2",
        "critic.slow=copy",
        "critic.every=3",
        "critic.head=gaussian",
        "optim.clip=50",
    ],
}
UPDATES = 20


def max_difference(a, b):
    """Return the largest difference between two states, relative for values above one."""
    assert a.keys() == b.keys()
    pairs = [(a[k].astype(np.float64), b[k].astype(np.float64)) for k in a]
    return max(float((np.abs(x - y) / np.abs(x).clip(1)).max()) for x, y in pairs)


@pytest.fixture(scope="module")
def single_process():
    """Train one process with all rows, for each configuration."""
    return {form: learners(1, overrides, UPDATES)[0] for form, overrides in FORMS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_two_ranks_equal_one_process_with_the_double_batch(single_process, form):
    one, (first, second) = single_process[form], learners(2, FORMS[form], UPDATES)
    assert max_difference(first[0], second[0]) == 0 and first[1:] == second[1:]
    assert max_difference(one[0], first[0]) <= 1e-6
    assert one[2] == first[2]
    for whole, part in zip(one[1], first[1], strict=True):
        assert part == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("form", "deaf"), [("planner", "mean"), ("planner", "mean_"), ("dreamer3", "cat")]
)
def test_every_exchange_is_needed_for_that(single_process, form, deaf):
    alone = learners(2, FORMS[form], UPDATES, None, [deaf])[0]
    assert max_difference(single_process[form][0], alone[0]) > 1e-5


def test_what_objectives_carry_along_is_the_same_on_all_ranks():
    """Check state that objectives update without gradients, from other rows on each rank."""
    mix = [
        "loss.objective={bottleneck: 1.0, inverse: 1.0, prototypes: 1.0}",
        "prototypes.count=20",
        "prototypes.freeze=2",
        "bottleneck.rate=0.1",
    ]
    first, second = learners(2, mix, 6)
    assert max_difference(first[0], second[0]) == 0
    assert any("log_beta" in k for k in first[0]) and any("middle" in k for k in first[0])


def test_what_is_not_finite_on_one_rank_is_skipped_by_all():
    first, second = learners(2, FORMS["dreamer3"], 5, (1, 2))
    assert [m["skipped"] for m in first[1]] == [m["skipped"] for m in second[1]] == [0, 0, 1, 1, 1]
    assert max_difference(first[0], second[0]) == 0 and all(
        np.isfinite(v).all() for v in first[0].values()
    )


def test_free_nats_ask_on_which_side_the_mean_of_all_ranks_is():
    kl = torch.tensor([[0.5, 4.0]])
    assert torch.equal(apply_free_nats(kl, 2.0, "mean"), kl)
    assert torch.equal(
        apply_free_nats(kl, 2.0, "mean", lambda own: (own + 1.0) / 2), torch.full((1, 2), 2.0)
    )
    assert torch.equal(apply_free_nats(kl, 2.0, "element", lambda own: own - 9), kl.clamp(min=2.0))


def test_alone_nothing_is_exchanged():
    """Exchanges return the very same object; torch.distributed has no process group."""
    x = torch.ones(3)
    assert join_ranks(Launch.from_environment({}), torch.device("cpu")) is ALONE
    assert join_ranks(Launch.from_environment(environment(0, 1, 1)), torch.device("cpu")) is ALONE
    assert ALONE.mean(x) is x and ALONE.cat(x) is x and ALONE.sum([2, 3]) == [2, 3]
    assert ALONE.any(True) is True and ALONE.any(False) is False and ALONE.gather("a") == ["a"]
    assert ALONE.run_on_main(lambda: 5) == 5
    assert not torch.distributed.is_initialized()


def test_a_rank_says_who_it_is():
    assert format_rank_prefix({}) == format_rank_prefix(environment(0, 1, 1)) == ""
    assert format_rank_prefix(environment(3, 4, 1)) == "rank 3: "


@pytest.mark.parametrize(("there", "fits"), [(1, False), (2, True)])
def test_every_rank_of_a_machine_wants_a_gpu_of_its_own(monkeypatch, there, fits):
    taken = []
    monkeypatch.setattr(runtime, "configure_torch", lambda threads: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    c = loading.parse(["debug"]).run
    launch = Launch(rank=3, size=4, local_rank=1, local_size=2)
    if fits:
        assert runtime.pick_rank_device(c, launch) == torch.device("cuda", 1) and taken == [
            torch.device("cuda", 1)
        ]
    else:
        with pytest.raises(ValueError, match="2 ranks on this machine, but torch sees 1 GPUs"):
            runtime.pick_rank_device(c, launch)


def test_a_machine_that_does_not_see_the_run_says_what_is_needed(tmp_path):
    with pytest.raises(RunError, match="shared file system") as caught:
        RunDir(tmp_path / "elsewhere").check_shared()
    assert caught.value.exit_code == 2


class TwoRanks(World):
    size = 2


@pytest.mark.parametrize(
    ("world", "second", "seconds", "ends"),
    [
        (ALONE, 15, 0.0, True),
        (ALONE, 10, 0.5, False),
        (ALONE, 10, 9.0, True),
        (TwoRanks(), 15, 0.5, False),
        (TwoRanks(), 10, 0.5, False),
        (TwoRanks(), 15, 9.0, True),
    ],
)
def test_a_signal_passed_on_is_one_request_but_a_later_one_ends_the_process(
    monkeypatch, capfd, world, second, seconds, ends
):
    raised = []
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr("worldmodel.system.stop_request.die_by_signal", raised.append)
    stop, now = Stop(world), [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert not stop
    stop._ask(15, None)
    assert stop and not raised
    now[0] += seconds
    stop._ask(second, None)
    assert raised == ([second] if ends else []) and stop.why == " by SIGTERM"
    assert ("ended at once by a second signal" in capfd.readouterr().err) == ends


def test_a_job_that_slurm_starts_anew_is_a_restart():
    assert [
        Launch.from_environment({"SLURM_RESTART_COUNT": said}).restarts
        for said in ("", "0", "2", "two")
    ] == [0, 0, 2, 0]
    both = {"SLURM_RESTART_COUNT": "2", "TORCHELASTIC_RESTART_COUNT": "1", **environment(0, 2, 1)}
    assert Launch.from_environment(both).restarts == 3

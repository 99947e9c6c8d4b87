"""What the ladder trains: its rungs, and the runs that single lessons need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldmodel import registry
from worldmodel.config import loading
from worldmodel.sweep.grid import Cell, make_cells

RUNGS = ("v05", "v10", "v15", "v15_mppi", "v2_ensemble", "v20", "v25", "v30", "v4")
FAST_RUNGS = ("v05", "v10", "v15", "v2_ensemble", "v20", "v30")
POLICIES = ("v20", "v25", "v30")  # that learn a policy and do not plan
PIXELS = "ladder_pixels"  # the preset that lets a rung see pictures
ROOM = "noisy_room"  # the task made for the two kinds of uncertainty
MODEL_FREE, ROOM_DATA = "model_free", "room"
FAST_FRAMES = 1200  # of every training in a class
ROOM_FRAMES = 1200
FREE_FACTOR = 2  # how many times as many frames the model-free agent has


@dataclass(frozen=True)
class Study:
    """The options of `wm ladder` that say what is trained."""

    task: str = "pendulum"
    seeds: Sequence[int] = (0, 1, 2)
    obs: str = "state"
    fast: bool = False
    root: str = "runs"
    frames: int | None = None  # of every rung; None: those of its preset
    words: tuple[str, ...] = ()  # more keys, for every training

    @property
    def rungs(self) -> tuple[str, ...]:
        if self.fast:
            return FAST_RUNGS
        return RUNGS if self.obs == "state" else RUNGS[:-1]  # v4 is what all are from pixels

    @property
    def rollout_lengths(self) -> tuple[int, ...]:
        """Of the imagined rollouts of rung 3.0; 1 is the rung itself."""
        return (1, 15) if self.fast else (1, 5, 15, 50)

    @property
    def data_sizes(self) -> tuple[int, ...]:
        """Frames of random data that the models of the exploitation lesson learn from."""
        return (150, 600) if self.fast else (150, 600, 2400)

    @property
    def cautions(self) -> tuple[float, ...]:
        """The pessimism of plans in the room: variances of their returns are about 0.01."""
        return (0.0, 1000.0) if self.fast else (-10.0, 0.0, 100.0, 1000.0)

    @property
    def from_state(self) -> bool:
        return self.obs == "state"


@dataclass(frozen=True)
class Training:
    """A training by its label: the preset it begins with, and keys of its own."""

    label: str
    preset: str
    keys: tuple[str, ...] = ()
    seeds: Sequence[int] | None = None  # None: those of the study
    task: str | None = None
    frames: int | None = None  # None: those of the study, times `factor`
    factor: int = 1


def list_trainings(study: Study) -> list[Training]:
    """The rungs, then what the lessons need beside them."""
    # Pictures take ten times as long, so one seed of them has to do.
    found = [
        Training(rung, rung, seeds=study.seeds[:1] if rung == "v4" else None)
        for rung in study.rungs
    ]
    found += [_make_long_rollouts(n, study) for n in study.rollout_lengths if n != 1]
    alone = ("--ensemble.size=1", "--ensemble.bootstrap=false")
    keys = ("--dyna.rollout_length=0", "--dyna.real_ratio=1.0", *alone)
    found.append(Training(MODEL_FREE, "v30", keys, factor=FREE_FACTOR))
    if study.from_state:
        found += _list_measured_models(study)
    return found


def _make_long_rollouts(length: int, study: Study) -> Training:
    """Rung 3.0 with longer rollouts from fewer states, so that an update is about as large."""
    sequences = max(2, (loading.parse(["v30"]).train.policy_batch or 1) // length)
    keys = (f"--dyna.rollout_length={length}", f"--train.policy_batch={sequences}")
    seeds = study.seeds[: 1 if length > 15 else 2]  # 50 steps take as long as three rungs
    return Training(label_rollouts(length), "v30", keys, seeds)


def _list_measured_models(study: Study) -> list[Training]:
    """Models of random data, and plans in the room that shun uncertainty."""
    first, members = study.seeds[:1], ("--ensemble.size=5", "--ensemble.of=dynamics")
    found = []
    for size in study.data_sizes:
        found.append(Training(label_data(size, 1), "v05", (), first, frames=size))
        found.append(Training(label_data(size, 5), "v05", members, first, frames=size))
    noisy = (*members, "--mlp.noise=gaussian")  # so that it predicts how noisy a place is
    short = min(ROOM_FRAMES, study.frames or ROOM_FRAMES)
    found.append(Training(ROOM_DATA, "v05", noisy, first, ROOM, short))
    for caution in study.cautions:
        keys = (f"--planner.pessimism={caution:g}",)
        found.append(Training(label_caution(caution), "v2_ensemble", keys, first, ROOM, short))
    return found


def label_rollouts(length: int) -> str:
    """The label of rung 3.0 with imagined rollouts of a length."""
    return "v30" if length == 1 else f"rollout_{length}"


def label_data(frames: int, members: int) -> str:
    return f"random_{frames}_of_{members}"


def label_caution(pessimism: float) -> str:
    return f"caution_{pessimism:g}"


def make_ladder(study: Study, check_task: Callable[[str], None]) -> dict[str, list[Cell]]:
    """The trainings by their labels, one for each seed; the seeds of one label stand together."""
    return {
        training.label: make_cells(
            make_words(training, study),
            [training.task or study.task],
            training.seeds or study.seeds,
            [],
            check_task,
        )
        for training in list_trainings(study)
    }


def make_words(training: Training, study: Study) -> list[str]:
    """The words of a training's command: presets, then keys."""
    words, name, task = [training.preset], training.label, training.task or study.task
    base = loading.parse(words)
    if base.env.obs == "state":
        if not study.from_state:
            words.append(PIXELS)
            name += "-pixels"
        elif task not in registry.KNOWN_REWARDS:
            words += ["--model.reward_head=gaussian", "--model.cont_head=learned"]
    frames = study.frames or (FAST_FRAMES if study.fast else base.run.frames)
    if frames != base.run.frames:
        name += f"-{frames}"
    count = training.frames or frames * training.factor
    once = (
        base.train.prefill == base.run.frames
    )  # all data is collected before the model is fitted
    words += [f"--run.frames={count}"]
    words += [f"--train.prefill={count if once else min(base.train.prefill, count // 2)}"]
    return [*words, *training.keys, f"--run.name={name}", f"--run.root={study.root}", *study.words]

"""The saver separates tensors from plain values, and takes a new component as one table entry."""

import json
from functools import partial

import pytest
import torch

from runs import command
from worldmodel import envs
from worldmodel.checkpoint.store import CheckpointError
from worldmodel.config import loading
from worldmodel.run_directory import RunDir
from worldmodel.training.trainer import Trainer
from worldmodel.training.training_state import States


class Tally:
    """A component that counts."""

    def __init__(self, count):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def make_trainer(root, vector):
    config = loading.parse(command(root)[2:])
    return Trainer(config, vector, RunDir.for_config(config), torch.device("cpu"))


@pytest.fixture
def vector():
    make = partial(envs.make, "counter", size=(32, 32))
    with envs.make_vector(make, 1, timeout_s=60.0, restart_budget=0) as made:
        yield made


def test_states_are_filed_by_kind_and_survive_the_way_to_rank_0():
    states = States()
    states.add(
        "weights", {"a": torch.arange(6.0).view(2, 3), "b": torch.ones((), dtype=torch.int64)}
    )
    states.add("counters", {"updates": 7})
    states.add("means", [{"count": 1}])
    states.add("logger", None)
    assert set(states.tensors) == {"weights"}
    assert states.plain == {"counters": {"updates": 7}, "means": [{"count": 1}], "logger": None}
    again = States.unpack(states.pack())
    assert again.plain == states.plain and set(again.tensors["weights"]) == {"a", "b"}
    for key, tensor in states.tensors["weights"].items():
        assert torch.equal(again.get("weights")[key], tensor)
        assert again.get("weights")[key].dtype == tensor.dtype


def test_a_component_is_one_entry_of_the_table(tmp_path, vector):
    first = make_trainer(tmp_path, vector)
    first.run.path.mkdir(parents=True)
    first.state.components.shared["tally"] = Tally(3)
    first.collect()
    first.save()
    [path] = first.run.checkpoints.glob("[0-9]*")
    assert json.loads((path / "state.json").read_text())["tally"] == {"count": 3}
    again, tally = make_trainer(tmp_path, vector), Tally(0)
    again.state.components.shared["tally"] = tally
    if first.rollout.begun:  # both trainers have the same environments
        vector.finish()
    assert again.resume() and tally.count == 3 and again.frames == first.frames


def test_a_checkpoint_without_a_component_is_refused_in_a_line(tmp_path, vector):
    first = make_trainer(tmp_path, vector)
    first.run.path.mkdir(parents=True)
    first.collect()
    first.save()
    if first.rollout.begun:
        vector.finish()
    again = make_trainer(tmp_path, vector)
    again.state.components.shared["tally"] = Tally(0)
    with pytest.raises(CheckpointError, match="lacks 'tally'"):
        again.resume()

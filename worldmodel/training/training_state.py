"""Saves the components of a training in checkpoints, and resumes them on any number of ranks.

Networks, optimizers and counters are the same on all ranks: rank 0 writes them. The rest is one
rank's own: its place in its episodes, its replay, what its agent remembers, its random numbers.
Rank 0's own lies in the checkpoint as that of a single process would, the other ranks' beside it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from worldmodel.checkpoint import store, validate
from worldmodel.distributed import World
from worldmodel.errors import Diverged
from worldmodel.replay.buffer import Replay, ReplayMissing
from worldmodel.replay.samplers import Sampler
from worldmodel.replay.shards import reshard
from worldmodel.rollout.collector import Rollout
from worldmodel.rollout.player import Player
from worldmodel.system import fault_injection
from worldmodel.system.files import write_with_retries

log = logging.getLogger(__name__)

PLAIN = "state"  # the key of the plain values among the tensors of packed states


class Component(Protocol):
    """Something that survives a stop; its state is a table of tensors, or a plain JSON value."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state: Any) -> Any:
        """Continue exactly from a state."""


class Flags:
    """A dataclass of plain values that is a component."""

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            setattr(self, entry.name, state[entry.name])


class Generators:
    """Torch's global generators and others, by name."""

    def __init__(self, **own: torch.Generator):
        self.own = own

    def state_dict(self) -> dict[str, Tensor]:
        states = {"torch": torch.get_rng_state()}
        states |= {name: generator.get_state() for name, generator in self.own.items()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, generator in self.own.items():
            generator.set_state(state[name])
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])


@dataclass
class Components:
    """What a checkpoint holds, by name.

    A divergence restores networks and optimizers alone. `shared` is the same on all ranks, the
    rest is this rank's own.
    """

    networks: Mapping[str, nn.Module]
    optimizer: Component
    shared: Mapping[str, Component]
    rollout: Rollout
    replay: Replay
    sampler: Sampler
    player: Player
    generators: Generators

    @property
    def own(self) -> dict[str, Component]:
        return {"player": self.player, "rollout": self.rollout, "generators": self.generators}


@dataclass
class States:
    """The states of components by name: tables of tensors, and plain JSON values."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, state: Any) -> None:
        """File the state of one component by its kind."""
        if isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values()):
            self.tensors[name] = dict(state)
        else:
            self.plain[name] = state

    def get(self, name: str) -> Any:
        return self.tensors[name] if name in self.tensors else self.plain[name]

    def pack(self) -> bytes:
        text = torch.frombuffer(bytearray(json.dumps(self.plain).encode()), dtype=torch.uint8)
        tensors = {
            f"{name}/{key}": value.cpu().contiguous()
            for name, table in self.tensors.items()
            for key, value in table.items()
        }
        return safetensors.torch.save({**tensors, PLAIN: text})

    @classmethod
    def unpack(cls, data: bytes) -> States:
        tensors = safetensors.torch.load(data)
        states = cls(plain=json.loads(tensors.pop(PLAIN).numpy().tobytes()))
        for path, tensor in tensors.items():
            name, _, key = path.partition("/")
            states.tensors.setdefault(name, {})[key] = tensor
        return states


class TrainingState:
    """Writes checkpoints of a training's components into a directory, and reads them back."""

    def __init__(
        self,
        checkpoints: Path,
        components: Components,
        world: World,
        *,
        keep: int,
        accept_lost_replay: bool,
    ):
        self.checkpoints, self.components, self.world = checkpoints, components, world
        self.keep, self.accept_lost_replay = keep, accept_lost_replay

    def save(self, number: int, facts: Mapping[str, Any]) -> None:
        """Write checkpoint `number`, whole or not at all; OSError if the disk refuses for good.

        `facts` are plain values that stand beside the states of the components.
        """
        parts = self.components
        if not self._are_finite({n: net.state_dict() for n, net in parts.networks.items()}):
            raise Diverged(
                f"the weights are no longer finite at {facts['frames']} frames, so nothing was "
                "saved over the last checkpoint, which is good: the same command goes on from "
                "there. If this comes back, give a lower optim.lr, or --run.precision fp32, "
                "together with a new --run.name"
            )
        place = parts.replay.directory
        what = f"the replay cannot be written to {place}; the last checkpoint is intact"
        write_with_retries(lambda: parts.replay.flush(strict=True), what)
        fault_injection.reach("replay-flushed")
        own = States()
        for name, part in {**parts.own, "replay": parts.replay}.items():
            own.add(name, part.state_dict())
        kept = {k: torch.from_numpy(v) for k, v in parts.sampler.state_dict().items()}
        own.tensors |= {"sampler": kept} if kept else {}
        gathered = self.world.gather_bytes(own.pack()) if self.world.size > 1 else []
        if self.world.main:
            self._write(number, facts, own, [States.unpack(data) for data in gathered[1:]])
        # Replay files may be deleted only when no rank needs the checkpoint that was just pruned.
        self.world.wait_for_all()
        fault_injection.reach("saved")
        states = store.read_all_states(self.checkpoints)
        parts.replay.collect_garbage(
            manifest for state in states for manifest in list_manifests(state)
        )
        fault_injection.reach("collected")

    def _write(
        self, number: int, facts: Mapping[str, Any], own: States, others: list[States]
    ) -> None:
        parts = self.components
        states = States(dict(own.tensors), dict(own.plain))
        for name, part in {**parts.networks, "optimizer": parts.optimizer}.items():
            states.tensors[name] = dict(part.state_dict())
        for name, part in parts.shared.items():
            states.add(name, part.state_dict())
        for rank, other in enumerate(others, 1):
            states.tensors |= {f"{name}-{rank}": table for name, table in other.tensors.items()}
        if others:
            states.plain["others"] = [other.plain for other in others]
        store.save(
            self.checkpoints, number, states.tensors, {**facts, **states.plain}, keep=self.keep
        )

    def resume(self) -> bool:
        """Resume from the newest good checkpoint; False if there is none."""
        saved = self._read_on_all(lambda: store.load_latest(self.checkpoints))
        if saved is None:
            return False
        with store.report_incompatible(saved.path):
            validate.check_state(saved.state, saved.step)
            self.restore_weights(saved)
            for name, part in self.components.shared.items():
                part.load_state_dict(saved.state[name])
            self._resume_own(split_by_rank(saved))
        return True

    def restore_weights(self, saved: store.LoadedCheckpoint) -> None:
        """Restore networks and optimizers alone."""
        with store.report_incompatible(saved.path):
            for name, network in self.components.networks.items():
                store.load_into(network, saved.groups[name], name)
            self.components.optimizer.load_state_dict(saved.groups["optimizer"])

    def load_last_good(self) -> store.LoadedCheckpoint | None:
        """Load the newest checkpoint with finite weights whose last update was not skipped."""

        def find() -> store.LoadedCheckpoint | None:
            for path in reversed(store.list_checkpoints(self.checkpoints)):
                with contextlib.suppress(store.CheckpointError):
                    saved = store.load(path)
                    with store.report_incompatible(path):
                        good = self._are_finite(saved.groups)
                        if good and saved.state["learner"]["skipped_in_a_row"] == 0:
                            return saved
            return None

        return self._read_on_all(find)

    def _are_finite(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> bool:
        """Say whether all weights of the networks, by network and name, are finite."""
        return all(
            bool(tensors[name][key].isfinite().all())
            for name, network in self.components.networks.items()
            for key, _ in network.named_parameters()
        )

    def _read_on_all(
        self, find: Callable[[], store.LoadedCheckpoint | None]
    ) -> store.LoadedCheckpoint | None:
        """Let rank 0 choose, so that damage is set aside once and all ranks read the same."""
        found = self.world.run_on_main(find)
        number = self.world.sum([found.step + 1 if found else 0])[0] - 1
        if found or number < 0:
            return found
        return store.load(store.locate(self.checkpoints, number))

    def _resume_own(self, ranks: list[States]) -> None:
        """Resume this rank's own components.

        With another number of ranks, the replay's chunks are distributed anew, and the
        environments of new ranks begin new episodes.
        """
        parts, rank, size = self.components, self.world.rank, self.world.size
        manifests = [states.plain["replay"] for states in ranks]
        if size != len(ranks):
            manifests = reshard(manifests, size, parts.rollout.envs.num_envs)
            rollouts = [states.plain["rollout"] for states in ranks]
            totals = {k: sum(r[k] for r in rollouts) for k in ("steps", "frames", "faults")}
            for i, rollout in enumerate(rollouts):
                rollout |= totals if i == 0 else dict.fromkeys(totals, 0)
            # An episode takes a step at least: none with this number has been played.
            parts.rollout.start_at_episode(totals["steps"])
        if rank < len(ranks):
            player = ranks[rank].tensors["player"]
            # The generator of another kind of device has another shape.
            expected = parts.player.state_dict()
            store.check_fit(expected, player, "player", any_shape="generator")
            for name, part in parts.own.items():
                part.load_state_dict(ranks[rank].get(name))
        self._resume_replay(manifests[rank], manifests[:rank] + manifests[rank + 1 :])
        for states in ranks:  # what a sampler keeps of a chunk follows it to its new rank
            kept = states.tensors.get("sampler", {})
            if kept:
                parts.sampler.load_state_dict({k: v.numpy() for k, v in kept.items()})

    def _resume_replay(self, own: dict[str, Any], others: list[dict[str, Any]]) -> None:
        replay = self.components.replay
        own.setdefault("generator", replay.state_dict()["generator"])
        try:
            files = {chunk["file"] for manifest in others for chunk in manifest["chunks"]}
            replay.load_state_dict(own, files)
        except ReplayMissing as error:
            if not self.accept_lost_replay:
                raise
            reason = str(error).split(":")[0]
            log.warning("%s; it goes on without, as replay.lost accept says", reason)
            replay.load_state_dict(own, discard=True)


def split_by_rank(saved: store.LoadedCheckpoint) -> list[States]:
    """Return the states of each rank's own components."""
    ranks = []
    for rank, values in enumerate([saved.state, *saved.state.get("others", [])]):
        keys = {n: f"{n}-{rank}" if rank else n for n in ("player", "generators", "sampler")}
        if keys["sampler"] not in saved.groups:  # most samplers keep nothing
            del keys["sampler"]
        ranks.append(States({name: saved.groups[key] for name, key in keys.items()}, values))
    return ranks


def list_manifests(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the replay manifests of all ranks in a checkpoint's state; none if malformed."""
    try:
        ranks = [state, *state.get("others", [])]
        return [
            {"chunks": [{"file": str(c["file"])} for c in values["replay"]["chunks"]]}
            for values in ranks
        ]
    except (KeyError, TypeError, AttributeError):
        return []

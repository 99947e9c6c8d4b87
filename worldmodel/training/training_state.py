"""What a checkpoint holds of a run, and how any number of ranks goes on from it.

Weights, optimiser and counters are the same on all ranks: rank 0 writes them. What a rank alone
knows is its `Share`; rank 0's lies in the checkpoint as that of a run by itself would, the others'
beside it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from worldmodel.checkpoint import store, validate
from worldmodel.errors import Diverged
from worldmodel.replay.buffer import ReplayMissing
from worldmodel.replay.shards import reshard
from worldmodel.system import fault_injection
from worldmodel.system.files import write_with_retries

if TYPE_CHECKING:
    from worldmodel.training.trainer import Training

log = logging.getLogger(__name__)

STATE = "state"  # a share's plain values, among its tensors while it travels


@dataclass
class Share:
    """A rank's place in its episodes, its replay's manifest, what its agent remembers and its
    generators.
    """

    state: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]

    @classmethod
    def of(cls, t: Training) -> Share:
        """What this rank alone knows, now."""
        generators = {"torch": torch.get_rng_state(), "prefill": t.random.get_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        state = {"rollout": t.rollout.state(), "replay": t.replay.state()}
        groups = {"player": t.player.tensors(), "generators": generators}
        kept = {k: torch.from_numpy(v) for k, v in t.sampler.state_dict().items()}
        return cls(state, groups | ({"sampler": kept} if kept else {}))

    def restore(self, t: Training) -> None:
        """Go on from here; the replay is restored apart, since its chunks may change hands."""
        store.check_fit(t.player.tensors(), self.groups["player"], "player", any_shape="generator")
        t.player.restore(self.groups["player"])
        t.rollout.restore(self.state["rollout"])
        generators = self.groups["generators"]
        t.random.set_state(generators["prefill"])
        torch.set_rng_state(generators["torch"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])

    def packed(self) -> bytes:
        plain = torch.frombuffer(bytearray(json.dumps(self.state).encode()), dtype=torch.uint8)
        tensors = {
            f"{name}/{k}": v.cpu().contiguous()
            for name, group in self.groups.items()
            for k, v in group.items()
        }
        return safetensors.torch.save({**tensors, STATE: plain})

    @classmethod
    def unpacked(cls, data: bytes) -> Share:
        tensors = safetensors.torch.load(data)
        state = json.loads(tensors.pop(STATE).numpy().tobytes())
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key] = tensor
        return cls(state, groups)


def save(t: Training) -> None:
    """A checkpoint of everything, whole or not at all; raises OSError when the disk refuses for
    good.
    """
    t.due.save = False
    if not finite(t, t.model.state_dict()):
        raise Diverged(
            f"the weights are no longer finite at {t.frames} frames, so nothing was saved over "
            f"the last checkpoint, "
            "which is good: the same command goes on from there. If this comes back, give a "
            "lower optim.lr, or "
            "--run.precision fp32, together with a new --run.name"
        )
    what = f"the replay cannot be written to {t.run.replay}; the last checkpoint is intact"
    write_with_retries(lambda: t.replay.flush(strict=True), what)
    fault_injection.reach("replay-flushed")
    own = Share.of(t)
    others = (
        [Share.unpacked(x) for x in t.world.gather_bytes(own.packed())][1:]
        if t.world.size > 1
        else []
    )
    if t.world.main:
        _write(t, own, others)
    # Replay files may be deleted only when no rank needs the checkpoint that was just pruned.
    t.world.wait_for_all()
    fault_injection.reach("saved")
    states = store.read_all_states(t.run.checkpoints)
    t.replay.collect_garbage(manifest for state in states for manifest in _manifests(state))
    fault_injection.reach("collected")


def _write(t: Training, own: Share, others: list[Share]) -> None:
    groups = {
        "model": dict(t.model.state_dict()),
        "optimizer": t.learner.optimizers.tensors(),
        **own.groups,
    }
    if t.actor_critic is not None:
        groups["policy"] = dict(t.actor_critic.state_dict())
    state = {
        "frames": t.frames,
        "observation": asdict(t.obs_space),
        "action": asdict(t.action_space),
        "learner": t.learner.counters(),
        "due": asdict(t.due),
        "prefill": asdict(t.prefill),
        "means": t.means.state(),
        "logger": {**t.logger.state(), "minutes": t.minutes()} if t.logger else None,
        **own.state,
    }
    for rank, share in enumerate(others, 1):
        groups |= {f"{name}-{rank}": group for name, group in share.groups.items()}
    if others:
        state["others"] = [share.state for share in others]
    # Frames alone would name two checkpoints alike when a stop falls between two updates.
    store.save(t.run.checkpoints, t.steps + t.learner.updates, groups, state, keep=t.c.log.keep)


def _manifests(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The replay manifests of all ranks that a checkpoint was made by; none of one that nobody
    could go on from.
    """
    try:
        shares = [state, *state.get("others", [])]
        return [
            {"chunks": [{"file": str(c["file"])} for c in share["replay"]["chunks"]]}
            for share in shares
        ]
    except (KeyError, TypeError, AttributeError):
        return []


def _shares(saved: store.LoadedCheckpoint) -> list[Share]:
    """What each of the ranks knew that a checkpoint was made by."""
    states = [saved.state, *saved.state.get("others", [])]
    groups = []
    for rank in range(len(states)):
        held = {n: f"{n}-{rank}" if rank else n for n in ("player", "generators", "sampler")}
        groups.append({n: saved.groups[place] for n, place in held.items() if n != "sampler"})
        if held["sampler"] in saved.groups:  # not before there were samplers that keep anything
            groups[-1]["sampler"] = saved.groups[held["sampler"]]
    return [Share(state, group) for state, group in zip(states, groups, strict=True)]


def resume(t: Training) -> bool:
    """Continue from the newest good checkpoint; False where there is none."""
    saved = _chosen(t, lambda: store.load_latest(t.run.checkpoints))
    if saved is None:
        return False
    with store.report_incompatible(saved.path):
        validate.check_state(saved.state, saved.step)
        restore_weights(t, saved)
        t.learner.restore(saved.state["learner"])
        _resume_share(t, _shares(saved))
        t.resumed_as(saved.state)
    return True


def finite(
    t: Training, model: Mapping[str, Tensor], policy: Mapping[str, Tensor] | None = None
) -> bool:
    """Whether no weight of the model, and of actor and critic, has been lost."""
    parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(t.model, model)]
    if t.actor_critic is not None:
        parts.append((t.actor_critic, t.actor_critic.state_dict() if policy is None else policy))
    return all(
        bool(held[name].isfinite().all())
        for part, held in parts
        for name, _ in part.named_parameters()
    )


def restore_weights(t: Training, saved: store.LoadedCheckpoint) -> None:
    """Everything that learns, and its optimiser, as they were saved."""
    with store.report_incompatible(saved.path):
        store.load_into(t.model, saved.groups["model"], "model")
        if t.actor_critic is not None:
            store.load_into(t.actor_critic, saved.groups["policy"], "policy")
        t.learner.optimizers.restore(saved.groups["optimizer"])


def last_good(t: Training) -> store.LoadedCheckpoint | None:
    """The newest checkpoint whose weights are finite and whose last update was one."""

    def find() -> store.LoadedCheckpoint | None:
        for path in reversed(store.list_checkpoints(t.run.checkpoints)):
            with contextlib.suppress(store.CheckpointError):
                saved = store.load(path)
                with store.report_incompatible(path):
                    sound = finite(t, saved.groups["model"], saved.groups.get("policy", {}))
                    if sound and saved.state["learner"]["skipped_in_a_row"] == 0:
                        return saved
        return None

    return _chosen(t, find)


def _chosen(
    t: Training, find: Callable[[], store.LoadedCheckpoint | None]
) -> store.LoadedCheckpoint | None:
    """Rank 0 chooses, so that damage is set aside once and all ranks read the same."""
    found = t.world.run_on_main(find)
    number = t.world.sum([found.step + 1 if found else 0])[0] - 1
    return found if found or number < 0 else store.load(store.locate(t.run.checkpoints, number))


def _resume_share(t: Training, shares: list[Share]) -> None:
    """Take up this rank's share; where their number has changed, chunks are dealt anew and late
    ranks begin afresh.
    """
    rank, size = t.world.rank, t.world.size
    manifests = [share.state["replay"] for share in shares]
    if size != len(shares):
        manifests = reshard(manifests, size, t.envs.num_envs)
        counts = {
            k: sum(share.state["rollout"][k] for share in shares)
            for k in ("steps", "frames", "faults")
        }
        for i, share in enumerate(shares):
            share.state["rollout"] |= counts if i == 0 else dict.fromkeys(counts, 0)
        # Episodes take a step at least: with this number none has been played.
        t.rollout.begin_at(counts["steps"])
    if rank < len(shares):
        shares[rank].restore(t)
    own = manifests[rank]
    own.setdefault("generator", t.replay.state()["generator"])
    try:
        t.replay.load(
            own, {c["file"] for i, m in enumerate(manifests) if i != rank for c in m["chunks"]}
        )
    except ReplayMissing as error:
        if t.c.replay.lost == "refuse":
            raise
        log.warning("%s; it goes on without, as replay.lost accept says", str(error).split(":")[0])
        t.replay.load(own, discard=True)
    for share in shares:  # what was kept of a chunk follows it to the rank that now holds it
        if "sampler" in share.groups:
            t.sampler.load_state_dict({k: v.numpy() for k, v in share.groups["sampler"].items()})

"""The trainer's verbs in this process: what is due when, what is logged, what survives a stop."""

import contextlib
import hashlib
import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from runs import command
from worldmodel import envs
from worldmodel.checkpoint import store
from worldmodel.config import loading
from worldmodel.distributed import ALONE, World
from worldmodel.errors import Diverged, UsageError
from worldmodel.replay.buffer import ReplayMissing
from worldmodel.rollout.collector import make_episode_seeds
from worldmodel.run_directory import RunDir
from worldmodel.system.runtime import STREAMS, make_generator
from worldmodel.training import trainer as trainer_module
from worldmodel.training import training_state
from worldmodel.training.trainer import Trainer

QUICK = ("--train.prefill", "20", "--train.updates_per_step", "0.25", "--replay.sampler")


@pytest.fixture
def vectors(monkeypatch):
    """Makes vectors of one environment each, or more, and closes them; none steps ahead."""
    monkeypatch.setattr(trainer_module, "has_spare_cores", lambda *machine: False)
    with contextlib.ExitStack() as made:

        def make(count=1):
            factory = partial(envs.make, "counter", size=(32, 32))
            vector = envs.make_vector(factory, count, timeout_s=60.0, restart_budget=0)
            return made.enter_context(vector)

        yield make


def make_trainer(root, vector, *words, world=ALONE):
    config = loading.parse([*command(root)[2:], *QUICK, "prioritized", *words])
    run = RunDir.for_config(config)
    run.path.mkdir(parents=True, exist_ok=True)
    return Trainer(config, vector, run, torch.device("cpu"), world)


def train(trainer, steps):
    """So many rows of each environment, with the updates that are due."""
    for _ in range(steps):
        trainer.collect()
        while trainer.count_pending_updates() > 0:
            trainer.learn()


def hash_state(trainer):
    """Hashes of tensors, and plain values, of everything that a checkpoint holds."""
    parts = trainer.state.components
    tables = {**parts.networks, "optimizer": parts.optimizer, **parts.shared, **parts.own}
    found = {}
    for name, part in tables.items():
        state = part.state_dict()
        for key, value in state.items() if isinstance(state, dict) else [("", state)]:
            tensor = isinstance(value, torch.Tensor)
            plain = value.detach().numpy().tobytes() if tensor else repr(value).encode()
            found[f"{name}/{key}"] = hashlib.sha256(plain).hexdigest()
    return found | {"rows": trainer.replay.stats()}


def test_a_stop_between_two_steps_changes_nothing_that_follows(tmp_path, vectors):
    first = make_trainer(tmp_path, vectors())
    train(first, 28)
    assert (first.steps, first.frames, first.prefill.steps, first.learner.updates) == (
        26,
        26,
        20,
        3,
    )
    first.due.log = True
    first.save()
    assert not first.due.save
    assert [int(path.name) for path in store.list_checkpoints(first.run.checkpoints)] == [29]
    assert json.loads(first.run.status_file.read_text())["frames"] == 26
    at_the_stop, random = hash_state(first), torch.get_rng_state()
    again = make_trainer(tmp_path, vectors())
    assert hash_state(again) != at_the_stop
    assert again.resume() and hash_state(again) == at_the_stop and again.due.log
    assert (again.steps, again.frames) == (26, 26)
    train(again, 5)
    later = hash_state(again)
    torch.set_rng_state(random)
    train(first, 5)
    assert hash_state(first) == later != at_the_stop


def test_rounds_collect_and_then_refit(tmp_path, vectors):
    """Twenty rows of prefill, then rounds of five steps with three updates each."""
    rounds = ("--train.schedule", "rounds", "--train.round", "5", "--train.refit", "3")
    trainer = make_trainer(tmp_path, vectors(), *rounds, "--train.pretrain", "4")
    made = []
    for _ in range(34):
        train(trainer, 1)
        made.append((trainer.steps, trainer.learner.updates))
    start = trainer.prefill.steps
    assert start == 20
    for steps, updates in made:
        assert updates == (0 if steps < start else 4 + (steps - start) // 5 * 3), steps


def test_rows_that_were_learnt_from_are_rated(tmp_path, vectors):
    trainer = make_trainer(tmp_path, vectors())
    train(trainer, 28)
    assert (trainer.sampler.state_dict()["visits"] > 0).any()


def test_episodes_are_seeded_by_environment_and_number(tmp_path, vectors):
    trainer = make_trainer(tmp_path, vectors(2), "--run.seed", "3")
    wanted = make_episode_seeds(3, STREAMS["collect"])
    trainer.collect()
    assert [e.seed for e in trainer.rollout.episodes] == [wanted(0, 0), wanted(1, 0)]
    assert trainer.rollout.seeds(1, 5) == wanted(1, 5) != wanted(0, 5)


def test_a_line_of_the_log_has_means_counters_and_speeds(tmp_path, vectors, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    trainer = make_trainer(tmp_path, vectors())
    trainer.log()  # nothing is open yet
    trainer.open_logger()
    train(trainer, 28)
    trainer.due.log = True
    clock[0] += 4
    groups = [group for group in trainer.means.state_dict() if "loss/total" in group["sums"]]
    total = sum(float.fromhex(group["sums"]["loss/total"]) for group in groups)
    trainer.log()
    line = json.loads((trainer.run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert not trainer.due.log and sum(group["count"] for group in groups) == 3
    assert line["train/loss/total"] == pytest.approx(total / 3)
    wanted = {"frames": 26, "steps": 26, "updates": 3, "rollbacks": 0, "env/faults": 0}
    wanted |= {"fps/frames": 6.5, "fps/updates": 0.75, "replay/rows": 28}
    assert {key: line[key] for key in wanted} == wanted
    assert line["time/minutes"] == pytest.approx(4 / 60)
    assert 0 < line["time/processor_minutes"] < 5
    assert trainer.means.pop() == {}
    assert trainer.format_progress() == "26 frames, 3 updates, score 210"
    trainer.last_score, trainer.last_eval = None, 9.0
    assert trainer.format_progress() == "26 frames, 3 updates, no episode yet, eval 9"
    assert trainer.replay_size in trainer.describe() and "rows" in trainer.replay_size


@pytest.mark.parametrize(("asked", "played"), [(2, 2), (None, 1)])
def test_an_evaluation_plays_the_episodes_it_is_asked_for(tmp_path, vectors, asked, played):
    trainer = make_trainer(tmp_path, vectors())
    trainer.open_logger()
    trainer.due.eval = True
    result = trainer.evaluate(vectors(), False, asked)
    assert len(result.scores) == played and not trainer.due.eval
    (line,) = (trainer.run.path / "scores.jsonl").read_text().splitlines()
    score = result.summarize()["eval/score"]
    assert json.loads(line)["eval/score"] == trainer.last_eval == score
    assert json.loads(line)["eval/episodes"] == played and "time/minutes" in json.loads(line)
    # Its seeds are those of no episode of the training.
    assert make_episode_seeds(0, STREAMS["evaluate"], 0)(0, 0) != trainer.rollout.seeds(0, 0)


def test_an_evaluation_that_is_stopped_stays_due(tmp_path, vectors):
    trainer = make_trainer(tmp_path, vectors())
    trainer.due.eval = True
    assert trainer.evaluate(vectors(), True) is None
    assert trainer.due.eval and trainer.last_eval is None


def test_a_replay_that_is_lost_begins_anew_where_that_is_accepted(tmp_path, vectors):
    first = make_trainer(tmp_path, vectors())
    train(first, 28)
    first.save()
    shutil.rmtree(first.run.replay)
    with pytest.raises(ReplayMissing):
        make_trainer(tmp_path, vectors()).resume()
    again = make_trainer(tmp_path, vectors(), "--replay.lost", "accept")
    assert again.resume() and len(again.replay) == 0 and again.learner.updates == 3
    assert again.awaits_rows and again.count_pending_updates() == 0
    # New rows have numbers of their own, and the generator goes on.
    saved, now = first.replay.state_dict(), again.replay.state_dict()
    assert (now["next"], now["generator"]) == (saved["next"], saved["generator"])


def test_weights_go_back_to_finite_ones_after_a_good_update(tmp_path, vectors):
    trainer = make_trainer(tmp_path, vectors())
    train(trainer, 28)
    trainer.save()
    good = store.list_checkpoints(trainer.run.checkpoints)[-1]
    trainer.learner.skips[:] = 1  # the last update before the next one was skipped
    trainer.steps += 1
    trainer.save()
    assert len(store.list_checkpoints(trainer.run.checkpoints)) == 2
    head = trainer.model.reward.net.out.weight
    before = head.detach().clone()
    head.data.add_(1.0)
    found = trainer.state.load_last_good()
    assert found.path == good
    trainer.state.restore_weights(found)
    assert torch.equal(head, before)
    next(iter(found.groups["model"].values())).fill_(float("nan"))
    assert not trainer.state._are_finite(found.groups)


def test_actions_are_random_until_the_prefill_is_over_and_the_agents_from_then_on(
    tmp_path, vectors
):
    trainer = make_trainer(tmp_path, vectors())
    assert vars(trainer.due) == {"log": False, "eval": False, "save": False}
    by_agent, player = [], trainer.player

    class Watched:
        carry = player.carry

        def __call__(self, rows):
            by_agent.append(trainer.steps)
            return player(rows)

    trainer.player = Watched()
    drawn = make_generator(0, STREAMS["prefill"])
    for _ in range(10):
        trainer.collect()
        wanted = trainer.action_space.random(1, drawn).numpy()
        assert (trainer.rollout.actions == wanted).all()
    assert by_agent == []
    train(trainer, 18)
    # The step in which the prefill ends is counted after its action was chosen.
    assert by_agent[0] == 20 and set(by_agent) == set(range(20, 26)) and trainer.prefill.over


def test_steps_of_all_ranks_count(tmp_path, vectors, monkeypatch):
    trainer = make_trainer(tmp_path, vectors())
    monkeypatch.setattr(type(trainer.world), "sum", lambda world, own: [2 * x for x in own])
    train(trainer, 5)
    assert (trainer.steps, trainer.frames) == (
        2 * trainer.rollout.steps,
        2 * trainer.rollout.frames,
    )
    assert trainer.rollout.steps == 4


def test_replay_files_go_once_every_rank_has_seen_the_checkpoint(tmp_path, vectors, monkeypatch):
    trainer = make_trainer(tmp_path, vectors())
    train(trainer, 5)
    seen = []
    monkeypatch.setattr(type(trainer.world), "wait_for_all", lambda world: seen.append("all"))
    monkeypatch.setattr(training_state.fault_injection, "reach", seen.append)
    collect = trainer.replay.collect_garbage
    monkeypatch.setattr(
        trainer.replay, "collect_garbage", lambda kept: seen.append("garbage") or collect(kept)
    )
    trainer.save()
    assert seen[-4:] == ["all", "saved", "garbage", "collected"]


def test_a_goal_that_is_not_there_is_refused_before_the_first_step(tmp_path, vectors):
    goal = "--planner.score", "goal_distance", "--goal.image", str(tmp_path / "none.png")
    with pytest.raises(UsageError, match="there is no file"):
        make_trainer(tmp_path, vectors(), *goal)


def test_ranks_share_the_capacity_and_number_their_environments_in_turn(tmp_path, vectors):
    class Second(World):
        rank, size, local_size = 1, 2, 2

    alone = make_trainer(tmp_path, vectors(2))
    second = make_trainer(tmp_path, vectors(2), world=Second())
    assert second.replay.capacity_rows == alone.replay.capacity_rows // 2
    assert second.first_env == 2 and not second.state.world.main
    assert second.rollout.seeds(0, 4) == alone.rollout.seeds(2, 4)


@pytest.mark.parametrize("main", [True, False])
def test_diverged_weights_go_back_three_times_and_the_main_rank_says_so(
    tmp_path, vectors, caplog, main
):
    trainer = make_trainer(tmp_path, vectors())
    train(trainer, 28)
    trainer.save()

    class Follower(World):
        rank = 1

    trainer.learner.world = ALONE if main else Follower()
    weight = trainer.model.reward.net.out.weight
    before = weight.detach().clone()
    batch = {"reward": torch.arange(3.0)}
    for done in range(1, 4):
        weight.data.add_(1.0)
        trainer.learner.skips[1] = 5
        caplog.clear()
        trainer.recovery.roll_back(Diverged("too far"), batch, 26)
        assert torch.equal(weight, before) and trainer.learner.rollbacks == done
        assert trainer.learner.state_dict()["skipped_in_a_row"] == 0
        said = f"checkpoint 29 again (rollback {done} of at most 3)" in caplog.text
        assert said == main
    with pytest.raises(Diverged, match="3 times the run went back.*newest checkpoint is"):
        trainer.recovery.roll_back(Diverged("too far"), batch, 26)
    (kept,) = (trainer.run.path / "diverged").iterdir()
    assert torch.equal(load_file(kept)["reward"], batch["reward"])

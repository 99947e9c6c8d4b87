"""Grids of trainings: what they are, what becomes of them, and stops between and within them."""

import json
import os
import signal
import stat
import sys
import threading
from importlib.util import find_spec

import pytest
from worldmodel.envs import check_name

from worldmodel.command_line import sweep
from worldmodel.config import loading
from worldmodel.config.loading import ConfigError
from worldmodel.config.rules import UnknownTask
from worldmodel.errors import UsageError
from worldmodel.sweep import grid, local_pool, slurm_jobs
from worldmodel.system import optional_packages

# A training that takes milliseconds: it notes that it ran, and leaves a finished run.
FINISH = """
import json, pathlib, sys
run, config, frames, score, code = sys.argv[1:]
if code != "0":
    print("first line\\nthe reason", file=sys.stderr)
    sys.exit(int(code))
run = pathlib.Path(run)
run.mkdir(parents=True)
(run / "config.yaml").write_text(config)
(run / "scores.jsonl").write_text(json.dumps({"frames": int(frames), "eval/score": float(score)}))
(run / "status.json").write_text(json.dumps({"state": "done", "frames": int(frames)}))
"""
# One that goes on until it is told to stop, and saves.
WAIT = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pathlib.Path(sys.argv[1]).touch()
signal.sigwait([signal.SIGTERM])
sys.exit(75)
"""
WORDS = ["debug", "--run.frames", "60"]


def finish(cell, score=1.0, code=0):
    c = cell.config
    told = [str(cell.run.path), loading.to_yaml(c), str(c.run.frames), str(score), str(code)]
    return [sys.executable, "-Sc", FINISH, *told]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_pool, "make_command", finish)
    return tmp_path


def names(*words):
    args, given = sweep.parse_arguments([*WORDS, *words])
    cells = grid.make_cells(
        given,
        args.tasks.split(",") if args.tasks else [],
        grid.parse_seeds(args.seeds),
        [grid.parse_values(text) for text in args.set],
        lambda task: None,
    )
    return [str(cell.run.path) for cell in cells]


def test_a_cell_for_every_seed_task_and_value():
    made = names("--tasks", "counter,rope", "--seeds", "0..1", "--set", "loss.reward=1,2.5")
    assert len(made) == len(set(made)) == 8
    assert made[0] == "runs/counter/debug-loss.reward_1/seed0"
    assert made[-1] == "runs/rope/debug-loss.reward_2.5/seed1"
    assert names("--seeds", "3") == ["runs/counter/debug/seed3"]  # as wm train names it


def test_values_with_commas_in_brackets_and_text_are_one_each():
    assert grid.parse_values("env.size=[32,32],[64,64]") == [
        ("env.size", "[32, 32]"),
        ("env.size", "[64, 64]"),
    ]
    assert grid.parse_values("log.to=none,wandb") == [("log.to", "none"), ("log.to", "wandb")]
    assert grid.parse_seeds("0..2,7,1") == [0, 1, 2, 7]


@pytest.mark.parametrize("text", ["a", "0..", "4..0", "-1", "0..10000", ""])
def test_what_are_no_seeds_is_refused(text):
    with pytest.raises(UsageError, match="--seeds"):
        grid.parse_seeds(text)


@pytest.mark.parametrize("text", ["x", "x=", "x=[1", "x=1]"])
def test_what_are_no_values_is_refused(text):
    with pytest.raises(UsageError, match="--set"):
        grid.parse_values(text)


def test_problems_of_all_cells_are_found_before_the_first_begins(here, capsys):
    with pytest.raises(ConfigError) as error:
        names("--set", "loss.reward=1,-1", "--set", "loss.cont=-2,1")
    assert len(error.value.problems) == 2
    assert sweep.main([*WORDS, "--set", "loss.rewrad=1"]) == 2
    assert "did you mean loss.reward?" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_two_cells_in_one_directory_are_refused():
    with pytest.raises(UsageError, match="would both be trained in"):
        names("--set", "loss.reward=1,1")


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["--set", "run.seed=1,2"], "--seeds"),
        (["--set", "seed=1,2"], "--seeds"),
        (["--run.seed", "3"], "--seeds"),
        (["--set", "env.task=counter,rope"], "--tasks"),
        (["--env.task", "rope", "--tasks", "counter"], "--tasks"),
        (["--set", "name=a,b"], "--run.name is their beginning"),
        (
            ["--set", "loss.reward=1,2", "--loss.reward", "3"],
            "loss.reward: this key is given twice",
        ),
        (
            ["--set", "frames=60,80", "--set", "run.frames=90"],
            "run.frames: this key is given twice",
        ),
    ],
)
def test_a_key_that_would_be_ignored_is_refused(words, wanted, here, capsys):
    assert sweep.main([*WORDS[:1], *words]) == 2
    said = capsys.readouterr().err
    assert wanted in said and said.count("\n") == 1 and not list(here.iterdir())


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["debug", "--jobs", "x"], "argument --jobs: 'x' is not a whole number"),
        (["debug", "--job", "2"], "did you mean --jobs?"),
        (["debug", "--seed", "2"], "did you mean --seeds?"),
        (["debug", "--task", "rope"], "did you mean --tasks?"),
        ([], "name a preset, as in ./wm sweep quickstart"),
        (["run.frames=60"], "name a preset"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(words, wanted, capsys):
    with pytest.raises(SystemExit) as end:
        sweep.main(words)
    said = capsys.readouterr().err
    assert end.value.code == 2 and wanted in said and said.count("\n") == 1


def test_any_value_makes_a_name_of_its_own_that_a_file_can_have(here, capsys):
    words = [*WORDS, "--seeds", "0", "--name", "it"]
    tables = "{reconstruction: 1.0},{reconstruction: 2.0, contrastive: 0.1}"
    assert sweep.main([*words, "--set", f"loss.objective={tables}"]) == 0
    assert "2 of 2 trainings" in capsys.readouterr().out
    made = sorted(path.name for path in (here / "runs" / "counter").iterdir())
    assert len(made) == 2 and made[0].startswith("it-loss.objective_reconstruction_1.0-")
    made = names("--seeds", "0", "--set", f"log.project={'a' * 300},{'a' * 301},a b,a_b,'a: 1'")
    assert len({*made}) == 5 and all(len(path) < 150 for path in made)
    assert "debug-log.project_a_b" in made[3]
    long = ["--name", "n" * 200, "--set", "loss.reward=1", "--seeds", "0"]
    assert sweep.main([*WORDS, *long]) == 0
    assert len(grid.shorten_name("x" * 300, 200)) < 250


def test_a_sweep_ends_with_a_table_and_its_repetition_trains_nothing(here, monkeypatch, capsys):
    words = [*WORDS, "--seeds", "0..2", "--set", "loss.reward=1,2", "--jobs", "2"]
    monkeypatch.setattr(
        local_pool,
        "make_command",
        lambda cell: finish(cell, 10 * cell.config.loss.reward + cell.config.run.seed),
    )
    assert sweep.main(words) == 0
    said = capsys.readouterr().out
    assert "[6/6]" in said and "debug-loss.reward=2" in said and "21.0 (20.0 to 22.0)" in said
    out = here / "runs" / "sweeps" / "debug"
    found = json.loads((out / "seeds.json").read_text())["tasks"]["counter"]
    assert found["debug-loss.reward=1"]["iqm"]["value"] == 11.0
    assert (out / "seeds.png").stat().st_size > 1000
    monkeypatch.setattr(local_pool, "make_command", None)
    assert sweep.main(words) == sweep.main([*words, "--table"]) == 0
    assert "6 of 6 are done" in capsys.readouterr().out


def test_one_that_fails_is_reported_and_does_not_end_the_others(here, monkeypatch, capsys):
    monkeypatch.setattr(
        local_pool,
        "make_command",
        lambda cell: finish(cell, code=5 if cell.config.run.seed == 1 else 0),
    )
    assert sweep.main([*WORDS, "--seeds", "0..2"]) == 5
    said = capsys.readouterr().out
    assert "counter debug seed1: failed with exit code 5: the reason" in said
    assert "2 of 3 trainings" in said
    monkeypatch.setattr(local_pool, "make_command", finish)
    assert sweep.main([*WORDS, "--seeds", "0..2"]) == 0  # tries that one again


def test_a_run_of_another_configuration_is_a_failure_of_its_own(here, capsys):
    assert sweep.main([*WORDS, "--seeds", "0"]) == 0
    assert sweep.main([*WORDS, "--seeds", "0,1", "--loss.reward", "7"]) == 2
    said = capsys.readouterr().out
    assert "was made with another configuration: loss.reward" in said
    assert "seed1: done" in said


def test_nothing_is_shown_where_nothing_is_done(here, capsys):
    assert sweep.main([*WORDS, "--table"]) == 4
    assert "no training of this sweep is done" in capsys.readouterr().out
    assert not list(here.iterdir())


def test_a_signal_stops_all_with_their_save_and_begins_no_more(here, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    begun = here / "begun"
    os.mkfifo(begun)  # opening it to read waits for a training to open it to write
    script = WAIT.replace(".touch()", ".write_text('x')")
    monkeypatch.setattr(
        local_pool, "make_command", lambda cell: [sys.executable, "-Sc", script, str(begun)]
    )

    def interrupt():
        begun.read_text()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert sweep.main([*WORDS, "--seeds", "0..4", "--jobs", "1"]) == 75
    thread.join()
    said = capsys.readouterr().out
    assert "seed0: stopped" in said and "seed1" not in said
    assert signal.getsignal(signal.SIGINT) == before


def test_threads_are_divided_unless_the_user_chose(monkeypatch):
    monkeypatch.setattr(local_pool, "count_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local_pool.divide_threads(3)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert local_pool.divide_threads(3)["OMP_NUM_THREADS"] == "5"


def test_real_trainings_of_a_sweep_are_ordinary_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit('imported from the current folder')")
    words = ["debug", "--run.frames", "45", "--env.time_limit", "20", "--seeds", "0..1"]
    assert sweep.main([*words, "--jobs", "2"]) == 0
    assert "2 of 2 trainings" in capsys.readouterr().out
    run = tmp_path / "runs" / "counter" / "debug" / "seed1"
    assert json.loads((run / "status.json").read_text()) == {"state": "done", "frames": 45}
    assert list((run / "checkpoints").iterdir())


SBATCH = """#!/bin/bash
file="${@: -1}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$file")
for i in $(seq 0 $last); do
    SLURM_JOB_ID=77$i SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$i bash "$file" \\
        >"$0.$i.log" 2>&1 </dev/null &
done
echo "$@" >> "$0.calls"
echo "Submitted batch job 77"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --unbuffered ]] && shift || shift 2
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
"""


@pytest.mark.skipif(not find_spec("submitit"), reason="submitit is not installed")
def test_slurm_trains_an_array_of_jobs(here, monkeypatch, capsys):
    programs = here / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_jobs, "make_command", finish)
    monkeypatch.setattr(slurm_jobs, "POLL_SECONDS", 0.1)
    words = [*WORDS, "--seeds", "0..2", "--jobs", "2", "--slurm", "partition=gpu,time=60"]
    assert sweep.main([*words, "--set", "loss.reward=1"]) == 0
    said = capsys.readouterr().out
    assert "3 jobs submitted" in said and "3 of 3 trainings" in said
    text = next((here / "runs/sweeps/debug/logs").glob("*submission*.sh")).read_text()
    assert "--partition=gpu" in text and "--array=0-2%2" in text and "--time=60" in text
    assert sweep.main([*words, "--set", "loss.reward=1"]) == 0
    assert len((programs / "sbatch.calls").read_text().splitlines()) == 1
    assert sweep.main([*WORDS, "--slurm", "partitoin=gpu"]) == 2
    assert "partitoin" in capsys.readouterr().err


@pytest.mark.skipif(not find_spec("submitit"), reason="submitit is not installed")
def test_a_job_whose_time_is_up_saves_and_is_queued_again(here):
    """submitit calls `checkpoint` in the handler of its signal, while the training is awaited."""
    begun, queued = here / "begun", []
    os.mkfifo(begun)
    script = WAIT.replace(".touch()", ".write_text('x')")
    training = slurm_jobs.SlurmTraining([sys.executable, "-Sc", script, str(begun)])

    def interrupt():
        begun.read_text()
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda *_: queued.append(training.checkpoint()))
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert training() == 75
    finally:
        signal.signal(signal.SIGUSR2, before)
        thread.join()
    [again] = queued
    assert again.function.command == training.command


def test_without_submitit_the_command_says_how_to_install_it(here, monkeypatch, capsys):
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    assert sweep.main([*WORDS, "--slurm", "time=60"]) == 3
    assert f"{sys.executable} -m pip install submitit\n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["partition", "=3", "a=[1"])
def test_what_are_no_options_of_slurm_is_refused(text):
    with pytest.raises(UsageError, match="--slurm"):
        slurm_jobs.parse_slurm_options(text)


def test_rules_choose_the_values_of_each_task_and_ask_for_its_facts_once(here):
    asked = []

    def describe(env):
        asked.append(env.task)
        return UnknownTask(control_step=0.01 if env.task == "cartpole" else None)

    words = ["generalist", "--run.frames", "5000"]
    cells = grid.make_cells(
        words, ["cartpole", "catcher"], [0, 1], [], lambda task: None, describe
    )
    assert [c.config.env.repeat for c in cells] == [5, 1, 5, 1]
    assert asked == ["cartpole", "catcher"]


def test_a_cell_with_a_budget_is_done_with_the_frames_that_it_chose(here):
    (cell,) = grid.make_cells([*WORDS, "--train.budget", "1h"], ["counter"], [0], [], check_name)
    chosen = loading.to_plain(cell.config)
    chosen["run"]["frames"] = 40
    cell.run.path.mkdir(parents=True)
    cell.run.config_file.write_text(json.dumps(chosen))
    cell.run.write_status("done", 39)
    assert not cell.run.is_trained(cell.config)
    cell.run.write_status("done", 40)
    assert cell.run.is_trained(cell.config)
    chosen["train"]["budget"] = "30m"
    cell.run.config_file.write_text(json.dumps(chosen))
    assert not cell.run.is_trained(cell.config)

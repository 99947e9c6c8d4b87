"""Jobs as clusters run them: warned, signalled as a whole, put back into the queue, given so many
minutes.
"""

import json
import os
import signal
import subprocess
import time

import pytest

from children import SHORT, go
from forked import SECONDS
from runs import ROOT, command, seed_dir

SCONTROL = """#!/bin/sh
echo "$@" >> {log}
exit {code}
"""


@pytest.mark.fault(
    9,
    "a wall-clock budget (run.max_minutes), before the first step and in the middle",
    "saved, exit 75; the same command resumes",
)
def test_a_budget_of_minutes_stops_as_a_signal_does(tmp_path, record_property):
    said = go(tmp_path, *SHORT, "--run.max_minutes", "1e-9", expect=75)
    assert (
        "stopped after run.max_minutes 1e-09 at 0 frames, all is saved; the same command goes "
        "on from here" in said
    )
    said = go(tmp_path, *SHORT, "--run.frames", "100000", "--run.max_minutes", "0.01", expect=75)
    assert "stopped after run.max_minutes 0.01 at" in said and "resuming" in said
    record_property("times", 2)


class Cluster:
    """A stand-in for Slurm: docs/slurm.sh as sbatch would start it, and a scontrol that notes what
    it is told.
    """

    def __init__(self, tmp_path):
        self.root, self.log, self.bin = tmp_path, tmp_path / "scontrol.log", tmp_path / "bin"
        self.bin.mkdir()
        self.log.touch()

    def job(self, *args, code=0, restarts=None, program=None):
        scontrol = self.bin / "scontrol"
        scontrol.write_text(SCONTROL.format(log=self.log, code=code))
        scontrol.chmod(0o755)
        env = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4711",
            "OMP_NUM_THREADS": "1",
        }
        env |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        script = [
            "bash",
            str(ROOT / "docs" / "slurm.sh"),
            *(program or command(self.root, *SHORT, *args)),
        ]
        # In a process group of its own, as a job is.
        return subprocess.Popen(
            script,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def under_way(self, job):
        """Wait until it trains."""
        status, deadline = seed_dir(self.root) / "status.json", time.monotonic() + SECONDS
        while not status.exists() or json.loads(status.read_text())["state"] != "running":
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)


LONG = ("--run.frames", "1000000")


@pytest.mark.fault(
    9,
    "a Slurm job with a fake scontrol: its warning to the script, then SIGTERM to the whole "
    "process group and a scontrol that fails, then a requeue with --run.fresh true",
    "saved and requeued; saved, exit 75 and a message; resumed and finished",
)
def test_a_slurm_job_requeues_itself_until_it_is_done(tmp_path, record_property):
    cluster = Cluster(tmp_path)
    job = cluster.job(*LONG)
    cluster.under_way(job)
    job.send_signal(signal.SIGUSR1)
    out, err = job.communicate(timeout=SECONDS)
    assert (
        job.returncode == 0
        and cluster.log.read_text() == "requeue 4711\n"
        and "all is saved" in out
    ), err
    job = cluster.job(*LONG, code=1)
    cluster.under_way(job)
    os.killpg(job.pid, signal.SIGTERM)
    out, err = job.communicate(timeout=SECONDS)
    assert job.returncode == 75 and "stopped by SIG" in out and "all is saved" in out, err
    assert (
        "job 4711 could not be put back" in err
        and "All is saved" in err
        and "the same sbatch command" in err
    )
    job = cluster.job("--run.fresh", "true", restarts=2)
    out, err = job.communicate(timeout=SECONDS)
    assert (
        job.returncode == 0
        and cluster.log.read_text() == 2 * "requeue 4711\n"
        and "resuming" in out
    ), err
    assert "this is restart 2" in err and "submit a new job" in err
    assert json.loads((seed_dir(tmp_path) / "status.json").read_text())["state"] == "done"
    assert len(list(seed_dir(tmp_path).parent.iterdir())) == 1
    record_property("times", 3)


def test_a_slurm_job_warned_before_its_first_step_is_requeued(tmp_path):
    cluster = Cluster(tmp_path)
    # What train.py does of a signal until then: it ends by it.
    job = cluster.job(program=["bash", "-c", "echo started; exec sleep 600"])
    assert job.stdout.readline() == "started\n"
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=SECONDS)
    assert job.returncode == 0 and cluster.log.read_text() == "requeue 4711\n"

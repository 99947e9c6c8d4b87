#!/bin/bash
#SBATCH --time=24:00:00 --signal=B:USR1@300 --requeue --open-mode=append
# sbatch docs/slurm.sh python train.py ...: one run over as many jobs as it takes.
# Five minutes before a job's end Slurm signals this script, which hands it on. A training that was stopped has saved
# all and ends with 75: the job is put back into the queue, and the same command goes on from there.
warned=
trap 'warned=1; kill -USR1 "$training" 2>/dev/null' USR1 TERM
"$@" &
training=$!
wait "$training"
code=$?
while [ -n "$warned" ]; do # a signal ends `wait`, not the training
    warned=
    wait "$training"
    next=$?
    [ "$next" -eq 127 ] || code=$next
done
[ "$code" -eq 75 ] && exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"

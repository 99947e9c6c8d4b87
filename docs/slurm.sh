#!/bin/bash
#SBATCH --time=24:00:00 --signal=B:USR1@300 --requeue --open-mode=append
# sbatch docs/slurm.sh python train.py ...: one run over as many jobs as it takes.
# Five minutes before a job's end Slurm signals this script, which hands it on. A training that was stopped has saved
# all and ends with 75: the job is put back into the queue, and the same command goes on from there.
warned=
# Handed on as the other one: where the training got the same signal as this script, that is still one request to it.
trap 'warned=1; kill -TERM "$training" 2>/dev/null' USR1
trap 'warned=1; kill -USR1 "$training" 2>/dev/null' TERM
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
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    echo "job $SLURM_JOB_ID could not be put back into the queue (scontrol requeue: exit $?). All is saved: give the" \
        "same sbatch command again to go on" >&2
fi
exit "$code"

#!/bin/bash
#SBATCH --time=24:00:00 --signal=B:USR1@300 --requeue --open-mode=append
# sbatch docs/slurm.sh python train.py ...: one run over as many jobs as it needs.
# Five minutes before a job ends Slurm signals this script, which signals the training. A stopped
# training has saved everything and exits with 75: the job is requeued, and the same command
# resumes the run. A training that the signal meets before its first step ends by it (138, 143).
warned=
asked=
# Passed on as the other signal: if the training got this one too, it still counts as one
# request.
trap 'warned=1 asked=1; kill -TERM "$training" 2>/dev/null' USR1
trap 'warned=1 asked=1; kill -USR1 "$training" 2>/dev/null' TERM
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
if [ "$code" -eq 75 ] || { [ -n "$asked" ] && { [ "$code" -eq 138 ] || [ "$code" -eq 143 ]; }; }; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    echo "job $SLURM_JOB_ID could not be put back into the queue (scontrol requeue: exit $?). All is saved: run the" \
        "same sbatch command again to resume" >&2
fi
exit "$code"

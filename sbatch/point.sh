#!/usr/bin/env bash
# One task of an array, one point of a sweep:
#   sbatch --array=0-N [resources] sbatch/point.sh SWEEP_DIR SUBMISSION
# hydra/launcher=slurm calls it so, with the resources of conf/hydra/launcher/slurm.yaml. By hand:
# resources as options or #SBATCH lines below; SUBMISSION is a name in SWEEP_DIR/slurm/, without
# .json; PYTHONPATH=SWEEP_DIR/.code/HASH/src runs the code of that snapshot.
#
# Several devices or nodes train one point together (DDP) when --ntasks-per-node is trainer.devices
# and --nodes is trainer.num_nodes: srun starts a process each.
#
# --signal reaches what srun starts, not this script: python then saves and, if it is the time
# limit, puts the job back into the queue. A preempted job is put back by Slurm itself.
#SBATCH --job-name=experiments
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
set -euo pipefail
eval "${EXPERIMENTS_SETUP:-}" # modules to load, an environment to enter
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then # srun does not inherit it, and threads must not exceed it
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
fi
exec srun --kill-on-bad-exit=1 --wait=0 "${EXPERIMENTS_PYTHON:-python}" -m experiments.sweep.task \
  "$1/slurm/$2.json" "$SLURM_ARRAY_TASK_ID"

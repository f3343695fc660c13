#!/usr/bin/env bash
# One run without a sweep, by hand, single GPU:
#   sbatch --gpus-per-node=1 sbatch/run.sh model=peer size=8 budget=6e18 ladder=paper data=c4
# Two nodes of four GPUs, training it together:
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 sbatch/run.sh model=peer ... \
#     trainer.num_nodes=2 trainer.devices=4
# trainer.accelerator=cuda ends a run that finds no GPU, which auto would train on a CPU. A large model
# may need more than 120 s of warning: EXPERIMENTS_SIGNAL_SECONDS=600 sbatch --signal=USR1@600 ...
# Requeued by Slurm after preemption, and by the run itself near its time limit.
#SBATCH --job-name=experiments
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --time=24:00:00
set -euo pipefail
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then # srun does not inherit it, and threads must not exceed it
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
fi
exec srun --kill-on-bad-exit=1 --wait=0 "${EXPERIMENTS_PYTHON:-python}" -m experiments.run "$@"

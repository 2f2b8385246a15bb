#!/bin/bash
# One network, all devices: every task works on a part of the same matrix, with one GPU each.
#SBATCH --job-name=spectrum-distributed
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
set -euo pipefail

: "${PROBLEM:?set PROBLEM=file.py:function}"
: "${CHECKPOINTS:?set CHECKPOINTS to a pattern such as ckpts/*}"
: "${OUT:?set OUT to a folder that every node sees}"

# JAX finds its peers by what Slurm tells every task, and takes of a node's GPUs the one with the
# task's number: as many tasks as GPUs, and all GPUs visible to each (no --gpus-per-task).
exec srun landscape spectrum "$PROBLEM" --checkpoint "$CHECKPOINTS" --out "$OUT" --distributed

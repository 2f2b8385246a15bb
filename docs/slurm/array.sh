#!/bin/bash
# One job array: each task takes its share of the checkpoints; all write into one run folder.
# Submit again after a failure: what is done stays done.
#SBATCH --job-name=spectra
#SBATCH --array=0-15
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
set -euo pipefail

: "${PROBLEM:?set PROBLEM=file.py:function}"
: "${CHECKPOINTS:?set CHECKPOINTS to a pattern such as ckpts/*.npz}"
: "${OUT:?set OUT to a folder that every node sees}"

# exec: the signal that announces the end of the time reaches the program, which stops at its next
# safe point with code 75.
# srun does not take over the CPUs that sbatch was asked for (since Slurm 22.05); one worker on each.
exec srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  landscape spectrum "$PROBLEM" --checkpoint "$CHECKPOINTS" --out "$OUT"

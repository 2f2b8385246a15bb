#!/bin/bash
# A Dask cluster inside one allocation: the first task is the scheduler, the second the job, all
# others are workers, which may die and are replaced.
#SBATCH --job-name=spectra-dask
#SBATCH --ntasks=18
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
set -euo pipefail

: "${PROBLEM:?set PROBLEM=file.py:function}"
: "${CHECKPOINTS:?set CHECKPOINTS to a pattern such as ckpts/*.npz}"
: "${OUT:?set OUT to a folder that every node sees}"

# Beside the run folder, where every node sees it too.
mkdir -p "$(dirname "$OUT")"
file="$OUT.scheduler-$SLURM_JOB_ID.json"
trap 'rm -f "$file"' EXIT

srun --ntasks=1 --exclusive dask scheduler --scheduler-file "$file" &
srun --ntasks=$((SLURM_NTASKS - 2)) --exclusive \
  dask worker --scheduler-file "$file" --nthreads 1 --no-dashboard &
for _ in $(seq 300); do [ -s "$file" ] && break; sleep 1; done
[ -s "$file" ] || { echo "no scheduler within five minutes" >&2; exit 1; }

srun --ntasks=1 --exclusive landscape spectrum "$PROBLEM" --checkpoint "$CHECKPOINTS" \
  --out "$OUT" --executor dask --scheduler "$file" &
job=$!
trap 'kill -USR1 "$job"' USR1
status=0
wait "$job" || status=$?
# A signal ends the first wait before the job has come to its safe point.
while kill -0 "$job" 2>/dev/null; do
  status=0
  wait "$job" || status=$?
done
exit "$status"

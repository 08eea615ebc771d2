#!/usr/bin/env bash
# Nightly accuracy check as a Slurm job: `sbatch slurm.sh`, or every night with scrontab (last line). Change what is
# marked CHANGE. A job that is preempted or runs out of time goes on where it was when it is submitted again.
#SBATCH --job-name=evalkit-nightly
#SBATCH --nodes=1
#SBATCH --gres=gpu:8                    # CHANGE
#SBATCH --time=05:00:00
#SBATCH --signal=B:INT@180              # three minutes to write down what is finished
#SBATCH --requeue
#SBATCH --output=%x-%j.log
# scrontab -e:   17 1 * * * /srv/evalkit/slurm.sh
set -uo pipefail
set -m                                  # without job control a program in the background never hears an interrupt

home="${EVALKIT_HOME:-/srv/evalkit}"                        # CHANGE: on a file system that all nodes see
suite="${EVALKIT_SUITE:-$home/suites/nightly.yaml}"         # CHANGE
export EVALKIT_CACHE="${EVALKIT_CACHE:-$home/cache}"
# export EVALKIT_HISTORY=postgresql://evalkit@db/evalkit    # several machines: one PostgreSQL; password in ~/.pgpass
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"                # compute nodes often have no way out

cd "$home" || exit 5

# A requeued job belongs to the night in which it was first submitted.
night="${EVALKIT_NIGHT:-}"
if [ -z "$night" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  night="$(date -u +%F -d "$(squeue -h -j "$SLURM_JOB_ID" -o %V 2>/dev/null)" 2>/dev/null)" || night=""
fi

found="$(mktemp)" || exit 5
options=(--quiet --junit "$found" --site "${EVALKIT_SITE:-${SLURM_CLUSTER_NAME:-default}}")
if [ -n "$night" ]; then options+=(--night "$night"); fi

"$home/venv/bin/evalkit" nightly "$suite" "${options[@]}" &
job=$!
trap 'kill -INT "$job" 2>/dev/null' INT TERM
code=0
wait "$job" || code=$?
while kill -0 "$job" 2>/dev/null; do    # a trapped signal ends `wait` before the job has ended
  code=0
  wait "$job" || code=$?
done

# A broken interpreter or library ends with 1 too; evalkit's own 1 has written what it found.
if [ "$code" -eq 1 ] && [ ! -s "$found" ]; then code=5; fi
rm -f "$found"

case $code in
  0) echo "OK" ;;
  1) echo "ALARM: a loss beyond the margin is shown" ;;
  3) echo "undecided" ;;
  4) echo "INVALID: the night cannot be judged; this is no regression" ;;
  *) echo "evalkit did not finish (exit code $code); the same command goes on" ;;
esac
exit "$code"

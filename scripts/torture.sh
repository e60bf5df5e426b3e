#!/bin/sh
# torture.sh OUTDIR HOURS - the fault tests again and again, each round with another seed and ten
# times as much of everything, until HOURS (a decimal number) have passed or one fails.
#
# TORTURE_ARGS   arguments for pytest: TORTURE_ARGS="-k power"
set -eu

cd "$(dirname "$0")/.."
out=${1:?usage: torture.sh OUTDIR HOURS}
hours=${2:?usage: torture.sh OUTDIR HOURS}
end=$(awk -v now="$(date +%s)" -v hours="$hours" 'BEGIN { printf "%d", now + hours * 3600 }')
round=0
while [ "$(date +%s)" -lt "$end" ]; do
    round=$((round + 1))
    seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    echo "== round $round, FAULT_SEED=$seed FAULT_SCALE=${FAULT_SCALE:-10}"
    # shellcheck disable=SC2086 # several arguments
    FAULT_SEED=$seed FAULT_SCALE=${FAULT_SCALE:-10} FAULT_TIMEOUT=86400 \
        scripts/run-fault-tests.sh "$out" ${TORTURE_ARGS:-} || {
        echo "== failed in round $round: FAULT_SEED=$seed FAULT_SCALE=${FAULT_SCALE:-10} replays it"
        exit 1
    }
done
echo "== $round rounds without a failure"

#!/bin/sh
# run-fault-tests.sh OUTDIR [PYTEST-ARGUMENT...] - the fault tests (tests/faults) against the programs
# and tools built in OUTDIR: power loss, kills, failing system calls, damaged files, full disks.
#
# PYTHON         the interpreter; default: the distribution's, for which `make` installs pytest
# FAULT_TIMEOUT  seconds for the whole run (3000)
# FAULT_SCALE    how many times the usual number of images, kills, mutants ... (1)
# FAULT_SEED     the seed of everything random; printed by every failure (default: a fixed one)
set -eu

cd "$(dirname "$0")/.."
out=$(realpath "${1:?usage: run-fault-tests.sh OUTDIR [PYTEST-ARGUMENT...]}")
shift

python=${PYTHON:-/usr/bin/python3}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3

JADEVECTORDB_BIN=$out/jadevectordb JADEVECTORDB_CLI=$out/jadevectordb-cli \
JADEVECTORDB_FAULT_TOOLS=$out/tests/faults \
PYTHONDONTWRITEBYTECODE=1 \
    exec timeout --foreground -s INT -k 30 "${FAULT_TIMEOUT:-3000}" \
    "$python" -m pytest -q -p no:cacheprovider --junitxml="$out/faults.xml" tests/faults "$@"

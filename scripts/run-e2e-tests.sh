#!/bin/sh
# run-e2e-tests.sh OUTDIR [PYTEST-ARGUMENT...] - the tests against the programs built in OUTDIR.
#
# PYTHON        the interpreter; default: the distribution's, for which `make` installs pytest
# E2E_TIMEOUT   seconds for the whole run (3000): for hangs that pytest itself cannot end
set -eu

cd "$(dirname "$0")/.."
out=$(realpath "${1:?usage: run-e2e-tests.sh OUTDIR [PYTEST-ARGUMENT...]}")
shift

python=${PYTHON:-/usr/bin/python3}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3

JADEVECTORDB_BIN=$out/jadevectordb JADEVECTORDB_CLI=$out/jadevectordb-cli \
PYTHONDONTWRITEBYTECODE=1 \
    exec timeout --foreground -s INT -k 30 "${E2E_TIMEOUT:-3000}" \
    "$python" -m pytest -q -p no:cacheprovider --junitxml="$out/e2e.xml" tests/e2e "$@"

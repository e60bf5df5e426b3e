#!/bin/sh
# run-all-tests.sh OUTDIR - every unit test and every end-to-end test of the build in OUTDIR.
#
# The last line is "N passed, N failed" (", N skipped"); exit status 1 if anything failed or if one
# of the two kinds did not run.
set -eu

cd "$(dirname "$0")/.."
out=${1:?usage: run-all-tests.sh OUTDIR}

# By source, not by what lies in OUTDIR: a test that was renamed may have left its program there.
set --
for source in tests/*/test_*.c tests/*/*/test_*.c; do
    [ -e "$source" ] && set -- "$@" "$out/${source%.c}"
done

echo "== unit tests"
UNIT_COUNTS=$out/unit.counts
export UNIT_COUNTS
echo "0 1 0" >"$UNIT_COUNTS"
status=0
scripts/run-unit-tests.sh "$@" || status=1
read -r passed failed skipped <"$UNIT_COUNTS"

echo "== end-to-end tests"
rm -f "$out/e2e.xml"
e2e_status=0
scripts/run-e2e-tests.sh "$out" || e2e_status=1

# <testsuite name="pytest" errors="0" failures="1" skipped="0" tests="12" ...
number() {
    tr '>' '\n' <"$out/e2e.xml" | sed -n "s/^.*<testsuite .* $1=\"\([0-9]*\)\".*/\1/p" | head -n 1
}
tests=0 e2e_failed=0 e2e_skipped=0
if [ -s "$out/e2e.xml" ]; then
    tests=$(number tests) e2e_failed=$(($(number failures) + $(number errors)))
    e2e_skipped=$(number skipped)
else
    e2e_status=1
fi
e2e_passed=$((tests - e2e_failed - e2e_skipped))
# pytest itself failed, or was ended before it could say what did
if [ $e2e_status -ne 0 ] && [ "$e2e_failed" -eq 0 ]; then e2e_failed=1; fi
[ $e2e_status -eq 0 ] || status=1

passed=$((passed + e2e_passed)) failed=$((failed + e2e_failed)) skipped=$((skipped + e2e_skipped))
echo "== all tests"
echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
exit $status

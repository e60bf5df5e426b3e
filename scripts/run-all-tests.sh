#!/bin/sh
# run-all-tests.sh OUTDIR - every unit, end-to-end and fault test of the build in OUTDIR.
#
# The last line is "N passed, N failed" (", N skipped"); exit status 1 if anything failed or if one
# of the three kinds did not run.
set -eu

cd "$(dirname "$0")/.."
out=${1:?usage: run-all-tests.sh OUTDIR}

# By source, not by what lies in OUTDIR: a test that was renamed may have left its program there.
set --
for source in tests/*/test_*.c tests/*/*/test_*.c; do
    [ -e "$source" ] && set -- "$@" "$out/${source%.c}"
done
for source in tests/fuzz/fuzz_*.c; do
    set -- "$@" "$out/tests/fuzz/smoke_$(basename "$source" .c | sed 's/^fuzz_//')"
done

echo "== unit tests"
UNIT_COUNTS=$out/unit.counts
export UNIT_COUNTS
echo "0 1 0" >"$UNIT_COUNTS"
status=0
scripts/run-unit-tests.sh "$@" || status=1
read -r passed failed skipped <"$UNIT_COUNTS"

# <testsuite name="pytest" errors="0" failures="1" skipped="0" tests="12" ...
number() {
    tr '>' '\n' <"$1" | sed -n "s/^.*<testsuite .* $2=\"\([0-9]*\)\".*/\1/p" | head -n 1
}

# add_pytest STATUS FILE: what pytest said of a run, added to the counts.
add_pytest() {
    tests=0 bad=0 left=0 ran=$1
    if [ -s "$2" ]; then
        tests=$(number "$2" tests) left=$(number "$2" skipped)
        bad=$(($(number "$2" failures) + $(number "$2" errors)))
    else
        ran=1
    fi
    # pytest itself failed, or was ended before it could say what did
    good=$((tests - bad - left))
    if [ "$ran" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    [ "$ran" -eq 0 ] || status=1
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
}

for kind in e2e faults; do
    case $kind in
    e2e) echo "== end-to-end tests"; script=scripts/run-e2e-tests.sh ;;
    faults) echo "== fault tests"; script=scripts/run-fault-tests.sh ;;
    esac
    rm -f "$out/$kind.xml"
    kind_status=0
    $script "$out" || kind_status=1
    add_pytest $kind_status "$out/$kind.xml"
done
echo "== all tests"
echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
exit $status

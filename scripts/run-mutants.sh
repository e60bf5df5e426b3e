#!/bin/sh
# run-mutants.sh OUTDIR [NAME...] - a test of the tests: plant each fault of tests/mutants/*.patch
# (or the named ones) in a copy of the sources, build it, and expect the tests to fail.
#
# A patch says in a line "tests: EXPRESSION" which fault tests (pytest -k) see the daemon do it
# wrong; they run first, then the unit tests of the storage, then all other fault tests, up to the
# first that is red.  A mutant that no test catches fails the run, and so does a patch that no longer
# applies: the code that it was about has changed, and it must follow.
set -eu

cd "$(dirname "$0")/.."
top=$PWD
mkdir -p "${1:?usage: run-mutants.sh OUTDIR [NAME...]}"
out=$(realpath "$1")
shift
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL BUILD O || true
copy=$out/mutants/source build=$out/mutants/build log=$out/mutants/log
rm -rf "$copy"
mkdir -p "$copy" "$build"
git ls-files -z --cached --others --exclude-standard |
    xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
    xargs -0 cp -p --parents -t "$copy"
cd "$copy"

compile() {
    make -j2 --no-print-directory BUILD=release O="$build" "$build/jadevectordb" \
        "$build/jadevectordb-cli" fault-tools unit-programs >"$log" 2>&1
}

# red: the first test that fails, or nothing.
faults() {
    scripts/run-fault-tests.sh "$build" -x --tb=no -k "$1" >"$log" 2>&1 ||
        sed -n 's/^\(FAILED\|ERROR\) \([^ ]*\).*/\2/p' "$log" | head -n 1
}
units() {
    for source in tests/storage/test_*.c tests/storage/*/test_*.c; do
        scripts/run-unit-tests.sh "$build/${source%.c}" >"$log" 2>&1 || {
            test=$(sed -n 's/^ *\[  FAILED  \] \([a-z_0-9]*\)$/\1/p' "$log" | head -n 1)
            echo "$source${test:+::$test}"
            return
        }
    done
}

compile || { tail -n 20 "$log"; echo "the sources do not build"; exit 1; }
caught=0 missed=0
for patch in "$top"/tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    [ $# -eq 0 ] || case " $* " in *" $name "*) ;; *) continue ;; esac
    begun=$(date +%s)
    expression=$(sed -n 's/^tests: //p' "$patch")
    files=$(sed -n 's|^+++ b/||p' "$patch")
    red=
    if ! patch -p1 -s -F0 --no-backup-if-mismatch <"$patch" >"$log" 2>&1; then
        verdict="MISSED  $name: the patch no longer applies"
    elif ! compile; then
        verdict="MISSED  $name: does not build"
    else
        red=$(faults "$expression")
        [ -n "$red" ] || red=$(units)
        [ -n "$red" ] || red=$(faults "not ($expression)")
        verdict="MISSED  $name: every test is green"
    fi
    if [ -n "$red" ]; then
        verdict="caught  $name by $red"
        caught=$((caught + 1))
    else
        missed=$((missed + 1))
    fi
    echo "$verdict ($(($(date +%s) - begun)) s)"
    for file in $files; do
        cp "$top/$file" "$file" # without -p: newer than what was built from the mutant
    done
done
echo "$caught caught, $missed missed"
[ "$missed" -eq 0 ] && [ "$caught" -gt 0 ]

#!/bin/sh
# run-mutants.sh OUTDIR [NAME...] - a test of the tests: plant each fault of tests/mutants/*.patch
# (or the named ones) in a copy of the sources, build it, and expect the tests to fail.
#
# A patch says in a line "tests: EXPRESSION" which fault tests (pytest -k) see the daemon do it
# wrong; they run first, then the unit tests of the storage, then all other fault tests, up to the
# first that is red.  Before the first mutant the sources as they are must be green in the tests that
# the patches name and in the unit tests.  A mutant that no test catches fails the run, and so does a
# patch that no longer applies: the code that it was about has changed, and it must follow.  Only a
# test that failed has caught something; one that could not run (ERROR) has not.
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

# The first test that fails, or nothing.
faults() {
    scripts/run-fault-tests.sh "$build" -x --tb=no -k "$1" >"$log" 2>&1 && return
    failed=$(sed -n 's/^FAILED \([^ ]*\).*/\1/p' "$log" | head -n 1)
    [ -n "$failed" ] || { echo "no test failed, but they did not all run:"; tail -n 3 "$log"; } >&2
    echo "$failed"
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

chosen() {
    [ $# -gt 1 ] || return 0
    name=$1
    shift
    case " $* " in *" $name "*) ;; *) return 1 ;; esac
}

compile || { tail -n 20 "$log"; echo "the sources do not build"; exit 1; }
expressions=
for patch in "$top"/tests/mutants/*.patch; do
    chosen "$(basename "$patch" .patch)" "$@" || continue
    expressions="$expressions${expressions:+ or }($(sed -n 's/^tests: //p' "$patch"))"
done
scripts/run-fault-tests.sh "$build" -x --tb=no -k "$expressions" >"$log" 2>&1 && red=$(units) ||
    red=$(tail -n 3 "$log")
[ -z "$red" ] || { echo "red without any mutant: $red"; exit 1; }

caught=0 missed=0
for patch in "$top"/tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    chosen "$name" "$@" || continue
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

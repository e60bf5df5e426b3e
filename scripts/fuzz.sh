#!/bin/sh
# fuzz.sh OUTDIR SECONDS [NAME] - run the fuzzers in OUTDIR (a BUILD=fuzz), one after the other, each
# for so long; one line each, and at the end "N passed, N failed".
#
# Inputs that are worth keeping stay in OUTDIR/corpus/NAME and are where the next run begins; an input
# that is a finding (a crash, a report, a claim that does not hold, more than FUZZ_TIMEOUT seconds or
# FUZZ_MEMORY MB) is in OUTDIR/findings.  `OUTDIR/tests/fuzz/fuzz_NAME FILE` runs one again.
set -eu

out=$1 seconds=$2 only=${3:-}
export ASAN_OPTIONS="${ASAN_OPTIONS:-quarantine_size_mb=16}"
mkdir -p "$out/findings"
# A fuzzer that ends with a finding leaves its files.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then TMPDIR=/dev/shm; fi
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/jvdb-fuzz-run-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The last number behind a word of libFuzzer's log.
last() {
    sed -n "s/.*$1 *\([0-9][0-9]*\).*/\1/p" "$log" | tail -1
}

passed=0 failed=0
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c | sed 's/^fuzz_//')
    case $name in "$only"*) ;; *) continue ;; esac
    corpus=$out/corpus/$name log=$out/$name.log status=0
    mkdir -p "$corpus"
    "$out/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout="${FUZZ_TIMEOUT:-5}" \
        -rss_limit_mb="${FUZZ_MEMORY:-1024}" -malloc_limit_mb=256 -max_len=16384 \
        -print_final_stats=1 -artifact_prefix="$out/findings/$name-" "$corpus" \
        </dev/null >"$log" 2>&1 || status=$?
    line="$name: $(last number_of_executed_units:) inputs, $(last ' cov:') edges,"
    line="$line $(last peak_rss_mb:) MB, slowest $(last slowest_unit_time_sec:) s"
    if [ "$status" -eq 0 ]; then
        echo "ok    $line"
        passed=$((passed + 1))
    else
        echo "FAIL  $line, exit status $status ($log)"
        grep -E 'ERROR: |SUMMARY: |runtime error|does not hold|Test unit written' "$log" |
            sed 's/^/      /'
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

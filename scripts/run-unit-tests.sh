#!/bin/sh
# run-unit-tests.sh PROGRAM... - run cmocka programs, one line each, the whole output of those that
# fail, and at the end "N passed, N failed" (", N skipped").
#
# UNIT_TIMEOUT   seconds for one program (120)
# UNIT_COUNTS    a file for "passed failed skipped", for run-all-tests.sh
set -eu

limit=${UNIT_TIMEOUT:-120}
output=$(mktemp)
trap 'rm -f "$output"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# cmocka says "[  PASSED  ] 7 test(s)." and, if there were any, "[  FAILED  ] 2 test(s), listed
# below:", the same for SKIPPED and ERROR; several times in a program that has several groups.
count() {
    sed -n "s/^\[ *$1 *\] \([0-9][0-9]*\) test(s).*/\1/p" "$output" | awk '{n += $1} END {print n + 0}'
}

passed=0 failed=0 skipped=0
for program in "$@"; do
    status=0
    timeout -k 5 "$limit" "$program" </dev/null >"$output" 2>&1 || status=$?
    p=$(count PASSED) f=$(($(count FAILED) + $(count ERROR))) s=$(count SKIPPED)

    # A crash, a sanitizer's report and a failed set-up have no count of their own.
    note=
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        note=", no end after $limit s"
    elif [ "$status" -gt 128 ]; then
        note=", ended by signal $((status - 128))"
    elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        note=", exit status $status"
    elif [ $((p + f + s)) -eq 0 ]; then
        note=", no test ran"
    fi
    if [ -n "$note" ] && [ "$f" -eq 0 ]; then f=1; fi
    name=$(echo "$program" | sed 's|.*/tests/|tests/|')
    if [ "$f" -eq 0 ]; then
        echo "ok    $name: $p passed$([ "$s" -eq 0 ] || echo ", $s skipped")"
    else
        echo "FAIL  $name: $p passed, $f failed$note"
        sed 's/^/      /' "$output"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

[ -z "${UNIT_COUNTS:-}" ] || echo "$passed $failed $skipped" >"$UNIT_COUNTS"
echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

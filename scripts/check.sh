#!/bin/sh
# check.sh - every test under AddressSanitizer + UndefinedBehaviorSanitizer, then under
# ThreadSanitizer.  Any report ends the program it is about, and so fails its test.
#
# `make check O=DIR` builds in DIR-asan and DIR-tsan; CC= is passed on.
set -eu

cd "$(dirname "$0")/.."

# ThreadSanitizer of gcc 12 and clang 14 cannot place its memory where a kernel randomises more
# than 28 bits of addresses (vm.mmap_rnd_bits is 32 on newer ones): start again without that.
bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)
if [ "$bits" -gt 28 ] && [ -z "${CHECK_FIXED_ADDRESSES:-}" ]; then
    if setarch "$(uname -m)" -R true 2>/dev/null; then
        CHECK_FIXED_ADDRESSES=1 exec setarch "$(uname -m)" -R "$0" "$@"
    fi
    echo "check.sh: vm.mmap_rnd_bits is $bits and setarch -R is not permitted:" \
         "ThreadSanitizer may refuse to start" >&2
fi

# The flags of a calling make would give both builds its BUILD= and O=.
out=${O:-build/check}
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL BUILD O || true

export ASAN_OPTIONS="halt_on_error=1:exitcode=66:detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="halt_on_error=1:exitcode=66:print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="halt_on_error=1:exitcode=66:second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
export UNIT_TIMEOUT="${UNIT_TIMEOUT:-600}" E2E_TIMEOUT="${E2E_TIMEOUT:-7200}"

status=0
summary=
for build in asan tsan; do
    dir=$out-$build
    [ "$out" != build/check ] || dir=build/$build
    echo "==== $build"
    mkdir -p "$dir"
    result=0
    # Not `all`: that would put these programs into bin/.
    make -j2 --no-print-directory BUILD=$build O="$dir" ${CC:+CC="$CC"} \
        "$dir/jadevectordb" "$dir/jadevectordb-cli" unit-programs fault-tools || result=1
    if [ $result -eq 0 ]; then
        { scripts/run-all-tests.sh "$dir" || echo failed >"$dir/check.failed"; } |
            tee "$dir/check.log"
        line=$(tail -n 1 "$dir/check.log")
        if [ -e "$dir/check.failed" ]; then
            result=1
            rm -f "$dir/check.failed"
        fi
    else
        line="does not build"
    fi
    [ $result -eq 0 ] || status=1
    summary="$summary
$build: $line"
done
echo "==== summary$summary"
exit $status

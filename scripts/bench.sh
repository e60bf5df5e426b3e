#!/bin/sh
# bench.sh OUTDIR [PART [OPTION...]] - run every benchmark that is built in OUTDIR, or those whose
# name contains PART, with these options; JSON lines to standard output and to
# OUTDIR/bench/NAME.jsonl.  Compare ratios, which come from one run, not times of two runs.
set -eu

cd "$(dirname "$0")/.."
out=$(realpath "${1:?usage: bench.sh OUTDIR [PART [OPTION...]]}")
part=${2:-}
shift $(($# > 1 ? 2 : $#))

JADEVECTORDB_BIN=$out/jadevectordb JADEVECTORDB_CLI=$out/jadevectordb-cli
export JADEVECTORDB_BIN JADEVECTORDB_CLI
status=0
for source in bench/*.c; do
    name=$(basename "$source" .c)
    case $name in *"$part"*) ;; *) continue ;; esac
    "$out/bench/$name" "$@" >"$out/bench/$name.jsonl" || { echo "bench.sh: $name failed" >&2; status=1; }
    cat "$out/bench/$name.jsonl"
done
exit $status

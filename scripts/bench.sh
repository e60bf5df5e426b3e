#!/bin/sh
# bench.sh OUTDIR - run every benchmark that is built in OUTDIR; JSON lines to standard output and
# to OUTDIR/bench/NAME.jsonl.  Compare ratios, which come from one run, not times of two runs.
set -eu

cd "$(dirname "$0")/.."
out=$(realpath "${1:?usage: bench.sh OUTDIR}")

JADEVECTORDB_BIN=$out/jadevectordb JADEVECTORDB_CLI=$out/jadevectordb-cli
export JADEVECTORDB_BIN JADEVECTORDB_CLI
status=0
for source in bench/*.c; do
    name=$(basename "$source" .c)
    "$out/bench/$name" >"$out/bench/$name.jsonl" || { echo "bench.sh: $name failed" >&2; status=1; }
    cat "$out/bench/$name.jsonl"
done
exit $status

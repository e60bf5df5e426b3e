#!/bin/sh
# run.sh - start the daemon in the foreground on ./data (make run).  RUN_ARGS="--server-port 9000"
set -eu
cd "$(dirname "$0")/.."

# shellcheck disable=SC2086  # RUN_ARGS is a list of words
config=$(bin/jadevectordb --print-config ${RUN_ARGS:-})
value() {
    printf '%s\n' "$config" | sed -n "s/^$1 = \(.*\)  (.*)\$/\1/p"
}
host=$(value server.host)
case $host in
0.0.0.0 | ::) host=127.0.0.1 ;;
*:*) host="[$host]" ;;
esac
port=$(value server.port)

if [ "$port" != 0 ]; then
    echo "Try in another terminal: curl -X POST http://$host:$port/api/v1/databases/docs" \
        "-H 'Content-Type: application/json' -d '{\"dimension\": 3, \"distance_metric\": \"cosine\"}'" \
        "  (README.md goes on; Ctrl-C stops)"
fi
# shellcheck disable=SC2086
exec bin/jadevectordb ${RUN_ARGS:-}

#!/usr/bin/env bash
# The README's session, word for word between the two marks; CI runs it. Two hosts on this machine, in a folder of
# their own which is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
sojourn() { npm run -s sojourn -- "$@"; }
WORK=$(mktemp -d)
# The guests outlive their daemons, as any hypervisor's do: they are ended by name.
trap 'kill $(jobs -p) 2>/dev/null || true; wait; pkill -f "$WORK" || true; rm -rf "$WORK"' EXIT
until_up() { until sojourn hosts --address "$1/api.sock" >/dev/null 2>&1; do sleep 0.2; done; }

# ---- session
sojourn init --data-dir "$WORK/a" --name alpha --listen 127.0.0.1:4811 --data-listen 127.0.0.1:4812
sojourn up --data-dir "$WORK/a" 2>"$WORK/a.log" &
until_up "$WORK/a"

TOKEN=$(sojourn invite --address "$WORK/a/api.sock")
sojourn join "$TOKEN" --data-dir "$WORK/b" --name beta --listen 127.0.0.1:4821 --data-listen 127.0.0.1:4822
sojourn up --data-dir "$WORK/b" 2>"$WORK/b.log" &
until_up "$WORK/b"

export SOJOURN_ADDR="$WORK/a/api.sock"
sojourn create web --hypervisor wasm --memory 64MiB --vbd root=1GiB --workload web --fill 64MiB
sojourn migrate web beta

export SOJOURN_ADDR="$WORK/b/api.sock"
sojourn plan web
sojourn migrate web alpha

export SOJOURN_ADDR="$WORK/a/api.sock"
sojourn verify web
sojourn list
# ---- end

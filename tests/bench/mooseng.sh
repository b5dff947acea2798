#!/usr/bin/env bash
# Starts and stops a MooseNG of real processes for the benchmark: three masters, three chunkservers
# with one disk each, two copies, QUIC with mutual TLS, one mount.
#   mooseng.sh start DIR MOUNTPOINT [quic|tcp]    mooseng.sh stop DIR MOUNTPOINT
set -euo pipefail
action=${1:-} dir=${2:-} mnt=${3:-} transport=${4:-quic}
bin=${MOOSENG_BIN:-$(cd "$(dirname "$0")/../../target/release" && pwd)}

stop() {
    umount -l "$mnt" 2>/dev/null || true
    for pid in "$dir"/*.pid; do
        [ -e "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    for pid in "$dir"/*.pid; do
        [ -e "$pid" ] || continue
        for _ in $(seq 100); do kill -0 "$(cat "$pid")" 2>/dev/null || break; sleep 0.1; done
        rm -f "$pid"
    done
}

daemon() { # name, program, environment…
    local name=$1 program=$2
    shift 2
    env ${MOOSENG_BENCH_ENV:-} "$@" MOOSENG_TRANSPORT="$transport" MOOSENG_LISTEN_ADDR=127.0.0.1 MOOSENG_MASTER_ADDRS="$masters" \
        MOOSENG_IDENTITY_DIR="$dir/id/$name" "$bin/$program" >"$dir/$name.log" 2>&1 &
    echo $! >"$dir/$name.pid"
}

ready() { # port, name
    for _ in $(seq 300); do
        curl -sf "http://127.0.0.1:$1/readyz" >/dev/null && return
        sleep 0.1
    done
    echo "$2 is not ready; its log ends:" >&2
    tail -n 5 "$dir/$2.log" >&2
    exit 1
}

start() {
    mkdir -p "$dir" "$mnt"
    "$bin/mooseng" cluster init --dir "$dir/id" --masters 3 --chunkservers 3 --clients 1 >/dev/null
    masters=127.0.0.1:29421,127.0.0.1:29431,127.0.0.1:29441
    for i in 1 2 3; do
        local base=$((29411 + 10 * i))
        daemon master-$i mooseng-master MOOSENG_NODE_ID=$i MOOSENG_DATA_DIR="$dir/master-$i" \
            MOOSENG_RAFT_PEERS=127.0.0.1:29422,127.0.0.1:29432,127.0.0.1:29442 \
            MOOSENG_LISTEN_PORT=$base MOOSENG_RAFT_PORT=$((base + 1)) MOOSENG_METRICS_PORT=$((base + 2))
        daemon chunkserver-$i mooseng-chunkserver MOOSENG_SERVER_ID=$i \
            MOOSENG_DATA_DIRS="$dir/chunkserver-$i" MOOSENG_LISTEN_PORT=$((base + 4)) \
            MOOSENG_METRICS_PORT=$((base + 5))
    done
    for i in 1 2 3; do
        ready $((29413 + 10 * i)) master-$i
        ready $((29416 + 10 * i)) chunkserver-$i
    done
    daemon client-1 mooseng-mount MOOSENG_MOUNT_POINT="$mnt" MOOSENG_METRICS_PORT=29457
    ready 29457 client-1
}

case $action in
start) start ;;
stop) stop ;;
*) echo "usage: mooseng.sh start|stop DIR MOUNTPOINT [quic|tcp]" >&2; exit 2 ;;
esac

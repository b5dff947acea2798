#!/usr/bin/env bash
# Starts and stops a MooseFS 3.0.117 (Debian's packages) with one master and three chunkservers for
# the benchmark. MooseFS refuses to serve on 127.0.0.1, so it lives in a network namespace whose
# loopback has one more address.
#   moosefs.sh start DIR MOUNTPOINT [durable]    moosefs.sh stop DIR MOUNTPOINT
# `durable` makes it fsync before close and write its changelog synchronously, as MooseNG does.
set -euo pipefail
action=$1 dir=$2 mnt=$3 mode=${4:-installed}
ns=mfsbench addr=10.77.0.1
in_ns() { nsenter --net=/run/netns/$ns "$@"; }

stop() {
    umount -l "$mnt" 2>/dev/null || true
    for i in 1 2 3; do mfschunkserver -c "$dir/cs$i/mfschunkserver.cfg" stop >/dev/null 2>&1 || true; done
    mfsmaster -c "$dir/master/mfsmaster.cfg" stop >/dev/null 2>&1 || true
    ip netns del $ns 2>/dev/null || true
}

start() {
    local fsync=0 save=0
    [ "$mode" = durable ] && { fsync=1 save=2; }
    ip netns add $ns
    in_ns ip addr add $addr/24 dev lo
    in_ns ip link set lo up
    mkdir -p "$dir/master" "$mnt"
    chmod 755 "$dir"
    cp /var/lib/mfs/metadata.mfs.empty "$dir/master/metadata.mfs"
    echo "* / rw,alldirs,admin,maproot=0:0" >"$dir/master/mfsexports.cfg"
    cat >"$dir/master/mfsmaster.cfg" <<CFG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/master
EXPORTS_FILENAME = $dir/master/mfsexports.cfg
MATOML_LISTEN_HOST = $addr
MATOCS_LISTEN_HOST = $addr
MATOCL_LISTEN_HOST = $addr
CHANGELOG_SAVE_MODE = $save
CFG
    in_ns mfsmaster -c "$dir/master/mfsmaster.cfg" start >"$dir/master.log" 2>&1
    for i in 1 2 3; do
        local cs="$dir/cs$i"
        mkdir -p "$cs/data/disk"
        echo "$cs/data/disk" >"$cs/mfshdd.cfg"
        cat >"$cs/mfschunkserver.cfg" <<CFG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $cs/data
HDD_CONF_FILENAME = $cs/mfshdd.cfg
MASTER_HOST = $addr
CSSERV_LISTEN_HOST = $addr
CSSERV_LISTEN_PORT = 95$((20 + i))
HDD_FSYNC_BEFORE_CLOSE = $fsync
HDD_LEAVE_SPACE_DEFAULT = 256MiB
CFG
        in_ns mfschunkserver -c "$cs/mfschunkserver.cfg" start >"$cs.log" 2>&1
    done
    for _ in $(seq 100); do
        in_ns mfsmount -H $addr "$mnt" >"$dir/mount.log" 2>&1 && break
        sleep 0.2
    done
    # Wait until all three chunkservers are registered: only then two copies can be made.
    for _ in $(seq 100); do
        in_ns mfscli -H $addr -SCS 2>/dev/null | grep -c "$addr" | grep -q '^[3-9]' && break
        sleep 0.2
    done
    in_ns mfssetgoal -r 2 "$mnt" >/dev/null
}

case $action in
start) stop; start ;;
stop) stop ;;
*) echo "usage: moosefs.sh start|stop DIR MOUNTPOINT [durable]" >&2; exit 2 ;;
esac

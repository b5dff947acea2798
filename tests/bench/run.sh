#!/usr/bin/env bash
# The benchmark: MooseNG, MooseFS 3.0.117 as installed and at equal durability, a FUSE filesystem
# that does nothing, and a bare directory, one after the other on the same disk. Writes
# docs/benchmark.md. Wants root, fio, jq, curl, iproute2, moosefs-{master,chunkserver,client,cli}
# of Debian, and a release build (cargo build --release --workspace --bins).
#   run.sh [--quick] [--dir DIR] [--only NAME,…] [--out FILE] [--bin DIR] [--before DIR]
# `--bin` and `--before` are directories of programs: of this build (target/release without), and of an
# older one, which is measured in the same run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
quick='' base='' only='' bin='' before='' out=$root/docs/benchmark.md
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=quick ;;
    --dir) base=$2; shift ;;
    --only) only=$2; shift ;;
    --out) out=$2; shift ;;
    --bin) bin=$2; shift ;;
    --before) before=$2; shift ;;
    *) echo "usage: run.sh [--quick] [--dir DIR] [--only NAME,…] [--out FILE] [--bin DIR] [--before DIR]" >&2; exit 2 ;;
    esac
    shift
done
for tool in fio jq curl ip nsenter mfsmaster mfschunkserver mfsmount mfscli python3; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing: apt-get install fio jq curl iproute2 util-linux python3 moosefs-master moosefs-chunkserver moosefs-client moosefs-cli" >&2
        exit 1
    }
done
work=$(mktemp -d "${base:-${TMPDIR:-/tmp}}/mooseng-bench.XXXXXX")
results=$work/results mnt=$work/mnt
mkdir -p "$results" "$mnt" "$(dirname "$out")"

finish() {
    "$here/mooseng.sh" stop "$work/quic" "$mnt" || true
    "$here/mooseng.sh" stop "$work/tcp" "$mnt" || true
    "$here/mooseng.sh" stop "$work/before" "$mnt" || true
    "$here/moosefs.sh" stop "$work/mfs" "$mnt" || true
    umount -l "$mnt" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

[ -z "$bin" ] || export MOOSENG_BIN=$bin

wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }

target() { # name, then two commands: start, stop
    local name=$1 start=$2 stop=$3
    wanted "$name" || return 0
    echo "== $name" >&2
    eval "$start"
    sync
    "$here/measure.sh" "$mnt" $quick >"$results/$name.json"
    eval "$stop"
    sync
}

null=$root/target/release/nullfs
target bare 'true' 'true'
target nullfs '"$null" "$mnt" & sleep 1' 'umount "$mnt"; wait'
target mooseng '"$here/mooseng.sh" start "$work/quic" "$mnt" quic' '"$here/mooseng.sh" stop "$work/quic" "$mnt"; rm -rf "$work/quic"'
[ -z "$before" ] ||
    target mooseng-before 'MOOSENG_BIN=$before "$here/mooseng.sh" start "$work/before" "$mnt" quic' '"$here/mooseng.sh" stop "$work/before" "$mnt"; rm -rf "$work/before"'
target mooseng-tcp '"$here/mooseng.sh" start "$work/tcp" "$mnt" tcp' '"$here/mooseng.sh" stop "$work/tcp" "$mnt"; rm -rf "$work/tcp"'
target moosefs '"$here/moosefs.sh" start "$work/mfs" "$mnt"' '"$here/moosefs.sh" stop "$work/mfs" "$mnt"; rm -rf "$work/mfs"'
target moosefs-durable '"$here/moosefs.sh" start "$work/mfs" "$mnt" durable' '"$here/moosefs.sh" stop "$work/mfs" "$mnt"; rm -rf "$work/mfs"'

python3 "$here/table.py" "$results" "$root/docs/benchmark-notes.md" >"$out"
echo "written: $out" >&2

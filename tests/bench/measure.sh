#!/usr/bin/env bash
# Measures one mounted directory with fio and metabench; prints one JSON object: MB/s for
# sequential rows, operations per second for the others.
#   measure.sh DIR [quick]
set -euo pipefail
dir=$1 quick=${2:-}
large=2G big=1G small=256M secs=10 files=1000
[ -n "$quick" ] && { large=512M big=128M small=32M secs=2 files=100; }
here=$(cd "$(dirname "$0")" && pwd)
metabench=${METABENCH:-$here/../../target/release/metabench}
work="$dir/bench-$$"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

fio_row() { # name, field of fio's JSON, unit divisor, fio arguments…
    local name=$1 field=$2 div=$3
    shift 3
    fio --name="$name" --directory="$work" --output-format=json --fallocate=none "$@" |
        sed -n '/^{/,$p' | jq --arg n "$name" "{(\$n): ((.jobs[0] | $field) / $div | floor)}"
}

# The same on a new file each time, the median of three: a disk that is shared is not the same each second.
fio_median() { # file, fio_row's arguments…
    local file=$1
    shift
    for _ in 1 2 3; do
        [ "$file" = - ] || rm -f "$work/$file"
        fio_row "$@"
    done | jq -s '{(.[0] | keys[0]): (map(.[keys[0]]) | sort | .[1])}'
}

{
    # Large beside what a client may still hold when fio is done (256 MiB on both sides).
    fio_median large "seq write 1M, no fsync" ".write.bw_bytes" 1000000 --filename=large --rw=write --bs=1M --size=$large
    rm -f "$work/large"
    fio_median big "seq write 1M, fsync" ".write.bw_bytes" 1000000 --filename=big --rw=write --bs=1M --size=$big --end_fsync=1
    fio_median - "seq read 1M" ".read.bw_bytes" 1000000 --filename=big --rw=read --bs=1M --size=$big
    fio_row "rand write 4k" ".write.iops" 1 --filename=small --rw=randwrite --bs=4k --size=$small --time_based --runtime=$secs --end_fsync=1
    fio_row "rand read 4k" ".read.iops" 1 --filename=small --rw=randread --bs=4k --size=$small --time_based --runtime=$secs
    fio_row "append 4k + fsync" ".write.iops" 1 --filename=log --rw=write --bs=4k --size=64M --fsync=1 --time_based --runtime=$secs
    "$metabench" "$work" --files $files
    "$metabench" "$work" --files $((files / 4)) --processes 8 |
        jq 'with_entries(select(.key | IN("create", "create+write4k", "stat", "unlink")) | .key |= . + " ×8")'
} | jq -s add

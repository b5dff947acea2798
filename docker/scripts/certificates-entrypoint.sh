#!/bin/sh
# Makes the demo's authority, identities and the dashboard's token in their volume, once: whole, or not at all.
set -eu
dir=/etc/mooseng/identities
if [ ! -d "$dir/cluster" ]; then
    rm -rf "$dir/cluster.new"
    mooseng cluster init --dir "$dir/cluster.new" --masters 3 --chunkservers 3 --clients 3 >/dev/null
    mv "$dir/cluster.new" "$dir/cluster"
    echo "a new cluster: its certificates are in the volume \"identities\""
fi
if [ ! -d "$dir/dashboard" ]; then
    rm -rf "$dir/dashboard.new"
    mooseng cluster issue --ca "$dir/cluster/ca" --role client --node 0 --name dashboard --out "$dir/dashboard.new" >/dev/null
    mv "$dir/dashboard.new" "$dir/dashboard"
fi
if [ ! -f "$dir/dashboard.token" ]; then
    (umask 077 && head -c 18 /dev/urandom | base64 >"$dir/dashboard.token.new")
    mv "$dir/dashboard.token.new" "$dir/dashboard.token"
fi

#!/bin/sh
# Makes the demo's authority and identities in their volume, once: whole, or not at all.
set -eu
dir=/etc/mooseng/identities
[ -d "$dir/cluster" ] && exit 0
rm -rf "$dir/cluster.new"
mooseng cluster init --dir "$dir/cluster.new" --masters 3 --chunkservers 3 --clients 3 >/dev/null
mv "$dir/cluster.new" "$dir/cluster"
echo "a new cluster: its certificates are in the volume \"identities\""

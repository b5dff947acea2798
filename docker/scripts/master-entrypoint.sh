#!/bin/sh
set -eu
export MOOSENG_IDENTITY_DIR="${MOOSENG_IDENTITY_DIR:-/etc/mooseng/identities/cluster/master-$MOOSENG_NODE_ID}"
export MOOSENG_DATA_DIR="${MOOSENG_DATA_DIR:-/var/lib/mooseng/master}"
exec mooseng master "$@"

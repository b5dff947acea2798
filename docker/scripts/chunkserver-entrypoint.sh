#!/bin/sh
set -eu
export MOOSENG_IDENTITY_DIR="${MOOSENG_IDENTITY_DIR:-/etc/mooseng/identities/cluster/chunkserver-$MOOSENG_SERVER_ID}"
exec mooseng chunkserver "$@"

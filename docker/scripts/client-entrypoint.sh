#!/bin/sh
# A mount for everybody in the container. What a client that was killed has left at its place is cleared.
set -eu
export MOOSENG_IDENTITY_DIR="${MOOSENG_IDENTITY_DIR:-/etc/mooseng/identities/cluster/client-$MOOSENG_CLIENT}"
export MOOSENG_ALLOW_OTHER="${MOOSENG_ALLOW_OTHER:-true}"
umount -l "$MOOSENG_MOUNT_POINT" 2>/dev/null || true
mkdir -p "$MOOSENG_MOUNT_POINT"
exec mooseng mount "$@"

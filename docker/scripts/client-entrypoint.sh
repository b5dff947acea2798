#!/bin/sh
# A mount for everybody in the container. What a client that was killed has left at its place is cleared.
set -eu
umount -l "$MOOSENG_MOUNT_POINT" 2>/dev/null || true
mkdir -p "$MOOSENG_MOUNT_POINT"
exec mooseng mount "$@"

#!/bin/sh
# The web dashboard, reachable from outside the container: with the token that `certificates` drew.
set -eu
export MOOSENG_IDENTITY_DIR="${MOOSENG_IDENTITY_DIR:-/etc/mooseng/identities/dashboard}"
export MOOSENG_DASHBOARD_TOKEN_FILE="${MOOSENG_DASHBOARD_TOKEN_FILE:-/etc/mooseng/identities/dashboard.token}"
exec mooseng dashboard "$@"

#!/bin/sh
# The web dashboard, reachable from outside the container: with the token that `certificates` drew.
set -eu
exec mooseng dashboard "$@"

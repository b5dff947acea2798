#!/bin/sh
set -eu
exec mooseng master "$@"

#!/bin/sh
set -eu
exec mooseng chunkserver "$@"

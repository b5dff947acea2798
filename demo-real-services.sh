#!/usr/bin/env bash
# Builds the image of the demo, or removes all that the demo has left.
#   ./demo-real-services.sh build [source|host]
#   ./demo-real-services.sh clean
# source: within Docker, with public images. host: with cargo on this machine, over a base made from Debian packages, so
# that no registry of images is needed. Left out: source where its images can be pulled, host elsewhere.
set -euo pipefail
cd "$(dirname "$0")"
. docker/scripts/demo.sh

base() {
    local packages=fuse3,ca-certificates,curl,prometheus
    has_image "$base" && return 0
    step "a base from Debian packages: $packages"
    command -v mmdebstrap >/dev/null ||
        fail "mmdebstrap is missing, and images cannot be pulled. On Debian: apt-get install mmdebstrap"
    local tar
    tar=$(mktemp -d)
    mmdebstrap --quiet --variant=minbase --include="$packages" "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$tar/base.tar"
    docker import "$tar/base.tar" "$base" >/dev/null
    rm -rf "$tar"
}

image_of() { # Dockerfile, image, directory
    # The builder that every Docker has.
    local said
    said=$(DOCKER_BUILDKIT=0 docker build --build-arg "BASE=$base" -f "docker/$1" -t "$2" "$3" 2>&1) || fail "$said"
}

build_host() {
    base
    local program=${MOOSENG_PROGRAM:-}
    if [ -z "$program" ]; then
        command -v cargo >/dev/null || fail "cargo is missing: https://rustup.rs"
        step "the program"
        cargo build --release --locked --bin mooseng
        program=${CARGO_TARGET_DIR:-target}/release/mooseng
    fi
    step "the image"
    local dir
    dir=$(mktemp -d)
    cp -r docker/scripts "$dir/scripts"
    cp "$program" "$dir/mooseng"
    image_of Dockerfile.host "$image" "$dir"
    image_of Dockerfile.prometheus "$prometheus" "$dir"
    rm -rf "$dir"
}

build_source() {
    step "the image, from source"
    docker build -f docker/Dockerfile.source -t "$image" .
}

build() {
    local how=${1:-}
    if [ -z "$how" ]; then
        how=host
        if docker pull -q debian:bookworm-slim >/dev/null 2>&1; then how=source; fi
    fi
    case $how in
    source | host) "build_$how" ;;
    *) fail "\"$how\" is neither source nor host" ;;
    esac
    say "built: $image ($how)"
}

clean() {
    compose down --volumes --remove-orphans
    docker image rm -f "$image" "$prometheus" "$base" >/dev/null 2>&1 || true
    say "the demo's containers, volumes and images are removed"
}

case ${1:-} in
build) need_docker; build "${2:-}" ;;
clean) need_docker; clean ;;
*)
    say "usage: ./demo-real-services.sh build [source|host] | clean" >&2
    exit 2
    ;;
esac

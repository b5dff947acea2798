#!/usr/bin/env bash
# The demo: a cluster of real services in containers.
#   ./start-demo.sh                  build if needed, start everything, wait until it is healthy
#   ./start-demo.sh status           state of each service, leader, health of the data
#   ./start-demo.sh logs [SERVICE]   what they log
#   ./start-demo.sh test             the walk, with failures; the exit code tells
#   ./start-demo.sh stop             stop everything; files are kept
set -euo pipefail
cd "$(dirname "$0")"
. docker/scripts/demo.sh

start() {
    has_image "$image" || ./demo-real-services.sh build
    need_docker
    step "starting"
    find_grafana
    # shellcheck disable=SC2086 # a list of names
    compose up -d --no-build $services
    wait_healthy
    step "the cluster is healthy"
    say "  dashboard      http://localhost:8080/        token $(dashboard_token)"
    cat <<'TEXT'
  masters        http://localhost:9421/health   9431   9441
  chunkservers   http://localhost:9420/health   9450   9460
  clients        http://localhost:9427/health   9437   9447
  Prometheus     http://localhost:9090
TEXT
    case $services in
    *grafana*) say "  Grafana        http://localhost:3000     (admin, admin)" ;;
    esac
    cat <<'TEXT'

  docker-compose exec client-1 sh      # (or: docker compose exec …) the mount is /mnt/mooseng
  echo hello > /mnt/mooseng/test.txt   # in it; the other clients see it at once
  ./start-demo.sh status
  ./start-demo.sh test                 # stops a master and a chunkserver while files are written
  ./start-demo.sh stop
TEXT
}

status() {
    for service in $services; do
        printf '  %-15s %s\n' "$service" "$(state_of "$service")"
    done
    # Without a leader it is health that tells what to do.
    admin status || true
    admin health
}

case ${1:-start} in
start) need_docker; start ;;
status) need_docker; status ;;
logs) need_docker; shift; compose logs --tail=200 "$@" ;;
test) need_docker; . docker/scripts/walk.sh; walk ;;
stop) need_docker; compose stop ;;
*)
    say "usage: ./start-demo.sh [start|status|logs [SERVICE]|test|stop]" >&2
    exit 2
    ;;
esac

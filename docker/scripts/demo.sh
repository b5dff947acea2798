# What start-demo.sh and demo-real-services.sh share; sourced by them, in the root of the checkout.

export MOOSENG_IMAGE=${MOOSENG_IMAGE:-mooseng:demo}
image=$MOOSENG_IMAGE
# Where images cannot be pulled.
base=mooseng-base:${image##*:}
prometheus=mooseng-prometheus:${image##*:}
# The one that docker-compose.yml names.
export MOOSENG_GRAFANA_IMAGE=${MOOSENG_GRAFANA_IMAGE:-grafana/grafana:11.6.0}
grafana=$MOOSENG_GRAFANA_IMAGE
masters='master-1 master-2 master-3'
chunkservers='chunkserver-1 chunkserver-2 chunkserver-3'
clients='client-1 client-2 client-3'
services="$masters $chunkservers $clients dashboard prometheus"

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_docker() {
    command -v docker >/dev/null ||
        fail "docker is missing. On Debian: apt-get install docker.io docker-compose; elsewhere: https://docs.docker.com/engine/install/"
    docker info >/dev/null 2>&1 ||
        fail "the Docker daemon does not answer: start it (systemctl start docker), or use an account that may (sudo, group docker)"
    command -v curl >/dev/null || fail "curl is missing. On Debian: apt-get install curl"
    if docker compose version >/dev/null 2>&1; then
        compose() { docker compose "$@"; }
    elif command -v docker-compose >/dev/null; then
        compose() { docker-compose "$@"; }
    else
        fail "compose is missing. On Debian: apt-get install docker-compose; elsewhere: https://docs.docker.com/compose/install/"
    fi
    if has_image "$prometheus"; then
        export MOOSENG_PROMETHEUS_IMAGE=$prometheus
    fi
    if has_image "$grafana"; then
        add_grafana
    fi
}

add_grafana() {
    case " $services " in
    *" grafana "*) ;;
    *) services="$services grafana" ;;
    esac
}

# Debian has no Grafana: where its image cannot be had, the demo runs without it, and says so.
find_grafana() {
    if has_image "$grafana"; then
        add_grafana
        return
    fi
    say "  pulling $grafana, for 5 minutes at most"
    if timeout 300 docker pull -q "$grafana" >/dev/null 2>&1; then
        add_grafana
    else
        say "Grafana is left out: its image, $grafana, cannot be pulled here, and Debian has none. The rest runs without it;"
        say "its dashboard is docker/grafana/dashboards/mooseng.json, for a Grafana of your own."
    fi
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# One word: healthy, running, starting, unhealthy, exited, missing.
state_of() {
    local id
    id=$(compose ps -q "$1" 2>/dev/null | head -n 1)
    [ -n "$id" ] || { say missing; return; }
    docker inspect -f '{{if and .State.Running .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$id"
}

# Waits until all services are healthy, and tells which it waits for.
wait_healthy() {
    local until=$(($(date +%s) + ${1:-300})) waiting state shown=
    while :; do
        waiting=
        for service in $services; do
            state=$(state_of "$service")
            case $service:$state in
            *:healthy) ;;
            *) waiting="$waiting $service ($state)" ;;
            esac
        done
        [ -n "$waiting" ] || return 0
        if [ "$waiting" != "$shown" ]; then
            say "  waiting for$waiting"
            shown=$waiting
        fi
        if [ "$(date +%s)" -ge "$until" ]; then
            compose logs --tail=5 >&2 || true
            fail "not healthy within ${1:-300} s:$waiting. Their logs: ./start-demo.sh logs SERVICE"
        fi
        sleep 1
    done
}

# A shell command in a client's container.
in_client() { compose exec -T "client-$1" sh -c "$2"; }

# The token that opens the dashboard.
dashboard_token() { compose exec -T dashboard cat /etc/mooseng/identities/dashboard.token; }

# `mooseng` as the operator.
admin() {
    local client=1
    [ "$(state_of client-1)" = healthy ] || client=2
    compose exec -T -e MOOSENG_IDENTITY_DIR=/etc/mooseng/identities/cluster/admin "client-$client" mooseng "$@"
}

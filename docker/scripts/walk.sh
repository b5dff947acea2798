# The walk through the demo, as a person would type it; sourced by start-demo.sh.

mnt=/mnt/mooseng

same() { # what, got, wanted
    [ "$2" = "$3" ] || fail "$1: got \"$2\", wanted \"$3\""
    say "  $1: $2"
}

# Waits until a command succeeds.
until_it_is_so() { # what, seconds, command…
    local what=$1 until=$(($(date +%s) + $2)) begin
    begin=$(date +%s)
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$until" ] || fail "$what: not within the time"
        sleep 1
    done
    say "  $what: after $(($(date +%s) - begin)) s"
}

status() { admin status -o json | tr -d ' \n'; }

leader() { status | tr '{' '\n' | grep '"leader":true' | sed -n 's/.*"id":\([0-9]*\).*/master-\1/p'; }

is_whole() {
    local now
    now=$(status)
    for count in missing endangered undergoal; do
        [[ $now == *"\"$count\":0"* ]] || return 1
    done
}

# What the dashboard says, as JSON.
of_dashboard() { # the token is in no list of processes
    curl -fsS -K - "http://localhost:8080/api/$1" <<<"header = \"Authorization: Bearer $(dashboard_token)\""
}

is_on_the_dashboard() { [[ $(of_dashboard health) == *"$1"* ]]; }

is_heard_by_prometheus() { [[ $(curl -fsS "http://localhost:9090/api/v1/query?query=sum(up)") == *'"10"]'* ]]; }

is_noticed() { [[ $(admin health -o json || true) == *CHUNKSERVER_SILENT* ]]; }

writes_go_on() { # name
    in_client 1 "echo '$1' > $mnt/$1.txt && sync $mnt/$1.txt"
    same "written on client-1, read on client-2" "$(in_client 2 "cat $mnt/$1.txt")" "$1"
}

# What one client writes while others fail, what ends it, and what it has told. Of one walk: an older one may go on for a moment.
lines=$mnt/lines.$$ enough=$mnt/enough.$$ told=

# Typed on a client: it writes line after line until told that it is enough, and tells how many and what the longest
# wait was. A line that cannot be written ends it.
lines_go_on() {
    cat <<TEXT
n=0 worst=0
until [ -e $enough ] || [ \$n = 20000 ]; do
    n=\$((n + 1)) begin=\$(date +%s%N)
    echo \$n >> $lines && sync $lines || exit 1
    took=\$(((\$(date +%s%N) - begin) / 1000000))
    [ \$took -le \$worst ] || worst=\$took
    sleep 0.1
done
echo \$n \$worst
TEXT
}

lines_end() {
    in_client 1 "touch $enough" >/dev/null 2>&1 || true
    rm -f "$told"
}

walk() {
    wait_healthy

    step "1. a file"
    in_client 1 "echo 'Hello from MooseNG' > $mnt/test.txt; ls -la $mnt"
    same "cat" "$(in_client 1 "cat $mnt/test.txt")" "Hello from MooseNG"

    step "2. written on client-1, read at once on the others"
    for round in 1 2 3; do
        in_client 1 "echo 'shared $round' > $mnt/shared.txt"
        for n in 2 3; do
            same "client-$n" "$(in_client $n "cat $mnt/shared.txt")" "shared $round"
        done
    done

    step "3. 100 MiB"
    in_client 1 "dd if=/dev/zero of=$mnt/largefile bs=1M count=100 2>&1 | tail -n 1"
    same "its size on client-2" "$(in_client 2 "stat -c %s $mnt/largefile")" 104857600

    step "4. three clients at the same time"
    local pids=
    for n in 1 2 3; do
        in_client $n "echo 'from client $n' > $mnt/client$n.txt" &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid" || fail "a client could not write"; done
    for n in 1 2 3; do
        for of in 1 2 3; do
            [ "$(in_client $n "cat $mnt/client$of.txt")" = "from client $of" ] ||
                fail "client-$n does not see what client-$of wrote"
        done
    done
    say "  all three are there on every client"

    step "5. failures"
    in_client 1 "dd if=/dev/urandom of=$mnt/random bs=1M count=20 2>/dev/null && sync $mnt/random"
    local sum led writer meanwhile
    say "  client-2 writes and syncs line after line from now on"
    told=$(mktemp)
    trap lines_end EXIT
    in_client 2 "$(lines_go_on)" >"$told" &
    writer=$!
    sum=$(in_client 1 "sha256sum < $mnt/random")
    led=$(leader) || fail "the status cannot be had, or nobody leads"
    say "  stopping the leading master, $led"
    compose stop "$led" >/dev/null 2>&1
    writes_go_on after-the-leader
    say "  another leads: $(leader)"
    say "  stopping chunkserver-1"
    compose stop chunkserver-1 >/dev/null 2>&1
    writes_go_on after-the-chunkserver
    same "20 MiB of before, read on client-3" "$(in_client 3 "sha256sum < $mnt/random")" "$sum"
    until_it_is_so "the masters have noticed" 180 is_noticed
    until_it_is_so "the dashboard shows it" 120 is_on_the_dashboard CHUNKSERVER_SILENT
    until_it_is_so "all chunks have all their copies again" 600 is_whole
    say "  starting both again"
    compose start "$led" chunkserver-1 >/dev/null 2>&1
    wait_healthy
    until_it_is_so "mooseng health finds nothing wrong" 300 admin health
    until_it_is_so "the dashboard shows that, too" 120 is_on_the_dashboard '"healthy"'
    in_client 1 "touch $enough"
    wait "$writer" || fail "client-2 could not go on writing"
    meanwhile=$(<"$told")
    lines_end
    trap - EXIT
    say "  client-2 wrote ${meanwhile% *} lines meanwhile, the longest wait was ${meanwhile#* } ms"
    [ "$(in_client 3 "cat $lines")" = "$(seq "${meanwhile% *}")" ] || fail "lines of client-2 are lost"
    say "  client-3 reads all of them"

    step "6. health and logs"
    for port in 9421 9431 9441 9420 9450 9460 9427 9437 9447; do
        curl -fsS "http://localhost:$port/health" >/dev/null || fail "http://localhost:$port/health does not answer with 200"
    done
    say "  all health endpoints answer 200"
    local rules
    rules=$(curl -fsS http://localhost:9090/api/v1/rules) || fail "Prometheus does not answer on http://localhost:9090"
    [[ $rules == *MoosengChunkMissing* ]] || fail "Prometheus has no alert rules"
    say "  Prometheus has the alert rules"
    until_it_is_so "Prometheus hears all ten daemons" 60 is_heard_by_prometheus
    same "the dashboard without its token" "$(curl -s -o /dev/null -w '%{http_code}' http://localhost:8080/api/status)" 401
    compose ps
    local logs errors
    logs=$(compose logs --no-color) || fail "the logs cannot be had"
    errors=$(grep -E '(^|[| ])ERROR( |$)|panicked at|level=(error|ERROR)' <<<"$logs" || true)
    [ -z "$errors" ] || fail "errors in the logs:
$errors"
    say "  no error in the logs"
    in_client 1 "cd $mnt && rm -f random $lines $enough after-the-leader.txt after-the-chunkserver.txt"
    step "the walk is done: all of it worked"
}

# Functions for the scripts beside this one. They run in the repository's root, under `set -eu`.
# shellcheck shell=sh

compose() { docker compose --progress quiet "$@"; }
say() { printf '%s\n' "$@"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# Docker distinguishes installations by their name alone, so it would confuse this one with another folder of the same name.
# Each container has a label with the folder that it was started from.
only_ours() {
  # shellcheck disable=SC2046  # one word each
  set -- $(compose ps -aq)
  [ $# -gt 0 ] || return 0
  docker inspect -f '{{index .Config.Labels "com.docker.compose.project.working_dir"}}' "$@" | sort -u |
    while read -r folder; do
      [ "$(cd "$folder" 2>/dev/null && pwd -P)" = "$(pwd -P)" ] || fail \
        "An installation of this name was started in $folder, but this folder is $PWD: nothing was done." \
        "If it is another installation, give this one a name and ports of its own in .env, for example" \
        "  COMPOSE_PROJECT_NAME=esteira2 PORT=8001 FLOWER_PORT=5556, each on a line" \
        "If the folder was moved, remove the old containers first; this keeps the data: docker compose down"
    done
}

# Prints the running containers of a service, one id per line.
running() { compose ps -q --status running "$1"; }

# Runs one command in the one-shot container that has all secrets; no other container is started.
secrets() { compose run --rm --no-deps -T secrets "$@" </dev/null; }

# Fails if the database is not the PostgreSQL of this stack; $1 explains what to do there.
own_database() {
  case $(secrets cat /keys/django/database_url) in
    *@postgres:5432/*) ;;
    *) fail "DATABASE_URL is the address of a server outside this stack: $1" ;;
  esac
}

# Runs psql as the owner, over the socket inside the container, where it needs no password. $1 is the database.
sql() {
  database=$1
  shift
  compose exec -T -e PGOPTIONS='-c client_min_messages=warning' postgres \
    psql -X -q -v ON_ERROR_STOP=1 -U esteira -d "$database" "$@"
}

# Waits until a container is healthy; fails after two minutes.
wait_healthy() {
  tries=240
  until [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "$(name "$1") is not healthy: docker logs $(name "$1")"
    sleep 0.5
  done
}

# Restarts services in parallel, and the containers of each service one after the other: the next only when it is healthy.
restart() {
  jobs=''
  for service; do
    restart_each "$service" &
    jobs="$jobs $!"
  done
  for job in $jobs; do wait "$job"; done
}

restart_each() {
  for id in $(running "$1"); do
    docker restart "$id" >/dev/null
    wait_healthy "$id"
    say "  restarted $(name "$id")"
  done
}

# Replaces the containers of a service with the current image and settings, one after the other. With $2 = spare, a new one
# runs before an old one is stopped. Each has its grace period to finish its work.
replace() {
  old=$(running "$1")
  many=$(printf '%s\n' "$old" | grep -c . || true)
  stopped=$(compose ps -aq --status exited "$1")
  # shellcheck disable=SC2086  # one word each
  [ -z "$stopped" ] || docker rm $stopped >/dev/null
  for id in $old; do
    [ "${2:-}" != spare ] || scale "$1" $((many + 1))
    was=$(name "$id")
    docker stop "$id" >/dev/null
    docker rm "$id" >/dev/null
    [ "${2:-}" = spare ] || scale "$1" "$many"
    say "  replaced $was"
  done
}

scale() { compose up -d --no-deps --no-build --no-recreate --wait --scale "$1=$2" "$1"; }

name() { docker inspect -f '{{.Name}}' "$1" | cut -c2-; }

only_ours

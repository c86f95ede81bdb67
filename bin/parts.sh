# What the scripts beside this share. They come from the repository's root, and run under `set -eu`.
# shellcheck shell=sh

compose() { docker compose --progress quiet "$@"; }
say() { printf '%s\n' "$@"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# Docker tells installations apart by their name alone: what another folder of the same name has started would be taken
# for ours. Each container knows the folder that it was started from.
only_ours() {
  # shellcheck disable=SC2046  # one word each
  set -- $(compose ps -aq)
  [ $# -gt 0 ] || return 0
  docker inspect -f '{{index .Config.Labels "com.docker.compose.project.working_dir"}}' "$@" | sort -u |
    while read -r folder; do
      [ "$(cd "$folder" 2>/dev/null && pwd -P)" = "$(pwd -P)" ] || fail \
        "An installation of this name was started in $folder, and this is $PWD: nothing was done." \
        "If it is another one, give this one a name and ports of its own in .env, for example" \
        "  COMPOSE_PROJECT_NAME=esteira2 PORT=8001 FLOWER_PORT=5556, each on a line" \
        "If the folder was moved, remove the old containers first; the data stays: docker compose down"
    done
}

# The containers of a service that run, one id a line.
running() { compose ps -q --status running "$1"; }

# One command of the one-shot that knows all secrets; it starts nothing else.
secrets() { compose run --rm --no-deps -T secrets "$@" </dev/null; }

# Refuses what works only on the PostgreSQL of this stack; $1 says what to do at another one.
own_database() {
  case $(secrets cat /keys/django/database_url) in
    *@postgres:5432/*) ;;
    *) fail "DATABASE_URL is the address of a server outside this stack: $1" ;;
  esac
}

# psql as the owner, over the socket inside the container: it asks for no password. $1 is the database.
sql() {
  database=$1
  shift
  compose exec -T -e PGOPTIONS='-c client_min_messages=warning' postgres \
    psql -X -q -v ON_ERROR_STOP=1 -U esteira -d "$database" "$@"
}

# Waits until a container is healthy; one that stays sick for two minutes is an error.
wait_healthy() {
  tries=240
  until [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "$(name "$1") is not healthy: docker logs $(name "$1")"
    sleep 0.5
  done
}

# Restarts services side by side, the containers of each one after the other: healthy before the next one goes.
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

# Replaces the containers of a service by what its image and the settings say now, one after the other. $2 = spare: a new
# one works before an old one goes. Each has its grace to finish what it does.
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

# What the scripts beside this share. They come from the repository's root, and run under `set -eu`.
# shellcheck shell=sh

compose() { docker compose --progress quiet "$@"; }
say() { printf '%s\n' "$@"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# The containers of a service that run, one id a line.
running() { compose ps -q --status running "$1"; }

# One command of the one-shot that knows all secrets; it starts nothing else.
secrets() { compose run --rm --no-deps -T secrets "$@" </dev/null; }

# Refuses what works only on the PostgreSQL of this stack; $1 says what to do at another one.
own_database() {
  case $(secrets cat /keys/django/database_url) in
    *@postgres:5432/*) ;;
    *) fail "DATABASE_URL names a server that is not of this stack: $1" ;;
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
    [ "$tries" -gt 0 ] || fail "$(docker inspect -f '{{.Name}}' "$1") is not healthy: docker logs $1"
    sleep 0.5
  done
}

# Restarts every container of the services, one after the other; each has its grace, and is healthy before the next.
restart() {
  for service; do
    for id in $(running "$service"); do
      docker restart "$id" >/dev/null
      wait_healthy "$id"
      say "  restarted $(docker inspect -f '{{.Name}}' "$id" | cut -c2-)"
    done
  done
}

# shellcheck shell=bash
# PostgreSQL from Debian: no broker, but where instances share their state. It does not run as root, and whoever it runs
# as must reach its data, so these lie in a temporary folder.

install() { debian postgres pgbouncer; } # the pooler is for a test that starts it

postgres_bin() { dirname "$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | tail -n 1)"; }

# as_postgres COMMAND…
as_postgres() {
  if ((EUID == 0)); then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi
}

start() {
  local data
  if [[ ! -s $folder/$1/data ]]; then
    data=$(mktemp -d "${TMPDIR:-/tmp}/ferry-postgres.XXXXXX")
    if ((EUID == 0)); then chown postgres:postgres "$data"; fi
    (cd "$data" && as_postgres "$(postgres_bin)/initdb" -D "$data/db" -U ferry -A trust --no-sync -E UTF8 --locale=C) >>"$folder/$1/log" 2>&1
    echo "$data" >"$folder/$1/data"
  fi
  data=$(<"$folder/$1/data")
  eventually 30 nobody_in "$data/db"
  rm -f "$data/db/postmaster.pid" # a killed server's process id may still be there, as a zombie
  cd "$data"
  if ((EUID == 0)); then
    spawn "$1" setpriv --reuid=postgres --regid=postgres --clear-groups "$(postgres_bin)/postgres" -D "$data/db" \
      -p "$(port postgres)" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
  else
    spawn "$1" "$(postgres_bin)/postgres" -D "$data/db" -p "$(port postgres)" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
  fi
}

# nobody_in FOLDER: whether what a killed server has left behind has ended too; before that it cannot be started again.
nobody_in() { ! ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -qF -- "-> $1"; }

# A stop does not wait until all clients have gone by themselves, which is what SIGTERM would do.
signal() {
  local name=$1
  [[ $name != TERM ]] || name=INT
  if alive "$2"; then kill "-$name" "$(pid_of "$2")" 2>/dev/null || true; fi
}

ready() { "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$(port postgres)" -U ferry -d postgres; }

version() { "$(postgres_bin)/postgres" --version | sed 's/.*) \([^ ]*\).*/PostgreSQL \1/'; }

address() { echo "127.0.0.1:$(port postgres)"; }

url() { echo "postgres://ferry@127.0.0.1:$(port postgres)/postgres?sslmode=disable"; }

discard() {
  if [[ -s $folder/postgres/data ]]; then rm -rf "$(<"$folder/postgres/data")"; fi
}

variables() { echo "FERRY_TEST_POSTGRES=$(url)"; }

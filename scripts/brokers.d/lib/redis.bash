# What all that speak Redis' protocol have in common.

# redis_spawn NODE SERVER PORT OPTIONS…: every write is synced before it is answered.
redis_spawn() {
  local node=$1 server=$2 port=$3
  shift 3
  spawn "$node" "$server" --port "$port" --bind 127.0.0.1 --dir "$folder/$node" \
    --appendonly yes --appendfsync always --save '' "$@"
}

# redis_ready PORT: it answers, and has loaded its data.
redis_ready() { [[ $(redis_ask "$1" ping) == PONG ]]; }

redis_ask() { timeout 5 redis-cli -h 127.0.0.1 -p "$@" 2>/dev/null; }

redis_version() { redis-server --version | sed 's/.* v=\([^ ]*\) .*/Redis \1/'; }

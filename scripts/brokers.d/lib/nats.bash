# What one NATS server and three have in common.

install() { "$root/scripts/tools" nats-server; }

version() { "$root/bin/nats-server" --version | sed 's/.*v/NATS /'; }

# nats_settings NODE: JetStream, with every write synced before it is confirmed.
nats_settings() {
  cat <<END
server_name: $1
listen: 127.0.0.1:$(port "$1")
http: 127.0.0.1:$(port "$1-monitor")
jetstream { store_dir: "$folder/$1/data", max_mem: 256MB, max_file: 4GB, sync_interval: always }
END
}

nats_spawn() { spawn "$1" "$root/bin/nats-server" -c "$folder/$1/nats.conf"; }

# The port is open before a stream can be made.
ready() { answers "$(port "$1-monitor")" '/healthz?js-server-only=true'; }

address() { echo "127.0.0.1:$(port "$1")"; }

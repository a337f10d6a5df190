# shellcheck shell=bash
# RabbitMQ from Debian, as an instance of its own: AMQP, AMQP over TLS, streams, management.
#
# The commands in /usr/sbin switch to the system's user, folders and logs; those below do as they are told.
rabbit_bin=/usr/lib/rabbitmq/bin

install() {
  debian rabbitmqctl
  certificates
}

start() {
  local at=$folder/$1
  certificates
  mkdir -p "$at/home"
  echo '[rabbitmq_stream,rabbitmq_management].' >"$at/enabled_plugins"
  cat >"$at/rabbitmq.conf" <<END
loopback_users = none
listeners.ssl.1 = 127.0.0.1:$(port tls)
ssl_options.cacertfile = $tls/ca.pem
ssl_options.certfile = $tls/server.pem
ssl_options.keyfile = $tls/server.key
ssl_options.verify = verify_none
stream.listeners.tcp.1 = 127.0.0.1:$(port stream)
stream.advertised_host = 127.0.0.1
stream.advertised_port = $(port stream)
management.tcp.ip = 127.0.0.1
management.tcp.port = $(port management)
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 500MB
log.console = true
END
  rabbit_control "$at" >"$at/ctl"
  chmod +x "$at/ctl"
  # The process to watch is Erlang's, not the shell script that starts it.
  rm -f "$at/erlang.pid"
  spawn "$1" "$at/ctl" --run "$rabbit_bin/rabbitmq-server"
  eventually 30 test -s "$at/erlang.pid"
  remember "$1" "$(cat "$at/erlang.pid")"
}

# rabbit_control FOLDER: a script that runs rabbitmqctl on this instance, or with --run another program in the same
# environment.
rabbit_control() {
  cat <<END
#!/bin/sh
export HOME='$1/home' RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_NODENAME=ferry$(port distribution)@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_NODE_PORT=$(port amqp) RABBITMQ_DIST_PORT=$(port distribution)
export RABBITMQ_CONFIG_FILE='$1/rabbitmq' RABBITMQ_ENABLED_PLUGINS_FILE='$1/enabled_plugins'
export RABBITMQ_MNESIA_BASE='$1/mnesia' RABBITMQ_LOG_BASE='$1/logs' RABBITMQ_GENERATED_CONFIG_DIR='$1/generated'
export RABBITMQ_PID_FILE='$1/erlang.pid'
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
export ERL_EPMD_PORT=$(port epmd) ERL_EPMD_ADDRESS=127.0.0.1
if [ "\$1" = --run ]; then shift; exec "\$@"; fi
exec $rabbit_bin/rabbitmqctl "\$@"
END
}

ready() { said "$1" 'Server startup complete' && listens "$(port amqp)"; }

version() { echo "RabbitMQ $(basename /usr/lib/rabbitmq/lib/rabbitmq_server-* | cut -d - -f 2)"; }

# Erlang's registry of nodes outlives them, and has a port of its own here.
discard() {
  if [[ -x $folder/rabbitmq/ctl ]]; then "$folder/rabbitmq/ctl" --run epmd -kill >/dev/null 2>&1 || true; fi
}

address() { echo "127.0.0.1:$(port amqp)"; }

url() { echo "amqp://guest:guest@127.0.0.1:$(port amqp)?create=true"; }

variables() {
  cat <<END
FERRY_TEST_RABBITMQ=$(url)
FERRY_TEST_RABBITMQ_TLS=amqps://guest:guest@localhost:$(port tls)?create=true&ca=$state/tls/ca.pem
FERRY_TEST_RABBITMQ_STREAM=$(url)&type=stream&stream_port=$(port stream)
FERRY_TEST_RABBITMQ_CTL=$folder/rabbitmq/ctl
END
}

# shellcheck shell=bash
# NATS with JetStream, one server.
source "$here/lib/nats.bash"

start() {
  nats_settings "$1" >"$folder/$1/nats.conf"
  nats_spawn "$1"
}

url() { echo "nats://127.0.0.1:$(port nats)?create=true"; }

variables() { echo "FERRY_TEST_NATS=$(url)"; }

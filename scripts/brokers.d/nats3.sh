# shellcheck shell=bash
# NATS with JetStream, a cluster of three servers.
source "$here/lib/nats.bash"

nodes() { printf 'nats3-%s\n' 1 2 3; }

start() {
  local node routes=()
  for node in $(nodes); do routes+=("nats://127.0.0.1:$(port "$node-route")"); done
  {
    nats_settings "$1"
    echo "cluster { name: ferry, listen: 127.0.0.1:$(port "$1-route"), routes: [ $(IFS=,; echo "${routes[*]}") ] }"
  } >"$folder/$1/nats.conf"
  nats_spawn "$1"
}

url() {
  local node hosts=()
  for node in $(nodes); do hosts+=("127.0.0.1:$(port "$node")"); done
  echo "nats://$(IFS=,; echo "${hosts[*]}")?create=true&replicas=3"
}

variables() { echo "FERRY_TEST_NATS3=$(url)"; }

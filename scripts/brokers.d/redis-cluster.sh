# shellcheck shell=bash
# Redis Cluster: three masters, each with a third of the slots, no replicas.
source "$here/lib/redis.bash"

nodes() { printf 'redis-cluster-%s\n' 1 2 3; }

install() { debian redis-server redis-cli; }

start() {
  redis_spawn "$1" redis-server "$(port "$1")" --cluster-enabled yes --cluster-config-file nodes.conf \
    --cluster-node-timeout 2000 --cluster-port "$(port "$1-bus")"
}

join() {
  local node
  [[ ! -e $folder/joined ]] || return 0
  for node in $(nodes); do
    eventually 30 redis_ready "$(port "$node")"
  done
  # shellcheck disable=SC2046
  redis-cli --cluster create $(redis_cluster_addresses) --cluster-replicas 0 --cluster-yes >"$folder/join.log"
  touch "$folder/joined"
}

redis_cluster_addresses() {
  local node
  for node in $(nodes); do echo "127.0.0.1:$(port "$node")"; done
}

# Commands fail for a while after the cluster was made: until each node knows of every slot.
ready() { redis_ask "$(port "$1")" cluster info | grep -q '^cluster_state:ok'; }

version() { redis_version; }

address() { echo "127.0.0.1:$(port "$1")"; }

url() { echo "redis://$(redis_cluster_addresses | paste -sd ,)?create=true&mode=cluster"; }

variables() { echo "FERRY_TEST_REDIS_CLUSTER=$(url)"; }

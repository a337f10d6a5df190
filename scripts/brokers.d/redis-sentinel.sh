# shellcheck shell=bash
# Redis Sentinel: a master (redis-sentinel-1 at first), a replica, and three sentinels that make the replica the master
# when the master is away for a second.
#
# Sentinels and servers write into their configuration who is the master now, so it is made once and kept over a restart.
source "$here/lib/redis.bash"

redis_sentinels=(redis-sentinel-s1 redis-sentinel-s2 redis-sentinel-s3)

nodes() { printf '%s\n' redis-sentinel-1 redis-sentinel-2 "${redis_sentinels[@]}"; }

install() { debian redis-server redis-cli; }

start() {
  local file=$folder/$1/redis.conf
  [[ -e $file ]] || redis_sentinel_settings "$1" >"$file"
  case $1 in
    *-s?) spawn "$1" redis-server "$file" --sentinel ;;
    *) spawn "$1" redis-server "$file" ;;
  esac
}

redis_sentinel_settings() {
  local master
  master=$(port redis-sentinel-1)
  cat <<END
port $(port "$1")
bind 127.0.0.1
dir $folder/$1
END
  case $1 in
    *-s?)
      cat <<END
sentinel monitor mymaster 127.0.0.1 $master 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 5000
END
      ;;
    *)
      printf '%s\n' 'appendonly yes' 'appendfsync always' 'save ""'
      [[ $1 == redis-sentinel-1 ]] || echo "replicaof 127.0.0.1 $master"
      ;;
  esac
}

# A sentinel has to know the other two and a replica before it can do anything about a master that is away.
ready() {
  local known
  case $1 in
    *-s?)
      known=$(redis_ask "$(port "$1")" sentinel master mymaster | paste -sd ' ') &&
        [[ $known == *' num-slaves 1 '* && $known == *' num-other-sentinels 2 '* && $known != *' flags master,'* ]]
      ;;
    *)
      redis_ready "$(port "$1")" && known=$(redis_ask "$(port "$1")" info replication) &&
        [[ $known == *role:master* || $known == *master_link_status:up* ]]
      ;;
  esac
}

version() { redis_version; }

address() { echo "127.0.0.1:$(port "$1")"; }

url() {
  local node hosts=()
  for node in "${redis_sentinels[@]}"; do hosts+=("127.0.0.1:$(port "$node")"); done
  echo "redis://$(IFS=,; echo "${hosts[*]}")?create=true&mode=sentinel&master=mymaster"
}

variables() { echo "FERRY_TEST_REDIS_SENTINEL=$(url)"; }

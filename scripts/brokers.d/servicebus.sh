# shellcheck shell=bash
# The Service Bus server that this repository has for its tests (test/servicebus): AMQP 1.0 as Azure's SDKs speak it. It
# keeps messages in memory: a stop loses them.
install() {
  mkdir -p "$state/dist"
  (cd "$root" && go build -o "$state/dist/servicebus" ./test/servicebus)
}

start() { spawn "$1" "$state/dist/servicebus" -listen "$(address "$1")"; }

ready() { said "$1" '"connection_string"' && listens "$(port amqp)"; }

version() { echo "stands in for Azure Service Bus"; }

address() { echo "127.0.0.1:$(port amqp)"; }

# What it said when it was started.
servicebus_connection() { sed -n 's/^{"connection_string":"\(.*\)"}$/\1/p' "$folder/servicebus/log" | tail -n 1; }

url() { echo "azservicebus:?connection_string=$(percent_encode "$(servicebus_connection)")&create=true&management=$(address)"; }

variables() { echo "FERRY_TEST_SERVICEBUS=$(url)"; }

percent_encode() {
  local i c
  for ((i = 0; i < ${#1}; i++)); do
    c=${1:i:1}
    case $c in
      [A-Za-z0-9._~-]) printf %s "$c" ;;
      *) printf '%%%02X' "'$c" ;;
    esac
  done
}

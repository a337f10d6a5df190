# shellcheck shell=bash
# Apache Kafka, three nodes (KRaft, each broker and controller): three copies of everything, two of them have to be there.
source "$here/lib/kafka.bash"

nodes() { printf 'kafka3-%s\n' 1 2 3; }

start() {
  kafka3_settings "$1" >"$folder/$1/server.properties"
  kafka_format "$1"
  # Ready in two thirds of the time without the second compiler, and quick enough for what is tested here.
  kafka_spawn "$1" -Xms128m -Xmx384m -XX:TieredStopAtLevel=1
}

kafka3_settings() {
  local node voters=() listeners
  for node in $(nodes); do voters+=("${node##*-}@127.0.0.1:$(port "$node-controller")"); done
  listeners="PLAINTEXT://127.0.0.1:$(port "$1"),CONTROLLER://127.0.0.1:$(port "$1-controller")"
  cat <<END
process.roles=broker,controller
node.id=${1##*-}
listeners=$listeners
advertised.listeners=$listeners
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=$(IFS=,; echo "${voters[*]}")
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/$1/data
num.partitions=3
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=16777216
END
}

address() { echo "127.0.0.1:$(port "$1")"; }

url() {
  local node hosts=()
  for node in $(nodes); do hosts+=("127.0.0.1:$(port "$node")"); done
  echo "kafka://$(IFS=,; echo "${hosts[*]}")?create=true&replication=3&min_insync=2"
}

variables() { echo "FERRY_TEST_KAFKA3=$(url)"; }

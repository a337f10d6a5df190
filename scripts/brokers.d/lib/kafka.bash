# What one Kafka node and three have in common. A node takes its settings from $folder/NODE/server.properties, written
# anew at each start.

kafka_version=4.4.0 # as in scripts/brokers.d/kafka/pom.xml

install() {
  jars kafka
  certificates
  # 16 random bytes in the alphabet of URLs: how Kafka writes a cluster's id. Without - and _, because one that begins with
  # - is an option to what takes it below.
  [[ -e $folder/cluster ]] || head -c 16 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '=' >"$folder/cluster"
}

version() { echo "Kafka $kafka_version"; }

# kafka_format NODE OPTIONS…: prepares the node's empty data folder.
kafka_format() {
  local node=$1
  shift
  [[ ! -e $folder/$node/data/meta.properties ]] || return 0
  java -cp "$state/dist/kafka/*" "-Dlog4j2.configurationFile=$here/kafka/log4j2.properties" kafka.tools.StorageTool \
    format -t "$(cat "$folder/cluster")" -c "$folder/$node/server.properties" "$@" >>"$folder/$node/log" 2>&1 ||
    fail_with_log "$node" "the data folder of $node cannot be prepared"
}

# kafka_spawn NODE JVM-OPTIONS…
kafka_spawn() {
  local node=$1
  shift
  spawn "$node" java "$@" -XX:+ExitOnOutOfMemoryError -cp "$state/dist/kafka/*" "-Dlog4j2.configurationFile=$here/kafka/log4j2.properties" \
    kafka.Kafka "$folder/$node/server.properties"
}

# The port is open before the node may be used; it says when it may.
ready() { said "$1" 'Kafka Server started'; }

# shellcheck shell=bash
# Apache Kafka, one node (KRaft), with every way in: without a login, SASL (PLAIN alice/alice-pw, SCRAM app/app-pw,
# OAUTHBEARER with an unsigned token), TLS, and TLS with a client's certificate.
source "$here/lib/kafka.bash"

start() {
  certificates
  kafka_settings >"$folder/$1/server.properties"
  kafka_format "$1" --standalone \
    --add-scram 'SCRAM-SHA-256=[name=app,password=app-pw]' --add-scram 'SCRAM-SHA-512=[name=app,password=app-pw]'
  kafka_spawn "$1" -Xms256m -Xmx512m
}

kafka_settings() {
  local listeners
  listeners="PLAINTEXT://$(listener plain),SASL://$(listener sasl),TLS://$(listener tls),MTLS://$(listener mtls),CONTROLLER://$(listener controller)"
  cat <<END
process.roles=broker,controller
node.id=1
listeners=$listeners
advertised.listeners=$listeners
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=$(listener controller)
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/kafka/data
num.partitions=3
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=16777216
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-pw";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PEM
ssl.keystore.location=$tls/server.both.pem
ssl.truststore.type=PEM
ssl.truststore.location=$tls/ca.pem
listener.name.mtls.ssl.client.auth=required
END
}

listener() { echo "127.0.0.1:$(port "$1")"; }

address() { listener plain; }

url() { echo "kafka://$(listener plain)?create=true"; }

variables() {
  cat <<END
FERRY_TEST_KAFKA=$(url)
FERRY_TEST_KAFKA_SASL=$(listener sasl)
FERRY_TEST_KAFKA_TLS=$(listener tls)
FERRY_TEST_KAFKA_MTLS=$(listener mtls)
FERRY_TEST_KAFKA_CA=$state/tls/ca.pem
FERRY_TEST_KAFKA_CERT=$state/tls/client.pem
FERRY_TEST_KAFKA_KEY=$state/tls/client.key
END
}

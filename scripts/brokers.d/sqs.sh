# shellcheck shell=bash
# ElasticMQ, a server with the interface of Amazon SQS: FIFO queues, the limits of the real one, messages kept on disk.
install() { jars elasticmq; }

start() {
  cat >"$folder/$1/elasticmq.conf" <<END
include classpath("application.conf")
node-address { protocol = http, host = "127.0.0.1", port = $(port http), context-path = "" }
rest-sqs { enabled = true, bind-hostname = "127.0.0.1", bind-port = $(port http), sqs-limits = strict }
rest-stats { enabled = false }
generate-node-address = false
messages-storage { enabled = true, driver-class = "org.h2.Driver", uri = "jdbc:h2:$folder/$1/data", username = "", password = "", prune-data-on-init = false }
END
  # It holds what is in the queues in memory too, and what tests leave behind adds up. Better gone than wedged.
  spawn "$1" java -Xmx512m -XX:+ExitOnOutOfMemoryError "-Dconfig.file=$folder/$1/elasticmq.conf" "-Dlogback.configurationFile=$here/elasticmq/logback.xml" \
    -cp "$state/dist/elasticmq/*" org.elasticmq.server.Main
}

ready() { answers "$(port http)" '/?Action=ListQueues&Version=2012-11-05'; }

version() { echo 'ElasticMQ 1.7.1'; }

address() { echo "127.0.0.1:$(port http)"; }

url() { echo "sqs://us-east-1?endpoint=http://127.0.0.1:$(port http)&create=true"; }

variables() { echo "FERRY_TEST_SQS=$(url)"; }

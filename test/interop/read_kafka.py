"""Reads a Kafka topic with confluent-kafka (librdkafka), committed records only, through the listener that wants a login.

FERRY_TEST_KAFKA_SASL, where it is set, is that listener (SCRAM-SHA-512).
"""

import os
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from lines import Address, arguments, print_record

url, topic = arguments()
settings = {
    "bootstrap.servers": ",".join(f"{host}:{port}" for host, port in Address(url).hosts),
    "group.id": "unused: partitions are assigned by hand",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
}
if os.environ.get("FERRY_TEST_KAFKA_SASL"):
    settings |= {
        "bootstrap.servers": os.environ["FERRY_TEST_KAFKA_SASL"],
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "app",
        "sasl.password": "app-pw",
    }
consumer = Consumer(settings)
partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
if not partitions:
    sys.exit(f"there is no topic {topic}")
consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
at_end = set()
while len(at_end) < len(partitions):
    message = consumer.poll(30)
    if message is None:
        sys.exit("nothing came within 30 s")
    if message.error():
        if message.error().code() != KafkaError._PARTITION_EOF:
            sys.exit(str(message.error()))
        at_end.add(message.partition())
        continue
    headers = dict(message.headers() or [])
    event = None
    if "ce_specversion" in headers:
        event = from_kafka_event(KafkaMessage(headers=headers, key=message.key(), value=message.value()))
    print_record(topic, headers, message.value(), key=message.key(), event=event)
consumer.close()

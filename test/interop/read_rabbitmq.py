"""Takes all messages out of a RabbitMQ queue, or reads a stream from its beginning, with pika (AMQP 0.9.1)."""

import ssl
import sys
from urllib.parse import unquote

import pika
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event

from lines import Address, arguments, print_record

url, topic = arguments()
address = Address(url)
host, port = address.hosts[0]
options = None
if url.startswith("amqps:"):
    options = pika.SSLOptions(ssl.create_default_context(cafile=address.parameters["ca"]), host)
connection = pika.BlockingConnection(
    pika.ConnectionParameters(
        host,
        port,
        credentials=pika.PlainCredentials(unquote(address.user), unquote(address.password)),
        ssl_options=options,
    )
)
channel = connection.channel()
stream = address.parameters.get("type") == "stream"
channel.basic_qos(prefetch_count=100)
channel.queue_declare(topic, passive=True)
arguments = {"x-stream-offset": "first"} if stream else None
for method, properties, body in channel.consume(topic, arguments=arguments, inactivity_timeout=2):
    if method is None:
        break
    if not stream and properties.delivery_mode != 2:  # a stream keeps everything, and does not say so
        sys.exit(f"message {method.delivery_tag} is not persistent")
    # Names with x- are RabbitMQ's own and say how it was delivered.
    headers = {n: v for n, v in (properties.headers or {}).items() if not n.startswith("x-")}
    event = None
    if "cloudEvents:specversion" in headers:
        event = from_amqp_event(
            AMQPMessage(
                properties={"content-type": properties.content_type}, application_properties=headers, application_data=body
            )
        )
    # The content type has a field of its own in AMQP.
    print_record(topic, {"content-type": properties.content_type} | headers, body, event=event)
    channel.basic_ack(method.delivery_tag)
channel.cancel()
connection.close()

"""Takes all messages out of a Service Bus queue with azure-servicebus, Microsoft's SDK for Python."""

from azure.servicebus import ServiceBusClient
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event

from lines import Address, arguments, print_record, text

url, topic = arguments()
connection = url if url.startswith("Endpoint=") else Address("x://" + url.split(":", 1)[1]).parameters["connection_string"]
with ServiceBusClient.from_connection_string(connection) as client, client.get_queue_receiver(topic) as receiver:
    while messages := receiver.receive_messages(max_message_count=50, max_wait_time=2):
        for message in messages:
            body = b"".join(message.body)
            headers = {text(name): text(value) for name, value in (message.application_properties or {}).items()}
            event = None
            if "cloudEvents:specversion" in headers:
                event = from_amqp_event(
                    AMQPMessage(
                        properties={"content-type": message.content_type},
                        application_properties=headers,
                        application_data=body,
                    )
                )
            # The content type has a field of its own in AMQP; so has the id, by which the broker finds duplicates.
            if message.message_id != headers.get("ferry-id"):
                raise SystemExit(f"message id {message.message_id}, record id {headers.get('ferry-id')}")
            print_record(topic, {"content-type": message.content_type} | headers, body, event=event)
            receiver.complete_message(message)

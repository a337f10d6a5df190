"""Reads the subject of a topic with nats-py, through a JetStream consumer that lives as long as this program."""

import asyncio

import nats
from nats.errors import TimeoutError
from nats.js.api import ConsumerConfig, DeliverPolicy

from lines import Address, arguments, print_record


async def main():
    url, topic = arguments()
    connection = await nats.connect([f"nats://{host}:{port}" for host, port in Address(url).hosts])
    stream = connection.jetstream()
    subscription = await stream.pull_subscribe(
        topic, config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, inactive_threshold=60)
    )
    while (await subscription.consumer_info()).num_pending > 0:
        try:
            messages = await subscription.fetch(100, timeout=5)
        except TimeoutError:
            break
        for message in messages:
            # Names with Nats- are JetStream's own and say how it was stored.
            headers = {n: v for n, v in (message.headers or {}).items() if not n.startswith("Nats-")}
            print_record(topic, headers, message.data)
            await message.ack()
    await connection.close()


asyncio.run(main())

"""Takes all messages out of an SQS queue with boto3, in the way in which AWS's documentation says a consumer should."""


import base64
import json

import boto3

from lines import Address, arguments, print_record

url, topic = arguments()
endpoint = Address(url).parameters["endpoint"]
client = boto3.client(
    "sqs", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x"
)
# SQS allows no dots in a name.
name = topic.replace(".", "-")
queues = client.list_queues(QueueNamePrefix=name).get("QueueUrls", [])
queue = next(q for q in queues if q.rsplit("/", 1)[-1] in (name, name + ".fifo"))
idle = 0
while idle < 2:
    answer = client.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1, AttributeNames=["All"], MessageAttributeNames=["All"]
    )
    messages = answer.get("Messages", [])
    idle = 0 if messages else idle + 1
    for message in messages:
        headers = {n: v["StringValue"] for n, v in message.get("MessageAttributes", {}).items()}
        # What SQS does not take as it is comes in another way (docs/queues.md).
        headers |= json.loads(headers.pop("ferry-headers", "{}"))
        body = message["Body"].encode()
        match headers.pop("ferry-encoding", None):
            case "base64":
                body = base64.b64decode(body)
            case "empty":
                body = b""
        print_record(topic, headers, body)
    if messages:
        client.delete_message_batch(
            QueueUrl=queue,
            Entries=[{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)],
        )

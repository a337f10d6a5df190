"""What every reader here prints: one JSON line for each record, as its client gave it out.

Each is called as `python read_X.py URL TOPIC`, with the URL that ferry's queue: had, prints all records of the topic in
the order in which they came, and ends.
"""

import json
import sys
from urllib.parse import parse_qs, urlsplit


class Address:
    """A queue URL: scheme://user:password@host:port,host:port?name=value."""

    def __init__(self, url):
        rest = url.split("://", 1)[-1]
        rest, _, query = rest.partition("?")
        self.parameters = {name: values[0] for name, values in parse_qs(query).items()}
        login, _, hosts = rest.rpartition("@")
        self.user, _, self.password = login.partition(":")
        self.hosts = [(h.rpartition(":")[0], int(h.rpartition(":")[2])) for h in hosts.split(",") if ":" in h]


def arguments():
    return sys.argv[1], sys.argv[2]


def text(value):
    return value.decode() if isinstance(value, (bytes, bytearray, memoryview)) else value


def print_record(topic, headers, data, key=None, event=None):
    """headers: name to value, both text or bytes; data: bytes; key: where the broker keeps one beside the headers;
    event: what the CloudEvents SDK makes of the same."""
    headers = {text(name): text(value) for name, value in headers.items()}
    line = {
        "id": headers.get("ferry-id"),
        "key": text(key) if key is not None else headers.get("ferry-key"),
        "topic": topic,
        "headers": headers,
        "data": bytes(data).decode(),
    }
    if event is not None:
        line["event"] = {
            "id": event.get_id(),
            "source": event.get_source(),
            "type": event.get_type(),
            "subject": event.get_subject(),
            "specversion": event.get_specversion(),
            "datacontenttype": event.get_datacontenttype(),
            "data": event.get_data(),
        }
    print(json.dumps(line), flush=True)

"""Reads a Redis stream with redis-py: one server, a cluster, or the master that sentinels know."""

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from lines import Address, arguments, print_record

url, topic = arguments()
address = Address(url)
match address.parameters.get("mode"):
    case "cluster":
        client = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in address.hosts])
    case "sentinel":
        client = Sentinel(address.hosts).master_for(address.parameters["master"])
    case _:
        host, port = address.hosts[0]
        client = redis.Redis(host=host, port=port)
# Dead letters lie on the slot of their topic.
base, dead = topic.removesuffix(".dead"), topic.endswith(".dead")
key = "{" + base + "}.dead" if dead else topic
last = "-"
while entries := client.xrange(key, min=last, count=200):
    for entry, fields in entries:
        data = fields.pop(b"data")
        print_record(topic, fields, data)
    last = "(" + entry.decode()

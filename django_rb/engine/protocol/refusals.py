"""Why clients over many nodes refuse a command, and what to use instead."""

_PUBSUB = "requires its own connection; use cluster.get_local_client(host_id).pubsub()"
_SHARDED_PUBSUB = (
    "requires its own connection; use cluster.get_local_client_for_key(channel).pubsub()"
)
_TRANSACTION = (
    "belongs to a transaction on one connection; use "
    "cluster.get_local_client_for_key(key).pipeline()"
)
_CONNECTION = (
    "only affects the connection on which it is sent, and the next call may use another; use "
    "cluster.get_local_client(host_id).client(), which keeps its connection"
)
_LOGIN = (
    "only affects the connection on which it is sent, and the next call may use another; set "
    "{} in the cluster's HOSTS, or use cluster.get_local_client(host_id).client()"
)
_PREPARED = (
    "requires state of the connection on which it was prepared; use "
    "cluster.get_local_client_for_key(key)"
)
_REPLICATION = (
    "turns its connection into a replication link, which no client of the cluster supports"
)

# By command name; the text follows the name.
_REASONS = {
    "ASKING": _CONNECTION,
    "AUTH": _LOGIN.format('"username" and "password"'),
    "CLIENT CACHING": _CONNECTION,
    "CLIENT CAPA": _CONNECTION,
    "CLIENT IMPORT-SOURCE": _CONNECTION,
    "CLIENT NO-EVICT": _CONNECTION,
    "CLIENT NO-TOUCH": _CONNECTION,
    "CLIENT REPLY": _CONNECTION,
    "CLIENT SETINFO": _CONNECTION,
    "CLIENT SETNAME": _LOGIN.format('"client_name"'),
    "CLIENT TRACKING": _CONNECTION,
    "DISCARD": _TRANSACTION,
    "EXEC": _TRANSACTION,
    "HELLO": _LOGIN.format('"protocol", "username" and "password"'),
    "HIMPORT DISCARD": _PREPARED,
    "HIMPORT DISCARDALL": _PREPARED,
    "HIMPORT PREPARE": _PREPARED,
    "HIMPORT SET": _PREPARED,
    "MONITOR": "requires its own connection; use cluster.get_local_client(host_id).monitor()",
    "MULTI": _TRANSACTION,
    "PSUBSCRIBE": _PUBSUB,
    "PSYNC": _REPLICATION,
    "PUNSUBSCRIBE": _PUBSUB,
    "QUIT": "closes a connection that the cluster still uses; use cluster.close()",
    "READONLY": _CONNECTION,
    "READWRITE": _CONNECTION,
    "REPLCONF": _REPLICATION,
    "RESET": _CONNECTION,
    "SCRIPT DEBUG": _CONNECTION,
    "SELECT": _LOGIN.format('"db"'),
    # The node closes the connection without a reply, which would count as a failure.
    "SHUTDOWN": "never gets a reply; use cluster.get_local_client(host_id).shutdown()",
    "SSUBSCRIBE": _SHARDED_PUBSUB,
    "SUBSCRIBE": _PUBSUB,
    "SUNSUBSCRIBE": _SHARDED_PUBSUB,
    "SYNC": _REPLICATION,
    "UNSUBSCRIBE": _PUBSUB,
    "UNWATCH": _TRANSACTION,
    "WATCH": _TRANSACTION,
}
REFUSALS = {name: f"{name} {reason}" for name, reason in _REASONS.items()}

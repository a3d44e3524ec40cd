"""What `/metrics` tells about auth. No label names a node or a key."""

from prometheus_client import Counter, Gauge, Histogram

ATTEMPTS = Counter("shoal_auth_attempts_total", "Attempts to connect, by how they ended", ["outcome"])
BOUND = Counter("shoal_auth_bound_total", "Keys bound to nodes: first connections of boots")
SECONDS = Histogram(
    "shoal_auth_seconds",
    "From the server's question to our answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
UNREADABLE = Counter("shoal_auth_unreadable_total", "Questions that no server asks so")
ALARMS = Counter("shoal_auth_alarms_total", "Refused attempts to be a node, told of or not", ["outcome", "told"])
BATCHES = Histogram("shoal_auth_batch_writes", "Keys written at once", buckets=(1, 3, 10, 30, 100, 300))
CONFLICTS = Counter("shoal_auth_conflicts_total", "Changes that another replica was faster with, decided again")
CUT = Counter("shoal_auth_connections_cut_total", "Connections cut, as their key spoke for their node no more")
EXCESS = Counter("shoal_auth_connections_excess_total", "Connections cut, as they were more than a node needs")
NOT_CUT = Counter("shoal_auth_connections_not_cut_total", "Connections that a server would not cut, or that were gone")
DROPPED = Counter("shoal_auth_notices_dropped_total", "Events lost because the bus took none for too long")
NODES = Gauge("shoal_auth_nodes", "Nodes by what is stored of them", ["what"])
CONNECTED = Gauge("shoal_auth_connected", "1 while auth is connected in this account", ["account"])

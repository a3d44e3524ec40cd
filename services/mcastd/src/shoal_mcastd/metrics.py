"""What mcastd counts, for Prometheus. No label names a node."""

from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from shoal_mcast.sender import SenderStatus

SENT = Counter("shoal_mcastd_sent_bytes", "payload bytes sent by multicast: symbols, repair, headers, polls")
REPAIRS = Counter("shoal_mcastd_repair_symbols", "repair symbols sent")
REJECTED = Counter("shoal_mcastd_rejected_datagrams", "datagrams to sessions that were of no receiver of theirs")
SESSIONS = Gauge("shoal_mcastd_sessions", "sessions running")
RECEIVERS = Gauge("shoal_mcastd_receivers", "receivers in running sessions that still want something")
FINISHED = Counter("shoal_mcastd_finished_receivers", "receivers of ended sessions, by how it ended for them", ["how"])


@dataclass
class Counted:
    """What of one session the counters already hold."""

    sent: int = 0
    repairs: int = 0
    rejected: int = 0

    def add(self, status: SenderStatus) -> None:
        """Bring the counters to this status of the session."""
        SENT.inc(status.sent - self.sent)
        REPAIRS.inc(status.repairs - self.repairs)
        REJECTED.inc(status.rejected - self.rejected)
        self.sent, self.repairs, self.rejected = status.sent, status.repairs, status.rejected


def finished(status: SenderStatus, nodes: int) -> None:
    """A session of so many nodes ended: who is neither complete nor lost left for another way."""
    FINISHED.labels("complete").inc(status.complete)
    FINISHED.labels("lost").inc(status.lost)
    FINISHED.labels("left").inc(max(0, nodes - status.complete - status.lost))

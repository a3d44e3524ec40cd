"""Assignments by hardware address, in memory: the records' live view, with what was worked out from it kept until it
changes.
"""

from shoal_dhcp.assignments import Assignment, assignment
from shoal_service.records import RecordsView


class Projection:
    """Looks hardware addresses up; never waits for anything."""

    def __init__(self, view: RecordsView) -> None:
        self._view = view
        self._revision = view.revision
        self._worked_out: dict[bytes, Assignment] = {}

    def find(self, mac: bytes) -> Assignment | None:
        """What the records assign to a hardware address; None if no node has it.

        Raises Unresolvable if a node has it, but the records do not say enough about that node.
        """
        if self._revision != self._view.revision:
            self._worked_out.clear()
            self._revision = self._view.revision
        known = self._worked_out.get(mac)
        if known is not None:
            return known
        text = mac.hex(":")
        node = self._view.node_by_mac(text)
        if node is None:
            return None
        found = self._worked_out[mac] = assignment(self._view.snapshot.cluster, node, text)
        return found
